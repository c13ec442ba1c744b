//! A session with a CA by rustls-acme: its protocol part, one call at a time.
//!
//! What it lacks stands here: each call has a deadline and few tries, a rejected nonce is no failure, answers are bounded
//! (`wire`), the order and its key are written down before anything depends on them, so that another process goes on with
//! it, and what a CA says is sorted into classes (`trouble`). When a session runs is decided elsewhere.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls_acme::acme::{
    Account, AcmeError, Auth, AuthStatus, Challenge as Offer, ChallengeType, Order, OrderStatus,
};
use url::Url;

use super::directory::Catalog;
use super::issuer::{Issuer, Task};
use super::schedule::{Class, Window};
use super::storage::Begun;
use super::trouble::Trouble;
use super::wire;
use crate::config::Challenge;
use crate::sys::clock;

/// How long one call may take: a CA that has not answered by then will not.
const CALL_WAIT: Duration = Duration::from_secs(30);

/// Waits before further tries of a call that failed on its way; what takes longer is the scheduler's.
const TRY_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Tries of a call whose nonce is rejected. Of CAs that reject one in twenty none gets there.
const NONCE_TRIES: u32 = 10;

/// Waits between looks at what the CA is doing: a minute in all, and more than a CA needs.
const LOOK_WAITS: [u64; 12] = [250, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000, 10_000, 10_000, 10_000];

/// Most authorizations of an order for one name.
const AUTHORIZATIONS_MAX: usize = 4;

/// A CA that is spoken to with rustls-acme.
#[derive(Debug)]
pub struct RustlsAcme {
    catalog: Catalog,
    contact: Vec<String>,
    client: Arc<ClientConfig>,
}

impl RustlsAcme {
    /// Talks to nobody yet.
    pub fn new(
        directory: Url,
        email: Option<&str>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let catalog = Catalog::new(directory, &authorities)?;
        let contact = email.map(|email| format!("mailto:{email}")).into_iter().collect();
        Ok(Self { catalog, contact, client: wire::client(authorities)? })
    }

    async fn account(&self, task: Task<'_>) -> Result<Account, Trouble> {
        let directory = self.catalog.read().await?.directory;
        let key = match task.journal.account().await? {
            Some(key) => key,
            None => {
                let key = Account::generate_key_pair();
                task.journal.keep_account(key.clone()).await?;
                key
            }
        };
        // The same key gives the same account, however often it is asked for.
        let account = call("newAccount", &TRY_WAITS, || {
            Account::create_with_keypair(&self.client, directory.clone(), &self.contact, &key)
        });
        let account = account.await?;
        if let Some(thumbprint) = thumbprint(&account) {
            task.desk.answers.belongs_to(thumbprint);
        }
        Ok(account)
    }

