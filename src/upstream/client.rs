//! One question to an upstream: token, redirects, retries and limits of time, whatever is asked.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use tokio::sync::Semaphore;
use url::Url;

use super::budget::Budget;
use super::error::FetchError;
use super::realm::fetch_token;
use super::resolver::{Guarded, Learned, Lookups, Recording};
use super::suspects::Suspects;
use super::token::{Login, Next, Scope, Ticket, Tokens};
use super::transport::{SetupError, build, retry_after, send, shown};
use super::{Setup, challenge, policy};
use crate::sys::collapse::Collapse;
use crate::sys::entropy;

/// Most questions at once, up to the headers of their answers: each has a connection. The others wait their turn.
const QUESTIONS_MAX: usize = 256;

/// How long one question may take up to the headers of its answer, all tries, tokens and redirects together: a client
/// is to be told within 10 s.
const ANSWER_WAIT: Duration = Duration::from_secs(9);

/// How long a token server may take. Whoever waits for it gives up before; this ends the question that they share.
const TOKEN_WAIT: Duration = Duration::from_secs(15);

/// Waits between the tries of a question, before jitter.
const RETRY_WAITS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// Most redirects of one question.
const HOPS_MAX: usize = 5;

/// A question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// GET or HEAD.
    pub method: Method,
    /// Path and query at the upstream.
    pub path: String,
    /// What the token must be for.
    pub scope: Scope,
    /// Headers besides our own.
    pub headers: HeaderMap,
}

impl Ask {
    /// A question with no headers of its own.
    pub fn new(method: Method, path: String, scope: Scope) -> Self {
        Self { method, path, scope, headers: HeaderMap::new() }
    }

