//! Keys. The first byte names the table; what follows is fixed in size, or text at the end, so that no key can be taken
//! for another.

use crate::registry::{Algorithm, Digest, RepositoryName, Tag};

use super::rows::{BlobRow, MemberRow, TagRow, seal};

const META: u8 = 0;
const BLOB: u8 = 1;
const TAG: u8 = 2;
const MEMBER: u8 = 3;
const REPOSITORY: u8 = 4;
const PARENT: u8 = 5;
const HOLDER: u8 = 6;
const PIN: u8 = 7;

/// The version of keys and rows; another one is set aside and built anew.
pub(super) const VERSION: u32 = 2;

/// Longest text of a pin: a key of LMDB has at most 511 bytes.
pub const PIN_BYTES_MAX: usize = 500;

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

/// Whether the table of holders is complete.
pub(super) fn all_holders() -> Vec<u8> {
    vec![META, 2]
}

/// There is such a row if every blob of the tree had one at some time.
pub(super) fn whole() -> Vec<u8> {
    vec![META, 1]
}

/// What all keys of blobs begin with.
pub(super) fn blobs() -> Vec<u8> {
    vec![BLOB]
}

pub(super) fn blob(digest: &Digest) -> Vec<u8> {
    with_digest(blobs(), digest)
}

pub(super) fn parents() -> Vec<u8> {
    vec![PARENT]
}

pub(super) fn parents_of(child: &Digest) -> Vec<u8> {
    with_digest(parents(), child)
}

fn parent(child: &Digest, manifest: &Digest) -> Vec<u8> {
    with_digest(parents_of(child), manifest)
}

pub(super) fn holders(digest: &Digest) -> Vec<u8> {
    with_digest(vec![HOLDER], digest)
}

pub(super) fn holder(digest: &Digest, name: &RepositoryName) -> Vec<u8> {
    [holders(digest).as_slice(), name.as_str().as_bytes()].concat()
}

pub(super) fn pins() -> Vec<u8> {
    vec![PIN]
}

fn pin(text: &str) -> Vec<u8> {
    [pins().as_slice(), text.as_bytes()].concat()
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

/// A digest at the front of a key, and what follows it.
pub(super) fn take_digest(key: &[u8]) -> Option<(Digest, &[u8])> {
    let (algorithm, rest) = key.split_first()?;
    let (algorithm, length) = match algorithm {
        1 => (Algorithm::Sha256, 32),
        2 => (Algorithm::Sha512, 64),
        _ => return None,
    };
    let (raw, rest) = rest.split_at_checked(length)?;
    Some((Digest::from_bytes(algorithm, raw)?, rest))
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
    pub fn remove_blob(self, digest: Digest) -> Self {
        self.remove(blob(&digest))
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

    /// A digest does not belong to a repository, as far as is known.
    pub fn remove_member(self, repository: RepoKey, digest: Digest) -> Self {
        self.remove(member(&repository, &digest))
    }

    /// A manifest names a digest.
    pub fn put_parent(self, child: &Digest, manifest: &Digest) -> Self {
        self.put(parent(child, manifest), &[])
    }

    /// A manifest that names a digest is not held any more.
    pub fn remove_parent(self, child: &Digest, manifest: &Digest) -> Self {
        self.remove(parent(child, manifest))
    }

    /// A repository has a link to a digest, or is about to get one.
    pub fn put_holder(self, digest: &Digest, name: &RepositoryName) -> Self {
        self.put(holder(digest, name), &[])
    }

    /// A repository has no link to a digest any more.
    pub fn remove_holder(self, digest: &Digest, name: &RepositoryName) -> Self {
        self.remove(holder(digest, name))
    }

    /// All links of the tree to manifests are among the holders.
    pub fn put_all_holders(self) -> Self {
        self.put(all_holders(), &[])
    }

    /// Something is to be kept. The text has at most [`PIN_BYTES_MAX`] bytes.
    pub fn put_pin(self, text: &str) -> Self {
        self.put(pin(text), &[])
    }

    /// Something is not to be kept any longer.
    pub fn remove_pin(self, text: &str) -> Self {
        self.remove(pin(text))
    }

    fn remove(mut self, key: Vec<u8>) -> Self {
        self.rows.push((key, None));
        self
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
