//! How often an address may guess.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sys::clock;
use crate::sys::sync::lock;

/// Wrong passwords from one address before it has to wait: a farm behind one address may have several old ones.
const WRONG_MAX: u32 = 20;

/// How long one of them counts.
const WRONG_FOR: Duration = Duration::from_secs(6);

/// Addresses that are remembered; 1 MB. With more of them the oldest guesses are forgotten.
const ADDRESSES_MAX: usize = 16_384;

/// Wrong passwords by address, as a bucket that leaks one every [`WRONG_FOR`].
#[derive(Debug, Default)]
pub struct Guesses(Mutex<HashMap<IpAddr, Instant>>);

impl Guesses {
    /// Whether an address has guesses left. Those who come by a Unix socket are one.
    pub fn may_guess(&self, client: Option<IpAddr>) -> bool {
        let full = lock(&self.0).get(&key(client)).copied();
        full.is_none_or(|at| left(at, clock::monotonic()) <= WRONG_FOR * (WRONG_MAX - 1))
    }

    /// It was wrong once more.
    pub fn was_wrong(&self, client: Option<IpAddr>) {
        let now = clock::monotonic();
        let mut empty_at = lock(&self.0);
        if empty_at.len() >= ADDRESSES_MAX {
            empty_at.retain(|_, at| left(*at, now) > WRONG_FOR);
        }
        if empty_at.len() >= ADDRESSES_MAX {
            empty_at.clear();
        }
        let at = empty_at.entry(key(client)).or_insert(now);
        *at = (*at).max(now) + WRONG_FOR;
    }
}

/// How long the bucket takes to be empty.
fn left(empty_at: Instant, now: Instant) -> Duration {
    empty_at.saturating_duration_since(now)
}

fn key(client: Option<IpAddr>) -> IpAddr {
    client.map_or(IpAddr::from([0, 0, 0, 0]), crate::edge::gate::network_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_has_to_wait_and_nobody_else() {
        let guesses = Guesses::default();
        let (one, other) = (Some(IpAddr::from([192, 0, 2, 1])), Some(IpAddr::from([192, 0, 2, 2])));
        for _ in 0..WRONG_MAX {
            assert!(guesses.may_guess(one));
            guesses.was_wrong(one);
        }
        assert!(!guesses.may_guess(one));
        assert!(guesses.may_guess(other) && guesses.may_guess(None));
        // A bucket that leaked for a while has room again.
        let rested = clock::monotonic() + WRONG_FOR * (WRONG_MAX - 1);
        lock(&guesses.0).insert(key(one), rested);
        assert!(guesses.may_guess(one));
    }

    #[test]
    fn the_table_is_bounded() {
        let guesses = Guesses::default();
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 10 {
            guesses.was_wrong(Some(IpAddr::from(number.to_be_bytes())));
        }
        assert!(lock(&guesses.0).len() <= ADDRESSES_MAX);
    }
}
