//! What TLS counts: handshakes, sessions that went on, looks at files, ends of certificates.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;

/// Most certificates whose ends are shown.
const SHOWN_MAX: usize = 1_000;

/// What became of a look at certificate files that had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reloaded {
    /// Something else is served.
    Changed,
    /// The same is served: it was no change that matters.
    Same,
    /// Something is wrong with the files; the same is served.
    Failed,
}

/// The end of a certificate.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Its first name.
    pub name: String,
    /// Who has it.
    pub source: String,
    /// What its key signs with.
    pub key: String,
    /// In seconds since 1970.
    pub not_after: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    version: &'static str,
    resumed: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndingLabels {
    name: String,
    source: String,
    key: String,
}

#[derive(Debug, Default)]
pub(super) struct Tls {
    shaken: Family<HandshakeLabels, Counter>,
    reloads: Family<ResultLabel, Counter>,
    endings: Family<EndingLabels, Gauge>,
}

impl Tls {
    pub(super) fn register(&self, own: &mut Registry) {
        own.register("tls_handshakes", "TLS handshakes that came to their end", self.shaken.clone());
        let help = "Looks at certificate files that had changed";
        own.register("certificate_reloads", help, self.reloads.clone());
        let help = "When a certificate that is served ends, in seconds since 1970";
        own.register("certificate_not_after_seconds", help, self.endings.clone());
    }

    pub(super) fn show(&self, endings: Vec<Ending>) {
        self.endings.clear();
        for Ending { name, source, key, not_after } in endings.into_iter().take(SHOWN_MAX) {
            self.endings.get_or_create(&EndingLabels { name, source, key }).set(not_after);
        }
    }
}

impl Metrics {
    /// A handshake came to its end.
    pub fn shaken(&self, version: &'static str, is_resumed: bool) {
        let resumed = if is_resumed { "yes" } else { "no" };
        self.tls.shaken.get_or_create(&HandshakeLabels { version, resumed }).inc();
    }

    /// Certificate files were looked at.
    pub fn reloaded(&self, reloaded: Reloaded) {
        let result = match reloaded {
            Reloaded::Changed => "changed",
            Reloaded::Same => "same",
            Reloaded::Failed => "failed",
        };
        self.tls.reloads.get_or_create(&ResultLabel { result }).inc();
    }
}
