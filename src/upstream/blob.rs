//! Blobs: a stream of pieces from a known place on.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::Response;

use super::client::Ask;
use super::manifest::length;
use super::suspects::Suspects;
use super::transport::shown;
use super::{FetchError, Upstream};
use crate::registry::{Digest, RepositoryName};
use crate::sys::clock;

/// Fewest bytes that a transfer must give within the time in which one must come: slower than this it would hold its
/// place for days, and another connection may do better.
const DRIP_BYTES_MIN: u64 = 16 * 1024;

/// What of a blob is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub from: u64,
    /// One past the last byte; `None` for all the rest.
    pub end: Option<u64>,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { from: 0, end: None };

    fn header(self) -> Option<String> {
        match (self.from, self.end) {
            (0, None) => None,
            (from, None) => Some(format!("bytes={from}-")),
            (from, Some(end)) => Some(format!("bytes={from}-{}", end.saturating_sub(1))),
        }
    }
}

/// A blob on its way.
#[derive(Debug)]
pub struct Transfer {
    answer: Response,
    host: String,
    start: u64,
    total: Option<u64>,
    etag: Option<String>,
    drip: Drip,
    suspects: Suspects,
}

impl Upstream {
    /// Asks how long a blob is, and with that whether the repository has it.
    pub async fn blob_head(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>, FetchError> {
        let answer = self.client.ask(&ask(Method::HEAD, name, digest)).await?;
        Ok(length(answer.headers()))
    }

    /// Opens a transfer of a part. An upstream without ranges starts at the front; see [`Transfer::start`].
    pub async fn blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        part: Part,
    ) -> Result<Transfer, FetchError> {
        let mut ask = ask(Method::GET, name, digest);
        if let Some(range) = part.header() {
            ask = ask.with(header::RANGE, &range);
        }
        let answer = self.client.ask(&ask).await?;
        Transfer::new(answer, part.from, self.stall, self.client.suspects().clone())
    }
}

fn ask(method: Method, name: &RepositoryName, digest: &Digest) -> Ask {
    Ask::new(method, format!("/v2/{name}/blobs/{digest}"), Some(name.clone()))
}

impl Transfer {
    fn new(answer: Response, from: u64, stall: Duration, suspects: Suspects) -> Result<Self, FetchError> {
        let host = shown(answer.url());
        let (start, total) = match answer.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(answer.headers()) {
                Some((start, total)) if start == from => (start, total),
                _ => {
                    return Err(FetchError::Malformed { host, what: "another range than was asked for" });
                }
            },
            _ => (0, length(answer.headers())),
        };
        let etag = answer.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        Ok(Self { answer, host, start, total, etag, drip: Drip::new(stall), suspects })
    }

    /// Where the first byte lies in the blob.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How long the whole blob is, if the upstream says so.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Its strong entity tag: two transfers with the same one are of the same bytes.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Who sends it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The next piece; `None` at the end. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let next = self.await_next().await;
        if let (Err(_), Some(address)) = (&next, self.answer.remote_addr()) {
            self.suspects.add(address, clock::monotonic());
        }
        next
    }

    async fn await_next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let stall = self.drip.stall;
        let late = || FetchError::Timeout { host: self.host.clone(), what: "byte", limit: stall };
        let asked = clock::monotonic();
        match tokio::time::timeout(stall, self.answer.chunk()).await {
            Ok(Ok(Some(piece))) => {
                let waited = clock::monotonic().saturating_duration_since(asked);
                // What came is lost with it: less than the least.
                if self.drip.is_too_slow(piece.len() as u64, waited) { Err(late()) } else { Ok(Some(piece)) }
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(_)) => Err(FetchError::Cut { host: self.host.clone() }),
            Err(_) => Err(late()),
        }
    }
}

/// How much came within the last while of waiting. The time in which nobody waited is not the sender's.
#[derive(Debug)]
struct Drip {
    stall: Duration,
    waited: Duration,
    bytes: u64,
}

impl Drip {
    fn new(stall: Duration) -> Self {
        Self { stall, waited: Duration::ZERO, bytes: 0 }
    }

    /// Takes note of a piece and of how long it took; whether too little came in all that time.
    fn is_too_slow(&mut self, bytes: u64, waited: Duration) -> bool {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < self.stall {
            return false;
        }
        let slow = self.bytes < DRIP_BYTES_MIN;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        slow
    }
}

/// `bytes 5-99/100`: the first byte, and the length of the whole if it is known (RFC 9110 section 14.4).
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_content_range_is_read_or_not(text in "bytes [0-9*]{0,22}-?[0-9]{0,22}/?[0-9*]{0,22}|[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            if let Some((first, _)) = content_range(&headers) {
                proptest::prop_assert!(text.contains(&first.to_string()));
            }
        }
    }

    #[test]
    fn a_drip_is_a_stall() {
        let stall = Duration::from_secs(30);
        let mut drip = Drip::new(stall);
        assert!(!drip.is_too_slow(1, stall / 2));
        assert!(!drip.is_too_slow(DRIP_BYTES_MIN, stall / 2));
        assert!(!drip.is_too_slow(1, stall / 2));
        assert!(drip.is_too_slow(1, stall / 2));
    }

    #[test]
    fn parts_as_headers() {
        assert_eq!(Part::WHOLE.header(), None);
        assert_eq!(Part { from: 5, end: None }.header().unwrap(), "bytes=5-");
        assert_eq!(Part { from: 0, end: Some(10) }.header().unwrap(), "bytes=0-9");
    }

    #[test]
    fn content_ranges() {
        let check = |text: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(content_range(&headers), expected, "{text}");
        };
        check("bytes 5-99/100", Some((5, Some(100))));
        check("bytes 5-99/*", Some((5, None)));
        check("bytes */100", None);
        check("items 5-99/100", None);
        check("bytes 5-99", None);
    }
}
