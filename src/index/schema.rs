//! Keys. The first byte names the table; what follows is fixed in size, or text at the end, so that no key can be taken
//! for another.

use crate::registry::{Algorithm, Digest, RepositoryName, Tag};

use super::rows::{BlobRow, MemberRow, TagRow, seal};

const META: u8 = 0;
const BLOB: u8 = 1;
const TAG: u8 = 2;
const MEMBER: u8 = 3;
const REPOSITORY: u8 = 4;

/// The version of keys and rows; another one is set aside and built anew.
pub(super) const VERSION: u32 = 1;

/// A repository of an upstream as one account sees it, in 16 bytes: enough that no two ever meet, and no table of
/// numbers to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoKey([u8; 16]);

impl RepoKey {
    /// The key of a repository. `scope` is the account, since what one may see says nothing about another.
    pub fn new(upstream: &str, scope: &str, name: &RepositoryName) -> Self {
        // A zero byte occurs in none of the three.
        let hash = Digest::sha256([upstream, scope, name.as_str()].join("\0").as_bytes());
        let mut key = [0; 16];
        key.iter_mut().zip(hash.bytes()).for_each(|(target, byte)| *target = *byte);
        Self(key)
    }
}

pub(super) fn version() -> Vec<u8> {
    vec![META, 0]
}

/// There is such a row if every blob of the tree had one at some time.
pub(super) fn whole() -> Vec<u8> {
    vec![META, 1]
}

/// What all keys of blobs begin with.
pub(super) fn blobs() -> Vec<u8> {
    vec![BLOB]
}

/// The digest in a key of a blob.
pub(super) fn digest_of(key: &[u8]) -> Option<Digest> {
    let (algorithm, bytes) = key.strip_prefix(&[BLOB])?.split_first()?;
    let algorithm = match algorithm {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        _ => return None,
    };
    Digest::from_bytes(algorithm, bytes)
}

pub(super) fn blob(digest: &Digest) -> Vec<u8> {
    with_digest(vec![BLOB], digest)
}

pub(super) fn tags(repository: &RepoKey) -> Vec<u8> {
    [&[TAG], repository.0.as_slice()].concat()
}

pub(super) fn tag(repository: &RepoKey, tag: &Tag) -> Vec<u8> {
    [tags(repository).as_slice(), tag.as_str().as_bytes()].concat()
}

pub(super) fn member(repository: &RepoKey, digest: &Digest) -> Vec<u8> {
    with_digest([&[MEMBER], repository.0.as_slice()].concat(), digest)
}

pub(super) fn repositories(upstream: &str) -> Vec<u8> {
    [&[REPOSITORY], upstream.as_bytes(), &[0]].concat()
}

fn repository(upstream: &str, name: &RepositoryName) -> Vec<u8> {
    [repositories(upstream).as_slice(), name.as_str().as_bytes()].concat()
}

fn with_digest(mut key: Vec<u8>, digest: &Digest) -> Vec<u8> {
    key.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    key.extend_from_slice(digest.bytes());
    key
}

/// Rows that become visible together.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// A blob is held.
    pub fn put_blob(self, digest: Digest, row: BlobRow) -> Self {
        self.put(blob(&digest), &row.encode())
    }

    /// Every blob of the tree has, or had, its row.
    pub fn mark_whole(self) -> Self {
        self.put(whole(), &[])
    }

    /// A blob is not held any more.
    pub fn remove_blob(mut self, digest: Digest) -> Self {
        self.rows.push((blob(&digest), None));
        self
    }

    /// Where a tag points.
    pub fn put_tag(self, repository: RepoKey, name: &Tag, row: TagRow) -> Self {
        self.put(tag(&repository, name), &row.encode())
    }

    /// A digest belongs to a repository.
    pub fn put_member(self, repository: RepoKey, digest: Digest, row: MemberRow) -> Self {
        self.put(member(&repository, &digest), &row.encode())
    }

    /// A repository is known.
    pub fn put_repository(self, upstream: &str, name: &RepositoryName) -> Self {
        self.put(repository(upstream, name), &[])
    }

    fn put(mut self, key: Vec<u8>, value: &[u8]) -> Self {
        let value = seal(&key, value);
        self.rows.push((key, Some(value)));
        self
    }

    pub(super) fn into_rows(self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.rows
    }
}