    /// The order that is under way, or a new one.
    async fn order(&self, account: &Account, task: Task<'_>) -> Result<(Begun, Order), Trouble> {
        if let Some(begun) = task.journal.order().await? {
            let looked = call("order", &TRY_WAITS, || account.order(&self.client, &begun.url)).await;
            match looked {
                Ok(order) if order.status != OrderStatus::Invalid => {
                    tracing::info!(name = %task.name, "an order that was under way is taken up");
                    return Ok((begun, order));
                }
                Err(trouble) if trouble.class != Class::Refused => return Err(trouble),
                // The CA does not want it any more, or does not know it.
                Ok(_) | Err(_) => task.journal.keep_order(None).await?,
            }
        }
        task.journal.ordering().await?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Trouble::new(Class::Refused, format!("no key: {error}")))?;
        // Not repeated when it fails on its way: the CA may have made it.
        let names = || vec![task.name.to_string()];
        let made = call("newOrder", &[], || account.new_order(&self.client, names())).await;
        let (url, order) = match made {
            Ok(made) => made,
            Err(trouble) => {
                // Nothing is under way; what failed is entered by the class of its failure.
                task.journal.keep_order(None).await?;
                return Err(trouble);
            }
        };
        let begun = Begun { url, key: key.serialize_pem() };
        task.journal.keep_order(Some(begun.clone())).await?;
        Ok((begun, order))
    }

    /// Proves that the name is ours, unless the CA knows.
    async fn authorize(&self, account: &Account, order: &Order, task: Task<'_>) -> Result<(), Trouble> {
        for url in order.authorizations.iter().take(AUTHORIZATIONS_MAX) {
            let look = || account.auth(&self.client, url);
            let authorization = call("authorization", &TRY_WAITS, look).await?;
            match authorization.status {
                AuthStatus::Valid => continue,
                AuthStatus::Pending => {}
                _ => return Err(failed(&authorization, task)),
            }
            let offer = self.put_up(account, &authorization, task)?;
            call("challenge", &TRY_WAITS, || account.challenge(&self.client, &offer)).await?;
            self.await_authorization(account, url, task).await?;
        }
        Ok(())
    }

    /// Puts up the answer to a challenge; gives its address.
    fn put_up(&self, account: &Account, authorization: &Auth, task: Task<'_>) -> Result<String, Trouble> {
        let refused = |error: AcmeError| Trouble::of_call("challenge", &error);
        match task.challenge {
            Challenge::TlsAlpn01 => {
                let made = account.tls_alpn_01(&authorization.challenges, task.name.to_string());
                let (offer, certificate) = made.map_err(refused)?;
                task.desk.certificates.challenge(task.name.as_str(), Some(Arc::new(certificate)));
                Ok(offer.url.clone())
            }
            Challenge::Http01 => {
                let (offer, answer) = account.http_01(&authorization.challenges).map_err(refused)?;
                task.desk.answers.put(&offer.token, Some(answer));
                Ok(offer.url.clone())
            }
        }
    }

    async fn await_authorization(&self, account: &Account, url: &str, task: Task<'_>) -> Result<(), Trouble> {
        for wait in LOOK_WAITS {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let look = || account.auth(&self.client, url);
            let authorization = call("authorization", &TRY_WAITS, look).await?;
            match authorization.status {
                AuthStatus::Valid => return Ok(()),
                AuthStatus::Pending => {}
                _ => return Err(failed(&authorization, task)),
            }
        }
        Err(Trouble::new(Class::Transient, format!("the CA did not finish to validate {}", task.name)))
    }

    /// Hands the key in, and waits for the certificate.
    async fn finish(&self, account: &Account, begun: &Begun, task: Task<'_>) -> Result<String, Trouble> {
        let mut waits = LOOK_WAITS.into_iter();
        let mut order = self.look(account, begun).await?;
        loop {
            match order.status {
                OrderStatus::Valid { certificate } => {
                    let chain =
                        call("certificate", &TRY_WAITS, || account.certificate(&self.client, &certificate));
                    return Ok(format!("{}\n{}", begun.key.trim_end(), chain.await?));
                }
                OrderStatus::Ready => {
                    let request = request(begun, task)?;
                    let hand_in = || account.finalize(&self.client, &order.finalize, &request);
                    order = call("finalize", &TRY_WAITS, hand_in).await?;
                    continue;
                }
                OrderStatus::Invalid => return Err(invalid(&order, task)),
                OrderStatus::Pending | OrderStatus::Processing => {}
            }
            let Some(wait) = waits.next() else {
                return Err(Trouble::new(Class::Transient, "the CA did not finish the order"));
            };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            order = self.look(account, begun).await?;
        }
    }

    async fn look(&self, account: &Account, begun: &Begun) -> Result<Order, Trouble> {
        call("order", &TRY_WAITS, || account.order(&self.client, &begun.url)).await
    }

    async fn run(&self, task: Task<'_>) -> Result<String, Trouble> {
        let account = self.account(task).await?;
        let (begun, order) = self.order(&account, task).await?;
        let pending = order.status == OrderStatus::Pending;
        let authorized = if pending { self.authorize(&account, &order, task).await } else { Ok(()) };
        let done = match authorized {
            Ok(()) => self.finish(&account, &begun, task).await,
            Err(trouble) => Err(trouble),
        };
        if done.as_ref().is_err_and(|trouble| matches!(trouble.class, Class::Validation | Class::Refused)) {
            // It can't become anything any more.
            task.journal.keep_order(None).await?;
        }
        done
    }
}

