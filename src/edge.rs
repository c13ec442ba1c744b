//! The sockets: listeners, TLS, HTTP, limits, drain.
//!
//! A connection is accepted under a limit, may shake hands under another, and then speaks HTTP/1.1 or HTTP/2. Each
//! request becomes an answer of the [`Site`] (the mirror) or of the [`Console`] (health and metrics). A body that turns
//! out wrong resets its connection; one that only broke off closes it short, so that clients go on with a range.

pub mod acme;
mod activity;
mod admin;
mod answer;
pub(crate) mod body;
pub mod certificates;
pub(crate) mod conditional;
mod connection;
mod console;
pub mod drain;
mod failure;
mod forward;
pub mod gate;
pub mod limits;
pub mod listener;
pub(crate) mod lists;
pub mod logins;
mod proxy_header;
pub mod reload;
mod site;
mod socket;
pub mod tls;
mod visit;

use std::net::IpAddr;
use std::sync::Arc;

pub use admin::Admin;
pub use console::Console;
use drain::Drain;
pub use forward::{Forward, ForwardParts};
use gate::Gate;
use limits::LAST_CALL_WAIT;
use listener::Listener;
pub use site::{Site, SiteParts};
use socket::Stream;
use tls::Acceptor;
pub use visit::Records;

use crate::observe::metrics::Metrics;

/// Who answers on a listener.
#[derive(Debug, Clone)]
pub enum Role {
    /// The mirror.
    Mirror(Arc<Site>),
    /// The sidecar.
    Forward(Arc<Forward>),
    /// Health and metrics.
    Console(Arc<Console>),
    /// Commands of an operator.
    Admin(Arc<Admin>),
    /// A CA's challenges over HTTP.
    Challenges(Arc<acme::Front>),
}

/// A listener with all it needs.
#[derive(Debug)]
pub struct Edge {
    /// Where connections come from.
    pub listener: Listener,
    /// The certificate; `None` speaks plain HTTP.
    pub tls: Option<Acceptor>,
    /// Who answers.
    pub role: Role,
    /// When to stop.
    pub drain: Drain,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Who may come in.
    pub gate: Arc<Gate>,
}

impl Edge {
    /// Accepts until the drain begins, then waits for the open connections until they end or it closes them.
    pub async fn run(self) {
        let mut drain = self.drain.clone();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => self.welcome(accepted),
                () = drain.began() => break,
            }
        }
        // Whoever was let in by the system before is served: else the close would reset what a client takes for accepted.
        self.listener.take_no_more();
        while let Ok(accepted) = tokio::time::timeout(LAST_CALL_WAIT, self.listener.accept()).await {
            self.welcome(accepted);
        }
        drop(self.listener);
        self.gate.empty().await;
    }

    fn welcome(&self, accepted: Option<(Stream, Option<IpAddr>)>) {
        let Some((stream, ip)) = accepted else { return };
        let Some(place) = self.gate.enter() else { return };
        let connection = connection::Connection {
            tls: self.tls.clone(),
            role: self.role.clone(),
            gate: Arc::clone(&self.gate),
            drain: self.drain.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        tokio::spawn(connection.serve(stream, ip, place));
    }
}
