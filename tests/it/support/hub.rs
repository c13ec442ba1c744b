//! A Docker Hub that does what it is told: a registry, a token server and a CDN on three ports of loopback.
//!
//! It behaves like the real one: 300 s tokens, 401 `insufficient_scope` for what is missing and what is private,
//! rate-limit headers, 307 to a CDN that refuses `Authorization`, ranges and MD5 entity tags there. Faults are ordered
//! with [`Hub::fault`], and each can prove that it happened.

mod cdn;
mod content;
mod faults;
mod registry;
mod token;
mod wire;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use content::Content;
pub use content::{Blob, pattern};
pub use faults::{ABUSE_LIMIT, Fault, Order, PULL_LIMIT};
use wire::{Reply, Request};

use super::tls::Pair;

/// One of the three servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Registry,
    Token,
    Cdn,
}

const HOSTS: [Host; 3] = [Host::Registry, Host::Token, Host::Cdn];

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub host: Host,
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub agent: Option<String>,
}

impl Seen {
    /// A GET of a manifest at the registry: what Docker Hub counts.
    pub fn is_counted(&self) -> bool {
        self.host == Host::Registry && self.method == "GET" && self.path.contains("/manifests/")
    }

    /// A GET of a blob's bytes.
    pub fn is_blob_transfer(&self) -> bool {
        self.host == Host::Cdn && self.method == "GET"
    }
}

pub struct Hub {
    state: Arc<State>,
    servers: Mutex<Vec<JoinHandle<()>>>,
}

struct State {
    tls: Option<TlsAcceptor>,
    addresses: [SocketAddr; 3],
    content: Mutex<Content>,
    orders: Mutex<Vec<Arc<Order>>>,
    seen: Mutex<Vec<Seen>>,
    arrivals: watch::Sender<usize>,
    sent: [AtomicU64; 3],
    released: watch::Sender<bool>,
    stopped: watch::Sender<u64>,
    refuses_login: AtomicBool,
    token_path: AtomicBool,
    account: Mutex<(String, String)>,
    tokens: token::Tokens,
}

/// The account that may see the private repositories, unless [`Hub::account`] says otherwise.
pub const ACCOUNT: (&str, &str) = ("bot", "hunter2-secret");

impl Hub {
    /// Starts the three servers.
    pub async fn start() -> Self {
        Self::launch(None).await
    }

