//! The listener for challenges over HTTP: opened when it can be, never a reason to stop.

use std::sync::Arc;
use std::time::Duration;

use super::answers::Front;
use crate::config::Listen;
use crate::edge::drain::Drain;
use crate::edge::gate::Gate;
use crate::edge::listener::Listener;
use crate::edge::{Edge, Role};
use crate::observe::metrics::Metrics;

/// How often it is tried again: another server that had the port may be gone.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Connections of it: a CA's few, and browsers that are led to https.
const CONNECTIONS_MAX: usize = 256;

/// Opens the listener, now or later; it lives until the drain.
pub fn open(listen: Listen, front: Front, drain: Drain, metrics: Arc<Metrics>) {
    match Listener::bind(&listen) {
        Ok(listener) => drop(tokio::spawn(opened(listener, front, drain, metrics).run())),
        Err(reason) => {
            tracing::warn!(
                reason,
                "challenges over HTTP can't be answered; it is tried again and again (tidegate.edge.http names another port, or off)"
            );
            tokio::spawn(retry(listen, front, drain, metrics));
        }
    }
}

async fn retry(listen: Listen, front: Front, mut drain: Drain, metrics: Arc<Metrics>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
            () = drain.began() => return,
        }
        if let Ok(listener) = Listener::bind(&listen) {
            return opened(listener, front, drain, metrics).run().await;
        }
    }
}

fn opened(listener: Listener, front: Front, drain: Drain, metrics: Arc<Metrics>) -> Edge {
    tracing::info!("challenges over HTTP are answered on {listener}");
    front.answers.set_listening();
    let role = Role::Challenges(Arc::new(front));
    // Whoever it is: CAs ask from addresses that nobody publishes.
    let gate = Gate::open_to_all(CONNECTIONS_MAX, Arc::clone(&metrics));
    Edge { listener, tls: None, role, gate, drain, metrics }
}
