//! Conditional requests: entity tags are quoted digests (RFC 9110 section 13).

use http::{HeaderMap, header};

use crate::registry::range::Asked;
use crate::registry::{ByteRange, Digest};

/// The entity tag of what has a digest.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has it already: `If-None-Match` with the digest, quoted as the RFC has it or bare as some send it.
pub fn not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    let wanted = digest.to_string();
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok()).any(|line| {
        line.split(',').map(str::trim).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.trim_matches('"') == wanted
        })
    })
}

/// The part that a GET asks for. A range for another version (`If-Range`) is ignored.
pub fn part(headers: &HeaderMap, digest: &Digest) -> Asked {
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    // One that is no text is for another version too.
    let other = |tag: &http::HeaderValue| tag.as_bytes().trim_ascii() != etag(digest).as_bytes();
    match value {
        Some(value) if !headers.get(header::IF_RANGE).is_some_and(other) => Asked::parse(value),
        _ => Asked::Whole,
    }
}

/// All of it.
pub fn whole(size: u64) -> ByteRange {
    ByteRange { first: 0, end: size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let digest = Digest::sha256(b"x");
        let check = |value: String, expected| {
            assert_eq!(
                not_modified(&headers(&[("if-none-match", value.clone())]), &digest),
                expected,
                "{value}"
            );
        };
        check(etag(&digest), true);
        check(digest.to_string(), true);
        check(format!("W/{}", etag(&digest)), true);
        check(format!("\"other\", {}", etag(&digest)), true);
        check("*".into(), true);
        check("\"other\"".into(), false);
        assert!(!not_modified(&HeaderMap::new(), &digest));
    }

    #[test]
    fn a_range_of_another_version_is_ignored() {
        let digest = Digest::sha256(b"x");
        let range = ("range", "bytes=1-2".to_owned());
        let check = |condition: Option<String>, expected| {
            let condition = condition.map(|value| ("if-range", value));
            let headers = headers(&[range.clone()].into_iter().chain(condition).collect::<Vec<_>>());
            assert_eq!(part(&headers, &digest), expected);
        };
        let expected = Asked::From { first: 1, end: Some(3) };
        check(None, expected);
        check(Some(etag(&digest)), expected);
        check(Some("\"other\"".into()), Asked::Whole);
        check(Some("\u{fffd}".into()), Asked::Whole);
        check(Some("Wed, 21 Oct 2015 07:28:00 GMT".into()), Asked::Whole);
    }
}
