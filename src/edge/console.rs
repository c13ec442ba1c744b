//! The debug listener: health and metrics, plain HTTP, as `registry` has it.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;

use super::body::Body;
use super::certificates::{Certificates, Listed};
use super::{failure, lists};
use crate::engine::Engine;
use crate::observe::health::Health;
use crate::observe::lines::Lines;
use crate::observe::metrics::{Ending, Metrics, Snapshot};
use crate::upstream::AccountState;

/// What Prometheus expects of a text exposition.
const EXPOSITION: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers on the debug listener.
#[derive(Debug)]
pub struct Console {
    /// Whose state is shown; a sidecar has none.
    pub engine: Option<Arc<Engine>>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The checks.
    pub health: Health,
    /// The logs, for the lines they lost.
    pub lines: Vec<Lines>,
    /// The certificates, if TLS is spoken.
    pub certificates: Option<Certificates>,
    /// The path of the metrics, if they are on.
    pub path: Option<String>,
}

impl Console {
    /// Answers a request.
    pub fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            "/debug/health" if reads => self.health(),
            _ if reads && self.path.as_deref() == Some(path) => self.metrics(),
            _ => failure::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn health(&self) -> Response<Body> {
        let mut failing = self.health.failing();
        let refused = |engine: &Arc<Engine>| engine.upstream().account_state() == AccountState::Refused;
        if self.engine.as_ref().is_some_and(refused) {
            failing.insert("upstream_account".to_owned(), "the upstream refuses it".to_owned());
        }
        for listed in self.listing() {
            if let Some(alarm) = listed.alarm() {
                failing.insert(format!("certificate {}", listed.origin), alarm);
            }
        }
        let mut response = lists::document(&json!(failing));
        if !failing.is_empty() {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }

    fn listing(&self) -> Vec<Listed> {
        self.certificates.as_ref().map(Certificates::listing).unwrap_or_default()
    }

    /// When the certificates end that somebody gets.
    fn endings(&self) -> Vec<Ending> {
        let in_use = self.listing().into_iter().filter(|listed| listed.in_use);
        let ending = |listed: Listed| Ending {
            name: listed.names.first().cloned().unwrap_or_default(),
            source: listed.source,
            key: listed.key,
            not_after: listed.not_after_seconds,
        };
        in_use.map(ending).collect()
    }

    fn metrics(&self) -> Response<Body> {
        let snapshot = Snapshot {
            lost: self.lines.iter().map(Lines::lost).sum(),
            unhealthy: self.health.failing().len(),
            certificates: self.endings(),
            ..self.engine.as_deref().map(state).unwrap_or_default()
        };
        let mut response = Response::new(Body::whole(self.metrics.expose(snapshot)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EXPOSITION));
        response
    }
}

/// What the metrics show of an engine.
fn state(engine: &Engine) -> Snapshot {
    let standing = engine.standing();
    let usage = standing.usage;
    Snapshot {
        fills: engine.fills_running(),
        waiting: engine.fills_waiting(),
        allowance: engine.upstream().budget().last().map(|last| (last.limit, last.remaining)),
        account_refused: engine.upstream().account_state() == AccountState::Refused,
        unconfirmed: engine.unconfirmed_for(),
        cache: [
            ("small", usage.small),
            ("large", usage.large),
            ("unfinished", usage.unfinished),
            ("lingering", usage.lingering),
            ("other", usage.other),
        ],
        cache_max: standing.limits.map(|limits| limits.bytes_max),
        ..Snapshot::default()
    }
}
