//! How fast work in the background may go, so that requests have the disk. Pure: the time is handed in.

use std::time::{Duration, Instant};

/// What one more file costs besides its bytes, in bytes: finding and opening it takes a disk as long as reading these. It
/// bounds the number of small files, 256 a second at 16 MiB/s.
const FILE_BYTES: u64 = 64 * 1024;

/// A rate that is kept on average, without bursts: what was not used is not saved up.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// Until when everything so far has been paid for.
    paid_until: Option<Instant>,
}

impl Pace {
    /// At most so many bytes in a second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_until: None }
    }

    /// How long to wait after one more file was opened.
    pub fn file(&mut self, now: Instant) -> Duration {
        self.bytes(FILE_BYTES, now)
    }

    /// How long to wait after so many bytes were read.
    pub fn bytes(&mut self, bytes: u64, now: Instant) -> Duration {
        let begin = self.paid_until.map_or(now, |until| until.max(now));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let paid_until = begin.checked_add(cost).unwrap_or(begin);
        self.paid_until = Some(paid_until);
        paid_until.saturating_duration_since(now)
    }
}

/// Whether something that was last done at `done_ms` is due again. What lies in the future says nothing (the clock was set
/// back), and is due.
pub fn is_due(done_ms: Option<u64>, period: Duration, now_ms: u64) -> bool {
    let age_ms = done_ms.and_then(|done_ms| now_ms.checked_sub(done_ms));
    age_ms.is_none_or(|age_ms| u128::from(age_ms) >= period.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn bytes_take_their_time() {
        let (mut pace, now) = (Pace::new(16 * MIB), crate::sys::clock::monotonic());
        assert_eq!(pace.bytes(16 * MIB, now), Duration::from_secs(1));
        assert_eq!(pace.bytes(8 * MIB, now), Duration::from_millis(1_500));
        // Late: what is over is not saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.bytes(MIB, later), Duration::from_micros(62_500));
        assert!(pace.file(later) > Duration::from_micros(62_500));
    }

    #[test]
    fn what_is_old_or_from_the_future_is_due() {
        let (hour, now_ms) = (Duration::from_secs(3600), 10_000_000);
        assert!(is_due(None, hour, now_ms));
        assert!(is_due(Some(now_ms - 3_600_000), hour, now_ms));
        assert!(!is_due(Some(now_ms - 3_599_999), hour, now_ms));
        assert!(!is_due(Some(now_ms), hour, now_ms));
        assert!(is_due(Some(now_ms + 1), hour, now_ms));
        assert!(is_due(Some(u64::MAX), hour, 0));
    }

    proptest! {
        #[test]
        fn the_rate_is_never_passed(rate in 1_u64..1 << 40, steps in proptest::collection::vec((0_u64..1 << 30, 0_u64..5_000), 1..40)) {
            let (mut pace, start) = (Pace::new(rate), crate::sys::clock::monotonic());
            let (mut now, mut read) = (start, 0_u64);
            // Times are whole nanoseconds, so each step may be a nanosecond early.
            let early = steps.len() as f64 * (1.0 + rate as f64 / 1e9);
            for (bytes, pause_ms) in steps {
                read += bytes;
                now += pace.bytes(bytes, now) + Duration::from_millis(pause_ms);
                let allowed = (now - start).as_secs_f64() * rate as f64;
                prop_assert!(read as f64 <= allowed * 1.000_001 + early);
            }
        }

        #[test]
        fn no_number_is_too_large(rate: u64, bytes: u64) {
            let now = crate::sys::clock::monotonic();
            let mut pace = Pace::new(rate);
            let _ = (pace.bytes(bytes, now), pace.bytes(bytes, now), pace.file(now));
        }
    }
}
