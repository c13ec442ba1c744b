//! Wall time and monotonic time.
//!
//! Pure code takes a time as an argument; the shell takes it from here, so that a lint can forbid every other way.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock: what is written to disk and shown to people. It may jump.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The monotonic clock: what waits and windows are measured with.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970 on the wall clock; 0 for a clock before that.
pub fn unix_ms() -> u64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
