//! What was damaged, or came with wrong bytes: out of the way, and kept for a while for whoever wants to know why.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Partial, Store, remove};
use crate::registry::Digest;
use crate::sys::clock;
use crate::sys::files::Identity;

/// Most files kept in quarantine; they are evidence, and one for each kind of trouble is plenty.
pub(super) const QUARANTINED_MAX: usize = 16;

/// Most bytes of them on the disk: they take room from what is of use.
const QUARANTINED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

impl Store {
    /// Takes a damaged blob out of the tree, and keeps the newest few of its kind for whoever wants to know why. Another
    /// file that has taken its place meanwhile stays. Whether there is no file under the digest any more.
    pub fn quarantine(&self, digest: &Digest, which: Identity) -> io::Result<bool> {
        match self.open_blob(digest)? {
            Some(found) if found.identity == which => {}
            found => return Ok(found.is_none()),
        }
        self.move_aside(&self.layout.blob(digest), digest)?;
        Ok(true)
    }

    /// Takes a partial with wrong bytes out of use, and keeps it like a damaged blob. It can't be published any more.
    pub fn quarantine_partial(&self, partial: &Partial, digest: &Digest) -> io::Result<()> {
        partial.rename(&self.layout.quarantined(digest, clock::unix_ms()))?;
        self.thin_quarantine(QUARANTINED_MAX, QUARANTINED_BYTES_MAX);
        Ok(())
    }

    /// Keeps the newest in quarantine. What can't be cleared up is out of the way all the same, and stays.
    pub(super) fn thin_quarantine(&self, files_max: usize, bytes_max: u64) {
        let entries = fs::read_dir(self.layout.quarantine()).into_iter().flatten().flatten();
        let mut found: Vec<_> =
            entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).collect();
        found.sort_by_key(|(_, metadata)| (metadata.ctime(), metadata.ctime_nsec()));
        let (mut files, mut bytes) = (0, 0_u64);
        for (path, metadata) in found.iter().rev() {
            let with_it = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if files >= files_max || with_it > bytes_max {
                remove(path, "a quarantined blob");
            } else {
                (files, bytes) = (files + 1, with_it);
            }
        }
    }

    /// Moves what is under a path into quarantine, whatever it is; whether there was something.
    pub(super) fn move_aside(&self, path: &Path, digest: &Digest) -> io::Result<bool> {
        match fs::rename(path, self.layout.quarantined(digest, clock::unix_ms())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        }
        self.thin_quarantine(QUARANTINED_MAX, QUARANTINED_BYTES_MAX);
        Ok(true)
    }
}
