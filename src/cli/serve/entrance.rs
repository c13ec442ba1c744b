//! Who may come in, from the configuration to the gate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::config::Config;
use crate::edge::drain::Drain;
use crate::edge::gate::{Gate, Rules};
use crate::edge::limits;
use crate::edge::listener::Listener;
use crate::edge::logins::Logins;
use crate::edge::reload::Secured;
use crate::edge::{Edge, Role};
use crate::observe::metrics::Metrics;

/// The gate of the listeners for clients.
pub fn gate(config: &Config, descriptors: Option<u64>, metrics: &Arc<Metrics>) -> Result<Arc<Gate>, String> {
    let rules = rules(config, descriptors, logins(config, metrics)?);
    Ok(Gate::new(rules, Arc::clone(metrics)))
}

/// The logins that the configuration asks for.
pub fn logins(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Logins>>, String> {
    let Some(htpasswd) = &config.htpasswd else { return Ok(None) };
    let loaded = Logins::load(&htpasswd.realm, htpasswd.path.clone(), Arc::clone(metrics));
    let advice = "`htpasswd -Bbn NAME PASSWORD` writes a line for it";
    loaded.map(Some).map_err(|error| format!("auth.htpasswd.path: {error}; {advice}"))
}

/// The rules that the configuration gives.
pub fn rules(config: &Config, descriptors: Option<u64>, logins: Option<Arc<Logins>>) -> Rules {
    let edge = &config.edge;
    let connections_max = limits::connections_max(edge.connections, descriptors);
    if u32::try_from(connections_max).is_ok_and(|most| most < edge.connections) {
        tracing::warn!(
            "at most {connections_max} connections: the limit of open files allows no more (LimitNOFILE, ulimit -n)"
        );
    }
    let hsts = |age: Duration| HeaderValue::try_from(format!("max-age={}", age.as_secs())).ok();
    Rules {
        allow: edge.allow.clone(),
        proxies: edge.proxies.clone(),
        connections_max,
        per_client_max: edge.per_client,
        hsts: edge.hsts.and_then(hsts),
        logins,
    }
}

/// Certificates, and what keeps them up to date, if TLS is spoken. The last good ones are kept in `state`.
pub fn secure(config: &Config, state: &Path, metrics: &Arc<Metrics>) -> Result<Option<Secured>, String> {
    let open = |tls| Secured::open(tls, &config.edge.alpn, state, metrics);
    config.http.tls.as_ref().map(open).transpose()
}

/// The second listener, which speaks plain HTTP, if there is one. It goes by the same gate, and ends with the first.
pub fn open_plain(
    config: &Config,
    role: &Role,
    gate: &Arc<Gate>,
    drain: &Drain,
    metrics: &Arc<Metrics>,
) -> Result<(), String> {
    let Some(listen) = &config.edge.plain else { return Ok(()) };
    let listener = Listener::bind(listen)?;
    tracing::info!("listening besides on {listener}, plain");
    let (role, gate) = (role.clone(), Arc::clone(gate));
    let (drain, metrics) = (drain.clone(), Arc::clone(metrics));
    tokio::spawn(Edge { listener, tls: None, role, gate, drain, metrics }.run());
    Ok(())
}
