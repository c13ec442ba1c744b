//! Certificates from a CA (ACME, RFC 8555).
//!
//! rustls-acme speaks the protocol; everything that decides is ours. One *session* gets one certificate for one name, or
//! fails with a class (`trouble`). When the next session may run is a pure question to a ledger on disk (`schedule`), so that
//! neither failures nor restarts nor commands ask a CA for more than it allows. What a session needs and leaves is written
//! before it matters (`journal`, `storage`), and what comes of it is checked before it is served. Nothing in here touches a
//! certificate that is served: it only offers better ones.

mod advice;
mod answers;
mod autocert;
mod directory;
mod issuer;
mod journal;
mod port;
mod renewals;
mod schedule;
mod session;
mod storage;
mod trouble;
mod wire;

pub use answers::Front;
pub use port::open as open_port;
pub use renewals::{Renewals, Setup, Wish};
