//! How much room there is, and how much has to be made. Pure: numbers in, numbers out.

use crate::config::Cache;
use crate::sys::files::Space;

/// Blobs below this size have a share of the budget for themselves: manifests, configs and small layers, which cost
/// little and whose absence a client feels first.
pub const SMALL_BYTES: u64 = 1024 * 1024;

/// That share, in hundredths.
const SMALL_PERCENT: u64 = 5;

/// From this part of the budget on, in hundredths, room is made ahead of the next fill.
const HIGH_PERCENT: u64 = 95;

/// Down to this part of it.
const LOW_PERCENT: u64 = 90;

/// This part of the budget is the most that is made free at once for a burst of fills.
const AHEAD_PART: u64 = 10;

/// What is left for the index, which grows with each blob and is measured only now and then: at most so many bytes, and
/// at most this part of the budget.
const HEADROOM_BYTES_MAX: u64 = 1024 * 1024;
const HEADROOM_PART: u64 = 64;

/// Inodes that are freed ahead of the next fills, which take two each and some more for links: at most so many, and at
/// most this part of all.
const INODES_AHEAD_MAX: u64 = 1_024;
const INODES_AHEAD_PART: u64 = 16;

/// What a file system allots at a time, nearly everywhere.
const BLOCK_BYTES: u64 = 4096;

/// What a blob takes on the disk.
pub fn on_disk(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(bytes)
}

/// The limits as they are on this file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most that the cache takes.
    pub bytes_max: u64,
    /// The least that is left free.
    pub free_bytes_min: u64,
    /// The least inodes that are left free.
    pub free_inodes_min: u64,
}

impl Limits {
    /// For how much room is made at once, of what is waited for: for the largest at least. A burst of fills that together
    /// want more than this is served in turns, and does not empty the cache.
    pub fn ahead(&self, waiting: &[u64]) -> u64 {
        let (all, largest) = waiting
            .iter()
            .fold((0_u64, 0_u64), |(all, largest), bytes| (all.saturating_add(*bytes), largest.max(*bytes)));
        all.min(largest.max(self.bytes_max / AHEAD_PART))
    }

    fn headroom(&self) -> u64 {
        HEADROOM_BYTES_MAX.min(self.bytes_max / HEADROOM_PART)
    }

    /// What the configuration means on a file system. A least in bytes says nothing of inodes: these keep the default.
    pub fn new(cache: &Cache, space: &Space) -> Self {
        let inodes = match cache.min_free {
            crate::config::Share::Bytes(_) => Cache::default().min_free,
            percent => percent,
        };
        Self {
            bytes_max: cache.max_size.of(space.total_bytes),
            free_bytes_min: cache.min_free.of(space.total_bytes),
            free_inodes_min: inodes.of(space.total_inodes),
        }
    }
}

/// What is used, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs of less than [`SMALL_BYTES`].
    pub small: u64,
    /// All others.
    pub large: u64,
    /// What fills under way have reserved, or what lies unfinished, whichever is more.
    pub unfinished: u64,
    /// Evicted blobs that somebody still reads.
    pub lingering: u64,
    /// Index, last uses, quarantine.
    pub other: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.blobs().saturating_add(self.fixed())
    }

    fn blobs(&self) -> u64 {
        self.small.saturating_add(self.large)
    }

    /// What no eviction changes.
    fn fixed(&self) -> u64 {
        self.unfinished.saturating_add(self.lingering).saturating_add(self.other)
    }
}

/// How much has to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of small blobs.
    pub small: u64,
    /// Bytes of large blobs.
    pub large: u64,
    /// Blobs of either kind, for want of inodes.
    pub blobs: u64,
}

impl Need {
    /// Whether nothing has to go.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// When room is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// If the usage is over the high mark: down to the low one.
    Watch,
    /// Down to the low mark in any case.
    Sweep,
    /// So many bytes, whatever the usage: the disk said that it is full.
    Free(u64),
}

