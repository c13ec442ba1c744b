//! Link files: one line of text without its end, `sha256:<64 hex>`, that says what belongs to what.
//!
//! `registry` reads the whole content as a digest, so one byte more breaks it; and it collects garbage by these files,
//! so every link has its data before it. Whatever is not exactly a digest is read as absent and mended by the next write.
//!
//! A link says nothing of the upstream and the account that its content was fetched with. So the links of a volume count
//! only as long as both stay the same: a file of ours names them, and says for ever that there were several once there
//! were.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Store, files, folders};
use crate::registry::{Algorithm, Digest, RepositoryName, Tag};
use crate::sys::entropy;

/// Longest content of a link that is read: a sha512 digest has 135 characters.
const LINK_BYTES_MAX: usize = 256;

/// Stands for the links of more than one upstream or account.
const SEVERAL: &str = "several\n";

/// Deepest nesting of a repository's name that a walk follows; 255 characters hold 128 components.
const DEPTH_MAX: usize = 128;

impl Store {
    /// A blob belongs to a repository. For sha512 `registry` links to the sha256 of the content, which is not at hand;
    /// such blobs are linked by nobody.
    pub fn link_layer(&self, name: &RepositoryName, digest: &Digest) -> io::Result<()> {
        if digest.algorithm() != Algorithm::Sha256 {
            return Ok(());
        }
        self.write_link(&self.layout.layer_link(name, digest), digest)
    }

    /// A manifest belongs to a repository.
    pub fn link_revision(&self, name: &RepositoryName, digest: &Digest) -> io::Result<()> {
        if digest.algorithm() != Algorithm::Sha256 {
            return Ok(());
        }
        self.write_link(&self.layout.revision_link(name, digest), digest)
    }

    /// A tag points at a manifest now.
    pub fn link_tag(&self, name: &RepositoryName, tag: &Tag, digest: &Digest) -> io::Result<()> {
        if digest.algorithm() != Algorithm::Sha256 {
            return Ok(());
        }
        self.write_link(&self.layout.tag_history_link(name, tag, digest), digest)?;
        self.write_link(&self.layout.tag_link(name, tag), digest)
    }

    /// Whether a blob belongs to a repository, by its link.
    pub fn has_layer(&self, name: &RepositoryName, digest: &Digest) -> bool {
        self.links_count && read_link(&self.layout.layer_link(name, digest)) == Some(*digest)
    }

    /// Whether a manifest belongs to a repository, by its link.
    pub fn has_revision(&self, name: &RepositoryName, digest: &Digest) -> bool {
        self.links_count && read_link(&self.layout.revision_link(name, digest)) == Some(*digest)
    }

    /// What a tag points at, by its link.
    pub fn read_tag(&self, name: &RepositoryName, tag: &Tag) -> Option<Digest> {
        read_link(&self.layout.tag_link(name, tag)).filter(|_| self.links_count)
    }

    /// Names of the repositories in the tree, at most `limit`.
    pub fn repositories(&self, limit: usize) -> Vec<RepositoryName> {
        let mut found = Vec::new();
        let root = self.layout.repositories();
        let mut open = vec![(root.clone(), 0)];
        while let Some((folder, depth)) = open.pop() {
            for child in child_folders(&folder) {
                match child.file_name().and_then(|name| name.to_str()) {
                    Some("_manifests") => found.extend(name_of(&root, &folder)),
                    Some(name) if !name.starts_with('_') && depth < DEPTH_MAX => {
                        open.push((child, depth + 1));
                    }
                    _ => {}
                }
            }
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        found
    }

    /// Writes a link unless it is there already: aside first, so that a crash never leaves a half of one.
    fn write_link(&self, path: &Path, digest: &Digest) -> io::Result<()> {
        if read_link(path) == Some(*digest) {
            return Ok(());
        }
        self.replace(path, digest.to_string().as_bytes())
    }

    /// Puts a small file in a place, durably: after a power cut it is whole or as before. `registry` fails its whole
    /// garbage collection over one empty link. Its folder is made after it was written aside: where our own folder is gone,
    /// the disk was taken from under us, and nothing is written into what is there now.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let aside = self.layout.partials().join(format!("link.{}", entropy::hex()));
        let written = fs::File::create_new(&aside).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_data()
        });
        let folder = |()| path.parent().map_or(Ok(()), folders);
        written
            .and_then(folder)
            .and_then(|()| fs::rename(&aside, path))
            .inspect_err(|_| drop(fs::remove_file(&aside)))
    }
}

/// Whether the links of the tree are those of `owner`, an upstream and an account; from now on they are, or nobody's.
pub(super) fn belong_to(store: &Store, owner: &str) -> bool {
    let path = store.layout.links_owner();
    let found = match fs::read_to_string(&path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "it can't be told whose the links of the volume are");
            return false;
        }
    };
    let (belongs, now) = match found.as_deref() {
        None => (true, owner),
        Some(found) if found == owner => return true,
        Some(SEVERAL) => return false,
        Some(_) => (false, SEVERAL),
    };
    match store.replace(&path, now.as_bytes()) {
        Ok(()) => belongs,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "it can't be noted whose the links of the volume are");
            false
        }
    }
}

pub(super) fn read_link(path: &Path) -> Option<Digest> {
    let file = files::open_regular(path).ok().flatten()?;
    let content = files::read_at(&file, 0, LINK_BYTES_MAX).ok()?;
    std::str::from_utf8(&content).ok()?.parse().ok()
}

pub(super) fn child_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn name_of(root: &Path, folder: &Path) -> Option<RepositoryName> {
    folder.strip_prefix(root).ok()?.to_str()?.parse().ok()
}
