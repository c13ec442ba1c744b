//! How a request was answered: one vocabulary for the `Cache-Status` header (RFC 9211), the access log, the metrics and
//! the documentation.

use std::fmt;
use std::time::Duration;

/// Why an answer is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Held and complete; content never changes under its digest.
    Hit,
    /// A tag inside its window of freshness, with what is left of it.
    Fresh(Duration),
    /// A tag that the upstream just confirmed.
    Revalidated,
    /// Fetched for this request.
    Miss,
    /// Fetched, together with others who asked for it at the same time.
    Collapsed,
    /// Held, given out although the upstream did not confirm it; with the time since it last did.
    Stale(Stale, Duration),
    /// Passed on from the upstream and not kept.
    Bypass,
    /// The upstream said within the last seconds that it does not exist.
    Negative,
    /// Not served here, whatever the upstream has.
    Refused,
}

/// Why the upstream did not confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stale {
    /// It can't be reached, or answers nonsense.
    Down,
    /// It did not answer in time.
    Slow,
    /// It asked us to slow down.
    Limited,
    /// It refuses us this repository, or our account.
    Refused,
    /// It says that the tag is gone.
    Gone,
}

impl Stale {
    fn detail(self) -> &'static str {
        match self {
            Self::Down => "stale-down",
            Self::Slow => "stale-slow",
            Self::Limited => "stale-limited",
            Self::Refused => "stale-refused",
            Self::Gone => "stale-gone",
        }
    }
}

impl Outcome {
    /// The word for it in logs and metrics: a small closed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Fresh(_) => "fresh",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Stale(why, _) => why.detail(),
            Self::Bypass => "bypass",
            Self::Negative => "negative",
            Self::Refused => "refused",
        }
    }

    /// The same for content that turned out to be held, so that nothing had to be fetched.
    pub fn of_held(self) -> Self {
        match self {
            Self::Miss | Self::Collapsed => Self::Revalidated,
            other => other,
        }
    }

    /// Why it is stale, if it is.
    pub fn staleness(self) -> Option<Stale> {
        match self {
            Self::Stale(why, _) => Some(why),
            _ => None,
        }
    }

    /// Whether the body came from what is held.
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::Fresh(_) | Self::Revalidated | Self::Stale(..) | Self::Negative)
    }
}

/// The value of `Cache-Status`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit => f.write_str("tidegate; hit"),
            Self::Fresh(left) => write!(f, "tidegate; hit; ttl={}", left.as_secs()),
            Self::Revalidated => f.write_str("tidegate; hit; detail=revalidated"),
            Self::Miss => f.write_str("tidegate; fwd=uri-miss"),
            Self::Collapsed => f.write_str("tidegate; fwd=uri-miss; collapsed"),
            Self::Stale(why, age) => {
                write!(f, "tidegate; hit; ttl=-{}; detail={}", age.as_secs(), why.detail())
            }
            Self::Bypass => f.write_str("tidegate; fwd=bypass"),
            Self::Negative => f.write_str("tidegate; hit; detail=negative"),
            Self::Refused => f.write_str("tidegate; detail=refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(outcome: Outcome, header: &str, label: &str) {
        assert_eq!((outcome.to_string().as_str(), outcome.label()), (header, label));
    }

    #[test]
    fn each_outcome_has_its_header_and_its_word() {
        let seconds = Duration::from_secs;
        check(Outcome::Hit, "tidegate; hit", "hit");
        check(Outcome::Fresh(seconds(30)), "tidegate; hit; ttl=30", "fresh");
        check(Outcome::Revalidated, "tidegate; hit; detail=revalidated", "revalidated");
        check(Outcome::Miss, "tidegate; fwd=uri-miss", "miss");
        check(Outcome::Collapsed, "tidegate; fwd=uri-miss; collapsed", "collapsed");
        check(
            Outcome::Stale(Stale::Down, seconds(7)),
            "tidegate; hit; ttl=-7; detail=stale-down",
            "stale-down",
        );
        check(
            Outcome::Stale(Stale::Gone, seconds(0)),
            "tidegate; hit; ttl=-0; detail=stale-gone",
            "stale-gone",
        );
        check(Outcome::Bypass, "tidegate; fwd=bypass", "bypass");
        check(Outcome::Negative, "tidegate; hit; detail=negative", "negative");
        check(Outcome::Refused, "tidegate; detail=refused", "refused");
    }
}
