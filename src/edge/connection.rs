//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::body::Body;
use super::drain::Drain;
use super::gate::{Gate, Place};
use super::limits::{
    FAREWELL_WAIT, HANDSHAKE_WAIT, HEAD_BYTES_MAX, HEAD_WAIT, PING_INTERVAL, PROXY_HEADER_WAIT, SILENCE_MAX,
    STREAMS_MAX,
};
use super::socket::{Poison, Socket, Stream};
use super::tls::{self, Acceptor, PLAIN_ANSWER, Shaken};
use super::{Role, failure, proxy_header};
use crate::observe::metrics::{Denied, Metrics};

/// The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a connection needs to be served.
pub struct Connection {
    /// The certificate; `None` speaks plain HTTP.
    pub tls: Option<Acceptor>,
    /// Who answers.
    pub role: Role,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// When to stop.
    pub drain: Drain,
    /// Where to count.
    pub metrics: Arc<Metrics>,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Client {
    /// The address; one on a Unix socket has none.
    pub ip: Option<IpAddr>,
    /// The same as it stands in logs.
    pub name: String,
    /// Whether it speaks TLS with us.
    pub secure: bool,
    /// Not in the list: nothing is for it but what proves to a CA who we are.
    outsider: bool,
}

#[cfg(test)]
impl Client {
    /// Somebody who may come in.
    pub fn of(ip: &str, secure: bool) -> Self {
        Self { ip: ip.parse().ok(), name: ip.to_owned(), secure, outsider: false }
    }
}

/// A connection whose protocol is known.
struct Conversation {
    role: Role,
    gate: Arc<Gate>,
    drain: Drain,
    client: Client,
    activity: Arc<Activity>,
}

impl Connection {
    /// Serves it to its end.
    pub async fn serve(self, mut stream: Stream, ip: Option<IpAddr>, mut place: Place) {
        let _open = self.metrics.connection();
        let Some(client) = self.meet(&mut stream, ip, &mut place).await else { return };
        let conversation = Conversation {
            role: self.role.clone(),
            gate: Arc::clone(&self.gate),
            drain: self.drain.clone(),
            client,
            activity: Activity::new(),
        };
        let poison = Poison::default();
        let socket = |stream| Socket::new(stream, poison.clone(), Arc::clone(&conversation.activity));
        match &self.tls {
            None => conversation.http1(socket(stream), poison).await,
            Some(acceptor) => match self.shake_hands(acceptor, &conversation.client, stream, socket).await {
                Some(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => {
                    conversation.http2(tls).await;
                }
                Some(tls) => conversation.http1(tls, poison).await,
                None => {}
            },
        }
    }

    /// Finds out who is there, which may take a balancer's word. `None`: nobody who gets more than a close.
    async fn meet(&self, stream: &mut Stream, ip: Option<IpAddr>, place: &mut Place) -> Option<Client> {
        let rules = self.gate.rules();
        let mut drain = self.drain.clone();
        let ip = if rules.is_proxy(ip) {
            let read = tokio::select! {
                read = tokio::time::timeout(PROXY_HEADER_WAIT, proxy_header::read(stream)) => read,
                () = last_call(&mut drain) => return None,
            };
            let read = read.map_err(io::Error::from).and_then(|read| read);
            let read = read.inspect_err(|error| {
                self.metrics.denied(Denied::ProxyProtocol);
                tracing::debug!(balancer = ?ip, %error, "a balancer does not say whose connection it is");
            });
            read.ok()?.or(ip)
        } else {
            ip
        };
        if !place.belongs_to(ip) {
            return None;
        }
        let name = match (ip, &self.role) {
            (Some(ip), _) => ip.to_string(),
            (None, Role::Admin(_)) => stream.user(),
            (None, _) => "@".to_owned(),
        };
        Some(Client { ip, name, secure: self.tls.is_some(), outsider: !rules.admits(ip) })
    }

    async fn shake_hands(
        &self,
        acceptor: &Acceptor,
        client: &Client,
        stream: Stream,
        socket: impl FnOnce(Stream) -> Socket,
    ) -> Option<TlsStream<Socket>> {
        let mut drain = self.drain.clone();
        let handshake = async {
            if is_plain(stream.first_byte().await) {
                refuse_plain(socket(stream)).await;
                return Err("a plain HTTP request".to_owned());
            }
            acceptor.accept(socket(stream), client.outsider).await.map_err(|error| error.to_string())
        };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(HANDSHAKE_WAIT, handshake) => shaken,
            () = last_call(&mut drain) => return None,
        };
        let shaken = shaken.unwrap_or_else(|_| Err(format!("not finished within {HANDSHAKE_WAIT:?}")));
        match shaken {
            Ok(Shaken::Client(stream)) => {
                let (version, is_resumed) = tls::labels(&stream);
                self.metrics.shaken(version, is_resumed);
                Some(*stream)
            }
            Ok(Shaken::Challenge) => {
                tracing::info!(peer = client.name, "a CA came to validate a name");
                None
            }
            Ok(Shaken::Outsider) => {
                self.gate.turned_away(&client.name);
                None
            }
            Err(reason) => {
                self.metrics.handshake_failed();
                tracing::debug!(peer = client.name, reason, "TLS handshake failed");
                None
            }
        }
    }
}

impl Conversation {
    async fn http1(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, poison: Poison) {
        let mut builder = http1::Builder::new();
        // `drive` ends idle connections and endless heads, in both protocols by one rule.
        builder.header_read_timeout(None).max_header_size(HEAD_BYTES_MAX).title_case_headers(true);
        let service = service_fn(|request| self.answer(request, poison.clone()));
        // A client that takes no bytes is the system's to find out, by the user timeout of TCP; one that takes a few is slow.
        self.drive(builder.serve_connection(TokioIo::new(io), service), Duration::MAX).await;
    }