/// Whether `bytes` more fit, without a look at who else waits.
pub fn fits(usage: &Usage, limits: &Limits, space: &Space, bytes: u64) -> bool {
    let inodes = space.total_inodes == 0 || space.free_inodes > limits.free_inodes_min;
    let free = space.free_bytes >= limits.free_bytes_min.saturating_add(bytes);
    let total = usage.total().saturating_add(limits.headroom()).saturating_add(bytes);
    total <= limits.bytes_max && free && inodes
}

/// Whether `bytes` could ever fit, if all that can go did.
pub fn could_fit(usage: &Usage, limits: &Limits, bytes: u64) -> bool {
    let total = usage.fixed().saturating_sub(usage.lingering).saturating_add(limits.headroom());
    total.saturating_add(bytes) <= limits.bytes_max
}

/// How much has to go. `waiting`: bytes of fills that wait for room.
pub fn need(usage: &Usage, limits: &Limits, space: &Space, waiting: u64, aim: Aim) -> Need {
    let part = |percent: u64| limits.bytes_max / 100 * percent;
    let wanted = waiting.saturating_add(limits.headroom());
    let over = usage.total().saturating_add(waiting) > part(HIGH_PERCENT) || aim == Aim::Sweep;
    let total = if over { part(LOW_PERCENT).min(limits.bytes_max.saturating_sub(wanted)) } else { u64::MAX };
    // What is read to its end gives its room back by itself.
    let free = space.free_bytes.saturating_add(usage.lingering);
    let short = limits.free_bytes_min.saturating_add(waiting).saturating_sub(free);
    let short = match aim {
        Aim::Free(bytes) => short.max(bytes),
        Aim::Watch | Aim::Sweep => short,
    };
    let blobs = total.saturating_sub(usage.fixed()).min(usage.blobs().saturating_sub(short));
    Need { blobs: short_of_inodes(limits, space), ..by_class(usage, blobs) }
}

/// How many blobs have to go for want of inodes: each takes two, its folder and its file.
fn short_of_inodes(limits: &Limits, space: &Space) -> u64 {
    let ahead = INODES_AHEAD_MAX.min(space.total_inodes / INODES_AHEAD_PART);
    let low = limits.free_inodes_min.saturating_add(ahead / 2);
    if space.total_inodes == 0 || space.free_inodes > low {
        return 0;
    }
    limits.free_inodes_min.saturating_add(ahead).saturating_sub(space.free_inodes).div_ceil(2)
}

