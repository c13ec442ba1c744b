//! What a client is told when something that is not held can't be had: the table of "what clients get when we cannot
//! serve", in one place.
//!
//! The statuses are chosen by what clients do with them. A manifest gets 503, on which every client turns to the next
//! registry at once; a layer gets 429, since dockerd repeats a 5xx for 75 s and turns away at once on a 429.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::outcome::{Outcome, Stale};
use crate::registry::{Code, Digest, Fault, Reference, RepositoryName};
use crate::upstream::{Class, FetchError};

/// No answer but a refusal, and the outcome that it counts as.
#[derive(Debug, Clone)]
pub struct Denial {
    /// For the header, the log and the metrics.
    pub outcome: Outcome,
    /// For the client.
    pub fault: Box<Fault>,
}

/// When to come back if the upstream named no time for its limit: its windows are hours, a client's patience is not.
const LIMITED_WAIT: Duration = Duration::from_secs(60);

/// When to come back for a manifest of an upstream that is down.
const DOWN_WAIT: Duration = Duration::from_secs(5);

/// When to come back for a blob: clients of the podman family wait this long and try again.
const BLOB_WAIT: Duration = Duration::from_secs(2);

impl Denial {
    /// A denial found at the upstream.
    fn missed(fault: Fault) -> Self {
        Self { outcome: Outcome::Miss, fault: Box::new(fault) }
    }

    /// A denial remembered.
    fn remembered(fault: Fault) -> Self {
        Self { outcome: Outcome::Negative, fault: Box::new(fault) }
    }
}

/// The request names a registry that is not configured.
pub fn not_a_source(host: &str) -> Denial {
    let fault =
        Fault::new(Code::NameUnknown).with_detail(json!({ "ns": host })).because("no such upstream here");
    Denial { outcome: Outcome::Refused, fault: Box::new(fault) }
}

/// The patterns leave the repository out.
pub fn not_allowed(name: &RepositoryName) -> Denial {
    let detail = json!({ "name": name.as_str(), "reason": "this mirror does not serve the repository" });
    let fault =
        Fault::new(Code::NameUnknown).with_detail(detail).because("left out by proxy.allow or proxy.deny");
    Denial { outcome: Outcome::Refused, fault: Box::new(fault) }
}

/// A manifest that was found absent seconds ago.
pub fn manifest_absent(reference: &Reference) -> Denial {
    Denial::remembered(unknown_manifest(reference))
}

/// A blob that was found absent seconds ago.
pub fn blob_absent(digest: &Digest) -> Denial {
    Denial::remembered(unknown_blob(digest))
}

/// A manifest that the upstream did not give.
pub fn manifest(reference: &Reference, error: &Arc<FetchError>) -> Denial {
    Denial::missed(match error.class() {
        Class::Absent => unknown_manifest(reference).because(error),
        Class::LoginRefused => unknown_manifest(reference).with_detail(login_refused()).because(error),
        Class::Limited => {
            unavailable("the upstream is rate limiting this mirror", retry_after(error, LIMITED_WAIT), error)
        }
        Class::Slow => unavailable("the upstream did not answer in time", DOWN_WAIT, error),
        Class::Down => unavailable("the upstream can't be reached", DOWN_WAIT, error),
        Class::Garbage => unavailable("the upstream gave nothing that may be served", DOWN_WAIT, error),
    })
}

/// A blob that the upstream did not give, before any header went out.
pub fn blob(digest: &Digest, error: &Arc<FetchError>) -> Denial {
    Denial::missed(match error.class() {
        Class::Absent => unknown_blob(digest).because(error),
        Class::LoginRefused => unknown_blob(digest).with_detail(login_refused()).because(error),
        Class::Limited => {
            busy("the upstream is rate limiting this mirror", retry_after(error, LIMITED_WAIT), error)
        }
        Class::Slow => busy("the upstream did not answer in time", BLOB_WAIT, error),
        Class::Down => busy("the upstream can't be reached", BLOB_WAIT, error),
        Class::Garbage => busy("the upstream gave nothing that may be served", BLOB_WAIT, error),
    })
}

/// A blob that can't be given for a reason of our own.
pub fn blob_busy(message: &'static str, cause: impl std::fmt::Display) -> Denial {
    Denial::missed(busy(message, BLOB_WAIT, cause))
}

/// A manifest that can't be given for a reason of our own.
pub fn manifest_busy(message: &'static str, cause: impl std::fmt::Display) -> Denial {
    Denial::missed(unavailable(message, DOWN_WAIT, cause))
}

/// A list of tags that neither the upstream nor the index has.
pub fn no_tags(name: &RepositoryName, error: &FetchError) -> Denial {
    let detail = match error.class() {
        Class::LoginRefused => login_refused(),
        _ => json!({ "name": name.as_str() }),
    };
    Denial::missed(Fault::new(Code::NameUnknown).with_detail(detail).because(error))
}

/// Why what is held goes out unconfirmed.
pub fn staleness(class: Class) -> Stale {
    match class {
        Class::Absent => Stale::Gone,
        Class::LoginRefused => Stale::Refused,
        Class::Limited => Stale::Limited,
        Class::Slow => Stale::Slow,
        Class::Down | Class::Garbage => Stale::Down,
    }
}

fn unknown_manifest(reference: &Reference) -> Fault {
    Fault::new(Code::ManifestUnknown).with_detail(match reference {
        Reference::Tag(tag) => json!({ "Tag": tag.as_str() }),
        Reference::Digest(digest) => json!({ "digest": digest.to_string() }),
    })
}

fn unknown_blob(digest: &Digest) -> Fault {
    Fault::new(Code::BlobUnknown).with_detail(json!(digest.to_string()))
}

fn login_refused() -> serde_json::Value {
    json!({ "reason": "the upstream refused the account of this mirror" })
}

fn unavailable(message: &'static str, wait: Duration, cause: impl std::fmt::Display) -> Fault {
    Fault::new(Code::Unavailable).with_message(message).with_retry_after(wait).because(cause)
}

fn busy(message: &'static str, wait: Duration, cause: impl std::fmt::Display) -> Fault {
    Fault::new(Code::TooManyRequests).with_message(message).with_retry_after(wait).because(cause)
}

fn retry_after(error: &FetchError, otherwise: Duration) -> Duration {
    match error {
        FetchError::RateLimited { retry_after: Some(wait), .. } => *wait,
        _ => otherwise,
    }
}
