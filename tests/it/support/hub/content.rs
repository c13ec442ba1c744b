//! What the Hub holds.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tidegate::registry::Digest;

/// The bytes of a blob, or the rule by which they are made.
#[derive(Debug, Clone)]
pub enum Blob {
    Bytes(Bytes),
    /// So many bytes of [`pattern`].
    Giant(u64),
}

/// Bytes made and sent at a time.
pub const STEP: u64 = 256 * 1024;

impl Blob {
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Giant(size) => *size,
        }
    }

    /// The bytes from `first` on, at most a step of them.
    pub fn step(&self, first: u64, end: u64) -> Bytes {
        let end = end.min(first + STEP);
        match self {
            Self::Bytes(bytes) => bytes.slice(usize::try_from(first).unwrap()..usize::try_from(end).unwrap()),
            Self::Giant(_) => pattern(first, end),
        }
    }

    fn digest(&self) -> String {
        let mut hasher = tidegate::registry::digest::Hasher::new(Digest::sha256(b"").algorithm());
        let mut at = 0;
        while at < self.size() {
            let step = self.step(at, self.size());
            hasher.update(&step);
            at += step.len() as u64;
        }
        hasher.finish().to_string()
    }
}

/// Bytes that say where they stand: eight-byte counters.
pub fn pattern(first: u64, end: u64) -> Bytes {
    (first / 8..end.div_ceil(8))
        .flat_map(u64::to_le_bytes)
        .skip((first % 8) as usize)
        .take((end - first) as usize)
        .collect()
}

#[derive(Debug, Default)]
pub struct Repository {
    pub tags: BTreeMap<String, String>,
    pub manifests: HashMap<String, (String, Bytes)>,
    pub blobs: HashMap<String, Blob>,
    pub referrers: HashMap<String, Bytes>,
    pub private: bool,
    /// As if it had never been.
    pub hidden: bool,
}

#[derive(Debug, Default)]
pub struct Content {
    pub repositories: HashMap<String, Repository>,
}

impl Content {
    pub fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    pub fn add_blob(&mut self, repository: &str, blob: Blob) -> String {
        let digest = blob.digest();
        self.repository(repository).blobs.insert(digest.clone(), blob);
        digest
    }

    pub fn add_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
    ) -> String {
        let digest = Digest::sha256(&bytes).to_string();
        let repository = self.repository(repository);
        repository.manifests.insert(digest.clone(), (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }
}
