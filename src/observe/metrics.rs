//! Counters for Prometheus: the names that `registry` 3 has, and our own under `tidegate_`. `docs/metrics.md` lists them.

mod labels;
mod names;
mod tls;

use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use labels::{Denied, Kind};
use labels::{
    HandlerLabels, HttpLabels, NameLabel, OutcomeLabels, PartLabel, ReasonLabel, ResultLabel, TypeLabel,
};
pub use tls::{Ending, Reloaded};

type ByType = Family<TypeLabel, Counter>;

/// Upper bounds of the buckets for the time of a request, in seconds.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: ByType,
    hits: ByType,
    misses: ByType,
    pulled: ByType,
    pushed: ByType,
    http: Family<HttpLabels, Counter>,
    durations: Family<HandlerLabels, Histogram>,
    outcomes: Family<OutcomeLabels, Counter>,
    connections: Gauge,
    refused: Counter,
    denied: Family<ReasonLabel, Counter>,
    handshakes: Counter,
    fills: Gauge,
    waiting: Gauge,
    limit: Gauge,
    remaining: Gauge,
    lost: Counter,
    unhealthy: Gauge,
    account_refused: Gauge,
    unconfirmed: Gauge,
    damaged: Counter,
    scrubbed: Counter,
    scrubbed_bytes: Counter,
    cache: Family<PartLabel, Gauge>,
    cache_max: Gauge,
    evicted: Counter,
    evicted_bytes: Counter,
    over_budget: Counter,
    acme_attempts: Family<ResultLabel, Counter>,
    acme_next: Family<NameLabel, Gauge>,
    tls: tls::Tls,
}