    /// The same over HTTPS, with a certificate for 127.0.0.1.
    pub async fn start_secure(pair: &Pair) -> Self {
        let chain = CertificateDer::pem_file_iter(&pair.certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::launch(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn launch(tls: Option<TlsAcceptor>) -> Self {
        let listeners = [wire::bind(None).await, wire::bind(None).await, wire::bind(None).await];
        let addresses = [0, 1, 2].map(|at| listeners[at].local_addr().unwrap());
        let state = Arc::new(State {
            tls,
            addresses,
            content: Mutex::default(),
            orders: Mutex::default(),
            seen: Mutex::default(),
            arrivals: watch::Sender::new(0),
            sent: Default::default(),
            released: watch::Sender::new(false),
            stopped: watch::Sender::new(0),
            refuses_login: AtomicBool::new(false),
            token_path: AtomicBool::new(false),
            account: Mutex::new((ACCOUNT.0.to_owned(), ACCOUNT.1.to_owned())),
            tokens: token::Tokens::default(),
        });
        let hub = Self { state, servers: Mutex::default() };
        hub.accept(listeners.into_iter().zip(HOSTS));
        hub
    }

    fn accept(&self, listeners: impl Iterator<Item = (tokio::net::TcpListener, Host)>) {
        let servers = listeners
            .map(|(listener, host)| tokio::spawn(wire::serve(listener, Arc::clone(&self.state), host)));
        self.servers.lock().unwrap().extend(servers);
    }

    /// The addresses of the registry, the token server and the CDN.
    pub fn addresses(&self) -> [SocketAddr; 3] {
        self.state.addresses
    }

    /// The URL of the registry.
    pub fn url(&self) -> String {
        self.state.url(Host::Registry)
    }

    /// Closes all ports and connections.
    pub fn stop(&self) {
        self.servers.lock().unwrap().drain(..).for_each(|server| server.abort());
        self.state.stopped.send_modify(|count| *count += 1);
    }

    /// Opens the same ports again.
    pub async fn restart(&self) {
        let mut listeners = Vec::new();
        for address in self.state.addresses {
            listeners.push(wire::bind(Some(address)).await);
        }
        self.accept(listeners.into_iter().zip(HOSTS));
    }

    /// Adds a blob to a repository.
    pub fn blob(&self, repository: &str, bytes: impl Into<bytes::Bytes>) -> String {
        self.content().add_blob(repository, Blob::Bytes(bytes.into()))
    }

    /// Adds a blob that is made while it is sent; its digest is computed once, here.
    pub fn giant(&self, repository: &str, size: u64) -> String {
        self.content().add_blob(repository, Blob::Giant(size))
    }

    /// Adds a manifest, and points a tag to it.
    pub fn manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<bytes::Bytes>,
    ) -> String {
        self.content().add_manifest(repository, tag, media_type, bytes.into())
    }

    /// Takes a tag away.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        self.content().repository(repository).tags.remove(tag);
    }

    /// Takes a repository away, or brings it back as it was.
    pub fn hide(&self, repository: &str, hidden: bool) {
        self.content().repository(repository).hidden = hidden;
    }

    /// Shows a repository to [`ACCOUNT`] alone.
    pub fn make_private(&self, repository: &str) {
        self.content().repository(repository).private = true;
    }

    /// Gives referrers of a subject; without this the registry has no such list.
    pub fn referrers(&self, repository: &str, subject: &str, index: impl Into<bytes::Bytes>) {
        self.content().repository(repository).referrers.insert(subject.to_owned(), index.into());
    }

    /// From now on another path is the realm of tokens, and the old one is none any more.
    pub fn move_token_server(&self) {
        self.state.token_path.store(true, Ordering::SeqCst);
    }

    /// Another account.
    pub fn account(&self, username: &str, password: &str) {
        *self.state.account.lock().unwrap() = (username.to_owned(), password.to_owned());
    }

    /// Makes all tokens that were given worthless.
    pub fn revoke_tokens(&self) {
        self.state.tokens.revoke();
    }

    /// From now on the token server refuses the account, or takes it again.
    pub fn refuse_login(&self, refuse: bool) {
        self.state.refuses_login.store(refuse, Ordering::SeqCst);
    }

    /// Orders a fault for every request to `host` whose method and path contain `what`, as in `GET /v2/a/b/manifests`.
    pub fn fault(&self, host: Host, what: &str, fault: Fault) -> Arc<Order> {
        let order = Arc::new(Order::new(host, what, fault));
        self.state.orders.lock().unwrap().push(Arc::clone(&order));
        order
    }

    /// The same for requests whose query contains `what`.
    pub fn fault_on_query(&self, host: Host, what: &str, fault: Fault) -> Arc<Order> {
        self.fault(host, &format!("?{what}"), fault)
    }

    /// Takes all orders back.
    pub fn behave(&self) {
        self.state.orders.lock().unwrap().clear();
    }

    /// Lets go on what a [`Fault::Gate`] holds.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// What has arrived.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// How many requests of a kind have arrived.
    pub fn count(&self, kind: impl Fn(&Seen) -> bool) -> usize {
        self.seen().iter().filter(|seen| kind(seen)).count()
    }

    /// Forgets what has arrived and was sent.
    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
        self.state.sent.iter().for_each(|sent| sent.store(0, Ordering::SeqCst));
    }

    /// Waits until a number of requests of a kind have arrived.
    pub async fn arrived(&self, number: usize, kind: impl Fn(&Seen) -> bool) {
        let mut arrivals = self.state.arrivals.subscribe();
        while self.count(&kind) < number {
            super::soon("a request at the Hub", arrivals.changed()).await.unwrap();
        }
    }

    /// Body bytes that a server sent.
    pub fn bytes_sent(&self, host: Host) -> u64 {
        self.state.sent[host as usize].load(Ordering::SeqCst)
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.state.content.lock().unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    /// Scheme, host and port of a server.
    fn url(&self, host: Host) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addresses[host as usize])
    }

    /// Where tokens are given.
    fn token_path(&self) -> &'static str {
        if self.token_path.load(Ordering::SeqCst) { "/moved-token" } else { "/token" }
    }

    /// The answer to a request, before any fault.
    fn answer(&self, host: Host, request: &Request) -> Reply {
        match host {
            Host::Registry => registry::answer(self, request),
            Host::Token => token::answer(self, request),
            Host::Cdn => cdn::answer(self, request),
        }
    }

    fn note(&self, host: Host, request: &Request) {
        let seen = Seen {
            host,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            authorization: request.header("authorization"),
            range: request.header("range"),
            agent: request.header("user-agent"),
        };
        self.seen.lock().unwrap().push(seen);
        self.arrivals.send_modify(|count| *count += 1);
    }

    fn fault_for(&self, host: Host, request: &Request) -> Option<Fault> {
        let line = format!("{} {}", request.method, request.path);
        self.orders.lock().unwrap().iter().find_map(|order| order.take(host, &line, &request.query))
    }
}
