//! Durations, numbers and booleans, as Go and YAML 1.1 write them.

use std::fmt;
use std::time::Duration;

use super::Share;

/// Reads a number of bytes, as in `200GiB`, or of hundredths, as in `80%`.
pub(super) fn share(text: &str) -> Option<Share> {
    let text = text.trim();
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.trim_end().parse().ok().filter(|percent| *percent <= 100)?;
        return Some(Share::Percent(percent));
    }
    bytes(text).map(Share::Bytes)
}

impl fmt::Display for Share {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => f.write_str(&bytes_text(bytes)),
        }
    }
}

/// Reads a boolean of YAML 1.1: `y` and `off` are some.
pub(super) fn flag(text: &str) -> Option<bool> {
    let lower = text.trim().to_ascii_lowercase();
    match lower.as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// Reads a whole number; YAML 1.1 lets its digits be grouped by `_`.
pub(super) fn number(text: &str) -> Option<i64> {
    let digits = text.trim().replace('_', "");
    digits.parse().ok()
}

/// Units of bytes, larger ones first, so that a number is written with the largest that it is a multiple of. A letter
/// alone is a power of two, as in Docker's own options.
const BYTE_UNITS: [(&str, u64); 13] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
];

/// Reads a number of bytes: digits, a point if need be, and a unit in any case. Without a unit it counts bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = split(text, |b| b.is_ascii_digit() || b == b'.' || b == b'_');
    let unit = unit.trim_start();
    let unit_bytes = match unit {
        "" => 1,
        _ => BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, bytes)| *bytes)?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.replace('_', "").parse().ok()?;
    let fraction_bytes = match fraction {
        "" => 0,
        digits if digits.len() <= FRACTION_DIGITS_MAX => {
            let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
            u64::try_from(u128::from(digits.parse::<u64>().ok()?) * u128::from(unit_bytes) / scale).ok()?
        }
        _ => return None,
    };
    whole.checked_mul(unit_bytes)?.checked_add(fraction_bytes)
}

/// Writes a number of bytes so that [`bytes`] reads it.
pub(super) fn bytes_text(bytes: u64) -> String {
    let fits = |unit: &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(unit.1);
    let (name, unit_bytes) = BYTE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit_bytes)
}

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    /// No number and unit.
    #[error("no duration")]
    Malformed,
    /// Below zero.
    #[error("a duration cannot be negative here")]
    Negative,
    /// More than about 292 years, the most that Go knows.
    #[error("the duration is too long")]
    TooLong,
}

/// Reads a duration in Go's form, `1h30m` or `1.5s`. A number without a unit counts nanoseconds.
pub(super) fn duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if let Some(positive) = text.strip_prefix('-') {
        return match duration(positive.strip_prefix('-').map_or(positive, |_| "no"))? {
            Duration::ZERO => Ok(Duration::ZERO),
            _ => Err(DurationError::Negative),
        };
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(nanoseconds) = number(text) {
        return nanoseconds.try_into().map(Duration::from_nanos).map_err(|_| DurationError::Malformed);
    }
    if is_digits(text) {
        return Err(DurationError::TooLong);
    }
    parts(text)
}

/// Whether a text is a number without a unit, other than 0: mostly somebody meant seconds.
pub(super) fn lacks_unit(text: &str) -> bool {
    number(text).is_some_and(|nanoseconds| nanoseconds != 0)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

fn parts(mut rest: &str) -> Result<Duration, DurationError> {
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut sum: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |b| b.is_ascii_digit() || b == b'.');
        let (unit, after) = split(after, |b| !b.is_ascii_digit() && b != b'.');
        let part = part(number, nanoseconds_of(unit).ok_or(DurationError::Malformed)?)?;
        sum = sum.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    match i64::try_from(sum).map(u64::try_from) {
        Ok(Ok(nanoseconds)) => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(DurationError::TooLong),
    }
}

fn split(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|b| !belongs(b)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn nanoseconds_of(unit: &str) -> Option<u128> {
    match unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

/// Digits of a fraction that can matter: an hour has 3.6 * 10^12 nanoseconds.
const FRACTION_DIGITS_MAX: usize = 13;

fn part(number: &str, unit: u128) -> Result<u128, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DurationError::Malformed);
    }
    let digits = |text: &str| match text {
        "" => Ok(0),
        _ => text.parse::<u128>().map_err(|_| DurationError::TooLong),
    };
    let whole = digits(whole)?.checked_mul(unit).ok_or(DurationError::TooLong)?;
    let fraction = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
    let scale = fraction.bytes().fold(1_u128, |scale, _| scale.saturating_mul(10));
    let part = digits(fraction)?.saturating_mul(unit) / scale;
    whole.checked_add(part).ok_or(DurationError::TooLong)
}

