//! Which blobs go: the ones used longest ago, until enough room is made. Pure, and in bounded memory however many
//! there are.

use std::collections::BTreeMap;

use crate::engine::budget::room::{Need, SMALL_BYTES, on_disk};
use crate::index::heat::Seconds;
use crate::registry::Digest;

/// Most blobs that one scan picks (about 6 MB for each kind). If more have to go, another scan follows.
const VICTIMS_MAX: usize = 65_536;

/// The last use of what never goes.
pub const PINNED: Seconds = Seconds::MAX;

/// A blob that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The last use of it, or of what names it.
    pub used: Seconds,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What may go at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How much has to go.
    pub need: Need,
    /// What was used later than this stays: it was named in an answer moments ago.
    pub held_since: Seconds,
    /// What was not used since goes, whether there is room or not.
    pub idle_since: Option<Seconds>,
}

/// The choice, made while all blobs pass by.
#[derive(Debug)]
pub struct Plan {
    terms: Terms,
    small: Selection,
    large: Selection,
}

impl Plan {
    /// Nothing is chosen yet.
    pub fn new(terms: Terms) -> Self {
        let Need { small, large, blobs } = terms.need;
        // For want of inodes both kinds give the same number.
        let each = usize::try_from(blobs.div_ceil(2)).unwrap_or(usize::MAX);
        Self { terms, small: Selection::new(small, each), large: Selection::new(large, each) }
    }

    /// Looks at a blob.
    pub fn offer(&mut self, candidate: Candidate) {
        if candidate.used == PINNED || candidate.used > self.terms.held_since {
            return;
        }
        let idle = self.terms.idle_since.is_some_and(|since| candidate.used < since);
        let kind = if candidate.bytes < SMALL_BYTES { &mut self.small } else { &mut self.large };
        kind.offer(candidate, idle);
    }

    /// Those that go, the ones used longest ago first.
    pub fn victims(self) -> Vec<Candidate> {
        let mut victims: Vec<_> =
            self.small.chosen.into_values().chain(self.large.chosen.into_values()).collect();
        victims.sort_by_key(|victim| (victim.used, victim.digest));
        victims
    }
}

/// The oldest of one kind, as few as make the need.
#[derive(Debug)]
struct Selection {
    need_bytes: u64,
    need_blobs: usize,
    chosen: BTreeMap<(Seconds, Digest), Candidate>,
    bytes: u64,
    /// How many of the chosen go for being idle.
    idle: usize,
}

impl Selection {
    fn new(need_bytes: u64, need_blobs: usize) -> Self {
        Self { need_bytes, need_blobs, chosen: BTreeMap::new(), bytes: 0, idle: 0 }
    }

    fn offer(&mut self, candidate: Candidate, idle: bool) {
        if self.need_bytes == 0 && self.need_blobs == 0 && !idle {
            return;
        }
        self.idle += usize::from(idle);
        self.bytes += on_disk(candidate.bytes);
        self.chosen.insert((candidate.used, candidate.digest), candidate);
        while self.youngest_is_surplus() {
            if let Some((_, youngest)) = self.chosen.pop_last() {
                self.bytes -= on_disk(youngest.bytes);
                // The idle ones are the oldest: one of them is the youngest only if all are.
                self.idle = self.idle.min(self.chosen.len());
            }
        }
    }

    /// Whether enough goes without the youngest of the chosen.
    fn youngest_is_surplus(&self) -> bool {
        let Some((_, youngest)) = self.chosen.last_key_value() else { return false };
        let others = self.chosen.len() - 1;
        let enough = self.bytes - on_disk(youngest.bytes) >= self.need_bytes
            && others >= self.need_blobs
            && others >= self.idle;
        enough || self.chosen.len() > VICTIMS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn digest(seed: usize) -> Digest {
        Digest::sha256(&seed.to_le_bytes())
    }

    fn terms(small: u64, large: u64) -> Terms {
        Terms { need: Need { small, large, blobs: 0 }, held_since: 1_000, idle_since: None }
    }

    #[track_caller]
    fn check(terms: Terms, blobs: &[(Seconds, u64)], expected: &[usize]) {
        let mut plan = Plan::new(terms);
        for (seed, (used, bytes)) in blobs.iter().enumerate() {
            plan.offer(Candidate { used: *used, digest: digest(seed), bytes: *bytes });
        }
        let victims: Vec<_> = plan.victims().iter().map(|victim| victim.digest).collect();
        assert_eq!(victims, expected.iter().map(|seed| digest(*seed)).collect::<Vec<_>>());
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_needed() {
        let blobs = [(5, 2 * MIB), (1, 2 * MIB), (3, 2 * MIB), (9, 2 * MIB), (2, 100)];
        check(terms(0, 3 * MIB), &blobs, &[1, 2]);
        check(terms(0, 2 * MIB), &blobs, &[1]);
        check(terms(1, 1), &blobs, &[1, 4]);
        check(terms(0, 0), &blobs, &[]);
        check(terms(0, 100 * MIB), &blobs, &[1, 2, 0, 3]);
    }

    #[test]
    fn what_is_pinned_or_was_just_named_stays() {
        let blobs = [(PINNED, MIB), (1_001, MIB), (1_000, MIB), (999, MIB)];
        check(terms(0, 100 * MIB), &blobs, &[3, 2]);
        let idle = Terms { idle_since: Some(Seconds::MAX), ..terms(0, 0) };
        check(idle, &blobs, &[3, 2]);
    }

    #[test]
    fn what_is_idle_goes_also_where_there_is_room() {
        let blobs = [(10, MIB), (50, 100), (20, MIB), (40, MIB), (99, MIB)];
        let idle = Terms { idle_since: Some(40), ..terms(0, 0) };
        check(idle, &blobs, &[0, 2]);
        let both = Terms { idle_since: Some(20), ..terms(0, 3 * MIB) };
        check(both, &blobs, &[0, 2, 3]);
    }

    #[test]
    fn for_want_of_inodes_both_kinds_give() {
        let need = Need { small: 0, large: 0, blobs: 3 };
        let blobs = [(1, 10), (2, 10), (3, 10), (4, MIB), (5, MIB), (6, MIB)];
        check(Terms { need, ..terms(0, 0) }, &blobs, &[0, 1, 3, 4]);
    }

    proptest! {
        #[test]
        fn the_choice_is_what_sorting_everything_would_give(
            blobs in proptest::collection::vec((0_u32..1_200, 0_u64..4 * MIB), 0..80), need in 0_u64..60 * MIB,
            idle in proptest::option::of(0_u32..1_200)) {
            let mut plan = Plan::new(Terms { idle_since: idle, ..terms(0, need) });
            let mut sorted = Vec::new();
            for (seed, (used, bytes)) in blobs.iter().enumerate() {
                let candidate = Candidate { used: *used, digest: digest(seed), bytes: *bytes };
                plan.offer(candidate);
                if candidate.used <= 1_000 && candidate.bytes >= MIB {
                    sorted.push(candidate);
                }
            }
            sorted.sort_by_key(|candidate| (candidate.used, candidate.digest));
            let mut left = need;
            let expected: Vec<_> = sorted.into_iter().take_while(|candidate| {
                let takes = left > 0 || idle.is_some_and(|since| candidate.used < since);
                left = left.saturating_sub(on_disk(candidate.bytes));
                takes
            }).collect();
            let large: Vec<_> = plan.victims().into_iter().filter(|victim| victim.bytes >= MIB).collect();
            prop_assert_eq!(large, expected);
        }
    }
}
