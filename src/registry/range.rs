//! Byte ranges (RFC 9110 section 14), as much of them as registry clients use.
//!
//! One range is answered with 206. Several are answered with the whole blob and 200, on hit and miss alike: the RFC
//! allows it, every client copes with it, and a `multipart/byteranges` from a blob that is still filling helps nobody.

/// A range with its bounds in the blob: `first..end`, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub first: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// How many bytes, at least one.
    pub fn length(self) -> u64 {
        self.end - self.first
    }
}

/// What a `Range` header asks of a blob of known size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no range, several, or one that makes no sense and is ignored as the RFC allows.
    Whole,
    /// One part: 206.
    Part(ByteRange),
    /// A part that does not exist: 416.
    Unsatisfiable,
}

/// Longest `Range` value that is read: podman's zstd:chunked pulls send up to 1,024 ranges in about 20 KB, and all
/// that counts of them is that they are several.
const CHARACTERS_READ_MAX: usize = 256;

/// What a `Range` header asks for, of a blob of whatever size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// All of it: no range, several, or one that makes no sense and is ignored as the RFC allows.
    Whole,
    /// From a byte on, up to one past the last if that is said.
    From {
        /// The first byte.
        first: u64,
        /// One past the last byte.
        end: Option<u64>,
    },
    /// So many bytes at the end.
    Suffix(u64),
}

impl Asked {
    /// Reads a `Range` value.
    pub fn parse(value: &str) -> Self {
        let short = value.len() <= CHARACTERS_READ_MAX;
        match value.trim().strip_prefix("bytes=") {
            Some(spec) if short && !spec.contains(',') => part(spec.trim()).unwrap_or(Self::Whole),
            _ => Self::Whole,
        }
    }

    /// What that is in a blob of `size` bytes.
    pub fn within(self, size: u64) -> Wanted {
        let (first, end) = match self {
            Self::Whole => return Wanted::Whole,
            Self::From { first, end } => (first, end.unwrap_or(size).min(size)),
            Self::Suffix(length) => (size.saturating_sub(length), size),
        };
        if first < end { Wanted::Part(ByteRange { first, end }) } else { Wanted::Unsatisfiable }
    }
}

/// `a-b`, `a-` or `-n`; `None` if malformed.
fn part(spec: &str) -> Option<Asked> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        return Some(Asked::Suffix(number(last)?));
    }
    let first = number(first)?;
    let end = if last.is_empty() { None } else { Some(number(last)?.saturating_add(1)) };
    end.is_none_or(|end| end > first).then_some(Asked::From { first, end })
}

/// Digits alone, no sign; a number beyond 64 bits is as good as the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(value: &str, expected: Wanted) {
        assert_eq!(Asked::parse(value).within(100), expected, "{value}");
    }

    fn part_of(first: u64, end: u64) -> Wanted {
        Wanted::Part(ByteRange { first, end })
    }

    #[test]
    fn the_three_forms_of_one_range() {
        check("bytes=0-9", part_of(0, 10));
        check("bytes=90-", part_of(90, 100));
        check("bytes=-10", part_of(90, 100));
        check("bytes=0-1000", part_of(0, 100));
        check("bytes=-1000", part_of(0, 100));
        check("bytes=99-99999999999999999999999", part_of(99, 100));
    }

    #[test]
    fn what_does_not_exist_is_unsatisfiable() {
        check("bytes=100-", Wanted::Unsatisfiable);
        check("bytes=100-200", Wanted::Unsatisfiable);
        check("bytes=-0", Wanted::Unsatisfiable);
        assert_eq!(Asked::parse("bytes=0-").within(0), Wanted::Unsatisfiable);
    }

    #[test]
    fn several_ranges_and_nonsense_give_the_whole() {
        for value in
            ["bytes=0-1,5-6", "bytes=", "bytes=a-b", "bytes=9-1", "bytes=+1-2", "items=0-1", "", "bytes=--1"]
        {
            check(value, Wanted::Whole);
        }
        check(&format!("bytes={}", vec!["0-1"; 10_000].join(",")), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_the_blob(value in "bytes=[0-9]{0,25}-?[0-9]{0,25}", size in any::<u64>()) {
            if let Wanted::Part(range) = Asked::parse(&value).within(size) {
                prop_assert!(range.first < range.end && range.end <= size);
            }
        }
    }
}
