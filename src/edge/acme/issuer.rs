//! Who gives certificates, seen from the scheduler: room for another way than rustls-acme's (external accounts, `replaces`,
//! profiles, addresses, DNS).

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use url::Url;

use super::answers::Answers;
use super::journal::Journal;
use super::schedule::Window;
use super::trouble::Trouble;
use crate::config::{Challenge, DnsName};
use crate::edge::certificates::Certificates;

/// One session: a certificate for one name, proven in one way.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// For whom.
    pub name: &'a DnsName,
    /// Proven how.
    pub challenge: Challenge,
    /// Where the answers to challenges are put up.
    pub desk: &'a Desk,
    /// What outlives the session.
    pub journal: &'a Journal,
}

/// Where a CA finds the answers to its challenges.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Those of TLS-ALPN-01.
    pub certificates: Certificates,
    /// Those of HTTP-01.
    pub answers: Answers,
}

/// Gives certificates.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// The CA's directory.
    fn directory(&self) -> &Url;

    /// Gets a certificate: its key and its chain, PEM. Takes up the order that the journal has. Dropping the future ends the
    /// session; what was put up at the desk is then taken down by whoever started it.
    fn issue<'a>(&'a self, task: Task<'a>) -> BoxFuture<'a, Result<String, Trouble>>;

    /// When the CA would like a certificate to be renewed, and when to ask it again; nothing if it does not say.
    fn wish<'a>(&'a self, leaf: &'a CertificateDer<'static>) -> BoxFuture<'a, Option<(Window, Duration)>>;
}
