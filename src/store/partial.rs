//! A blob in the making: bytes that nothing may be served from as a blob.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::registry::digest::{Algorithm, Digest, Hasher};
use crate::sys::files;

/// From this length on, room is reserved before the first byte. Of smaller ones nothing goes out before all is written,
/// so a full disk need not show earlier.
const RESERVED_FROM_BYTES: u64 = 16 * 1024;

/// Most slices in one write; the kernel's own limit is 1,024.
const SLICES_MAX: usize = 512;

/// A file that is hashed while it is written. Removed when dropped, unless it was published.
#[derive(Debug)]
pub struct Partial {
    file: Arc<File>,
    path: PathBuf,
    hasher: Hasher,
    written: u64,
    renamed: bool,
}

impl Partial {
    pub(super) fn create(path: PathBuf, algorithm: Algorithm, size: Option<u64>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o644).open(&path)?;
        let partial =
            Self { file: Arc::new(file), path, hasher: Hasher::new(algorithm), written: 0, renamed: false };
        if let Some(size) = size.filter(|size| *size >= RESERVED_FROM_BYTES) {
            files::reserve(&partial.file, size)?;
        }
        Ok(partial)
    }

    /// Appends the pieces and adds them to the hash; gives the new length.
    pub fn append(&mut self, pieces: &[Bytes]) -> io::Result<u64> {
        for group in pieces.chunks(SLICES_MAX) {
            let mut slices: Vec<_> = group.iter().map(|piece| IoSlice::new(piece)).collect();
            write_all(&self.file, &mut slices)?;
        }
        for piece in pieces {
            self.hasher.update(piece);
            self.written += piece.len() as u64;
        }
        Ok(self.written)
    }

    /// The file, for readers that follow it.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// How many bytes were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn rename(&mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

fn write_all(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove an unfinished download");
        }
    }
}