    /// Adds a header; a value that is none is left out.
    pub fn with(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// The connections to an upstream and to where it sends us.
#[derive(Debug)]
pub struct Client {
    url: Url,
    host: String,
    own: reqwest::Client,
    foreign: reqwest::Client,
    listed: Vec<String>,
    learned: Learned,
    tokens: Arc<Tokens>,
    fetches: Collapse<(Login, Scope), Result<Ticket, FetchError>>,
    budget: Budget,
    suspects: Suspects,
    questions: Semaphore,
}

impl Client {
    /// Prepares both clients: the one for the upstream itself, and the guarded one for redirects and token servers.
    pub fn new(setup: &Setup) -> Result<Self, SetupError> {
        let learned = Learned::of(&setup.url);
        let host = shown(&setup.url);
        let listed: Vec<_> = setup.realms.iter().chain(&setup.redirects).cloned().collect();
        let lookups = Lookups::default();
        let suspects = lookups.suspects.clone();
        let recording = Recording {
            lookups: lookups.clone(),
            learned: learned.clone(),
            host: setup.url.host_str().unwrap_or_default().to_owned(),
        };
        let guarded = Guarded {
            lookups,
            learned: learned.clone(),
            listed: listed.iter().map(|entry| bare_name(entry)).collect(),
            proxies: setup.proxy_hosts.clone(),
        };
        let own = build(setup, |builder| builder.dns_resolver(Arc::new(recording)))?;
        let foreign = build(setup, |builder| builder.dns_resolver(Arc::new(guarded)))?;
        let (account, realms) = (setup.account.clone(), setup.realms.clone());
        let tokens = Tokens::new(&setup.url, &host, account, setup.anonymous_fallback, realms);
        let (fetches, budget) = (Collapse::default(), Budget::default());
        Ok(Self {
            url: setup.url.clone(),
            host,
            own,
            foreign,
            listed,
            learned,
            tokens: Arc::new(tokens),
            fetches,
            budget,
            suspects,
            questions: Semaphore::new(QUESTIONS_MAX),
        })
    }

    /// Host, and port if it is not the scheme's own.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What it said of its rate limit.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Addresses whose transfers broke off.
    pub fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// The tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whether the upstream answers `/v2/`, and takes the account.
    pub async fn ping(&self) -> Result<(), FetchError> {
        self.ask(&Ask::new(Method::GET, "/v2/".to_owned(), None)).await.map(drop)
    }

    /// Asks, with all tries there are, and gives an answer with a status of success.
    pub async fn ask(&self, ask: &Ask) -> Result<Response, FetchError> {
        let limit = FetchError::Timeout { host: self.host.clone(), what: "answer", limit: ANSWER_WAIT };
        let answer = async {
            let _turn = self.questions.acquire().await;
            self.persist(ask).await
        };
        tokio::time::timeout(ANSWER_WAIT, answer).await.unwrap_or(Err(limit))
    }

    async fn persist(&self, ask: &Ask) -> Result<Response, FetchError> {
        let mut waits = RETRY_WAITS.iter();
        loop {
            match (self.with_token(ask).await, waits.next()) {
                (Err(error), Some(wait)) if error.is_passing() => {
                    tracing::debug!(path = ask.path, %error, "the upstream is asked again");
                    tokio::time::sleep(jitter(*wait)).await;
                }
                (answer, _) => return answer,
            }
        }
    }

    /// Asks with what is known to be wanted; on 401 once more with what is wanted now.
    async fn with_token(&self, ask: &Ask) -> Result<Response, FetchError> {
        let (ticket, fresh) = match self.ticket(&ask.scope).await {
            // It may have another token server by now: ask it with nothing, and hear.
            Err(error) if error.may_be_an_old_realm() && self.tokens.forget_challenge() => (None, false),
            found => found?,
        };
        let answer = self.follow(ask, ticket.as_ref()).await?;
        let Some(challenge) = self.challenge(&answer) else {
            return self.judge(answer, ticket.as_ref()).await;
        };
        let insufficient = matches!(&challenge, challenge::Challenge::Bearer { error: Some(error), .. } if error == "insufficient_scope");
        self.tokens.refused(&ask.scope, challenge, ticket.as_ref())?;
        if fresh && insufficient && ticket.is_some() {
            // The very newest token does not do: this repository is not for us, or does not exist.
            return Err(self.denied());
        }
        let (again, _) = self.ticket(&ask.scope).await?;
        if again.is_none() {
            return Err(self.denied());
        }
        let answer = self.follow(ask, again.as_ref()).await?;
        self.judge(answer, again.as_ref()).await
    }

    /// What the upstream wants, if its answer is a 401. One from where it sent us is none of ours.
    fn challenge(&self, answer: &Response) -> Option<challenge::Challenge> {
        let asks = answer.status() == StatusCode::UNAUTHORIZED && shown(answer.url()) == self.host;
        let lines = answer.headers().get_all(header::WWW_AUTHENTICATE);
        asks.then(|| challenge::parse(lines.iter().filter_map(|line| line.to_str().ok()))).flatten()
    }

    /// The token for a scope, and whether it was fetched just now.
    async fn ticket(&self, scope: &Scope) -> Result<(Option<Ticket>, bool), FetchError> {
        // Twice: a refused account is followed by nobody.
        for _ in 0..2 {
            let request = match self.tokens.next(scope)? {
                Next::Go(ticket) => return Ok((ticket, false)),
                Next::Fetch(request) => request,
            };
            let (tokens, foreign, scope) = (Arc::clone(&self.tokens), self.foreign.clone(), scope.clone());
            let key = (request.login, scope.clone());
            let limit = FetchError::Timeout { host: shown(&request.url), what: "token", limit: TOKEN_WAIT };
            let mut fetch = self.fetches.join(key, || async move {
                let fetch = fetch_token(&foreign, &tokens, &request, &scope);
                tokio::time::timeout(TOKEN_WAIT, fetch).await.unwrap_or(Err(limit))
            });
            match fetch.wait().await {
                Some(Ok(ticket)) => return Ok((Some(ticket), true)),
                Some(Err(FetchError::LoginRefused { .. })) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    return Err(FetchError::Malformed { host: self.host.clone(), what: "no token" });
                }
            }
        }
        Err(FetchError::LoginRefused { host: self.host.clone() })
    }

    /// Sends a request, and goes where it is sent, by hand: the token stays behind.
    async fn follow(&self, ask: &Ask, ticket: Option<&Ticket>) -> Result<Response, FetchError> {
        let mut url = self.url.join(&ask.path).map_err(|_| self.malformed("a path that is none"))?;
        let mut headers = ask.headers.clone();
        ticket.map(|ticket| headers.insert(header::AUTHORIZATION, ticket.header.clone()));
        let mut answer = send(&self.own, ask.method.clone(), &url, headers).await?;
        self.budget.note(answer.headers());
        for _ in 0..HOPS_MAX {
            let Some(location) = redirection(&answer) else {
                return self.plain(answer);
            };
            let from = url;
            url = policy::redirect_target(&self.url, &from, &location)
                .map_err(|rule| self.forbidden(&from, &location, rule))?;
            if !policy::admits_literal(self.learned.networks(), &self.listed, &url) {
                return Err(self.forbidden(
                    &from,
                    url.as_str(),
                    "the address is in a network that the upstream is not in",
                ));
            }
            answer = send(&self.foreign, ask.method.clone(), &url, ask.headers.clone()).await?;
        }
        match redirection(&answer) {
            None => self.plain(answer),
            Some(location) => Err(self.forbidden(&url, &location, "too many redirects")),
        }
    }

    fn plain(&self, answer: Response) -> Result<Response, FetchError> {
        let encoding = answer.headers().get(header::CONTENT_ENCODING);
        match encoding.is_none_or(|encoding| encoding == "identity") {
            true => Ok(answer),
            false => Err(FetchError::Malformed {
                host: shown(answer.url()),
                what: "an encoded body that nobody asked for",
            }),
        }
    }

    /// What the status of the final answer means.
    async fn judge(&self, answer: Response, ticket: Option<&Ticket>) -> Result<Response, FetchError> {
        let host = shown(answer.url());
        let own = host == self.host;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED if own && is_basic(ticket) => Err(self.basic_refusal(ticket).await),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if own => Err(self.denied()),
            StatusCode::NOT_FOUND if own => Err(FetchError::NotFound { host }),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(FetchError::RateLimited { host, retry_after: retry_after(answer.headers()) })
            }
            status => Err(FetchError::Status { host, status: status.as_u16() }),
        }
    }

    /// A 401 to our password may be about one repository, or about the account: the base of the API tells.
    async fn basic_refusal(&self, ticket: Option<&Ticket>) -> FetchError {
        let base = Ask::new(Method::GET, "/v2/".to_owned(), None);
        match self.follow(&base, ticket).await {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
                self.tokens.login_refused(ticket.map(|ticket| &ticket.header));
                FetchError::LoginRefused { host: self.host.clone() }
            }
            Ok(answer) if answer.status().is_success() => {
                self.tokens.login_accepted();
                self.denied()
            }
            _ => self.denied(),
        }
    }

    /// A denial; while the account is refused, that is the likelier reason.
    fn denied(&self) -> FetchError {
        let host = self.host.clone();
        match self.tokens.account_state() {
            super::AccountState::Refused => FetchError::LoginRefused { host },
            _ => FetchError::Denied { host },
        }
    }

    fn malformed(&self, what: &'static str) -> FetchError {
        FetchError::Malformed { host: self.host.clone(), what }
    }

    fn forbidden(&self, from: &Url, location: &str, rule: &'static str) -> FetchError {
        let target = from.join(location).map(|url| shown(&url)).unwrap_or_default();
        FetchError::ForbiddenRedirect { host: shown(from), target, rule }
    }
}

fn redirection(answer: &Response) -> Option<String> {
    let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = answer.headers().get(header::LOCATION)?.to_str().ok()?;
    moved.then(|| location.to_owned())
}

fn is_basic(ticket: Option<&Ticket>) -> bool {
    ticket.is_some_and(|ticket| ticket.header.as_bytes().starts_with(b"Basic "))
}

fn jitter(wait: Duration) -> Duration {
    let percent = u32::try_from(entropy::number() % 50).unwrap_or(0);
    wait + wait * percent / 100
}

/// The name in a listed host, which may have a scheme and a port.
fn bare_name(entry: &str) -> String {
    let bare = entry.split_once("://").map_or(entry, |(_, rest)| rest).trim_end_matches('/');
    bare.rsplit_once(':').map_or(bare, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_hosts_are_read_in_every_spelling() {
        for entry in ["cdn.example", "https://cdn.example/", "cdn.example:8443", "http://cdn.example:80"] {
            assert_eq!(bare_name(entry), "cdn.example");
        }
    }
}
