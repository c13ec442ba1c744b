//! All names with all CAs: the loop that looks at the clock, the try that it starts, and what is said of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::Notify;
use url::Url;

use super::answers::Answers;
use super::issuer::{Desk, Issuer, Task};
use super::journal::{Journal, on_disk};
use super::schedule::{Class, Ledger, Life, Stamp, Window, doubt};
use super::session::RustlsAcme;
use super::storage::{Shelf, Storage};
use super::trouble::Trouble;
use super::{advice, autocert, wire};
use crate::config::{Acme, Challenge, DnsName};
use crate::edge::certificates::{Certificates, Outlook, Pair, Source};
use crate::observe::metrics::Metrics;
use crate::sys::clock;
use crate::sys::sync::lock;

/// How often the wall clock is looked at: it may jump, and a machine may sleep.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// Longest session. All its waits together are shorter, unless every call of it is.
const SESSION_WAIT: Duration = Duration::from_secs(600);

/// How long another process that has the folder is waited for, before the next look.
const BUSY_WAIT: u64 = 5;

/// How long a disk that takes not even a ledger is left alone.
const DISK_WAIT: u64 = 60;

/// Let's Encrypt's directory, and the one for trials.
const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

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

/// What a try led to.
enum Led {
    /// To a certificate.
    To(Arc<Pair>),
    /// Another process has the folder, or has just renewed.
    Elsewhere(&'static str),
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
            renewals.take_stored(name);
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
            tracing::warn!("{} is a file of registry 2, whose protocol no CA speaks any more", folder.display());
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
            let (Ok(text), Ok(pair)) =
                (str::from_utf8(&pem), Pair::from_pem(&pem, &pem, name.to_string()))
            else {
                continue;
            };
            if fault_of(&pair, name, now()).is_none() && self.storage.keep_pair(name, text).is_ok() {
                tracing::info!(%name, "the certificate in {} is taken over", folder.display());
            }
        }
    }

    /// Serves the stored certificate of a name, if that is another one than before; says whether it is.
    fn take_stored(&self, name: &DnsName) -> bool {
        let path = self.storage.pair_path(name);
        let pem = match self.storage.pair(name) {
            Ok(Some(pem)) => pem,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(%name, "{}: {error}", path.display());
                return false;
            }
        };
        let pair = match Pair::from_pem(pem.as_bytes(), pem.as_bytes(), name.to_string()) {
            Ok(pair) => Arc::new(pair),
            Err(flaw) => {
                tracing::error!(%name, "{}: {flaw}", path.display());
                return false;
            }
        };
        if lock(&self.states).get(name).and_then(|state| state.pair.as_ref()).map(|held| held.fingerprint())
            == Some(pair.fingerprint())
        {
            return false;
        }
        if let Some(fault) = fault_of(&pair, name, now()) {
            // It is served for want of a better one, and due at once.
            tracing::warn!(%name, "the stored certificate {fault}");
        }
        self.serve(name, pair);
        true
    }

    fn serve(&self, name: &DnsName, pair: Arc<Pair>) {
        if let Err(refusal) = self.desk.certificates.offer(Source::Acme, Arc::clone(&pair)) {
            tracing::warn!(%name, "the certificate is not served: {refusal}");
        }
        let mut states = lock(&self.states);
        let state = states.entry(name.clone()).or_default();
        (state.pair, state.wish, state.ask_again) = (Some(pair), None, 0);
    }

    /// Looks at the clock and renews what is due, as long as the process runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            let mut wait = CHECK_INTERVAL.as_secs();
            for name in self.hosts() {
                self.ask_for_a_wish(name).await;
                let (mut next, issuer) = self.next(name).await;
                if next <= now() {
                    // What failed is said and entered where it failed.
                    let _ = self.attempt(name, issuer, false).await;
                    (next, _) = self.next(name).await;
                }
                self.foretell(name, next).await;
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

    /// One try, written down and told.
    async fn attempt(&self, name: &DnsName, issuer: usize, commanded: bool) -> Result<Led, Trouble> {
        let _turn = self.turn.lock().await;
        let led = self.attempt_locked(name, issuer, commanded).await;
        self.desk.certificates.challenge(name.as_str(), None);
        self.desk.answers.clear();
        match &led {
            Ok(Led::To(pair)) => {
                self.metrics.acme_tried("issued");
                self.edit(name, |state| state.last_line.clear());
                let until = crate::edge::certificates::stamp(pair.not_after());
                tracing::info!(%name, fingerprint = pair.fingerprint(), until, "a certificate came");
            }
            Ok(Led::Elsewhere(why)) => tracing::info!(%name, "{why}"),
            Err(trouble) => {
                self.metrics.acme_tried(trouble.class.word());
                let new = self.edit(name, |state| {
                    std::mem::replace(&mut state.last_line, trouble.reason.clone()) != trouble.reason
                });
                if new {
                    tracing::error!(%name, class = trouble.class.word(), "no certificate: {trouble}");
                }
            }
        }
        led
    }

    /// With the folder's lock held, nobody else's session runs.
    async fn attempt_locked(&self, name: &DnsName, issuer: usize, commanded: bool) -> Result<Led, Trouble> {
        let Some(_lock) = on_disk(self.storage.clone(), Storage::lock).await.inspect_err(|_| self.hold(name, DISK_WAIT))?
        else {
            self.hold(name, BUSY_WAIT);
            return Ok(Led::Elsewhere("another process is getting a certificate"));
        };
        if self.take_stored(name) && !commanded {
            return Ok(Led::Elsewhere("another process has renewed the certificate"));
        }
        let Some((shelf, _)) = self.issuers.get(issuer) else {
            return Err(Trouble::new(Class::Local, "no such CA"));
        };
        let journal = Journal::new(self.storage.clone(), shelf.clone(), name.clone());
        let led = self.try_challenges(name, issuer, &journal).await;
        if led.as_ref().is_err_and(|trouble| trouble.class == Class::Local) {
            self.hold(name, DISK_WAIT);
        }
        led.map(Led::To)
    }

    /// One challenge after the other, as long as the CA can't see the answer and the limits allow another order.
    async fn try_challenges(
        &self,
        name: &DnsName,
        issuer: usize,
        journal: &Journal,
    ) -> Result<Arc<Pair>, Trouble> {
        self.look_around(name).await.map_err(|trouble| self.enter(name, trouble))?;
        let mut last = None;
        for challenge in self.usable() {
            let Some((_, ca)) = self.issuers.get(issuer) else { break };
            tracing::info!(%name, challenge = challenge.label(), ca = %ca.directory(), "a certificate is asked for");
            let task = Task { name, challenge, desk: &self.desk, journal };
            let given = tokio::time::timeout(SESSION_WAIT, ca.issue(task)).await.unwrap_or_else(|_| {
                Err(Trouble::new(Class::Transient, format!("the CA was not done after {SESSION_WAIT:?}")))
            });
            let kept = match given {
                Ok(pem) => self.keep(name, issuer, journal, &pem).await,
                Err(trouble) => Err(trouble),
            };
            let trouble = match kept {
                Ok(pair) => return Ok(pair),
                Err(trouble) => self.record(name, issuer, trouble).await,
            };
            let goes_on = trouble.class == Class::Validation
                && self.ledger(name, issuer).await.is_ok_and(|(ledger, _)| ledger.allowed() <= now());
            last = Some(trouble);
            if !goes_on {
                break;
            }
        }
        Err(last.unwrap_or_else(|| self.enter(name, Trouble::new(Class::Local, NO_CHALLENGE))))
    }

    /// What can be found out without the CA, before it is asked for anything.
    async fn look_around(&self, name: &DnsName) -> Result<(), Trouble> {
        let held = self.state(name).pair.map(|pair| life_of(&pair));
        if let Some(doubt) = doubt(now(), held) {
            return Err(Trouble::new(Class::Local, format!("{doubt}: nothing is ordered until it is right")));
        }
        on_disk(self.storage.clone(), Storage::probe).await
    }

    /// The challenges that anybody can see the answers of.
    fn usable(&self) -> Vec<Challenge> {
        let usable = |challenge: &&Challenge| **challenge != Challenge::Http01 || self.desk.answers.listens();
        self.acme.challenges.iter().filter(usable).copied().collect()
    }

    /// Checks a certificate, stores it, and serves it.
    async fn keep(
        &self,
        name: &DnsName,
        issuer: usize,
        journal: &Journal,
        pem: &str,
    ) -> Result<Arc<Pair>, Trouble> {
        let unusable = |why: String| Trouble::new(Class::Unusable, format!("the CA's certificate {why}"));
        let pair = Pair::from_pem(pem.as_bytes(), pem.as_bytes(), name.to_string())
            .map_err(|flaw| unusable(format!("can't be used: {flaw}")));
        let pair = pair.and_then(|pair| match fault_of(&pair, name, now()) {
            Some(fault) => Err(unusable(fault)),
            None => Ok(Arc::new(pair)),
        });
        let pair = match pair {
            Ok(pair) => pair,
            Err(trouble) => {
                journal.keep_order(None).await?;
                return Err(trouble);
            }
        };
        let (kept_name, text) = (name.clone(), pem.to_owned());
        let stored = on_disk(self.storage.clone(), move |storage| storage.keep_pair(&kept_name, &text)).await;
        // Good for those who connect now, whatever the disk says. The order stays, and with it the way to the certificate.
        self.serve(name, Arc::clone(&pair));
        stored?;
        journal.keep_order(None).await?;
        let life = life_of(&pair);
        let lifetime = life.ends.saturating_sub(life.starts);
        self.amend(name, issuer, move |ledger| ledger.succeeded(now(), lifetime)).await?;
        Ok(pair)
    }

    /// Enters a failure in the ledger.
    async fn record(&self, name: &DnsName, issuer: usize, mut trouble: Trouble) -> Trouble {
        if trouble.class == Class::Validation {
            trouble.reason.push_str(&advice::after_validation(name).await);
        }
        let entered = trouble.clone();
        let amended = self.amend(name, issuer, move |ledger| {
            ledger.failed(now(), entered.class, &entered.reason);
            if let Some(until) = entered.wait_until {
                ledger.told_to_wait(now(), until);
            }
        });
        if amended.await.is_err() {
            self.hold(name, DISK_WAIT);
        }
        trouble
    }

    /// A failure that is ours, and stays in memory.
    fn enter(&self, name: &DnsName, trouble: Trouble) -> Trouble {
        self.hold(name, DISK_WAIT);
        trouble
    }

    async fn amend(
        &self,
        name: &DnsName,
        issuer: usize,
        change: impl FnOnce(&mut Ledger) + Send + 'static,
    ) -> Result<(), Trouble> {
        let Some((shelf, _)) = self.issuers.get(issuer) else { return Ok(()) };
        let (shelf, name) = (shelf.clone(), name.clone());
        on_disk(self.storage.clone(), move |storage| {
            let mut ledger = storage.raw_ledger(&shelf, &name)?;
            change(&mut ledger);
            storage.keep_ledger(&shelf, &name, &ledger)
        })
        .await
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
        let (Some(pair), Some((_, issuer))) = (state.pair.filter(|_| state.ask_again <= now()), self.issuers.first())
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
    async fn foretell(&self, name: &DnsName, next: Stamp) {
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

    /// An operator's word: one try now, if the CA's limits allow it.
    pub async fn renew(&self, name: &str) -> Result<Value, String> {
        let name = self.own(name)?;
        let (_, issuer) = self.next(&name).await;
        let (ledger, ordered) = self.ledger(&name, issuer).await.map_err(|trouble| trouble.reason)?;
        if !ordered && ledger.allowed() > now() {
            let when = crate::edge::certificates::stamp(i64::try_from(ledger.allowed()).unwrap_or(i64::MAX));
            return Err(format!("not before {when}: the limits of the CA would be in danger"));
        }
        let led = self.attempt(&name, issuer, true).await;
        self.woken.notify_one();
        match led {
            Ok(Led::To(pair)) => Ok(json!({
                "name": name.as_str(),
                "fingerprint": pair.fingerprint(),
                "until": crate::edge::certificates::stamp(pair.not_after()),
            })),
            Ok(Led::Elsewhere(why)) => Err(why.to_owned()),
            Err(trouble) => Err(trouble.reason),
        }
    }

    /// A dry run with a CA for trials: nothing of it is stored or served.
    pub async fn test(&self, name: &str, directory: Option<&str>) -> Result<Value, String> {
        let name = self.own(name)?;
        let staging = (self.acme.directory.as_str() == PRODUCTION).then_some(STAGING);
        let directory = directory.or(staging).ok_or(
            "no directory for trials is known of this CA: name one with --directory",
        )?;
        let directory = Url::parse(directory).map_err(|error| format!("{directory}: {error}"))?;
        if directory.scheme() != "https" {
            return Err(format!("{directory} is not reached by https"));
        }
        let email = self.acme.email.as_deref();
        let issuer = RustlsAcme::new(directory.clone(), email, self.authorities.clone())?;
        let _turn = self.turn.lock().await;
        let mut results = serde_json::Map::new();
        for challenge in self.usable() {
            let journal = Journal::dry(Shelf::of(&directory), name.clone());
            let task = Task { name: &name, challenge, desk: &self.desk, journal: &journal };
            let given = tokio::time::timeout(SESSION_WAIT, issuer.issue(task)).await;
            self.desk.certificates.challenge(name.as_str(), None);
            self.desk.answers.clear();
            let word = match given {
                Ok(Ok(pem)) => match Pair::from_pem(pem.as_bytes(), pem.as_bytes(), name.to_string()) {
                    Ok(_) => "works".to_owned(),
                    Err(flaw) => format!("the CA's certificate can't be used: {flaw}"),
                },
                Ok(Err(trouble)) => trouble.reason,
                Err(_) => format!("the CA was not done after {SESSION_WAIT:?}"),
            };
            results.insert(challenge.label().to_owned(), word.into());
        }
        if results.values().any(|word| word == "works") {
            results.insert("name".to_owned(), name.as_str().into());
            return Ok(Value::Object(results));
        }
        let all: Vec<String> = results.iter().map(|(challenge, word)| format!("{challenge}: {word}")).collect();
        Err(if all.is_empty() { NO_CHALLENGE.to_owned() } else { all.join("\n") })
    }

    fn own(&self, name: &str) -> Result<DnsName, String> {
        let parsed = name.parse::<DnsName>().map_err(|error| format!("{name}: {error}"))?;
        if self.hosts().contains(&parsed) {
            return Ok(parsed);
        }
        Err(format!("{parsed} is none of the names in http.tls.letsencrypt.hosts"))
    }
}

const NO_CHALLENGE: &str =
    "no challenge can be answered: only http-01 is allowed, and the port of tidegate.edge.http could not be opened";

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
