//! What leaves the tree: links first, then the blob that they lead to. So `registry` never meets a link to a manifest that
//! is not there, whenever it takes the volume back.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::links::{child_folders, read_link};
use super::schedule::bytes_on_disk;
use super::{Store, files};
use crate::registry::{Algorithm, Digest, RepositoryName, Tag};
use crate::sys::sync;

/// Deepest folder below our own that is measured: `index/v1.bad-<ms>` is the deepest that we make.
const MEASURED_DEPTH_MAX: usize = 3;

/// What lies in our own folder and beside it, in bytes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnBytes {
    /// Blobs in the making.
    pub partials: u64,
    /// The index, last uses, quarantine, and what we note for `registry`.
    pub other: u64,
}

impl Store {
    /// Removes a blob from the tree. One that was put there after `decided_ms` (since 1970) stays. Whoever reads it reads
    /// on. Which file went; `None` if none did.
    pub fn remove_blob(&self, digest: &Digest, decided_ms: u64) -> io::Result<Option<files::Identity>> {
        let _turn = sync::lock(&self.naming);
        let Some(open) = self.open_blob(digest)? else { return Ok(None) };
        let decided_ns = i64::try_from(decided_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        if open.identity.ctime_ns > decided_ns {
            return Ok(None);
        }
        absent_is_fine(fs::remove_file(self.layout.blob(digest)))?;
        // What somebody else put beside it stays, and so does the folder then.
        let _ = fs::remove_dir(self.layout.blob_folder(digest));
        Ok(Some(open.identity))
    }

    /// A repository has no link to a blob any more.
    pub fn unlink_layer(&self, name: &RepositoryName, digest: &Digest) -> io::Result<()> {
        remove_link(&self.layout.layer_link(name, digest))
    }

    /// A repository has no link to a manifest any more, by its digest or by any tag.
    pub fn unlink_manifest(&self, name: &RepositoryName, digest: &Digest) -> io::Result<()> {
        for folder in child_folders(&self.layout.tags(name)) {
            let tag: Option<Tag> = folder.file_name().and_then(|tag| tag.to_str()?.parse().ok());
            let Some(tag) = tag else { continue };
            let current = self.layout.tag_link(name, &tag);
            if read_link(&current) == Some(*digest) {
                absent_is_fine(fs::remove_file(&current))?;
                absent_is_fine(fs::remove_dir_all(self.layout.tag(name, &tag)))?;
            } else {
                remove_link(&self.layout.tag_history_link(name, &tag, digest))?;
            }
        }
        remove_link(&self.layout.revision_link(name, digest))
    }

    /// The manifests that a repository has links to, whoever may have them.
    pub fn linked_revisions(&self, name: &RepositoryName) -> Vec<Digest> {
        let folders = child_folders(&self.layout.revisions(name, Algorithm::Sha256));
        folders.iter().filter_map(|folder| read_link(&folder.join("link"))).collect()
    }

    /// What our own folder takes, and what lies beside it.
    pub fn own_bytes(&self) -> OwnBytes {
        let partials = self.layout.partials();
        let beside = bytes_on_disk(&self.layout.schedule());
        // Each file is counted once: a difference of two walks would lack what a fill wrote between them.
        let other = measure(&self.layout.ours(), Some(&partials), 0).saturating_add(beside);
        OwnBytes { partials: measure(&partials, None, 0), other }
    }
}

/// Bytes on the disk of all files below a folder, without those below another one. What goes away meanwhile is not
/// counted.
fn measure(folder: &Path, without: Option<&Path>, depth: usize) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter(|entry| without != Some(&entry.path())).filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() && depth < MEASURED_DEPTH_MAX {
            return Some(measure(&entry.path(), without, depth + 1));
        }
        Some(metadata.blocks().saturating_mul(512))
    });
    sizes.sum()
}

fn remove_link(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))?;
    // Its folder is named by the digest and holds nothing else.
    let _ = path.parent().map(fs::remove_dir);
    Ok(())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        other => other,
    }
}
