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
pub mod limits;
pub mod listener;
pub(crate) mod lists;
pub mod reload;
mod site;
mod socket;
pub mod tls;
mod visit;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub use admin::Admin;
pub use console::Console;
use drain::Drain;
use listener::Listener;
pub use site::{Site, SiteParts};
use tls::Acceptor;

use crate::observe::metrics::Metrics;

/// Who answers on a listener.
#[derive(Debug, Clone)]
pub enum Role {
    /// The mirror.
    Mirror(Arc<Site>),
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
    /// Most open connections.
    pub connections_max: usize,
}

impl Edge {
    /// Accepts until the drain begins, then waits for the open connections until they end or it closes them.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.connections_max));
        let mut drain = self.drain.clone();
        let mut full = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = drain.began() => break,
            };
            let Some((socket, peer)) = accepted else { continue };
            let peer = if matches!(self.role, Role::Admin(_)) { socket.user() } else { peer };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.metrics.refused();
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(
                        limit = self.connections_max,
                        "new connections are closed: too many are open"
                    );
                }
                continue;
            };
            full = false;
            let connection = connection::Connection {
                tls: self.tls.clone(),
                role: self.role.clone(),
                drain: self.drain.clone(),
                metrics: Arc::clone(&self.metrics),
                peer,
            };
            tokio::spawn(async move {
                connection.serve(socket).await;
                drop(slot);
            });
        }
        drop(self.listener);
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        let _ended = slots.acquire_many(all).await;
    }
}
