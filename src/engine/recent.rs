//! What was found out within the last seconds: absences, hosts that gave wrong bytes, lists. A storm of requests for the
//! same thing then stays ours.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sys::sync::lock;

/// Facts that count for a while. When it is full of facts that still count, no more are taken: the upstream is then
/// asked, as without this table.
#[derive(Debug)]
pub struct Recent<K, V = ()> {
    keep: Duration,
    most: usize,
    facts: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// Remembers at most `most` facts, each for `keep`.
    pub fn new(keep: Duration, most: usize) -> Self {
        Self { keep, most, facts: Mutex::default() }
    }

    /// Remembers a fact.
    pub fn add(&self, key: K, value: V, now: Instant) {
        let mut facts = lock(&self.facts);
        if facts.len() >= self.most {
            facts.retain(|_, (_, end)| *end > now);
        }
        if facts.len() < self.most || facts.contains_key(&key) {
            facts.insert(key, (value, now + self.keep));
        }
    }

    /// The fact, if it still counts.
    pub fn find(&self, key: &K, now: Instant) -> Option<V> {
        lock(&self.facts).get(key).filter(|(_, end)| *end > now).map(|(value, _)| value.clone())
    }

    /// Whether there is a fact that still counts.
    pub fn holds(&self, key: &K, now: Instant) -> bool {
        lock(&self.facts).get(key).is_some_and(|(_, end)| *end > now)
    }

    /// Whether no fact is taken any more.
    pub fn is_full(&self, now: Instant) -> bool {
        let mut facts = lock(&self.facts);
        if facts.len() >= self.most {
            facts.retain(|_, (_, end)| *end > now);
        }
        facts.len() >= self.most
    }

    /// Forgets a fact.
    pub fn remove(&self, key: &K) {
        lock(&self.facts).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(5);

    #[test]
    fn a_fact_is_forgotten_in_time() {
        let (recent, now) = (Recent::new(KEEP, 10), crate::sys::clock::monotonic());
        recent.add("a", 7, now);
        assert_eq!(recent.find(&"a", now + KEEP / 2), Some(7));
        assert!(recent.holds(&"a", now + KEEP / 2));
        assert_eq!(recent.find(&"a", now + KEEP), None);
        assert_eq!(recent.find(&"b", now), None);
        recent.remove(&"a");
        assert!(!recent.holds(&"a", now));
    }

    #[test]
    fn the_table_never_grows_over_its_limit() {
        let (recent, now) = (Recent::new(KEEP, 100), crate::sys::clock::monotonic());
        (0..110).for_each(|n| recent.add(n, (), now));
        assert_eq!(lock(&recent.facts).len(), 100);
        assert!(recent.is_full(now) && !recent.is_full(now + KEEP * 2));
        (0..110).for_each(|n| recent.add(n, (), now));
        assert!(!recent.holds(&100, now));
        let later = now + KEEP * 2;
        recent.add(100, (), later);
        assert!(recent.holds(&100, later));
    }
}
