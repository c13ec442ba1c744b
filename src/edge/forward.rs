//! The sidecar: an edge in front of a backend that is there already. Every request goes to it and its answer comes back,
//! both as they are and as they come; nothing is kept, and the engine is not there.
//!
//! What belongs to one connection ends with it (RFC 9110 section 7.6.1). The backend hears who asked, and how, from us
//! alone: what a client says of that is dropped.

mod headers;
mod passed;
mod road;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::activity::Activity;
use super::body::Body;
use super::connection::Client;
use super::failure;
use super::gate::Gate;
use super::limits::{BACKEND_IDLE_WAIT, BACKEND_SILENCE_MAX};
use super::socket::Poison;
use super::visit::{Records, Subject, Visit};
use crate::config::Backend;
use crate::observe::health::Health;
use headers::{tell_asker, without_hops};
pub use passed::Passed;
use passed::Upload;
use road::Road;

/// What is forwarded has one name in the metrics: what it is about is the backend's to know.
const FORWARDED: Subject = Subject { handler: "forward", kind: None };

/// What a [`Forward`] is made of.
#[derive(Debug)]
pub struct ForwardParts {
    /// Where requests go.
    pub backend: Backend,
    /// Where answers are written down.
    pub records: Records,
    /// The checks that gate.
    pub health: Health,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Most requests that are with the backend at once.
    pub requests_max: usize,
}

/// The sidecar as an HTTP service.
#[derive(Debug)]
pub struct Forward {
    client: legacy::Client<Road, Upload>,
    authority: String,
    records: Records,
    health: Health,
    gate: Arc<Gate>,
    slots: Arc<Semaphore>,
    silence_max: Duration,
}

/// Why there is no answer of the backend.
enum Refusal {
    /// It is not there, or broke off.
    Gone(String),
    /// It gives no sign.
    Silent,
    /// We ask it too much at once.
    Busy,
    /// The request is none that can be passed on.
    Odd,
}

impl Forward {
    /// Puts the parts together; talks to nobody yet.
    pub fn new(parts: ForwardParts) -> Arc<Self> {
        let ForwardParts { backend, records, health, gate, requests_max } = parts;
        let authority = match &backend {
            Backend::Tcp(authority) => authority.to_string(),
            Backend::Unix(_) => "localhost".to_owned(),
        };
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(BACKEND_IDLE_WAIT);
        Arc::new(Self {
            client: builder.build(Road::to(backend)),
            authority,
            records,
            health,
            gate,
            slots: Arc::new(Semaphore::new(requests_max)),
            silence_max: BACKEND_SILENCE_MAX,
        })
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>, asker: Client, poison: Poison) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut visit = Visit::new(&self.records, &head, asker.name.clone());
        let response = if self.health.gates() {
            failure::unhealthy()
        } else if let Err(refusal) = self.gate.check_login(&head.headers, &asker).await {
            refusal
        } else {
            self.ask(head, body, &asker, poison).await.unwrap_or_else(|refusal| refusal.response())
        };
        visit.answered(FORWARDED, None, response.status());
        response.map(|body| body.reporting(Box::new(move |bytes| visit.ended(bytes))))
    }

    async fn ask(
        &self,
        head: Parts,
        body: Incoming,
        asker: &Client,
        poison: Poison,
    ) -> Result<Response<Body>, Refusal> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let progress = Activity::new();
        let upload = Upload::new(body, Arc::clone(&progress));
        let request = self.request(head, asker)?.map(|()| upload);
        let answered = tokio::select! {
            answered = self.client.request(request) => answered,
            () = progress.idle_for(self.silence_max) => return Err(Refusal::Silent),
        };
        let response = answered.map_err(|error| Refusal::of(&error))?;
        self.response(response, slot, poison)
    }

    /// The request as the backend gets it.
    fn request(&self, head: Parts, asker: &Client) -> Result<Request<()>, Refusal> {
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let uri: Uri = format!("http://{}{path}", self.authority).parse().map_err(|_| Refusal::Odd)?;
        if head.method == Method::CONNECT || !path.starts_with('/') {
            return Err(Refusal::Odd);
        }
        let mut headers = head.headers;
        // Of two lengths the chunks count (RFC 9112 section 6.3), and the backend must not see another one.
        if headers.contains_key(header::TRANSFER_ENCODING) {
            headers.remove(header::CONTENT_LENGTH);
        }
        without_hops(&mut headers);
        // HTTP/2 and absolute targets have the host in the target, and there it counts.
        let host = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        if let Some(host) = host {
            headers.insert(header::HOST, host);
        }
        tell_asker(&mut headers, asker);
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (head.method, uri);
        (*request.version_mut(), *request.headers_mut()) = (Version::HTTP_11, headers);
        Ok(request)
    }

    /// The answer as the client gets it.
    fn response(
        &self,
        response: Response<Incoming>,
        slot: OwnedSemaphorePermit,
        poison: Poison,
    ) -> Result<Response<Body>, Refusal> {
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::Gone("it switched to a protocol that nobody asked for".to_owned()));
        }
        without_hops(&mut head.headers);
        head.version = Version::default();
        head.extensions.clear();
        let passed = Passed::new(body, slot, self.silence_max);
        Ok(Response::from_parts(head, Body::passed(passed, poison)))
    }
}

impl Refusal {
    fn of(error: &legacy::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut words = Vec::new();
        while let Some(error) = source {
            let timed_out = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if timed_out == Some(std::io::ErrorKind::TimedOut) {
                return Self::Silent;
            }
            words.push(error.to_string());
            source = error.source();
        }
        Self::Gone(words.join(": "))
    }

    fn response(self) -> Response<Body> {
        let (status, message) = match &self {
            Self::Gone(_) => (StatusCode::BAD_GATEWAY, "the registry behind this edge can't be reached"),
            Self::Silent => (StatusCode::GATEWAY_TIMEOUT, "the registry behind this edge does not answer"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests at once"),
            Self::Odd => (StatusCode::BAD_REQUEST, "this request can't be passed on"),
        };
        match &self {
            Self::Gone(reason) => tracing::warn!(reason, "the backend could not be asked"),
            Self::Silent => tracing::warn!("the backend gave no answer in time"),
            Self::Busy => tracing::warn!("a request is refused: too many are with the backend"),
            Self::Odd => {}
        }
        failure::at_the_backend(status, message)
    }
}

#[cfg(test)]
mod tests;
