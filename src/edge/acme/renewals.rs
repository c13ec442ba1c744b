//! All names with all CAs: the loop that looks at the clock, the try that it starts, and what is said of it.

mod attempt;
mod operate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use super::answers::Answers;
use super::issuer::{Desk, Issuer};
use super::journal::on_disk;
use super::schedule::{Ledger, Life, Stamp, Window};
use super::session::RustlsAcme;
use super::storage::{Shelf, Storage};
use super::trouble::Trouble;
use super::{autocert, wire};
use crate::config::{Acme, DnsName};
use crate::edge::certificates::{Certificates, Outlook, Pair, Source};
use crate::observe::metrics::Metrics;
use crate::sys::clock;
use crate::sys::sync::lock;
pub use operate::Wish;

/// How often the wall clock is looked at: it may jump, and a machine may sleep.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// What renewals are made from.
#[derive(Debug)]
pub struct Setup {
    /// What is configured.
    pub acme: Acme,
    /// Where everything is kept.
    pub folder: PathBuf,
    /// Where certificates are served from.
    pub certificates: Certificates,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// Keeps the certificates of all names fresh.
#[derive(Debug)]
pub struct Renewals {
    acme: Acme,
    storage: Storage,
    desk: Desk,
    authorities: Vec<CertificateDer<'static>>,
    issuers: Vec<(Shelf, Box<dyn Issuer>)>,
    metrics: Arc<Metrics>,
    /// One session at a time: the order of challenges stays clear, and a CA sees one client.
    turn: tokio::sync::Mutex<()>,
    states: Mutex<BTreeMap<DnsName, State>>,
    woken: Notify,
}

/// What is known of a name besides its ledgers.
#[derive(Debug, Clone, Default)]
struct State {
    pair: Option<Arc<Pair>>,
    wish: Option<Window>,
    ask_again: Stamp,
    /// Not before then: another process is at work, or the disk takes nothing.
    hold_until: Stamp,
    /// The same line is not written again and again.
    last_line: String,
}

impl Renewals {
    /// Opens the folder; talks to nobody yet.
    pub fn new(setup: Setup) -> Result<Arc<Self>, String> {
        let Setup { acme, folder, certificates, metrics } = setup;
        let storage = Storage::open(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let authorities = acme.cafile.as_deref().map(wire::authorities).transpose()?.unwrap_or_default();
        let mut issuers: Vec<(Shelf, Box<dyn Issuer>)> = Vec::new();
        for directory in std::iter::once(&acme.directory).chain(&acme.fallback) {
            let issuer = RustlsAcme::new(directory.clone(), acme.email.as_deref(), authorities.clone())?;
            issuers.push((Shelf::of(directory), Box::new(issuer)));
        }
        let desk = Desk { certificates, answers: Answers::default() };
        let turn = tokio::sync::Mutex::new(());
        let renewals = Self {
            acme,
            storage,
            desk,
            authorities,
            issuers,
            metrics,
            turn,
            states: Mutex::default(),
            woken: Notify::new(),
        };
        renewals.take_over();
        for name in renewals.hosts() {
            match renewals.storage.pair(name) {
                Ok(pem) => drop(pem.map(|pem| renewals.adopt(name, &pem))),
                Err(error) => tracing::error!("{}: {error}", renewals.storage.pair_path(name).display()),
            }
        }
        Ok(Arc::new(renewals))
    }

    /// The names.
    pub fn hosts(&self) -> &[DnsName] {
        &self.acme.hosts
    }

    /// The answers to challenges over HTTP.
    pub fn answers(&self) -> &Answers {
        &self.desk.answers
    }

    /// What `registry` had: its account and its certificates become ours, unless we have our own.
    fn take_over(&self) {
        let Some(folder) = &self.acme.autocert else { return };
        if autocert::is_outdated(folder) {
            tracing::warn!(
                "{} is a file of registry 2, whose protocol no CA speaks any more",
                folder.display()
            );
            return;
        }
        let Some((shelf, _)) = self.issuers.first() else { return };
        if matches!(self.storage.account(shelf), Ok(None))
            && let Some(key) = autocert::account(folder)
            && self.storage.keep_account(shelf, &key).is_ok()
        {
            tracing::info!("the ACME account in {} is taken over", folder.display());
        }
        for name in self.hosts() {
            if !matches!(self.storage.pair(name), Ok(None)) {
                continue;
            }
            let Some(pem) = autocert::pair(folder, name) else { continue };
            let (Ok(text), Ok(pair)) = (str::from_utf8(&pem), Pair::from_pem(&pem, &pem, name.to_string()))
            else {
                continue;
            };
            if fault_of(&pair, name, now()).is_none() && self.storage.keep_pair(name, text).is_ok() {
                tracing::info!(%name, "the certificate in {} is taken over", folder.display());
            }
        }
    }

    /// Serves what is stored for a name, if that is another certificate than before; says whether it is.
    fn adopt(&self, name: &DnsName, pem: &str) -> bool {
        let path = self.storage.pair_path(name);
        let pair = match Pair::from_pem(pem.as_bytes(), pem.as_bytes(), name.to_string()) {
            Ok(pair) => Arc::new(pair),
            Err(flaw) => {
                tracing::error!(%name, "{}: {flaw}", path.display());
                return false;
            }
        };
        let held = self.state(name).pair;
        if held.is_some_and(|held| held.fingerprint() == pair.fingerprint()) {
            return false;
        }
        if let Some(fault) = fault_of(&pair, name, now()) {
            // It is served for want of a better one, and due at once.
            tracing::warn!(%name, "the stored certificate {fault}");
        }
        self.serve(name, pair);
        true
    }

    /// The same for what another process may have stored meanwhile.
    async fn look_into_storage(&self, name: &DnsName) -> Result<bool, Trouble> {
        let wanted = name.clone();
        let pem = on_disk(self.storage.clone(), move |storage| storage.pair(&wanted)).await?;
        Ok(pem.is_some_and(|pem| self.adopt(name, &pem)))
    }

    fn serve(&self, name: &DnsName, pair: Arc<Pair>) {
        if let Err(refusal) = self.desk.certificates.offer(Source::Acme, Arc::clone(&pair)) {
            tracing::warn!(%name, "the certificate is not served: {refusal}");
        }
        let mut states = lock(&self.states);
        let state = states.entry(name.clone()).or_default();
        (state.pair, state.wish, state.ask_again) = (Some(pair), None, 0);
        if self.hosts().iter().all(|host| states.get(host).is_some_and(|state| state.pair.is_some())) {
            self.desk.certificates.renew(Source::StandIn, Vec::new());
        }
    }

    /// Looks at the clock and renews what is due, as long as the process runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            let mut wait = CHECK_INTERVAL.as_secs();
            for name in self.hosts() {
                // What went wrong is found again by the try.
                let _ = self.look_into_storage(name).await;
                self.ask_for_a_wish(name).await;
                let (mut next, issuer) = self.next(name).await;
                if next <= now() {
                    // What failed is said and entered where it failed.
                    let _ = self.attempt(name, issuer, false).await;
                    self.ask_for_a_wish(name).await;
                    (next, _) = self.next(name).await;
                }
                self.foretell(name, next);
                wait = wait.min(next.saturating_sub(now()).max(1));
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(wait)) => {}
                () = self.woken.notified() => {}
            }
        }
    }

    /// When the next try for a name is, and with which CA.
    async fn next(&self, name: &DnsName) -> (Stamp, usize) {
        let state = self.state(name);
        let due = state.pair.as_ref().map_or(0, |pair| life_of(pair).due(state.wish));
        let mut best = (Stamp::MAX, 0);
        for index in 0..self.issuers.len() {
            let Ok((ledger, ordered)) = self.ledger(name, index).await else {
                return (now() + CHECK_INTERVAL.as_secs(), index);
            };
            // What is under way is taken up at once by a new process; then by the ladder, as all else.
            let next = if ordered && ledger.in_a_row == 0 { due } else { ledger.next(due) };
            if next < best.0 {
                best = (next, index);
            }
            if !ledger.wants_another() {
                break;
            }
        }
        (best.0.max(state.hold_until), best.1)
    }

    /// The ledger of a name at a CA, and whether an order is under way.
    async fn ledger(&self, name: &DnsName, issuer: usize) -> Result<(Ledger, bool), Trouble> {
        let Some((shelf, _)) = self.issuers.get(issuer) else { return Ok((Ledger::default(), false)) };
        let (shelf, name) = (shelf.clone(), name.clone());
        on_disk(self.storage.clone(), move |storage| {
            let ledger = storage.ledger(&shelf, &name, now())?;
            Ok((ledger, storage.order(&shelf, &name)?.is_some()))
        })
        .await
        .inspect_err(|trouble| tracing::error!(reason = trouble.reason, "no certificate can be asked for"))
    }

    /// Asks the CA when it would like the certificate to be renewed, as often as it wants to be asked.
    async fn ask_for_a_wish(&self, name: &DnsName) {
        let state = self.state(name);
        let (Some(pair), Some((_, issuer))) =
            (state.pair.filter(|_| state.ask_again <= now()), self.issuers.first())
        else {
            return;
        };
        let Some(leaf) = pair.certified().cert.first() else { return };
        let wish = issuer.wish(leaf).await;
        self.edit(name, |state| {
            state.wish = wish.map(|(window, _)| window).or(state.wish);
            let wait = wish.map_or(CHECK_INTERVAL * 6, |(_, wait)| wait);
            state.ask_again = now() + wait.as_secs();
        });
    }

    /// Says when what comes next, to people and to the metrics.
    fn foretell(&self, name: &DnsName, next: Stamp) {
        let state = self.state(name);
        let next_renewal = i64::try_from(next).ok();
        let trouble = Some(state.last_line).filter(|line| !line.is_empty());
        self.desk.certificates.foresee(Source::Acme, name.as_str(), Outlook { next_renewal, trouble });
        self.metrics.acme_next(name.as_str(), next);
    }

    fn state(&self, name: &DnsName) -> State {
        lock(&self.states).get(name).cloned().unwrap_or_default()
    }

    fn edit<T>(&self, name: &DnsName, change: impl FnOnce(&mut State) -> T) -> T {
        change(lock(&self.states).entry(name.clone()).or_default())
    }

    fn hold(&self, name: &DnsName, seconds: u64) {
        self.edit(name, |state| state.hold_until = now().saturating_add(seconds));
    }
}

/// What is wrong with a certificate for a name, if anything.
fn fault_of(pair: &Pair, name: &DnsName, now: Stamp) -> Option<String> {
    let at = i64::try_from(now).unwrap_or(i64::MAX);
    if !pair.names().iter().any(|named| named == name.as_str()) {
        return Some(format!("is not for {name} but for {}", pair.names().join(", ")));
    }
    if at < pair.not_before() {
        return Some("is not valid yet: the clock here or there is wrong".to_owned());
    }
    if at >= pair.not_after() {
        return Some("has expired: the clock here or there is wrong".to_owned());
    }
    (!pair.is_complete()).then(|| "comes without its issuer".to_owned())
}

fn life_of(pair: &Pair) -> Life {
    let stamp = |at: i64| u64::try_from(at).unwrap_or(0);
    // The start of a hash: the same for the same certificate, and different for each.
    let digits: String = pair.fingerprint().chars().filter(char::is_ascii_hexdigit).take(4).collect();
    let dice = u16::from_str_radix(&digits, 16).unwrap_or(0);
    Life { starts: stamp(pair.not_before()), ends: stamp(pair.not_after()), dice }
}

/// Seconds since 1970.
fn now() -> Stamp {
    clock::unix_ms() / 1000
}
