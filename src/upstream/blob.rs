//! Blobs: a stream of pieces from a known place on.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::Response;

use super::client::Ask;
use super::manifest::length;
use super::transport::shown;
use super::{FetchError, Upstream};
use crate::registry::{Digest, RepositoryName};

/// How long a body may give no byte.
const STALL_WAIT: Duration = Duration::from_secs(30);

/// A blob on its way.
#[derive(Debug)]
pub struct Transfer {
    answer: Response,
    host: String,
    start: u64,
    total: Option<u64>,
}

impl Upstream {
    /// Asks how long a blob is, and with that whether the repository has it.
    pub async fn blob_head(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>, FetchError> {
        let answer = self.client.ask(&ask(Method::HEAD, name, digest)).await?;
        Ok(length(answer.headers()))
    }

    /// Opens a transfer from a byte on. An upstream without ranges starts at the front; see [`Transfer::start`].
    pub async fn blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: u64,
    ) -> Result<Transfer, FetchError> {
        let mut ask = ask(Method::GET, name, digest);
        if from > 0 {
            ask = ask.with(header::RANGE, &format!("bytes={from}-"));
        }
        let answer = self.client.ask(&ask).await?;
        Transfer::new(answer, from)
    }
}

fn ask(method: Method, name: &RepositoryName, digest: &Digest) -> Ask {
    Ask::new(method, format!("/v2/{name}/blobs/{digest}"), Some(name.clone()))
}

impl Transfer {
    fn new(answer: Response, from: u64) -> Result<Self, FetchError> {
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
        Ok(Self { answer, host, start, total })
    }

    /// Where the first byte lies in the blob.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How long the whole blob is, if the upstream says so.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Who sends it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The next piece; `None` at the end. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        match tokio::time::timeout(STALL_WAIT, self.answer.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(_)) => Err(FetchError::Cut { host: self.host.clone() }),
            Err(_) => Err(FetchError::Timeout { host: self.host.clone(), what: "byte", limit: STALL_WAIT }),
        }
    }
}

/// `bytes 5-99/100`: the first byte, and the length of the whole if it is known (RFC 9110 section 14.4).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
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