/// A duration in Go's form, in the largest unit that needs no fraction, up to seconds.
pub(super) fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanoseconds.is_multiple_of(size) {
            return format!("{}{unit}", nanoseconds / size);
        }
    }
    format!("{nanoseconds}ns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<u64, DurationError>) {
        assert_eq!(duration(text), expected.map(Duration::from_nanos), "{text}");
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn durations_have_the_form_of_go() {
        check("168h", Ok(604_800 * SECOND));
        check("1h30m", Ok(5_400 * SECOND));
        check("1.5s", Ok(1_500_000_000));
        check(".5s", Ok(500_000_000));
        check("100ms", Ok(100_000_000));
        check("3µs", Ok(3_000));
        check("0", Ok(0));
        check("-0s", Ok(0));
        check("+1s", Ok(SECOND));
        check("0.33333333333333333333h", Ok(1_199_999_999_999));
    }

    #[test]
    fn a_bare_number_counts_nanoseconds() {
        check("30", Ok(30));
        check("604800000000000", Ok(604_800 * SECOND));
        assert!(lacks_unit("30"));
        assert!(!lacks_unit("0") && !lacks_unit("30s"));
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for bad in ["", "s", "1", "1x", "1.s.s", "1..5s", "h1", "1h 30m", "--1s", "1d", "é", "1_0s"] {
            if bad != "1" {
                check(bad, Err(DurationError::Malformed));
            }
        }
        check("-1s", Err(DurationError::Negative));
        check("9999999h", Err(DurationError::TooLong));
        check("99999999999999999999", Err(DurationError::TooLong));
    }

    #[test]
    fn bytes_have_units_or_none() {
        for (text, expected) in [
            ("0", Some(0)),
            ("16MiB", Some(16 << 20)),
            ("16 mib", Some(16 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("20GB", Some(20_000_000_000)),
            ("1_000", Some(1_000)),
            ("1e3", None),
            ("-1", None),
            ("MiB", None),
            ("1.2.3MB", None),
            ("99999999TiB", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!(bytes_text(16 << 20), "16MiB");
        assert_eq!(bytes_text(0), "0B");
        assert_eq!(bytes_text(1_234), "1234B");
    }

    #[test]
    fn sizes_have_the_units_that_people_write() {
        for (text, bytes) in [
            ("200MiB", 200 << 20),
            ("10GB", 10_000_000_000),
            ("10 gb", 10_000_000_000),
            ("1t", 1 << 40),
            ("4096", 4096),
            ("1_000k", 1_024_000),
            ("0", 0),
        ] {
            assert_eq!(share(text), Some(Share::Bytes(bytes)), "{text}");
        }
        assert_eq!((share("80%"), share("5 %")), (Some(Share::Percent(80)), Some(Share::Percent(5))));
        for bad in ["", "%", "101%", "-1", "10 PB", "GiB", "1%%", "99999999999TiB", "80 per cent"] {
            assert_eq!(share(bad), None, "{bad}");
        }
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1() {
        for (text, expected) in [("yes", true), ("On", true), ("y", true), ("FALSE", false), ("n", false)] {
            assert_eq!(flag(text), Some(expected), "{text}");
        }
        assert_eq!(flag("1"), None);
        assert_eq!(flag("maybe"), None);
    }

    proptest! {
        #[test]
        fn a_duration_survives_its_text(nanoseconds in 0..i64::MAX) {
            let duration = Duration::from_nanos(nanoseconds.unsigned_abs());
            prop_assert_eq!(super::duration(&duration_text(duration)), Ok(duration));
        }

        #[test]
        fn bytes_survive_their_text(number: u64) {
            prop_assert_eq!(bytes(&bytes_text(number)), Some(number));
        }

        #[test]
        fn a_size_survives_its_text(bytes in 0_u64..u64::MAX, percent in 0_u8..=100) {
            for share in [Share::Bytes(bytes), Share::Bytes(bytes << 20), Share::Percent(percent)] {
                prop_assert_eq!(super::share(&share.to_string()), Some(share));
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,40}|[0-9.hmsnuµ+-]{0,40}|[0-9._]{0,30}[KMGTkib ]{0,4}") {
            let _ = bytes(&text);
            let _ = duration(&text);
            let _ = number(&text);
            let _ = share(&text);
        }
    }
}
