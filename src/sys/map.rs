//! Memory-mapped files.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU32;

use heed::{Env, EnvOpenOptions, WithoutTls};
use memmap2::{MmapOptions, MmapRaw};

/// The largest size of the index: address space alone, the file grows with its use. 10 million blobs take about 4 GiB.
pub const MAP_BYTES: usize = 16 * 1024 * 1024 * 1024;

/// Reads at once: one for each of tokio's workers and its blocking pool (512) with room to spare.
const READERS_MAX: u32 = 1_024;

/// Opens an LMDB environment, read-only in its map, durable in its commits.
pub fn open_lmdb(folder: &Path) -> Result<Env<WithoutTls>, heed::Error> {
    // With thread-local slots, a thread that ends after the map was closed writes into the unmapped table of readers.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
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

/// Bytes of one number of [`Words`].
pub const WORD_BYTES: usize = size_of::<u32>();

/// An array of numbers in a file, shared by all threads; the kernel writes it back by itself.
#[derive(Debug)]
pub struct Words {
    map: MmapRaw,
    length: usize,
}

impl Words {
    /// Maps `length` numbers that begin at a byte of a file, which must be a multiple of four. The file has to be as
    /// long, and to have all its blocks: writing to a hole of it on a full disk would kill the process.
    pub fn map(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        let bytes = length.checked_mul(WORD_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let end = offset.checked_add(bytes as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < end || !offset.is_multiple_of(WORD_BYTES as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let map = MmapOptions::new().offset(offset).len(bytes).map_raw(file)?;
        Ok(Self { map, length })
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// One number.
    pub fn at(&self, index: usize) -> Option<&AtomicU32> {
        if index >= self.length {
            return None;
        }
        // JUSTIFICATION: every hit notes its time; a load and a store in a map cost a nanosecond, a write to a file a
        // system call of a microsecond, and to a row a transaction.
        // SAFETY: the index is within the map, which has four bytes for each, is aligned to a page plus a multiple of
        // four, and lives as long as the reference. The memory is only ever used through atomics. Its file was as long
        // as the map when that was made, has no holes, and is in a folder that is 0700 and under the exclusive lock of
        // the store: nobody else shortens it.
        #[expect(unsafe_code, reason = "a number in a memory map; see SAFETY")]
        unsafe {
            Some(AtomicU32::from_ptr(self.map.as_mut_ptr().cast::<u32>().add(index)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::Ordering;

    #[test]
    fn numbers_are_those_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + 8).unwrap();
        let words = Words::map(&file, 4096, 2).unwrap();
        words.at(1).unwrap().store(7, Ordering::Relaxed);
        assert!(words.at(2).is_none() && words.len() == 2 && !words.is_empty());
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 4096 + 4).unwrap();
        assert_eq!(u32::from_ne_bytes(bytes), 7);
    }

    #[test]
    fn a_file_that_is_too_short_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(Words::map(&file, 4096, 1).is_err());
        assert!(Words::map(&file, 4094, 1).is_err());
        assert!(Words::map(&file, 0, 1024).is_ok());
    }
}
