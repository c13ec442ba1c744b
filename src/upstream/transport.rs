//! The HTTP clients under an upstream: how they are built, one request, one small body.

use std::time::Duration;

use http::{HeaderMap, Method, header};
use reqwest::Response;
use url::Url;

use super::Setup;
use super::error::FetchError;

/// How we introduce ourselves.
const USER_AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// How long a connection may take, with name resolution and TLS.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How long an unused connection is kept: upstreams close theirs after a minute or more.
const IDLE_WAIT: Duration = Duration::from_secs(50);

/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How long the body of a small answer may take.
pub const DOCUMENT_WAIT: Duration = Duration::from_secs(20);

/// Why an upstream could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file of CAs.
    #[error("tidegate.proxy.cafile: {path}: {reason}")]
    Cafile {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS client.
    #[error("no TLS towards the upstream: {0}; install the package ca-certificates, or set SSL_CERT_FILE")]
    Tls(String),
}

/// Builds a client that resolves names in its own way. It never follows a redirect by itself.
pub fn build(
    setup: &Setup,
    resolver: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, SetupError> {
    // HTTP/1.1: one slow body must not hold up the others, nor one broken connection all of them.
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_WAIT)
        .pool_idle_timeout(IDLE_WAIT)
        .tcp_nodelay(true);
    if let Some(path) = &setup.cafile {
        builder = builder.tls_certs_merge(authorities(path)?);
    } else if setup.url.scheme() == "http" && !has_roots() {
        // Nothing here needs TLS; a machine without any CA is no reason not to start.
        builder = builder.tls_certs_only([]);
    }
    resolver(builder).build().map_err(|error| SetupError::Tls(innermost(&error)))
}

/// Whether the system has any CA.
fn has_roots() -> bool {
    reqwest::Client::builder().build().is_ok()
}

fn authorities(path: &std::path::Path) -> Result<Vec<reqwest::Certificate>, SetupError> {
    let wrong = |reason: String| SetupError::Cafile { path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(innermost(&error)))?;
    if found.is_empty() { Err(wrong("there is no certificate in it".to_owned())) } else { Ok(found) }
}

/// Sends one request. Errors name the host, never the URL: it may be signed.
pub async fn send(
    client: &reqwest::Client,
    method: Method,
    url: &Url,
    headers: HeaderMap,
) -> Result<Response, FetchError> {
    let request =
        client.request(method, url.clone()).headers(headers).header(header::ACCEPT_ENCODING, "identity");
    request.send().await.map_err(|error| {
        let host = shown(url);
        if error.is_timeout() {
            return FetchError::Unreachable {
                host,
                reason: format!("no connection within {CONNECT_WAIT:?}"),
            };
        }
        FetchError::Unreachable { host, reason: innermost(&error.without_url()) }
    })
}

/// Reads a small body whole.
pub async fn read(mut answer: Response, most: usize) -> Result<Vec<u8>, FetchError> {
    let host = shown(answer.url());
    let limit = FetchError::Timeout { host: host.clone(), what: "whole document", limit: DOCUMENT_WAIT };
    let all = async {
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|_| FetchError::Cut { host: host.clone() })? {
            if body.len() + piece.len() > most {
                return Err(FetchError::TooLarge { host: host.clone() });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    };
    tokio::time::timeout(DOCUMENT_WAIT, all).await.unwrap_or(Err(limit))
}

/// Longest host that is shown: no name is longer (RFC 1035 section 2.3.4), but the host of a URL may be.
const HOST_CHARACTERS_MAX: usize = 253;

/// Host and, if it is not the scheme's own, port.
pub fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = host.get(..HOST_CHARACTERS_MAX).unwrap_or(host);
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The reason at the bottom of a chain of errors: what the system or the TLS stack said.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Seconds or a date (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let now = jiff::Timestamp::try_from(crate::sys::clock::now()).ok()?;
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.clamp(Duration::from_secs(1), RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_wait_is_longer_than_the_limit(text in "[0-9]{0,30}|[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT|[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            let wait = retry_after(&headers);
            proptest::prop_assert!(wait.is_none_or(|wait| (Duration::from_secs(1)..=RETRY_AFTER_MAX).contains(&wait)));
        }
    }

    #[test]
    fn an_endless_host_is_cut() {
        let url = Url::parse(&format!("https://{}:8443/x", "a".repeat(8000))).unwrap();
        assert_eq!(shown(&url), format!("{}:8443", "a".repeat(HOST_CHARACTERS_MAX)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("0"), Some(Duration::from_secs(1)));
        assert_eq!(read("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(1)));
        assert_eq!(read("soon"), None);
    }
}
