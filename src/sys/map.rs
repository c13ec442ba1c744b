//! Memory-mapped files.

use std::path::Path;

use heed::{Env, EnvOpenOptions, WithTls};

/// The largest size of the index: address space alone, the file grows with its use. 10 million blobs take about 4 GiB.
pub const MAP_BYTES: usize = 16 * 1024 * 1024 * 1024;

/// Threads that may read at once: tokio's workers and its blocking pool (512) with room to spare.
const READERS_MAX: u32 = 1_024;

/// Opens an LMDB environment, read-only in its map, durable in its commits.
pub fn open_lmdb(folder: &Path) -> Result<Env<WithTls>, heed::Error> {
    let mut options = EnvOpenOptions::new().read_txn_with_tls();
    options.map_size(MAP_BYTES).max_readers(READERS_MAX);
    // JUSTIFICATION: the index has to be memory-mapped (a lookup costs about 1 µs in the request path and no copy of the
    // database in memory), and there is no way to map a file that the compiler could prove safe.
    // SAFETY: the map is valid as long as nobody else changes the file. Its folder is 0700 and under the exclusive lock
    // of the store, so no other process has it; this process opens it once, writes through LMDB alone, without WRITEMAP
    // or NOSYNC, and its length was checked against its meta pages. It is on a local file system: others are refused
    // before. Values are copied out of a transaction and their checksum compared before they are believed.
    #[expect(unsafe_code, reason = "opening a memory map; see SAFETY")]
    unsafe {
        options.open(folder)
    }
}
