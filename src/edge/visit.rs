//! A request from its head to the last byte of its answer, as the log and the metrics see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode, Version, header};

use crate::engine::Outcome;
use crate::observe::access::{AccessLog, Entry};
use crate::observe::metrics::{Kind, Metrics};
use crate::sys::{clock, entropy};

/// What a request was about: its name in the metrics, and whether it asked for content.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// `blob` and the like, as `registry` calls it.
    pub handler: &'static str,
    /// The kind of content that was asked for.
    pub kind: Option<Kind>,
}

/// Nothing that has a name.
pub const NOTHING: Subject = Subject { handler: "none", kind: None };

/// Where answered requests are written down.
#[derive(Debug, Clone)]
pub struct Records {
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Where to write a line.
    pub access: Option<AccessLog>,
}

/// A request on its way to its line in the log and its counters, which it gets however it ends.
pub struct Visit {
    records: Records,
    began: Instant,
    subject: Subject,
    outcome: Option<Outcome>,
    entry: Entry,
}

/// Stands in the log for an answer that the client did not wait for; nginx's number.
const CLIENT_LEFT: u16 = 499;

impl Visit {
    /// A request that has just come.
    pub fn new(records: &Records, head: &http::request::Parts, peer: String) -> Self {
        let text = |name| head.headers.get(name).map(lossy).unwrap_or_default();
        let entry = Entry {
            peer,
            at: clock::now(),
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string),
            version: version(head.version),
            status: CLIENT_LEFT,
            bytes: 0,
            referer: text(header::REFERER),
            agent: text(header::USER_AGENT),
            outcome: "-",
            took: Duration::ZERO,
            id: entropy::number(),
        };
        let began = clock::monotonic();
        Self { records: records.clone(), began, subject: NOTHING, outcome: None, entry }
    }

    /// It has an answer; what is left is to give it out.
    pub fn answered(&mut self, subject: Subject, outcome: Option<Outcome>, status: StatusCode) {
        self.subject = subject;
        self.outcome = outcome;
        self.entry.outcome = outcome.map_or("-", Outcome::label);
        self.entry.status = status.as_u16();
    }

    /// Its answer ended, after so many bytes.
    pub fn ended(mut self, bytes: u64) {
        self.entry.bytes = bytes;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.entry.took = clock::monotonic().saturating_duration_since(self.began);
        let Self { records, subject, outcome, entry, .. } = self;
        records.metrics.answered(subject.handler, method(&entry.method), entry.status, entry.took);
        if let (Some(kind), Some(outcome)) = (subject.kind, outcome) {
            records.metrics.content(kind, outcome.label(), outcome.is_hit(), entry.bytes);
        }
        if let Some(access) = &records.access {
            access.write(entry);
        }
    }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// A method as a label: a closed set, since anybody may send anything.
fn method(method: &str) -> &'static str {
    ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}
