//! Manifests whose files are not in the tree: on their way there, or kept in memory because the disk would not take them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Repository;
use super::manifest::Held;
use crate::registry::Digest;
use crate::sys::sync::lock;

/// Most bytes of manifests in memory. At 4 KiB each that is 16,000 of them; a manifest over the limit is given out and
/// not kept.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a disk that refused a manifest is left alone with it.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Most repositories that one manifest waits for; the links of others are written at their next miss.
const REPOSITORIES_MAX: usize = 64;

/// The table.
#[derive(Debug, Default)]
pub struct Unpublished {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<Digest, Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    held: Held,
    /// Whom it was fetched for.
    repositories: Vec<Repository>,
    /// When the disk refused it; since then it gives way to others.
    refused_at: Option<Instant>,
}

impl Unpublished {
    /// Keeps a manifest until its file is in the tree. Whether the caller is to see to that: not if somebody does already,
    /// nor if there is no room.
    pub fn add(&self, held: &Held, repository: &Repository) -> bool {
        let mut table = lock(&self.table);
        let bytes = held.bytes.len();
        if let Some(waiting) =
            table.waiting.get_mut(&held.digest).filter(|waiting| waiting.refused_at.is_none())
        {
            waiting.add(repository);
            return false;
        }
        let mut repositories = table.remove(&held.digest);
        if table.bytes + bytes > BYTES_MAX {
            table.drop_refused();
        }
        if table.bytes + bytes > BYTES_MAX {
            return false;
        }
        repositories.push(repository.clone());
        table.bytes += bytes;
        table.waiting.insert(held.digest, Waiting { held: held.clone(), repositories, refused_at: None });
        true
    }

    /// A manifest that is kept.
    pub fn find(&self, digest: &Digest) -> Option<Held> {
        lock(&self.table).waiting.get(digest).map(|waiting| waiting.held.clone())
    }

    /// The repositories that wait for it.
    pub fn repositories(&self, digest: &Digest) -> Vec<Repository> {
        lock(&self.table).waiting.get(digest).map(|waiting| waiting.repositories.clone()).unwrap_or_default()
    }

    /// Its file is in the tree, and its row readable.
    pub fn published(&self, digest: &Digest) {
        lock(&self.table).remove(digest);
    }

    /// Whether its file is just being written.
    pub fn is_being_written(&self, digest: &Digest) -> bool {
        let table = lock(&self.table);
        table.waiting.get(digest).is_some_and(|waiting| waiting.refused_at.is_none())
    }

    /// It goes, as part of an image that makes room.
    pub fn evicted(&self, digest: &Digest) {
        lock(&self.table).remove(digest);
    }

    /// The disk would not take it: it stays here as long as there is room, and is tried again after a while.
    pub fn refused(&self, digest: &Digest, now: Instant) {
        if let Some(waiting) = lock(&self.table).waiting.get_mut(digest) {
            waiting.refused_at = Some(now);
        }
    }

    /// Whether it is time for a new try.
    pub fn is_due(&self, digest: &Digest, now: Instant) -> bool {
        let refused_at = lock(&self.table).waiting.get(digest).and_then(|waiting| waiting.refused_at);
        refused_at.is_some_and(|at| now.saturating_duration_since(at) >= RETRY_AFTER)
    }
}

impl Waiting {
    fn add(&mut self, repository: &Repository) {
        if self.repositories.len() < REPOSITORIES_MAX
            && self.repositories.iter().all(|known| known.key != repository.key)
        {
            self.repositories.push(repository.clone());
        }
    }
}

impl Table {
    fn remove(&mut self, digest: &Digest) -> Vec<Repository> {
        let Some(waiting) = self.waiting.remove(digest) else { return Vec::new() };
        self.bytes -= waiting.held.bytes.len();
        waiting.repositories
    }

    fn drop_refused(&mut self) {
        self.waiting.retain(|_, waiting| waiting.refused_at.is_none());
        self.bytes = self.waiting.values().map(|waiting| waiting.held.bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{MediaType, media_type};
    use bytes::Bytes;

    fn manifest(seed: u8, length: usize) -> Held {
        let bytes = Bytes::from(vec![seed; length]);
        Held { digest: Digest::sha256(&bytes), media_type: MediaType::known(media_type::OCI_INDEX), bytes }
    }

    fn repository(name: &str) -> Repository {
        let name: crate::registry::RepositoryName = name.parse().unwrap();
        Repository {
            key: crate::index::RepoKey::new("docker.io", "", &name),
            name,
            client: crate::engine::turns::Client::default(),
        }
    }

    #[test]
    fn a_manifest_is_readable_until_it_is_published() {
        let (unpublished, one) = (Unpublished::default(), manifest(1, 10));
        let (first, second) = (repository("a/a"), repository("b/b"));
        assert!(unpublished.add(&one, &first));
        assert!(!unpublished.add(&one, &second) && !unpublished.add(&one, &second));
        // One repository, whoever asks for it.
        let client = crate::engine::turns::Client::at(Some(std::net::Ipv4Addr::LOCALHOST.into()));
        assert!(!unpublished.add(&one, &second.clone().asked_by(client)));
        assert_eq!(unpublished.find(&one.digest).unwrap().bytes, one.bytes);
        assert_eq!(unpublished.repositories(&one.digest), [first, second]);
        unpublished.published(&one.digest);
        assert!(unpublished.find(&one.digest).is_none());
        assert_eq!(lock(&unpublished.table).bytes, 0);
    }

    #[test]
    fn what_the_disk_refused_stays_until_there_is_no_room() {
        let (unpublished, half) = (Unpublished::default(), BYTES_MAX / 2);
        let all: Vec<_> = (1..=3).map(|seed| manifest(seed, half)).collect();
        let whose = repository("a/a");
        assert!(unpublished.add(&all[0], &whose) && unpublished.add(&all[1], &whose));
        let now = crate::sys::clock::monotonic();
        unpublished.refused(&all[0].digest, now);
        assert!(
            !unpublished.is_due(&all[0].digest, now)
                && !unpublished.is_due(&all[1].digest, now + RETRY_AFTER)
        );
        assert!(unpublished.is_due(&all[0].digest, now + RETRY_AFTER));
        assert!(unpublished.find(&all[0].digest).is_some());
        assert!(
            !unpublished.is_being_written(&all[0].digest) && unpublished.is_being_written(&all[1].digest)
        );
        assert!(unpublished.add(&all[2], &whose), "the refused one gives way");
        assert!(unpublished.find(&all[0].digest).is_none());
        assert!(!unpublished.add(&all[0], &whose), "the others do not");
        unpublished.refused(&all[1].digest, now);
        assert!(unpublished.add(&all[1], &whose), "its next arrival is a new try");
        unpublished.evicted(&all[1].digest);
        assert!(unpublished.find(&all[1].digest).is_none());
    }
}