/// Divides what has to go so that `target` bytes of blobs stay: each kind gives what it has over its share, and may use
/// what the other one leaves of its own.
fn by_class(usage: &Usage, target: u64) -> Need {
    if usage.blobs() <= target {
        return Need::default();
    }
    let small_share = target / 100 * SMALL_PERCENT;
    let large_share = target.saturating_sub(small_share);
    let small_kept = target.saturating_sub(usage.large.min(large_share));
    let large_kept = target.saturating_sub(usage.small.min(small_share));
    Need {
        small: usage.small.saturating_sub(small_kept),
        large: usage.large.saturating_sub(large_kept),
        blobs: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { bytes_max: 1000, free_bytes_min: 50, free_inodes_min: 10 };
    const ROOMY: Space =
        Space { total_bytes: 10_000, free_bytes: 5_000, total_inodes: 1_000, free_inodes: 500 };

    fn usage(small: u64, large: u64) -> Usage {
        Usage { small, large, ..Usage::default() }
    }

    #[track_caller]
    fn check(usage: Usage, waiting: u64, aim: Aim, small: u64, large: u64) {
        assert_eq!(need(&usage, &LIMITS, &ROOMY, waiting, aim), Need { small, large, blobs: 0 });
    }

    #[test]
    fn below_the_high_mark_nothing_goes() {
        check(usage(0, 950), 0, Aim::Watch, 0, 0);
        check(usage(0, 951), 0, Aim::Watch, 0, 51);
        check(usage(0, 950), 0, Aim::Sweep, 0, 50);
        check(usage(0, 900), 0, Aim::Sweep, 0, 0);
        check(usage(0, 700), 200, Aim::Watch, 0, 0);
        check(usage(0, 800), 300, Aim::Watch, 0, 115);
    }

    #[test]
    fn each_kind_gives_what_is_over_its_share() {
        check(usage(45, 1000), 0, Aim::Watch, 0, 145);
        check(usage(500, 600), 0, Aim::Watch, 200, 0);
        check(usage(500, 2000), 0, Aim::Watch, 455, 1145);
        check(usage(1000, 0), 0, Aim::Watch, 100, 0);
    }

    #[test]
    fn what_can_not_go_leaves_less_for_blobs() {
        let full = Usage { other: 300, unfinished: 200, lingering: 100, ..usage(0, 400) };
        check(full, 0, Aim::Watch, 0, 100);
        assert!(!fits(&full, &LIMITS, &ROOMY, 1));
        assert!(could_fit(&full, &LIMITS, 485) && !could_fit(&full, &LIMITS, 486));
    }

    #[test]
    fn a_disk_that_others_fill_shrinks_the_cache() {
        let tight = Space { free_bytes: 20, ..ROOMY };
        assert_eq!(need(&usage(0, 500), &LIMITS, &tight, 0, Aim::Watch).large, 30);
        assert_eq!(need(&usage(0, 500), &LIMITS, &tight, 70, Aim::Watch).large, 100);
        let lingering = Usage { lingering: 30, ..usage(0, 500) };
        assert!(need(&lingering, &LIMITS, &tight, 0, Aim::Watch).is_nothing());
        assert_eq!(need(&usage(0, 500), &LIMITS, &ROOMY, 0, Aim::Free(70)).large, 70);
        assert!(!fits(&usage(0, 0), &LIMITS, &tight, 1));
        let crowded = Space { free_inodes: 5, ..ROOMY };
        assert_eq!(need(&usage(0, 500), &LIMITS, &crowded, 0, Aim::Watch).blobs, 34);
        let freed = Space { free_inodes: 73, ..ROOMY };
        assert_eq!(need(&usage(0, 500), &LIMITS, &freed, 0, Aim::Watch).blobs, 0);
        assert!(!fits(&usage(0, 0), &LIMITS, &crowded, 1));
        let uncounted = Space { total_inodes: 0, free_inodes: 0, ..ROOMY };
        assert!(need(&usage(0, 500), &LIMITS, &uncounted, 0, Aim::Watch).is_nothing());
        assert!(fits(&usage(0, 0), &LIMITS, &uncounted, 1));
    }

    #[test]
    fn a_burst_of_fills_does_not_empty_the_cache() {
        assert_eq!(LIMITS.ahead(&[]), 0);
        assert_eq!(LIMITS.ahead(&[40, 30]), 70);
        assert_eq!(LIMITS.ahead(&[90; 20]), 100);
        assert_eq!(LIMITS.ahead(&[90, 700, 90]), 700);
    }

    #[test]
    fn limits_follow_the_file_system() {
        let limits = Limits::new(&Cache::default(), &ROOMY);
        assert_eq!(limits, Limits { bytes_max: 8_000, free_bytes_min: 500, free_inodes_min: 50 });
        assert_eq!((on_disk(0), on_disk(1), on_disk(4096)), (0, 4096, 4096));
    }

    proptest! {
        #[test]
        fn what_goes_is_there_and_is_enough(small in 0_u64..5_000, large in 0_u64..5_000, other in 0_u64..2_000,
            waiting in 0_u64..2_000, free in 0_u64..2_000) {
            let usage = Usage { other, ..usage(small, large) };
            let space = Space { free_bytes: free, ..ROOMY };
            let need = need(&usage, &LIMITS, &space, waiting, Aim::Watch);
            prop_assert!(need.small <= small && need.large <= large);
            let after = Usage { small: small - need.small, large: large - need.large, ..usage };
            let freed = Space { free_bytes: free + need.small + need.large, ..space };
            let possible = other + waiting + 15 <= LIMITS.bytes_max
                && free + small + large >= LIMITS.free_bytes_min + waiting;
            prop_assert!(!possible || fits(&after, &LIMITS, &freed, waiting), "{usage:?} {need:?}");
        }
    }
}