impl Issuer for RustlsAcme {
    fn directory(&self) -> &Url {
        self.catalog.url()
    }

    fn issue<'a>(&'a self, task: Task<'a>) -> BoxFuture<'a, Result<String, Trouble>> {
        Box::pin(self.run(task))
    }

    fn wish<'a>(&'a self, leaf: &'a CertificateDer<'static>) -> BoxFuture<'a, Option<(Window, Duration)>> {
        Box::pin(self.catalog.wish(leaf))
    }
}

/// Makes a call until it succeeds, fails for good, or was tried often enough.
async fn call<T, F>(what: &str, waits: &[Duration], make: impl Fn() -> F) -> Result<T, Trouble>
where
    F: Future<Output = Result<T, AcmeError>>,
{
    let mut waits = waits.iter();
    let mut nonces = 0;
    loop {
        // What an earlier answer asked for is no matter of this one.
        let _ = wire::asked_to_wait();
        let mut trouble = match tokio::time::timeout(CALL_WAIT, make()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => Trouble::of_call(what, &error),
            Err(_) => {
                Trouble::new(Class::Transient, format!("{what}: the CA gave no answer within {CALL_WAIT:?}"))
            }
        };
        if let Some(wait) = wire::asked_to_wait() {
            let until = clock::unix_ms() / 1000 + wait.as_secs();
            trouble.wait_until = Some(trouble.wait_until.map_or(until, |named| named.max(until)));
            return Err(trouble);
        }
        if trouble.is_bad_nonce() && nonces < NONCE_TRIES {
            nonces += 1;
            continue;
        }
        match waits.next() {
            Some(wait) if trouble.class == Class::Transient => tokio::time::sleep(*wait).await,
            _ => return Err(trouble),
        }
    }
}

/// The certificate's own request: the name, and nothing else that a CA would refuse.
fn request(begun: &Begun, task: Task<'_>) -> Result<Vec<u8>, Trouble> {
    let made = || -> Result<Vec<u8>, rcgen::Error> {
        let key = KeyPair::from_pem(&begun.key)?;
        let mut parameters = CertificateParams::new(vec![task.name.to_string()])?;
        parameters.distinguished_name = DistinguishedName::new();
        Ok(parameters.serialize_request(&key)?.der().to_vec())
    };
    made().map_err(|error| Trouble::new(Class::Refused, format!("no request for a certificate: {error}")))
}

/// What all answers to challenges of this account end with (RFC 8555 section 8.1).
fn thumbprint(account: &Account) -> Option<String> {
    let any = Offer { typ: ChallengeType::Http01, url: String::new(), token: "t".to_owned(), error: None };
    let (_, answer) = account.http_01(std::slice::from_ref(&any)).ok()?;
    answer.split_once('.').map(|(_, thumbprint)| thumbprint.to_owned())
}

fn failed(authorization: &Auth, task: Task<'_>) -> Trouble {
    let problem = authorization.challenges.iter().find_map(|offer| offer.error.clone());
    let (kind, detail) = problem.map(|problem| (problem.typ, problem.detail)).unwrap_or_default();
    let detail = detail.unwrap_or_else(|| format!("{:?}", authorization.status));
    Trouble::of_validation(task.name.as_str(), task.challenge.label(), &kind.unwrap_or_default(), &detail)
}

fn invalid(order: &Order, task: Task<'_>) -> Trouble {
    let (kind, detail) = order.error.clone().map(|problem| (problem.typ, problem.detail)).unwrap_or_default();
    let (kind, detail) = (kind.unwrap_or_default(), detail.unwrap_or_default());
    let trouble = Trouble::of_validation(task.name.as_str(), task.challenge.label(), &kind, &detail);
    if kind.is_empty() && detail.is_empty() {
        return Trouble::new(Class::Validation, format!("the CA gave the order for {} up", task.name));
    }
    trouble
}
