//! The certificates that are served: one table, filled from files, from a watched folder, by ACME, or by a stand-in.
//!
//! Everybody who has pairs offers them here, and nobody else decides which one a client gets. The table is one snapshot
//! that is swapped as a whole, so a handshake sees the old or the new one. A pair is checked when it is made
//! ([`Pair::from_pem`]): half a pair can't be offered. What is offered never takes the place of something better: a valid
//! certificate does not go for one that is expired, not yet valid or without its issuer, and a name keeps its valid
//! certificate when its files go away or name others, until it ends or is [withdrawn](Certificates::withdraw).

mod listing;
mod pair;
pub mod pem;
mod self_signed;
mod stand_in;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::sys::clock;
use crate::sys::sync::lock;
pub use listing::{Listed, Outlook, stamp};
pub use pair::{CHAIN_MAX, Flaw, KeyKind, Pair, fingerprint, public_key};
pub use self_signed::{SelfSigned, self_signed};
pub use stand_in::stand_in;
use table::Table;

/// The protocol of a handshake by which a CA validates a name (RFC 8737).
pub const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// Most pairs that are held: 10 times what anybody was seen to serve from one process.
pub const PAIRS_MAX: usize = 10_000;

/// Most validations under way.
const CHALLENGES_MAX: usize = 1_000;

/// Who has a pair, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `http.tls.certificate` and `http.tls.key`.
    Files,
    /// `tidegate.tls.dir`.
    Folder,
    /// ACME.
    Acme,
    /// Self-signed, for want of anything else.
    StandIn,
}

impl Source {
    /// As it is shown.
    pub fn label(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Folder => "folder",
            Self::Acme => "acme",
            Self::StandIn => "stand-in",
        }
    }
}

/// Why a pair is not served, while a better one is there for all its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It has ended.
    #[error("the certificate has expired")]
    Ended,
    /// It is not valid yet.
    #[error("the certificate is not valid yet")]
    NotYet,
    /// A chain would be replaced by a leaf alone.
    #[error("the certificate of its issuer is missing")]
    LeafAlone,
    /// The certificate of a CA that names no server.
    #[error("it is the certificate of a CA, not of a server")]
    Authority,
    /// There is no room for more.
    #[error("too many certificates are held")]
    TooMany,
}

/// What an offer changed.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Pairs that were not there before.
    pub added: Vec<Arc<Pair>>,
    /// Pairs that are gone.
    pub removed: Vec<Arc<Pair>>,
    /// Valid pairs that nobody offers any more since now, held because nothing else has all their names.
    pub retained: Vec<Arc<Pair>>,
    /// What was offered and not taken.
    pub refused: Vec<(Arc<Pair>, Refusal)>,
    /// Names that have no certificate any more.
    pub lost: Vec<String>,
}

impl Change {
    /// Whether anything is served that was not before, or the other way round.
    pub fn is_change(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty()
    }

    /// Writes a line for each thing that an operator may want to know.
    pub fn tell(&self, source: Source) {
        let source = source.label();
        for pair in &self.added {
            let (names, origin, until) =
                (pair.names().join(","), pair.origin(), listing::stamp(pair.not_after()));
            let (key, fingerprint) = (pair.kind().label(), pair.fingerprint());
            tracing::info!(names, until, key, fingerprint, source, origin, "a certificate is served");
            if pair.is_authority() {
                tracing::warn!(origin, "it is marked as a CA's: some clients refuse it as a server's");
            }
            if !pair.is_complete() {
                let issuer = pair.issuer();
                tracing::error!(
                    origin,
                    issuer,
                    "the certificate of its issuer is missing: clients that do not have it will not trust this one; put both into one file"
                );
            }
            if !pair.is_valid(now()) {
                let from = listing::stamp(pair.not_before());
                tracing::error!(origin, from, until, "the certificate is not valid now: clients refuse it");
            }
        }
        for pair in &self.retained {
            let (names, origin, until) =
                (pair.names().join(","), pair.origin(), listing::stamp(pair.not_after()));
            tracing::warn!(
                names,
                until,
                origin,
                "the files of a certificate are gone or name others; it is served until it ends"
            );
        }
        if !self.lost.is_empty() {
            let names = self.lost.join(",");
            tracing::warn!(names, source, "names have no certificate any more; their sessions ended");
        }
    }
}

