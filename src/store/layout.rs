//! Every path of the store. Made from parsed types only, so that no text of a client reaches the file system.

use std::path::{Path, PathBuf};

use crate::registry::{Algorithm, Digest, RepositoryName, Tag};

/// The paths under one root.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn tree(&self) -> PathBuf {
        self.root.join("docker/registry/v2")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.tree().join("blobs/sha256")
    }

    pub(super) fn repositories(&self) -> PathBuf {
        self.tree().join("repositories")
    }

    /// `blobs/sha256/ab/<hex>`: 256 folders, and one for each blob in them.
    pub(super) fn blob_folder(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.shard(digest.algorithm(), hex.get(..2).unwrap_or_default()).join(&hex)
    }

    /// One of the 256 folders that the blobs of an algorithm are spread over.
    pub(super) fn shard(&self, algorithm: Algorithm, first_hex: &str) -> PathBuf {
        self.tree().join("blobs").join(algorithm.as_str()).join(first_hex)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blob_folder(digest).join("data")
    }

    pub(super) fn repository(&self, name: &RepositoryName) -> PathBuf {
        self.repositories().join(name.as_str())
    }

    /// A blob belongs to a repository.
    pub(super) fn layer_link(&self, name: &RepositoryName, digest: &Digest) -> PathBuf {
        self.under(name, "_layers", digest)
    }

    /// A manifest belongs to a repository.
    pub(super) fn revision_link(&self, name: &RepositoryName, digest: &Digest) -> PathBuf {
        self.under(name, "_manifests/revisions", digest)
    }

    /// What a tag points at.
    pub(super) fn tag_link(&self, name: &RepositoryName, tag: &Tag) -> PathBuf {
        self.tag(name, tag).join("current/link")
    }

    /// What a tag ever pointed at.
    pub(super) fn tag_history_link(&self, name: &RepositoryName, tag: &Tag, digest: &Digest) -> PathBuf {
        let index = self.tag(name, tag).join("index");
        index.join(digest.algorithm().as_str()).join(digest.hex()).join("link")
    }

    /// Where the links of the manifests of a repository are.
    pub(super) fn revisions(&self, name: &RepositoryName, algorithm: Algorithm) -> PathBuf {
        self.repository(name).join("_manifests/revisions").join(algorithm.as_str())
    }

    /// Where the links of the tags of a repository are.
    pub(super) fn tags(&self, name: &RepositoryName) -> PathBuf {
        self.repository(name).join("_manifests/tags")
    }

    pub(super) fn tag(&self, name: &RepositoryName, tag: &Tag) -> PathBuf {
        self.tags(name).join(tag.as_str())
    }

    fn under(&self, name: &RepositoryName, kind: &str, digest: &Digest) -> PathBuf {
        self.repository(name).join(kind).join(digest.algorithm().as_str()).join(digest.hex()).join("link")
    }

    /// What `registry` lets expire when.
    pub(super) fn schedule(&self) -> PathBuf {
        self.root.join("scheduler-state.json")
    }

    pub(super) fn ours(&self) -> PathBuf {
        self.root.join("tidegate")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.ours().join("lock")
    }

    /// Whose the links are.
    pub(super) fn links_owner(&self) -> PathBuf {
        self.ours().join("links-owner")
    }

    /// There if what was published may not be on the disk: since when.
    pub(super) fn unsynced(&self) -> PathBuf {
        self.ours().join("unsynced")
    }

    /// When what was last used.
    pub(super) fn heat(&self) -> PathBuf {
        self.ours().join("heat")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.ours().join("index")
    }

    pub(super) fn certificates(&self) -> PathBuf {
        self.ours().join("tls")
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.ours().join("partial")
    }

    /// A large blob in the making, which the next process finds again.
    pub(super) fn kept_partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }

    /// A file in the making; `unique` keeps two of one digest apart.
    pub(super) fn partial(&self, digest: &Digest, unique: &str) -> PathBuf {
        self.partials().join(format!("{}.{unique}", digest.hex()))
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.ours().join("quarantine")
    }

    pub(super) fn quarantined(&self, digest: &Digest, unix_ms: u64) -> PathBuf {
        self.quarantine().join(format!("{}.{unix_ms}", digest.hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_name_or_tag_leads_out_of_the_root(name in "[a-z0-9._/-]{1,60}", tag in "[A-Za-z0-9._-]{1,40}") {
            let layout = Layout::new(Path::new("/root-of-it"));
            if let (Ok(name), Ok(tag)) = (name.parse(), tag.parse()) {
                let path = layout.tag_link(&name, &tag);
                prop_assert!(path.starts_with(layout.repositories()));
                prop_assert!(path.components().all(|part| part.as_os_str() != ".."));
            }
        }
    }
}
