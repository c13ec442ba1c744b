//! Tokens: for whom, from where, for how long (the distribution spec's token documents).
//!
//! A token is kept for each scope and each way of asking (as the account, or as nobody) until shortly before it ends,
//! and many who need the same one wait for one fetch. The challenge is learned from the first 401, so that a start
//! needs no upstream, and remembered, so that later questions carry their token at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use url::Url;

use super::challenge::Challenge;
use super::error::FetchError;
use super::transport::shown;
use super::{AccountState, policy};
use crate::config::Account;
use crate::registry::RepositoryName;
use crate::sys::clock;
use crate::sys::sync::lock;

/// Lifetime of a token whose server named none, or nonsense (the token documents' default).
const LIFETIME: Duration = Duration::from_secs(60);

/// Longest lifetime that is believed: a token that was withdrawn shows as a 401 anyway.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// Most tokens kept. Each has about 2 KiB.
const TOKENS_MAX: usize = 10_000;

/// How long a refused account is not tried again: repeated tries get accounts locked.
const REFUSAL: Duration = Duration::from_secs(600);

/// Longest token document that is read, in bytes; Docker Hub's have about 5 KiB.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Login {
    /// The account of the mirror.
    Account,
    /// Nobody.
    Anonymous,
}

/// What a token is for: a repository, or nothing but the login itself.
pub type Scope = Option<RepositoryName>;

/// What goes along with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The value of `Authorization`, marked sensitive.
    pub header: HeaderValue,
    /// As whom it asks.
    pub login: Login,
}

/// What is known of the upstream's wishes, its answers to our account, and the tokens it gave.
#[derive(Debug)]
pub struct Tokens {
    upstream: Url,
    host: String,
    account: ArcSwapOption<Account>,
    fallback: bool,
    realms: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    challenge: Option<Challenge>,
    kept: HashMap<(Login, Scope), Kept>,
    refused_at: Option<Instant>,
    accepted: bool,
}

#[derive(Debug)]
struct Kept {
    ticket: Ticket,
    until: Instant,
}

/// A question to a token server.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The realm with service and account, without a scope.
    pub url: Url,
    /// What the token is for.
    pub scope: Scope,
    /// Who asks.
    pub login: Login,
    /// The account, if it is the one who asks.
    pub account: Option<Account>,
}

impl TokenRequest {
    /// The realm with all that the token server is to know.
    pub fn scoped(&self) -> Url {
        let mut url = self.url.clone();
        if let Some(name) = &self.scope {
            url.query_pairs_mut().append_pair("scope", &format!("repository:{name}:pull"));
        }
        url
    }
}

/// What to do before a request.
#[derive(Debug)]
pub enum Next {
    /// Go, with this.
    Go(Option<Ticket>),
    /// Get a token first.
    Fetch(TokenRequest),
}

impl Tokens {
    /// Nothing is known yet.
    pub fn new(
        upstream: &Url,
        host: &str,
        account: Option<Account>,
        fallback: bool,
        realms: Vec<String>,
    ) -> Self {
        let (account, state) = (ArcSwapOption::from_pointee(account), Mutex::default());
        Self { upstream: upstream.clone(), host: host.to_owned(), account, fallback, realms, state }
    }

    /// Another password of the same account: what came of the old one is forgotten, a refusal too.
    pub fn change_account(&self, account: Account) {
        self.account.store(Some(Arc::new(account)));
        let mut state = lock(&self.state);
        state.kept.retain(|(login, _), _| *login != Login::Account);
        (state.refused_at, state.accepted) = (None, false);
    }

    /// What a request in a scope needs, by what is known.
    pub fn next(&self, scope: &Scope) -> Result<Next, FetchError> {
        let now = clock::monotonic();
        let state = lock(&self.state);
        let login = self.login(&state, now)?;
        match &state.challenge {
            None => Ok(Next::Go(None)),
            Some(Challenge::Basic) => Ok(Next::Go(self.basic(login))),
            Some(Challenge::Bearer { realm, service, .. }) => {
                if let Some(kept) = state.kept.get(&(login, scope.clone())).filter(|kept| kept.until > now) {
                    return Ok(Next::Go(Some(kept.ticket.clone())));
                }
                self.request(realm, service.as_deref(), scope, login).map(Next::Fetch)
            }
        }
    }

    /// Who asks now: the account unless it was refused moments ago.
    fn login(&self, state: &State, now: Instant) -> Result<Login, FetchError> {
        if self.account.load().is_none() {
            return Ok(Login::Anonymous);
        }
        let refused = state.refused_at.is_some_and(|at| now.saturating_duration_since(at) < REFUSAL);
        match (refused, self.fallback) {
            (false, _) => Ok(Login::Account),
            (true, true) => Ok(Login::Anonymous),
            (true, false) => Err(FetchError::LoginRefused { host: self.host.clone() }),
        }
    }

    fn request(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &Scope,
        login: Login,
    ) -> Result<TokenRequest, FetchError> {
        let mut url = self.realm(realm)?;
        let account = self.account.load().as_deref().filter(|_| login == Login::Account).cloned();
        {
            let mut query = url.query_pairs_mut();
            service.map(|service| query.append_pair("service", service));
            account.as_ref().map(|account| query.append_pair("account", &account.username));
        }
        Ok(TokenRequest { url, scope: scope.clone(), login, account })
    }

