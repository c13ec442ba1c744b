//! Certificates from a CA, for `serve`: opened before the port is, started after it.

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::edge::acme::{Front, Renewals, Setup, open_port};
use crate::edge::certificates::{Source, stand_in};
use crate::edge::drain::Drain;
use crate::edge::reload::Secured;
use crate::observe::metrics::Metrics;

/// Opens what is stored, and puts a stand-in up where there is nothing yet: the port listens from the first start on.
pub fn open(
    config: &Config,
    root: &Path,
    secured: Option<&Secured>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Renewals>>, String> {
    let (Some(acme), Some(secured)) = (&config.acme, secured) else { return Ok(None) };
    let certificates = &secured.certificates;
    let renewals = Renewals::new(Setup {
        acme: acme.clone(),
        folder: root.join("tidegate").join("acme"),
        certificates: certificates.clone(),
        metrics: Arc::clone(metrics),
    })?;
    let names = acme.hosts.iter().filter(|name| certificates.serving(name.as_str()).is_none());
    let bare: Vec<String> = names.map(ToString::to_string).collect();
    if !bare.is_empty() {
        let made = stand_in(&bare).map_err(|flaw| format!("no stand-in certificate: {flaw}"))?;
        let _ = certificates.offer(Source::StandIn, Arc::new(made));
        tracing::warn!(
            names = bare.join(", "),
            "no certificate yet: a self-signed stand-in is served, which clients refuse, until {} gives one",
            acme.directory
        );
    }
    Ok(Some(renewals))
}

/// Opens the port for challenges, and begins to renew. Both end with the process.
pub fn start(config: &Config, renewals: &Arc<Renewals>, drain: &Drain, metrics: &Arc<Metrics>) {
    let front = Front { answers: renewals.answers().clone(), hosts: renewals.hosts().to_vec() };
    if let Some(listen) = config.acme.as_ref().and_then(|acme| acme.http.clone()) {
        open_port(listen, front, drain.clone(), Arc::clone(metrics));
    }
    tokio::spawn(Arc::clone(renewals).run());
}
