//! Walks of the tree: what is there, whoever put it there. One folder at a time, so that a walk of millions of blobs
//! needs little memory and can be done in steps.

use std::fs;
use std::io;
use std::path::Path;

use super::Store;
use crate::registry::{Algorithm, Digest, RepositoryName, Tag};
use crate::sys::files::{self, Identity};

/// Most names that are read from one folder: of blobs, manifests or tags (70 MB of digests). Ten million blobs have 40,000
/// in each.
const NAMES_MAX: usize = 1_000_000;

/// One of the folders that blobs are spread over, by the first byte of their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    algorithm: Algorithm,
    first: u8,
}

impl Shard {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .flat_map(|algorithm| (0..=u8::MAX).map(move |first| Self { algorithm, first }))
    }
}

impl Store {
    /// The digests that have a folder in a shard, in no order. Names that are no digests are left out.
    pub fn digests_in(&self, shard: Shard) -> io::Result<Vec<Digest>> {
        let prefix = format!("{:02x}", shard.first);
        let folder = self.layout.shard(shard.algorithm, &prefix);
        let digest = |name: &str| -> Option<Digest> {
            let digest = format!("{}:{name}", shard.algorithm.as_str()).parse().ok()?;
            name.starts_with(&prefix).then_some(digest)
        };
        names_in(&folder, digest)
    }

    /// Which file is under a digest; `None` if there is none, or something that is no regular file.
    pub fn identity_of(&self, digest: &Digest) -> io::Result<Option<Identity>> {
        files::identity_at(&self.layout.blob(digest))
    }

    /// The manifests of a repository, by its links; none if links do not count here.
    pub fn revisions(&self, name: &RepositoryName) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = |hex: &str| format!("{}:{hex}", algorithm.as_str()).parse::<Digest>().ok();
            found.extend(names_in(&self.layout.revisions(name, algorithm), digest)?);
        }
        found.retain(|digest| self.has_revision(name, digest));
        Ok(found)
    }

    /// The tags of a repository and what they point at, by its links; none if links do not count here.
    pub fn tags(&self, name: &RepositoryName) -> io::Result<Vec<(Tag, Digest)>> {
        let tags = names_in(&self.layout.tags(name), |tag| tag.parse::<Tag>().ok())?;
        let pointing = |tag: Tag| self.read_tag(name, &tag).map(|digest| (tag, digest));
        Ok(tags.into_iter().filter_map(pointing).collect())
    }
}

/// The names in a folder that mean something; none if there is no such folder.
fn names_in<T>(folder: &Path, read: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries.take(NAMES_MAX) {
        found.extend(entry?.file_name().to_str().and_then(&read));
    }
    Ok(found)
}
