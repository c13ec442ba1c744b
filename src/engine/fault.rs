//! What a client is told when something that is not held can't be had: the table of "what clients get when we cannot
//! serve", in one place.
//!
//! The statuses are chosen by what clients do with them. A manifest gets 503, on which every client turns to the next
//! registry at once; a layer gets 429, since dockerd repeats a 5xx for 75 s and turns away at once on a 429.

use std::borrow::Cow;
use std::fmt::Display;
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

const LATE: &str = "the upstream did not answer in time";

/// What is said of bytes that do not hash to their digest.
pub const WRONG: &str = "the upstream gave wrong bytes for this digest";

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
        Class::Limited | Class::Slow | Class::Down | Class::Garbage => {
            unavailable(reason(error), wait(error, DOWN_WAIT), error)
        }
    })
}

/// A blob that the upstream did not give, before any header went out.
pub fn blob(digest: &Digest, error: &Arc<FetchError>) -> Denial {
    Denial::missed(match error.class() {
        Class::Absent => unknown_blob(digest).because(error),
        Class::LoginRefused => unknown_blob(digest).with_detail(login_refused()).because(error),
        Class::Limited | Class::Slow | Class::Down | Class::Garbage => {
            busy(reason(error), wait(error, BLOB_WAIT), error)
        }
    })
}

/// A manifest that did not come while a client waits.
pub fn late_manifest() -> Denial {
    manifest_busy(LATE, "no answer within the limit")
}

/// A blob of which nothing came while a client waits.
pub fn late_blob() -> Denial {
    blob_busy(LATE, "no answer within the limit")
}

/// Too many blobs are being fetched already.
pub fn crowded() -> Denial {
    blob_busy("this mirror has too much to fetch", "the table of flights is full")
}

/// A blob that can't be given for a reason of our own.
pub fn blob_busy(message: &'static str, cause: impl Display) -> Denial {
    Denial::missed(busy(message, BLOB_WAIT, cause))
}

/// A manifest that can't be given for a reason of our own.
pub fn manifest_busy(message: &'static str, cause: impl Display) -> Denial {
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
pub fn staleness(error: &FetchError) -> Stale {
    match (error, error.class()) {
        // It may be a matter of minutes: an account, a rule, a suspended repository.
        (FetchError::Denied { .. }, _) => Stale::Refused,
        (_, Class::Absent) => Stale::Gone,
        (_, Class::LoginRefused) => Stale::Refused,
        (_, Class::Limited) => Stale::Limited,
        (_, Class::Slow) => Stale::Slow,
        (_, Class::Down | Class::Garbage) => Stale::Down,
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

/// The true reason, as far as it is a client's business: no hosts behind the upstream, no addresses.
fn reason(error: &FetchError) -> Cow<'static, str> {
    match error {
        FetchError::RateLimited { .. } => "the upstream is rate limiting this mirror".into(),
        FetchError::Timeout { .. } => LATE.into(),
        FetchError::Unreachable { .. } => "the upstream can't be reached".into(),
        FetchError::Status { status, .. } => format!("the upstream answered with status {status}").into(),
        FetchError::Cut { .. } => "the upstream broke off".into(),
        FetchError::WrongDigest { .. } => WRONG.into(),
        FetchError::TooLarge { .. } => "the upstream sent more than is taken".into(),
        FetchError::ForbiddenRedirect { .. } | FetchError::ForbiddenRealm { .. } => {
            "the upstream points to where this mirror does not go; its log says where".into()
        }
        FetchError::Malformed { .. }
        | FetchError::NotFound { .. }
        | FetchError::Denied { .. }
        | FetchError::LoginRefused { .. } => "the upstream gave nothing that may be served".into(),
    }
}

/// When to come back.
fn wait(error: &FetchError, otherwise: Duration) -> Duration {
    match error {
        FetchError::RateLimited { retry_after, .. } => retry_after.unwrap_or(LIMITED_WAIT),
        _ => otherwise,
    }
}

fn unavailable(message: impl Into<Cow<'static, str>>, wait: Duration, cause: impl Display) -> Fault {
    Fault::new(Code::Unavailable).with_message(message).with_retry_after(wait).because(cause)
}

fn busy(message: impl Into<Cow<'static, str>>, wait: Duration, cause: impl Display) -> Fault {
    Fault::new(Code::TooManyRequests).with_message(message).with_retry_after(wait).because(cause)
}