/// A pair and who has it.
#[derive(Debug, Clone)]
struct Held {
    source: Source,
    pair: Arc<Pair>,
    /// Nobody offers it any more.
    retained: bool,
}

/// The certificates that are served. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: ArcSwap<Table>,
    strict: bool,
    held: Mutex<Vec<Held>>,
    challenges: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    outlooks: Mutex<BTreeMap<(Source, String), Outlook>>,
}

impl Certificates {
    /// None yet. With `strict`, a client that asks for no name or for an unknown one is refused instead of being served the
    /// first certificate.
    pub fn new(strict: bool) -> Self {
        Self(Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::new(&[], strict, 0)),
            strict,
            held: Mutex::default(),
            challenges: Mutex::default(),
            outlooks: Mutex::default(),
        }))
    }

    /// Adds a pair to those of a source, in the place of the one of the same origin. The refusal says why the present one is
    /// better; then nothing changes.
    pub fn offer(&self, source: Source, pair: Arc<Pair>) -> Result<Change, Refusal> {
        let mut held = lock(&self.0.held);
        let others = held.iter().filter(|held| held.source == source && !held.retained);
        let mut offered: Vec<_> = others.map(|held| Arc::clone(&held.pair)).collect();
        offered.retain(|other| other.origin() != pair.origin());
        offered.push(Arc::clone(&pair));
        let (next, mut change) = replace(&held, source, offered, now());
        let own = change.refused.iter().find(|(refused, _)| Arc::ptr_eq(refused, &pair));
        if let Some((_, refusal)) = own {
            return Err(*refusal);
        }
        self.swap(&mut held, next, &mut change);
        Ok(change)
    }

    /// Says that these are all the pairs that a source has. What it had before and nothing else can do is retained.
    pub fn renew(&self, source: Source, offered: Vec<Arc<Pair>>) -> Change {
        let mut held = lock(&self.0.held);
        let (next, mut change) = replace(&held, source, offered, now());
        self.swap(&mut held, next, &mut change);
        change
    }

    /// Drops the pairs of an origin, whether or not their names have another: nobody is to be served them any more.
    pub fn withdraw(&self, source: Source, origin: &str) -> Change {
        let mut held = lock(&self.0.held);
        let goes = |held: &Held| held.source == source && held.pair.origin() == origin;
        let next: Vec<_> = held.iter().filter(|held| !goes(held)).cloned().collect();
        let removed = held.iter().filter(|held| goes(held)).map(|held| Arc::clone(&held.pair)).collect();
        let mut change = Change { removed, ..Change::default() };
        self.swap(&mut held, next, &mut change);
        lock(&self.0.outlooks).remove(&(source, origin.to_owned()));
        change
    }

    /// Puts up, or takes down, the certificate by which a CA validates a name. Only a client that offers `acme-tls/1` and
    /// nothing else sees it.
    pub fn challenge(&self, name: &str, certificate: Option<Arc<CertifiedKey>>) {
        let mut challenges = lock(&self.0.challenges);
        match certificate {
            Some(certificate) if challenges.len() < CHALLENGES_MAX => {
                challenges.insert(name.to_ascii_lowercase(), certificate);
            }
            Some(_) => tracing::error!(name, "too many validations of names are under way"),
            None => drop(challenges.remove(&name.to_ascii_lowercase())),
        }
    }

    /// The pair that is served for a name.
    pub fn serving(&self, name: &str) -> Option<Arc<Pair>> {
        let all = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        self.0.table.load().choose(Some(name), &all.supported_schemes(), now()).cloned()
    }

    /// Whether anything but a stand-in is held.
    pub fn is_furnished(&self) -> bool {
        lock(&self.0.held).iter().any(|held| held.source != Source::StandIn)
    }

    /// The pairs of a source, those included that are retained.
    pub fn of(&self, source: Source) -> Vec<Arc<Pair>> {
        let held = lock(&self.0.held);
        held.iter().filter(|held| held.source == source).map(|held| Arc::clone(&held.pair)).collect()
    }

    /// A number that changes whenever a name loses its certificate.
    pub fn generation(&self) -> u64 {
        self.0.table.load().generation
    }

    fn swap(&self, held: &mut Vec<Held>, next: Vec<Held>, change: &mut Change) {
        let names = |all: &[Held]| -> BTreeSet<String> {
            all.iter().flat_map(|held| held.pair.names().iter().cloned()).collect()
        };
        change.lost = names(held).difference(&names(&next)).cloned().collect();
        let generation = self.generation() + u64::from(!change.lost.is_empty());
        *held = next;
        self.0.table.store(Arc::new(Table::new(held, self.0.strict, generation)));
    }
}

