//! What an upstream says of its rate limit: `ratelimit-limit: 100;w=21600`, `ratelimit-remaining: 76;w=21600`.

use std::sync::Mutex;

use http::HeaderMap;

use crate::sys::sync::lock;

/// How much of a rate limit is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Requests of one window.
    pub limit: u64,
    /// Those that are left.
    pub remaining: u64,
}

/// The last word of an upstream.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Option<Allowance>>);

impl Budget {
    /// Reads the headers of an answer; most have none.
    pub fn note(&self, headers: &HeaderMap) {
        let read = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            text.split([';', ',']).next()?.trim().parse().ok()
        };
        if let (Some(limit), Some(remaining)) = (read("ratelimit-limit"), read("ratelimit-remaining")) {
            *lock(&self.0) = Some(Allowance { limit, remaining });
        }
    }

    /// What it last said.
    pub fn last(&self) -> Option<Allowance> {
        *lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limit: &str, remaining: &str, expected: Option<(u64, u64)>) {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-limit", limit.parse().unwrap());
        headers.insert("ratelimit-remaining", remaining.parse().unwrap());
        let budget = Budget::default();
        budget.note(&headers);
        let last = budget.last().map(|allowance| (allowance.limit, allowance.remaining));
        assert_eq!(last, expected, "{limit} {remaining}");
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_a_number_or_nothing(text in "[0-9;,w= -]{0,30}|[ -~]{0,30}") {
            let mut headers = HeaderMap::new();
            headers.insert("ratelimit-limit", text.parse().unwrap());
            headers.insert("ratelimit-remaining", text.parse().unwrap());
            let budget = Budget::default();
            budget.note(&headers);
            proptest::prop_assert!(budget.last().is_none_or(|last| last.limit == last.remaining));
        }
    }

    #[test]
    fn the_headers_of_docker_hub() {
        check("100;w=21600", "76;w=21600", Some((100, 76)));
        check("200", "0", Some((200, 0)));
        check("many", "76", None);
        check("-1", "76", None);
    }
}
