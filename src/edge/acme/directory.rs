//! A CA's directory, and what it says of renewals (ARI, RFC 9773): plain questions, bounded in time and size.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::RETRY_AFTER;
use rustls::pki_types::CertificateDer;
use rustls_acme::acme::Directory;
use serde::Deserialize;
use url::Url;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::schedule::{Class, Window};
use super::trouble::Trouble;
use super::wire::ANSWER_BYTES_MAX;

/// How we introduce ourselves.
const USER_AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// How long a question may take.
const QUESTION_WAIT: Duration = Duration::from_secs(30);

/// How often a CA is asked about renewals: at least that, and at most that (RFC 9773 section 4.3).
const WISH_WAITS: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(12 * 3600));

/// Reads the directory of a CA.
#[derive(Debug)]
pub struct Catalog {
    url: Url,
    client: reqwest::Client,
}

/// A directory.
#[derive(Debug, Clone)]
pub struct Entries {
    /// What rustls-acme needs of it.
    pub directory: Directory,
    renewal_info: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    new_nonce: String,
    new_account: String,
    new_order: String,
    renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    external_account_required: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: Span,
}

#[derive(Deserialize)]
struct Span {
    start: String,
    end: String,
}

impl Catalog {
    /// Talks to nobody yet.
    pub fn new(url: Url, authorities: &[CertificateDer<'static>]) -> Result<Self, String> {
        let mut extra = Vec::new();
        for authority in authorities {
            extra.push(reqwest::Certificate::from_der(authority).map_err(|error| error.to_string())?);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .https_only(true)
            // The library beside us knows no proxies either: what goes one way goes all the way.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(QUESTION_WAIT);
        if !extra.is_empty() {
            builder = builder.tls_certs_merge(extra);
        }
        let client = builder.build().map_err(|error| {
            format!(
                "no TLS towards the CA: {error}; install the package ca-certificates, or set SSL_CERT_FILE"
            )
        })?;
        Ok(Self { url, client })
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Reads it.
    pub async fn read(&self) -> Result<Entries, Trouble> {
        let (body, _) = self.ask(&self.url).await?;
        let document: Document = serde_json::from_slice(&body).map_err(|error| {
            Trouble::new(Class::Transient, format!("directory: {} is none: {error}", self.url))
        })?;
        if document.meta.external_account_required {
            let kind = "{\"type\": \"urn:ietf:params:acme:error:externalAccountRequired\"}";
            return Err(Trouble::of_answer("directory", 200, kind));
        }
        let places = [&document.new_nonce, &document.new_account, &document.new_order];
        if let Some(plain) = places.iter().find(|place| !place.starts_with("https://")) {
            return Err(Trouble::new(Class::Refused, format!("directory: {plain} is not reached by https")));
        }
        let directory = Directory {
            new_nonce: document.new_nonce,
            new_account: document.new_account,
            new_order: document.new_order,
        };
        Ok(Entries { directory, renewal_info: document.renewal_info })
    }

    /// When the CA would like this certificate to be renewed, and when to ask again.
    pub async fn wish(&self, leaf: &CertificateDer<'static>) -> Option<(Window, Duration)> {
        let base = self.read().await.ok()?.renewal_info?;
        let place = Url::parse(&format!("{}/{}", base.trim_end_matches('/'), identifier(leaf)?)).ok()?;
        let (body, after) = self.ask(&place).await.ok()?;
        let info: RenewalInfo = serde_json::from_slice(&body).ok()?;
        let stamp = |at: &str| u64::try_from(at.parse::<jiff::Timestamp>().ok()?.as_second()).ok();
        let Span { start, end } = info.suggested_window;
        let window = Window { start: stamp(&start)?, end: stamp(&end)? };
        Some((window, after.unwrap_or(WISH_WAITS.1).clamp(WISH_WAITS.0, WISH_WAITS.1)))
    }

    /// One answer, whole, and how long the CA wants to be left alone.
    async fn ask(&self, place: &Url) -> Result<(Vec<u8>, Option<Duration>), Trouble> {
        let lost = |error: reqwest::Error| {
            let reason = innermost(&error.without_url());
            Trouble::new(Class::Transient, format!("the CA {place} can't be reached: {reason}"))
        };
        let mut answer = self.client.get(place.clone()).send().await.map_err(lost)?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let after = after.map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(lost)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(Trouble::new(
                    Class::Transient,
                    format!("{place} has more than {ANSWER_BYTES_MAX} bytes"),
                ));
            }
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok((body, after));
        }
        let mut trouble = Trouble::of_answer("directory", status.as_u16(), &String::from_utf8_lossy(&body));
        if trouble.class == Class::Refused {
            // A directory that is gone for a while is an outage, not a refusal of us.
            trouble.class = Class::Transient;
        }
        Err(trouble)
    }
}

/// The cause behind all causes: the outer ones only say that something was sent.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What a certificate is called there: its issuer's key and its number.
fn identifier(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let authority = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(format!("{}.{}", encode(authority), encode(parsed.raw_serial())))
}
