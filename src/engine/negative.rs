//! Absences that are remembered for seconds, so that a storm of requests for what does not exist stays ours.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sys::sync::lock;

/// Most entries at once (about 2 MB). When it is full of entries that still count, no more are taken: the upstream is
/// then asked, as without this table.
const ENTRIES_MAX: usize = 10_000;

/// What was found absent, until when.
#[derive(Debug)]
pub struct Negatives<K> {
    keep: Duration,
    until: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Negatives<K> {
    /// Remembers each absence for `keep`.
    pub fn new(keep: Duration) -> Self {
        Self { keep, until: Mutex::default() }
    }

    /// Remembers that `key` does not exist.
    pub fn add(&self, key: K, now: Instant) {
        let mut until = lock(&self.until);
        if until.len() >= ENTRIES_MAX {
            until.retain(|_, end| *end > now);
        }
        if until.len() < ENTRIES_MAX {
            until.insert(key, now + self.keep);
        }
    }

    /// Whether `key` was found absent and that still counts.
    pub fn holds(&self, key: &K, now: Instant) -> bool {
        lock(&self.until).get(key).is_some_and(|end| *end > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_forgotten_in_time() {
        let (negatives, now) = (Negatives::new(Duration::from_secs(5)), crate::sys::clock::monotonic());
        negatives.add("a", now);
        assert!(negatives.holds(&"a", now + Duration::from_secs(4)));
        assert!(!negatives.holds(&"a", now + Duration::from_secs(5)));
        assert!(!negatives.holds(&"b", now));
    }

    #[test]
    fn the_table_never_grows_over_its_limit() {
        let (negatives, now) = (Negatives::new(Duration::from_secs(5)), crate::sys::clock::monotonic());
        (0..ENTRIES_MAX + 10).for_each(|n| negatives.add(n, now));
        assert_eq!(lock(&negatives.until).len(), ENTRIES_MAX);
        assert!(!negatives.holds(&ENTRIES_MAX, now));
        let later = now + Duration::from_secs(6);
        negatives.add(ENTRIES_MAX, later);
        assert!(negatives.holds(&ENTRIES_MAX, later));
    }
}
