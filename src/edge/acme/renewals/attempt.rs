//! One try: what is looked at before, one challenge after the other, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Renewals, fault_of, life_of, now};
use crate::config::{Challenge, DnsName};
use crate::edge::acme::advice;
use crate::edge::acme::issuer::Task;
use crate::edge::acme::journal::{Journal, on_disk};
use crate::edge::acme::schedule::{Class, Ledger, doubt};
use crate::edge::acme::storage::Storage;
use crate::edge::acme::trouble::Trouble;
use crate::edge::certificates::{Pair, stamp};

/// Longest session. All its waits together are shorter, unless every call of it is.
pub(super) const SESSION_WAIT: Duration = Duration::from_secs(600);

/// How long another process that has the folder is waited for, before the next look.
const BUSY_WAIT: u64 = 5;

/// How long a disk that takes not even a ledger is left alone.
const DISK_WAIT: u64 = 60;

/// What a try led to.
pub(super) enum Led {
    /// To a certificate.
    To(Arc<Pair>),
    /// Another process has the folder, or has just renewed.
    Elsewhere(&'static str),
}

/// Why nothing could be tried.
pub(super) const NO_CHALLENGE: &str = "no challenge can be answered: only http-01 is allowed, and the port of tidegate.edge.http could not be opened";

impl Renewals {
    /// One try, written down and told.
    pub(super) async fn attempt(
        &self,
        name: &DnsName,
        issuer: usize,
        commanded: bool,
    ) -> Result<Led, Trouble> {
        let _turn = self.turn.lock().await;
        let led = self.attempt_locked(name, issuer, commanded).await;
        self.desk.certificates.challenge(name.as_str(), None);
        self.desk.answers.clear();
        match &led {
            Ok(Led::To(pair)) => {
                self.metrics.acme_tried("issued");
                self.edit(name, |state| state.last_line.clear());
                let (next, _) = self.next(name).await;
                self.foretell(name, next);
                let until = stamp(pair.not_after());
                tracing::info!(%name, fingerprint = pair.fingerprint(), until, "a certificate came");
            }
            Ok(Led::Elsewhere(why)) => tracing::info!(%name, "{why}"),
            Err(trouble) => {
                self.metrics.acme_tried(trouble.class.word());
                if trouble.class == Class::Local {
                    // It may stand in no ledger.
                    self.hold(name, DISK_WAIT);
                }
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
        let Some(_lock) = on_disk(self.storage.clone(), Storage::lock).await? else {
            self.hold(name, BUSY_WAIT);
            return Ok(Led::Elsewhere("another process is getting a certificate"));
        };
        if self.look_into_storage(name).await? && !commanded {
            return Ok(Led::Elsewhere("another process has renewed the certificate"));
        }
        let Some((shelf, _)) = self.issuers.get(issuer) else {
            return Err(Trouble::new(Class::Local, "no such CA"));
        };
        let journal = Journal::new(self.storage.clone(), shelf.clone(), name.clone());
        self.try_challenges(name, issuer, &journal).await.map(Led::To)
    }

    /// One challenge after the other, as long as the CA can't see the answer and the limits allow another order.
    async fn try_challenges(
        &self,
        name: &DnsName,
        issuer: usize,
        journal: &Journal,
    ) -> Result<Arc<Pair>, Trouble> {
        self.look_around(name).await?;
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
            if goes_on {
                tracing::warn!(%name, "{trouble}");
            }
            last = Some(trouble);
            if !goes_on {
                break;
            }
        }
        Err(last.unwrap_or_else(|| Trouble::new(Class::Local, NO_CHALLENGE)))
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
    pub(super) fn usable(&self) -> Vec<Challenge> {
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
        let stored = on_disk(self.storage.clone(), move |storage| {
            let is_known = storage.pair(&kept_name)?.is_some_and(|known| known == text);
            if !is_known {
                storage.keep_pair(&kept_name, &text)?;
            }
            Ok(is_known)
        });
        let stored = stored.await;
        // Good for those who connect now, whatever the disk says. The order stays, and with it the way to the certificate.
        self.serve(name, Arc::clone(&pair));
        if stored? {
            // A process ended right after it had stored it, and left the order.
            journal.keep_order(None).await?;
            return Err(Trouble::new(
                Class::Transient,
                "the order that was under way had been fulfilled before",
            ));
        }
        let life = life_of(&pair);
        let lifetime = life.ends.saturating_sub(life.starts);
        self.amend(name, issuer, move |ledger| ledger.succeeded(now(), lifetime)).await?;
        journal.keep_order(None).await?;
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

    async fn amend(
        &self,
        name: &DnsName,
        issuer: usize,
        change: impl FnOnce(&mut Ledger) + Send + 'static,
    ) -> Result<(), Trouble> {
        let Some((shelf, _)) = self.issuers.get(issuer) else { return Ok(()) };
        let (shelf, name) = (shelf.clone(), name.clone());
        on_disk(self.storage.clone(), move |storage| {
            let mut ledger = storage.ledger(&shelf, &name, now())?;
            change(&mut ledger);
            storage.keep_ledger(&shelf, &name, &ledger)
        })
        .await
    }
}
