//! Addresses whose transfers broke off a moment ago: where a name has others, those are tried before.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::sys::sync::lock;

/// How long an address is tried last.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// Most addresses that are remembered; the oldest gives way.
const SUSPECTS_MAX: usize = 64;

/// The addresses. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Suspects(Arc<Mutex<Vec<(IpAddr, Instant)>>>);

impl Suspects {
    /// A transfer from an address broke off.
    pub fn add(&self, address: SocketAddr, now: Instant) {
        let mut suspects = lock(&self.0);
        suspects.retain(|(known, _)| *known != address.ip());
        if suspects.len() >= SUSPECTS_MAX {
            suspects.remove(0);
        }
        suspects.push((address.ip(), now));
    }

    /// Puts suspects behind the others, the one that broke off last at the very end; else the order stays.
    pub fn last(&self, addresses: &mut [SocketAddr], now: Instant) {
        let suspects = lock(&self.0);
        let fresh = |(_, at): &&(IpAddr, Instant)| now.saturating_duration_since(*at) < SUSPECT_FOR;
        let rank = |address: &SocketAddr| {
            suspects.iter().filter(fresh).position(|(known, _)| *known == address.ip()).map_or(0, |at| at + 1)
        };
        addresses.sort_by_key(rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    fn addresses(ends: &[u8]) -> Vec<SocketAddr> {
        ends.iter().map(|end| ([10, 0, 0, *end], 443).into()).collect()
    }

    #[test]
    fn what_broke_off_last_is_tried_last_for_a_while() {
        let (suspects, now) = (Suspects::default(), clock::monotonic());
        suspects.add(([10, 0, 0, 2], 1).into(), now);
        suspects.add(([10, 0, 0, 1], 1).into(), now);
        let mut order = addresses(&[1, 2, 3, 4]);
        suspects.last(&mut order, now);
        assert_eq!(order, addresses(&[3, 4, 2, 1]));
        let mut order = addresses(&[1, 2, 3]);
        suspects.last(&mut order, now + SUSPECT_FOR);
        assert_eq!(order, addresses(&[1, 2, 3]));
    }

    #[test]
    fn there_are_never_too_many() {
        let (suspects, now) = (Suspects::default(), clock::monotonic());
        (0..=255).for_each(|end| suspects.add(([10, 0, 0, end], 1).into(), now));
        assert_eq!(lock(&suspects.0).len(), SUSPECTS_MAX);
        let mut order = addresses(&[255, 0]);
        suspects.last(&mut order, now);
        assert_eq!(order, addresses(&[0, 255]));
    }
}
