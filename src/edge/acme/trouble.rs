//! Why a session with a CA gave nothing: what the CA said, sorted into classes.

use rustls_acme::acme::AcmeError;
use serde::Deserialize;

use super::schedule::{Class, Stamp};

/// Longest text of a CA that is kept or shown.
const WORDS_MAX: usize = 400;

/// What every type of a problem begins with (RFC 8555 section 6.7).
const URN: &str = "urn:ietf:params:acme:error:";

/// Why nothing came of a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Trouble {
    /// What kind of failure it is.
    pub class: Class,
    /// What happened, in one line.
    pub reason: String,
    /// Until when the CA wants to be left alone.
    pub wait_until: Option<Stamp>,
    /// What the CA calls it; empty if it did not say.
    pub kind: String,
}

/// A CA's problem document, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    r#type: String,
    detail: String,
}

impl Trouble {
    /// Of our own words.
    pub fn new(class: Class, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into(), wait_until: None, kind: String::new() }
    }

    /// The disk.
    pub fn storage(error: &std::io::Error) -> Self {
        Self::new(Class::Local, format!("what a certificate needs can't be stored: {error}"))
    }

    /// Of a call of the library.
    pub fn of_call(what: &str, error: &AcmeError) -> Self {
        let text = error.to_string();
        let Some((status, body)) = answer(&text) else {
            let class = match error {
                AcmeError::Jose(_) | AcmeError::KeyRejected(_) | AcmeError::Crypto(_) => Class::Refused,
                // Another challenge may do; the order is gone all the same.
                AcmeError::NoTlsAlpn01Challenge | AcmeError::NoHttp01Challenge => Class::Validation,
                _ => Class::Transient,
            };
            return Self::new(class, format!("{what}: {}", printable(&text)));
        };
        Self::of_answer(what, status, &body)
    }

    /// Of an answer that is no success.
    pub fn of_answer(what: &str, status: u16, body: &str) -> Self {
        let document: Document = serde_json::from_str(body).unwrap_or_default();
        let kind = document.r#type.strip_prefix(URN).unwrap_or(&document.r#type).to_owned();
        let class = match (kind.as_str(), status) {
            ("rateLimited", _) | (_, 429) => Class::Limited,
            ("badNonce" | "serverInternal" | "orderNotReady", _) | (_, 500..) => Class::Transient,
            _ => Class::Refused,
        };
        let advice = match kind.as_str() {
            "externalAccountRequired" => {
                "; it wants an account that was made with it before (external account binding), which tidegate does not \
                 have: use another CA, or a client that has it and writes files"
            }
            _ => "",
        };
        let words = if document.detail.is_empty() { body } else { &document.detail };
        let reason =
            format!("{what}: the CA answered {status} {} {}{advice}", printable(&kind), printable(words));
        let wait_until = (class == Class::Limited).then(|| named_time(&document.detail)).flatten();
        Self { class, reason, wait_until, kind: printable(&kind) }
    }

    /// Of a challenge that the CA holds to be failed.
    pub fn of_validation(name: &str, challenge: &str, kind: &str, detail: &str) -> Self {
        let kind = kind.strip_prefix(URN).unwrap_or(kind);
        let reason = format!(
            "the CA could not validate {name} by {challenge}: {} {}",
            printable(kind),
            printable(detail)
        );
        Self { class: Class::Validation, reason, wait_until: None, kind: printable(kind) }
    }

    /// Whether the same call may be made again at once.
    pub fn is_bad_nonce(&self) -> bool {
        self.kind == "badNonce"
    }
}

/// A CA's words on one line, without what a terminal would act on.
fn printable(words: &str) -> String {
    let words = words.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    words.take(WORDS_MAX).collect()
}

/// Status and body of an answer, out of the text of rustls-acme's error: its type can't be named from outside. The form is
/// that of the exact version in Cargo.toml.
fn answer(text: &str) -> Option<(u16, String)> {
    let (_, rest) = text.split_once("non 2xx http status: ")?;
    let (status, quoted) = rest.split_once(' ')?;
    let body = quoted.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some((status.parse().ok()?, unquoted(body)))
}

/// The text of which this is the `Debug` form.
fn unquoted(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('0') => text.push('\0'),
            Some('u') => {
                let digits: String =
                    characters.by_ref().skip_while(|c| *c == '{').take_while(|c| *c != '}').collect();
                text.extend(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32));
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

/// The time in `…, retry after 2026-11-25 18:00:00 UTC: see …`: rustls-acme drops the header that has it.
fn named_time(words: &str) -> Option<Stamp> {
    let at = words.to_ascii_lowercase().find("retry after ")? + "retry after ".len();
    let stamp: String = words.get(at..)?.chars().take(19).collect();
    let stamp = format!("{}Z", stamp.replace(' ', "T"));
    let parsed: jiff::Timestamp = stamp.parse().ok()?;
    u64::try_from(parsed.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_ca_are_sorted() {
        let class = |status, kind: &str| {
            let body = format!("{{\"type\": \"{URN}{kind}\", \"detail\": \"words\"}}");
            Trouble::of_answer("newOrder", status, &body).class
        };
        assert_eq!(class(400, "badNonce"), Class::Transient);
        assert_eq!(class(429, "rateLimited"), Class::Limited);
        assert_eq!(class(503, "rateLimited"), Class::Limited);
        assert_eq!(class(500, "serverInternal"), Class::Transient);
        assert_eq!(class(400, "rejectedIdentifier"), Class::Refused);
        assert_eq!(class(403, "unauthorized"), Class::Refused);
        assert_eq!(Trouble::of_answer("x", 502, "<html>").class, Class::Transient);
    }

    #[test]
    fn a_ca_that_wants_its_own_accounts_is_explained() {
        let body = format!("{{\"type\": \"{URN}externalAccountRequired\", \"detail\": \"no EAB\"}}");
        let trouble = Trouble::of_answer("newAccount", 403, &body);
        assert!(trouble.reason.contains("external account binding"), "{trouble}");
    }

    #[test]
    fn a_time_in_the_words_counts() {
        let body = format!(
            "{{\"type\": \"{URN}rateLimited\", \"detail\": \"too many certificates (5) already issued, retry after 2026-11-25 18:00:00 UTC: see https://x\"}}"
        );
        assert_eq!(Trouble::of_answer("newOrder", 429, &body).wait_until, Some(1_795_629_600));
        for odd in ["retry after", "retry after soon", "retry after ééééééééééééé"] {
            assert_eq!(named_time(odd), None, "{odd}");
        }
    }

    #[test]
    fn an_answer_is_found_in_the_text_of_an_error() {
        let body = "{\n \"type\": \"urn:ietf:params:acme:error:badNonce\", \"detail\": \"\\\"é\\u{1b}\"}";
        let text = format!("http request error: non 2xx http status: 400 {body:?}");
        assert_eq!(answer(&text), Some((400, body.to_owned())));
        assert!(
            Trouble::of_answer("newOrder", 400, "{\"type\": \"urn:ietf:params:acme:error:badNonce\"}")
                .is_bad_nonce()
        );
        assert_eq!(answer("io error: refused"), None);
    }

    #[test]
    fn what_is_shown_is_short_and_plain() {
        let trouble = Trouble::of_answer("x", 400, &"\u{1b}[31m\n".repeat(1000));
        assert!(trouble.reason.len() < 600 && !trouble.reason.contains(['\u{1b}', '\n']));
    }
}
