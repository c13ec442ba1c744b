//! What can go wrong, on command.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Host;

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer instead: status, header lines, body.
    Answer(u16, &'static str, &'static str),
    /// Nothing, ever.
    Hang,
    /// The right head, and the connection closed after so many bytes of the body, all of which the peer can still read.
    Cut(u64),
    /// Nothing until [`super::Hub::release`], then the right answer.
    Hold,
    /// The right head, and after so many bytes nothing until [`super::Hub::release`].
    Gate(u64),
    /// The right answer at so many bytes a second.
    Slow(u64),
    /// The right length, and one wrong byte at the end.
    Wrong,
    /// No `Docker-Content-Digest`.
    NoDigest,
    /// All of it with 200, whatever range was asked for.
    NoRange,
    /// No `Content-Length`: the close of the connection ends the body.
    NoLength,
    /// No `Content-Length`, and so many bytes more than there are.
    Longer(usize),
    /// `Transfer-Encoding: chunked`; cut without a last chunk after so many bytes, if it is told.
    Chunks(Option<u64>),
    /// The connection closed without an answer.
    Close,
}

/// Docker Hub's own words when the pull limit is reached.
pub const PULL_LIMIT: Fault = Fault::Answer(
    429,
    "content-type: application/json\r\nretry-after: 77\r\nratelimit-limit: 100;w=21600\r\nratelimit-remaining: 0;w=21600\r\n",
    "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"You have reached your unauthenticated pull rate limit.\"}]}",
);

/// And when its front takes us for an attack: no JSON, no digest, no hint.
pub const ABUSE_LIMIT: Fault =
    Fault::Answer(429, "content-type: text/html\r\n", "<html>Too Many Requests</html>");

/// A fault that was ordered.
#[derive(Debug)]
pub struct Order {
    host: Host,
    what: String,
    fault: Fault,
    left: Mutex<usize>,
    applied: AtomicUsize,
}

impl Order {
    pub(super) fn new(host: Host, what: &str, fault: Fault) -> Self {
        Self {
            host,
            what: what.to_owned(),
            fault,
            left: Mutex::new(usize::MAX),
            applied: AtomicUsize::new(0),
        }
    }

    /// Only so often.
    pub fn times(&self, times: usize) {
        *self.left.lock().unwrap() = times;
    }

    /// How often it happened.
    pub fn applied(&self) -> usize {
        self.applied.load(Ordering::SeqCst)
    }

    pub(super) fn take(&self, host: Host, line: &str, query: &str) -> Option<Fault> {
        let mut left = self.left.lock().unwrap();
        let meant = match self.what.strip_prefix('?') {
            Some(what) => query.contains(what),
            None => line.contains(&self.what),
        };
        if self.host != host || !meant || *left == 0 {
            return None;
        }
        *left -= 1;
        self.applied.fetch_add(1, Ordering::SeqCst);
        Some(self.fault.clone())
    }
}