    /// Here a wrong body resets its own stream; the connection that the others share goes on.
    async fn http2(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        let service = service_fn(|request| self.answer(request, Poison::default()));
        // Here a client may keep its windows shut while it answers all pings.
        self.drive(builder.serve_connection(TokioIo::new(io), service), SILENCE_MAX).await;
    }

    /// Runs a connection to its end: to the client's, or until it was idle for long, or in a drain until what is under
    /// way has ended.
    async fn drive<C: GracefulConnection>(&self, connection: C, stall_max: Duration)
    where
        C::Error: std::fmt::Display,
    {
        let mut connection = pin!(connection);
        let mut drain = self.drain.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.may_be_told_to_end(&mut drain) => None,
            () = self.activity.idle_for(HEAD_WAIT) => None,
            () = self.activity.stalled_for(stall_max) => {
                return tracing::debug!(peer = self.client.name, "a client took nothing of its answers");
            }
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                // However long it was idle: what is said to it now takes a moment to arrive.
                self.activity.touch();
                tokio::select! {
                    ended = connection => ended,
                    () = drain.closes() => return,
                    () = self.activity.stalled_for(stall_max) => return,
                    () = self.activity.idle_for(FAREWELL_WAIT) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = self.client.name, %error, "a connection ended early");
        }
    }

    /// Waits until a stop has begun, and for the first request of a connection that is just there: hyper closes one that has
    /// not had any.
    async fn may_be_told_to_end(&self, drain: &mut Drain) {
        drain.began().await;
        let _ = tokio::time::timeout(FAREWELL_WAIT, self.activity.first_request()).await;
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        poison: Poison,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        let (role, client, busy) = (self.role.clone(), self.client.clone(), self.activity.begin());
        let (gate, drain) = (Arc::clone(&self.gate), self.drain.clone());
        // HTTP/2 says it by GOAWAY, and has no such header.
        let says_close = request.version() < Version::HTTP_2;
        async move {
            let hsts = gate.rules().hsts.clone().filter(|_| client.secure);
            let mut response = match role {
                _ if client.outsider && !is_challenge(request.uri().path()) => {
                    gate.turned_away(&client.name);
                    failure::denied()
                }
                Role::Mirror(site) => site.answer(request, client, poison).await,
                Role::Forward(forward) => forward.answer(request, client, poison).await,
                Role::Console(console) => console.answer(&request),
                Role::Admin(admin) => admin.answer(request, &client.name).await,
                Role::Challenges(front) => front.answer(&request),
            };
            if let Some(hsts) = hsts {
                response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts);
            }
            if says_close && drain.has_begun() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| body.keeping(busy)))
        }
    }
}

/// Waits until a stop has begun, and as long as a client gets to make a beginning then.
async fn last_call(drain: &mut Drain) {
    drain.began().await;
    tokio::time::sleep(FAREWELL_WAIT).await;
}

/// Whether a request is that of a CA (RFC 8555 section 8.3).
fn is_challenge(path: &str) -> bool {
    path.starts_with("/.well-known/acme-challenge/")
}

/// Whether a peer began with text where a handshake was expected.
fn is_plain(first: Option<u8>) -> bool {
    first.is_some_and(|byte| byte != HANDSHAKE_RECORD && byte.is_ascii_uppercase())
}

async fn refuse_plain(mut socket: Socket) {
    // What is left unread at the close would make the system reset the connection, and the answer with it.
    let _ = socket.read(&mut [0; 4096]).await;
    let _ = socket.write_all(PLAIN_ANSWER).await;
    let _ = socket.shutdown().await;
}
