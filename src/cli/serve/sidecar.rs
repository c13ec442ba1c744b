//! The edge alone, in front of a backend: no store, no index, no engine.

use std::sync::Arc;

use super::reload::{Doors, Live};
use super::signals::{Signals, wait_and_drain};
use super::{Logs, entrance, open_console};
use crate::cli::{dwelling, renewals};
use crate::config::{Backend, Config, Inputs};
use crate::edge::listener::Listener;
use crate::edge::{Console, Edge, Forward, ForwardParts, Role, drain, limits};
use crate::observe::health::Health;
use crate::observe::metrics::Metrics;

/// Serves until it is told to stop.
pub async fn serve(
    config: &Config,
    inputs: &Inputs,
    backend: &Backend,
    logs: &Logs,
    descriptors: Option<u64>,
) -> Result<(), String> {
    let signals = Signals::listen()?;
    introduce(config, backend);
    let metrics = Arc::new(Metrics::default());
    let gate = entrance::gate(config, descriptors, &metrics)?;
    let state = dwelling::state(inputs);
    let secured = entrance::secure(config, &state.join("tidegate").join("tls"), &metrics)?;
    let tls = secured.as_ref().map(|secured| secured.acceptor.clone());
    let renewals = renewals::open(config, &state, secured.as_ref(), &metrics)?;
    let health = Health::default();
    let (stop, drain) = drain::new();
    let forward = Forward::new(ForwardParts {
        backend: backend.clone(),
        records: logs.records(config, &metrics),
        health: health.clone(),
        gate: Arc::clone(&gate),
        requests_max: limits::backend_requests_max(gate.rules().connections_max),
    });
    let listener = Listener::bind(&config.http.listen)?;
    tracing::info!("listening on {listener}{}", if tls.is_some() { ", tls" } else { "" });
    if let Some(debug) = &config.http.debug {
        let console = Console {
            engine: None,
            metrics: Arc::clone(&metrics),
            health: health.clone(),
            lines: vec![logs.errors.clone(), logs.access.clone()],
            path: debug.metrics.clone(),
            certificates: secured.as_ref().map(|secured| secured.certificates.clone()),
        };
        open_console(debug, console, &drain, &metrics)?;
    }
    if let Some(renewals) = &renewals {
        renewals::start(config, renewals, &drain, &metrics);
    }
    health.start(config.health.checks.clone(), None);
    let role = Role::Forward(forward);
    entrance::open_plain(config, &role, &gate, &drain, &metrics)?;
    let doors = Doors { gate: Arc::clone(&gate), secured, descriptors };
    let mut live = Live::new(config, inputs, doors, &metrics, None);
    let edge = Edge { listener, tls, role, gate, drain, metrics };
    let running = tokio::spawn(edge.run());
    wait_and_drain(signals, &stop, running, &mut live).await
}

fn introduce(config: &Config, backend: &Backend) {
    let file = config.file.as_ref().map_or("no file".to_owned(), |file| file.display().to_string());
    tracing::info!("tidegate {}: configuration from {file} and the environment", env!("CARGO_PKG_VERSION"));
    let place = match backend {
        Backend::Tcp(authority) => format!("http://{authority}"),
        Backend::Unix(path) => format!("unix:{}", path.display()),
    };
    tracing::info!("edge in front of {place}: nothing is kept here, and every request goes there");
}