    /// The URL of a realm, if the rules let it see us.
    fn realm(&self, realm: &str) -> Result<Url, FetchError> {
        policy::realm(&self.upstream, realm, &self.realms).ok_or_else(|| {
            let realm = Url::parse(realm).map(|url| shown(&url)).unwrap_or_default();
            FetchError::ForbiddenRealm { host: self.host.clone(), realm }
        })
    }

    fn basic(&self, login: Login) -> Option<Ticket> {
        let account = self.account.load();
        let account = account.as_deref().filter(|_| login == Login::Account)?;
        Some(Ticket { header: basic_header(account)?, login })
    }

    /// Keeps what a token server gave.
    pub fn keep(&self, scope: &Scope, login: Login, document: &[u8]) -> Result<Ticket, FetchError> {
        let malformed = |what| FetchError::Malformed { host: self.host.clone(), what };
        let document: Document =
            serde_json::from_slice(document).map_err(|_| malformed("a token answer that is no JSON"))?;
        let token = document.token.or(document.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| malformed("a token answer without a token"))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| malformed("a token that is none"))?;
        header.set_sensitive(true);
        let ticket = Ticket { header, login };
        let now = clock::monotonic();
        let mut state = lock(&self.state);
        make_room(&mut state.kept, now);
        let until = now + usable(document.expires_in);
        state.kept.insert((login, scope.clone()), Kept { ticket: ticket.clone(), until });
        if login == Login::Account {
            state.refused_at = None;
            state.accepted = true;
        }
        Ok(ticket)
    }

    /// A request was answered with 401: learns what is wanted, and drops the token that did not do. A realm that the
    /// rules forbid is not remembered.
    pub fn refused(
        &self,
        scope: &Scope,
        challenge: Challenge,
        used: Option<&Ticket>,
    ) -> Result<(), FetchError> {
        if let Challenge::Bearer { realm, .. } = &challenge {
            self.realm(realm)?;
        }
        let mut state = lock(&self.state);
        state.challenge = Some(challenge);
        if let Some(used) = used
            && state.kept.get(&(used.login, scope.clone())).is_some_and(|kept| kept.ticket == *used)
        {
            state.kept.remove(&(used.login, scope.clone()));
        }
        Ok(())
    }

    /// Forgets what the upstream wanted, so that the next answer tells anew. Whether there was anything to forget.
    pub fn forget_challenge(&self) -> bool {
        lock(&self.state).challenge.take().is_some()
    }

    /// The account was taken.
    pub fn login_accepted(&self) {
        let mut state = lock(&self.state);
        state.refused_at = None;
        state.accepted = true;
    }

    /// The account itself was refused, as it was sent. Says whether the request may go on without it. A refusal of a
    /// password that was changed meanwhile says nothing of the new one.
    pub fn login_refused(&self, sent: Option<&HeaderValue>) -> bool {
        let now = clock::monotonic();
        if sent != self.account.load().as_deref().and_then(basic_header).as_ref() {
            return self.fallback;
        }
        let mut state = lock(&self.state);
        state.accepted = false;
        let before = state.refused_at.replace(now);
        if before.is_none_or(|before| now.saturating_duration_since(before) >= REFUSAL) {
            let goes_on =
                if self.fallback { "requests go on anonymously" } else { "nothing new can be fetched" };
            tracing::error!(host = self.host, "the upstream refused the account of this mirror; {goes_on}");
        }
        self.fallback
    }

    /// What is known of the account.
    pub fn account_state(&self) -> AccountState {
        let state = lock(&self.state);
        let refused =
            state.refused_at.is_some_and(|at| clock::monotonic().saturating_duration_since(at) < REFUSAL);
        match (self.account.load().as_deref(), refused, state.accepted) {
            (None, ..) => AccountState::Anonymous,
            (_, true, _) => AccountState::Refused,
            (_, _, true) => AccountState::Accepted,
            _ => AccountState::Unknown,
        }
    }
}

/// `Basic` with an account.
pub fn basic_header(account: &Account) -> Option<HeaderValue> {
    let text = format!("{}:{}", account.username, account.password.expose());
    let mut header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[derive(Deserialize)]
struct Document {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// How long a token is used: less than it lives, so that none ends on its way.
fn usable(expires_in: serde_json::Value) -> Duration {
    let seconds = expires_in.as_f64().filter(|seconds| *seconds > 0.0);
    let lifetime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let lifetime =
        lifetime.unwrap_or(if seconds.is_some() { LIFETIME_MAX } else { LIFETIME }).min(LIFETIME_MAX);
    lifetime.saturating_sub((lifetime / 10).min(Duration::from_secs(30)))
}

fn make_room(kept: &mut HashMap<(Login, Scope), Kept>, now: Instant) {
    if kept.len() < TOKENS_MAX {
        return;
    }
    kept.retain(|_, token| token.until > now);
    if kept.len() >= TOKENS_MAX {
        // All of them are in use: a burst of new scopes. To ask again is cheap.
        kept.clear();
    }
}

#[cfg(test)]
#[path = "token/tests.rs"]
mod tests;