/// What is held after a source offered all that it has.
fn replace(held: &[Held], source: Source, offered: Vec<Arc<Pair>>, now: i64) -> (Vec<Held>, Change) {
    let mut change = Change::default();
    let (before, mut next): (Vec<_>, Vec<_>) = held.iter().cloned().partition(|held| held.source == source);
    let known = |pair: &Pair| before.iter().find(|held| held.pair.fingerprint() == pair.fingerprint());
    let mut room = PAIRS_MAX.saturating_sub(next.len());
    for pair in offered {
        let refusal = refusal(&pair, source, &before, now).or((room == 0).then_some(Refusal::TooMany));
        if let Some(refusal) = refusal {
            change.refused.push((pair, refusal));
            continue;
        }
        room -= 1;
        // The same certificate with a longer chain, or from another place, is another one.
        let same = known(&pair)
            .filter(|known| known.pair.certified().cert == pair.certified().cert)
            .filter(|known| known.pair.origin() == pair.origin());
        if same.is_none() {
            change.added.push(Arc::clone(&pair));
        }
        next.push(Held { source, pair, retained: false });
    }
    for old in before {
        let pair = &old.pair;
        if next.iter().any(|new| new.source == source && new.pair.fingerprint() == pair.fingerprint()) {
            continue;
        }
        let stays = pair.is_valid(now) && source != Source::StandIn && !covers(&next, source, pair, now);
        if stays && room > 0 {
            room -= 1;
            if !old.retained {
                change.retained.push(Arc::clone(pair));
            }
            next.push(Held { retained: true, ..old });
        } else {
            change.removed.push(Arc::clone(pair));
        }
    }
    (next, change)
}

/// Why a pair must not take the place of those that are there.
fn refusal(pair: &Pair, source: Source, before: &[Held], now: i64) -> Option<Refusal> {
    // Named by hand it is served, as `registry` does; found in a folder it is what lies beside a server's certificate.
    if pair.is_authority() && pair.names().is_empty() && source != Source::Files {
        return Some(Refusal::Authority);
    }
    let is_itself = |held: &Held| held.pair.fingerprint() == pair.fingerprint();
    let others: Vec<_> = before.iter().filter(|held| !is_itself(held)).cloned().collect();
    let was_complete = before.iter().any(|held| is_itself(held) && held.pair.is_complete());
    let better = covers(&others, source, pair, now);
    if now >= pair.not_after() {
        better.then_some(Refusal::Ended)
    } else if now < pair.not_before() {
        better.then_some(Refusal::NotYet)
    } else if !pair.is_complete() {
        let whole: Vec<_> = others.into_iter().filter(|held| held.pair.is_complete()).collect();
        (was_complete || covers(&whole, source, pair, now)).then_some(Refusal::LeafAlone)
    } else {
        None
    }
}

/// Whether valid pairs of a source have all names of a pair, for clients of its kind of key.
fn covers(held: &[Held], source: Source, pair: &Pair, now: i64) -> bool {
    let others = || held.iter().filter(|held| held.source == source && held.pair.is_valid(now));
    let has = |name: &String| {
        others().any(|held| {
            held.pair.kind() == pair.kind()
                && (!pair.is_complete() || held.pair.is_complete())
                && held.pair.names().contains(name)
        })
    };
    match pair.names() {
        [] => others().next().is_some(),
        names => names.iter().all(has),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX)
}

/// Whether a client says that it is a CA that validates a name.
pub fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| {
        protocols.next() == Some(CHALLENGE_PROTOCOL) && protocols.next().is_none()
    })
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_challenge(&hello) {
            return lock(&self.0.challenges).get(hello.server_name()?).cloned();
        }
        let table = self.0.table.load();
        let chosen = table.choose(hello.server_name(), hello.signature_schemes(), now());
        chosen.map(|pair| Arc::clone(pair.certified()))
    }
}
