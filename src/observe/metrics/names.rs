//! The names under which everything is exposed, and what they say of it.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;
use super::labels::{BuildLabels, Kind, TypeLabel};

impl Metrics {
    /// Gives everything that is counted its name.
    pub(super) fn register(&mut self) {
        self.register_proxy();
        self.register_http();
        self.register_own();
        self.register_store();
        self.register_cache();
        self.register_acme();
        self.tls.register(self.registry.sub_registry_with_prefix("tidegate"));
    }

    fn register_proxy(&mut self) {
        for family in [&self.requests, &self.hits, &self.misses, &self.pulled, &self.pushed] {
            for kind in [Kind::Blob, Kind::Manifest] {
                drop(family.get_or_create(&TypeLabel { r#type: kind.label() }));
            }
        }
        let proxy = self.registry.sub_registry_with_prefix("registry_proxy");
        proxy.register("requests", "Requests for content", self.requests.clone());
        proxy.register("hits", "Requests answered from what is held", self.hits.clone());
        proxy.register("misses", "Requests that needed the upstream's content", self.misses.clone());
        proxy.register("pulled_bytes", "Bytes fetched from the upstream", self.pulled.clone());
        proxy.register("pushed_bytes", "Bytes given to clients", self.pushed.clone());
    }

    fn register_http(&mut self) {
        let http = self.registry.sub_registry_with_prefix("registry_http");
        http.register("requests", "Answered requests", self.http.clone());
        let help = "Seconds from the head of a request to the end of its answer";
        http.register("request_duration_seconds", help, self.durations.clone());
    }

    fn register_own(&mut self) {
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        let own = self.registry.sub_registry_with_prefix("tidegate");
        own.register("build_info", "The running version", build);
        own.register("answers", "Answers about content, by outcome", self.outcomes.clone());
        own.register("connections", "Open client connections", self.connections.clone());
        own.register("connections_refused", "Connections closed at once: too many", self.refused.clone());
        own.register("denied", "Connections and requests that were not let in", self.denied.clone());
        own.register("tls_handshakes_failed", "TLS handshakes that failed", self.handshakes.clone());
        own.register("fills", "Blobs being fetched", self.fills.clone());
        own.register("fills_waiting", "Transfers that wait for their turn", self.waiting.clone());
        own.register(
            "upstream_ratelimit",
            "Requests per window that the upstream allows; -1 while unknown",
            self.limit.clone(),
        );
        own.register(
            "upstream_ratelimit_remaining",
            "What is left of them; -1 while unknown",
            self.remaining.clone(),
        );
        own.register(
            "upstream_account_refused",
            "1 while the upstream refuses the account of this mirror",
            self.account_refused.clone(),
        );
        own.register(
            "upstream_unconfirmed_seconds",
            "How long the upstream has confirmed no tag, while it failed to",
            self.unconfirmed.clone(),
        );
        own.register("log_lines_lost", "Log lines that nobody read in time", self.lost.clone());
        own.register("health_checks_failing", "Health checks that fail", self.unhealthy.clone());
    }

    fn register_store(&mut self) {
        let own = self.registry.sub_registry_with_prefix("tidegate");
        own.register("blobs_damaged", "Stored blobs found damaged or unreadable", self.damaged.clone());
        own.register(
            "scrubbed_blobs",
            "Stored blobs that the scrub read and found right",
            self.scrubbed.clone(),
        );
        own.register("scrubbed_bytes", "Bytes that the scrub read", self.scrubbed_bytes.clone());
    }

    fn register_cache(&mut self) {
        let own = self.registry.sub_registry_with_prefix("tidegate");
        own.register("cache_bytes", "Bytes that the cache takes on the disk", self.cache.clone());
        own.register("cache_bytes_max", "Bytes that it may take; -1 while unknown", self.cache_max.clone());
        own.register("evicted_blobs", "Blobs and manifests that went to make room", self.evicted.clone());
        own.register("evicted_bytes", "Their bytes", self.evicted_bytes.clone());
        let help = "Blobs that were not kept because the budget had no room";
        own.register("over_budget", help, self.over_budget.clone());
    }

    fn register_acme(&mut self) {
        let own = self.registry.sub_registry_with_prefix("tidegate");
        let help = "Tries to get a certificate, by what came of them";
        own.register("acme_attempts", help, self.acme_attempts.clone());
        let help = "When the next certificate for a name is asked for, in seconds since 1970";
        own.register("acme_next_attempt_timestamp_seconds", help, self.acme_next.clone());
    }
}
