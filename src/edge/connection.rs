//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;

use super::Role;
use super::activity::Activity;
use super::body::Body;
use super::drain::Drain;
use super::limits::{FAREWELL_WAIT, HANDSHAKE_WAIT, HEAD_BYTES_MAX, HEAD_WAIT, PING_INTERVAL, STREAMS_MAX};
use super::socket::{Poison, Socket, Stream};
use super::tls::{self, Acceptor, PLAIN_ANSWER, Shaken};
use crate::observe::metrics::Metrics;

/// The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a connection needs to be served.
pub struct Connection {
    /// The certificate; `None` speaks plain HTTP.
    pub tls: Option<Acceptor>,
    /// Who answers.
    pub role: Role,
    /// When to stop.
    pub drain: Drain,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// The peer's address without its port.
    pub peer: String,
}

/// A connection whose protocol is known.
struct Conversation {
    role: Role,
    drain: Drain,
    peer: String,
    activity: Arc<Activity>,
}

impl Connection {
    /// Serves it to its end.
    pub async fn serve(self, stream: Stream) {
        let _open = self.metrics.connection();
        let conversation = Conversation {
            role: self.role.clone(),
            drain: self.drain.clone(),
            peer: self.peer.clone(),
            activity: Activity::new(),
        };
        let poison = Poison::default();
        let socket = |stream| Socket::new(stream, poison.clone(), Arc::clone(&conversation.activity));
        match &self.tls {
            None => conversation.http1(socket(stream), poison).await,
            Some(acceptor) => match self.shake_hands(acceptor, stream, socket).await {
                Some(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => conversation.http2(tls).await,
                Some(tls) => conversation.http1(tls, poison).await,
                None => {}
            },
        }
    }

    async fn shake_hands(
        &self,
        acceptor: &Acceptor,
        stream: Stream,
        socket: impl FnOnce(Stream) -> Socket,
    ) -> Option<TlsStream<Socket>> {
        let mut drain = self.drain.clone();
        let handshake = async {
            if is_plain(stream.first_byte().await) {
                refuse_plain(socket(stream)).await;
                return Err("a plain HTTP request".to_owned());
            }
            acceptor.accept(socket(stream)).await.map_err(|error| error.to_string())
        };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(HANDSHAKE_WAIT, handshake) => shaken,
            () = drain.began() => return None,
        };
        let shaken = shaken.unwrap_or_else(|_| Err(format!("not finished within {HANDSHAKE_WAIT:?}")));
        match shaken {
            Ok(Shaken::Client(stream)) => {
                let (version, is_resumed) = tls::labels(&stream);
                self.metrics.shaken(version, is_resumed);
                Some(*stream)
            }
            Ok(Shaken::Challenge) => {
                tracing::info!(peer = self.peer, "a CA came to validate a name");
                None
            }
            Err(reason) => {
                self.metrics.handshake_failed();
                tracing::debug!(peer = self.peer, reason, "TLS handshake failed");
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
        self.drive(builder.serve_connection(TokioIo::new(io), service)).await;
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
        self.drive(builder.serve_connection(TokioIo::new(io), service)).await;
    }

    /// Runs a connection to its end: to the client's, or until it was idle for long, or in a drain until what is under
    /// way has ended.
    async fn drive<C: GracefulConnection>(&self, connection: C)
    where
        C::Error: std::fmt::Display,
    {
        let mut connection = pin!(connection);
        let mut drain = self.drain.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = drain.began() => None,
            () = self.activity.idle_for(HEAD_WAIT) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = drain.closes() => return,
                    () = self.activity.idle_for(FAREWELL_WAIT) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = self.peer, %error, "a connection ended early");
        }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        poison: Poison,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        let (role, peer, busy) = (self.role.clone(), self.peer.clone(), self.activity.begin());
        async move {
            let response = match role {
                Role::Mirror(site) => site.answer(request, peer, poison).await,
                Role::Console(console) => console.answer(&request),
                Role::Admin(admin) => admin.answer(request, &peer).await,
                Role::Challenges(front) => front.answer(&request),
            };
            Ok(response.map(|body| body.keeping(busy)))
        }
    }
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