/// A connection that is open.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is read when the metrics are asked for, not counted.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Fills under way.
    pub fills: usize,
    /// Transfers that wait for their turn.
    pub waiting: usize,
    /// The upstream's rate limit and what is left of it.
    pub allowance: Option<(u64, u64)>,
    /// Log lines lost.
    pub lost: u64,
    /// Failing health checks.
    pub unhealthy: usize,
    /// Whether the upstream refuses our account.
    pub account_refused: bool,
    /// How long the upstream has failed to confirm any tag.
    pub unconfirmed: Duration,
    /// What the cache takes on the disk, by part, in bytes.
    pub cache: [(&'static str, u64); 5],
    /// The most that it may take.
    pub cache_max: Option<u64>,
    /// The certificates that are served.
    pub certificates: Vec<Ending>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            hits: Family::default(),
            misses: Family::default(),
            pulled: Family::default(),
            pushed: Family::default(),
            http: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            outcomes: Family::default(),
            connections: Gauge::default(),
            refused: Counter::default(),
            denied: Family::default(),
            handshakes: Counter::default(),
            fills: Gauge::default(),
            waiting: Gauge::default(),
            limit: Gauge::default(),
            remaining: Gauge::default(),
            lost: Counter::default(),
            unhealthy: Gauge::default(),
            account_refused: Gauge::default(),
            unconfirmed: Gauge::default(),
            damaged: Counter::default(),
            scrubbed: Counter::default(),
            scrubbed_bytes: Counter::default(),
            cache: Family::default(),
            cache_max: Gauge::default(),
            evicted: Counter::default(),
            evicted_bytes: Counter::default(),
            over_budget: Counter::default(),
            acme_attempts: Family::default(),
            acme_next: Family::default(),
            tls: tls::Tls::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// A stored blob has wrong bytes, or can't be read.
    pub fn damaged(&self) {
        self.damaged.inc();
    }

    /// The scrub read bytes of a blob.
    pub fn scrubbed_bytes(&self, bytes: u64) {
        self.scrubbed_bytes.inc_by(bytes);
    }

    /// The scrub read a blob to its end and found it right.
    pub fn scrubbed(&self) {
        self.scrubbed.inc();
    }

    /// A certificate was asked for.
    pub fn acme_tried(&self, result: &'static str) {
        self.acme_attempts.get_or_create(&ResultLabel { result }).inc();
    }

    /// When the next one will be.
    pub fn acme_next(&self, name: &str, at: u64) {
        let gauge = self.acme_next.get_or_create(&NameLabel { name: name.to_owned() });
        gauge.set(i64::try_from(at).unwrap_or(i64::MAX));
    }

    /// Blobs and manifests went to make room.
    pub fn evicted(&self, blobs: u64, bytes: u64) {
        self.evicted.inc_by(blobs);
        self.evicted_bytes.inc_by(bytes);
    }

    /// A blob could be given no room.
    pub fn over_budget(&self) {
        self.over_budget.inc();
    }

    /// Bytes of a blob came from the upstream.
    pub fn pulled_blob(&self, bytes: u64) {
        self.pulled.get_or_create(&TypeLabel { r#type: "blob" }).inc_by(bytes);
    }

    /// Bytes of a manifest came from the upstream.
    pub fn pulled_manifest(&self, bytes: u64) {
        self.pulled.get_or_create(&TypeLabel { r#type: "manifest" }).inc_by(bytes);
    }

    /// A request for content was answered.
    pub fn content(&self, kind: Kind, outcome: &'static str, hit: bool, bytes: u64) {
        let label = TypeLabel { r#type: kind.label() };
        self.requests.get_or_create(&label).inc();
        if hit { &self.hits } else { &self.misses }.get_or_create(&label).inc();
        self.pushed.get_or_create(&label).inc_by(bytes);
        self.outcomes.get_or_create(&OutcomeLabels { r#type: label.r#type, outcome }).inc();
    }

    /// A request was answered.
    pub fn answered(&self, handler: &'static str, method: &'static str, code: u16, took: Duration) {
        self.http.get_or_create(&HttpLabels { code, handler, method }).inc();
        self.durations.get_or_create(&HandlerLabels { handler, method }).observe(took.as_secs_f64());
    }

    /// A client connection was opened; it counts as long as this lives.
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// A connection was closed at once: too many are open.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// Somebody was not let in.
    pub fn denied(&self, why: Denied) {
        self.denied.get_or_create(&ReasonLabel { reason: why.label() }).inc();
    }

    /// A TLS handshake failed.
    pub fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// The whole exposition.
    pub fn expose(&self, now: Snapshot) -> String {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let wide = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.fills.set(whole(now.fills));
        self.waiting.set(whole(now.waiting));
        self.unhealthy.set(whole(now.unhealthy));
        self.lost.inner().store(now.lost, Ordering::Relaxed);
        self.account_refused.set(i64::from(now.account_refused));
        self.unconfirmed.set(wide(now.unconfirmed.as_secs()));
        let (limit, remaining) = now.allowance.map_or((-1, -1), |(limit, left)| (wide(limit), wide(left)));
        for (part, bytes) in now.cache.into_iter().filter(|(part, _)| !part.is_empty()) {
            self.cache.get_or_create(&PartLabel { part }).set(wide(bytes));
        }
        self.tls.show(now.certificates);
        self.cache_max.set(now.cache_max.map_or(-1, wide));
        self.limit.set(limit);
        self.remaining.set(remaining);
        let mut exposition = String::new();
        // Writing to a string fails only if a metric can't be written as text, and ours can.
        let _ = text::encode(&mut exposition, &self.registry);
        exposition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exposition: &str, line: &str) {
        assert!(exposition.lines().any(|found| found == line), "no {line} in\n{exposition}");
    }

    #[test]
    fn the_names_of_registry_are_there_from_the_start() {
        let exposition = Metrics::default().expose(Snapshot::default());
        for name in ["requests", "hits", "misses", "pulled_bytes", "pushed_bytes"] {
            check(&exposition, &format!("registry_proxy_{name}_total{{type=\"blob\"}} 0"));
            check(&exposition, &format!("registry_proxy_{name}_total{{type=\"manifest\"}} 0"));
        }
    }

    #[test]
    fn an_answer_is_counted_under_its_outcome() {
        let metrics = Metrics::default();
        metrics.content(Kind::Blob, "hit", true, 7);
        metrics.answered("blob", "GET", 200, Duration::from_millis(3));
        let exposition =
            metrics.expose(Snapshot { fills: 2, allowance: Some((100, 76)), ..Snapshot::default() });
        check(&exposition, "registry_proxy_hits_total{type=\"blob\"} 1");
        check(&exposition, "registry_proxy_pushed_bytes_total{type=\"blob\"} 7");
        check(&exposition, "tidegate_answers_total{type=\"blob\",outcome=\"hit\"} 1");
        check(&exposition, "registry_http_requests_total{code=\"200\",handler=\"blob\",method=\"GET\"} 1");
        check(&exposition, "tidegate_fills 2");
        check(&exposition, "tidegate_upstream_ratelimit_remaining 76");
    }
}
