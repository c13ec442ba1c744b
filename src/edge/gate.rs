//! Who may come in, and how many at once. The rules can change while it runs; a connection goes by those it found.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Response};
use ipnet::IpNet;
use tokio::sync::Notify;

use super::body::Body;
use super::connection::Client;
use super::failure;
use super::logins::{Logins, Verdict};
use crate::observe::metrics::{Denied, Metrics};
use crate::sys::clock;
use crate::sys::sync::lock;

/// How long one kind of trouble at the gate is not told again: a flood must not become a flood of lines.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// The rules of a gate.
#[derive(Debug, Default)]
pub struct Rules {
    /// Networks that may come in; empty lets everybody.
    pub allow: Vec<IpNet>,
    /// Networks whose connections begin with a header of the PROXY protocol.
    pub proxies: Vec<IpNet>,
    /// Most open connections.
    pub connections_max: usize,
    /// Most open connections of one client.
    pub per_client_max: Option<u32>,
    /// `Strict-Transport-Security` of answers over TLS.
    pub hsts: Option<HeaderValue>,
    /// Who must say who he is.
    pub logins: Option<Arc<Logins>>,
}

/// The gate of one or more listeners.
#[derive(Debug)]
pub struct Gate {
    rules: ArcSwap<Rules>,
    metrics: Arc<Metrics>,
    open: AtomicUsize,
    clients: Mutex<HashMap<IpAddr, u32>>,
    left: Notify,
    full: Rarely,
    crowded: Rarely,
    foreign: Rarely,
}

/// One connection's place, given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    client: Option<IpAddr>,
}

impl Rules {
    /// Whether an address may come in; those of Unix sockets have none, and the mode of the socket has decided.
    pub fn admits(&self, client: Option<IpAddr>) -> bool {
        let within = |ip: IpAddr| self.allow.iter().any(|network| network.contains(&ip));
        self.allow.is_empty() || client.is_none_or(within)
    }

    /// Whether connections from there begin with a header of the PROXY protocol.
    pub fn is_proxy(&self, client: Option<IpAddr>) -> bool {
        client.is_some_and(|ip| self.proxies.iter().any(|network| network.contains(&ip)))
    }
}

impl Gate {
    /// A gate with rules.
    pub fn new(rules: Rules, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            metrics,
            open: AtomicUsize::new(0),
            clients: Mutex::default(),
            left: Notify::new(),
            full: Rarely::default(),
            crowded: Rarely::default(),
            foreign: Rarely::default(),
        })
    }

    /// A gate that lets everybody in, up to a number.
    pub fn open_to_all(connections_max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::new(Rules { connections_max, ..Rules::default() }, metrics)
    }

    /// The rules of this moment.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Other rules, from now on. Connections that are open stay.
    pub fn change(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// A place for a connection, unless too many are open.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let limit = self.rules.load().connections_max;
        let place = Place { gate: Arc::clone(self), client: None };
        if self.open.fetch_add(1, Ordering::AcqRel) < limit {
            return Some(place);
        }
        self.metrics.refused();
        if self.full.is_time() {
            tracing::warn!(
                limit,
                "new connections are closed: too many are open (tidegate.edge.connections)"
            );
        }
        None
    }

    /// The answer to a request whose login is wrong or missing, if logins are asked for at all.
    pub async fn check_login(&self, headers: &HeaderMap, client: &Client) -> Result<(), Response<Body>> {
        let Some(logins) = self.rules.load().logins.clone() else { return Ok(()) };
        match logins.check(headers, client.ip).await {
            Verdict::Welcome => Ok(()),
            Verdict::Unknown => Err(failure::unauthorized(&logins.challenge)),
            Verdict::TooMany => Err(failure::too_many_logins()),
        }
    }

    /// Says that an address is not in the list.
    pub fn turned_away(&self, peer: &str) {
        self.metrics.denied(Denied::Allow);
        if self.foreign.is_time() {
            tracing::warn!(peer, "a client is turned away: its address is not in tidegate.edge.allow");
        }
    }

    /// Waits until no connection is open.
    pub async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Place {
    /// Says whose it is. False: that client has as many as it may have.
    pub fn belongs_to(&mut self, client: Option<IpAddr>) -> bool {
        let Some(client) = client.map(network_of) else { return true };
        let limit = self.gate.rules.load().per_client_max.unwrap_or(u32::MAX);
        let mut clients = lock(&self.gate.clients);
        let open = clients.entry(client).or_default();
        if *open < limit {
            *open += 1;
            self.client = Some(client);
            return true;
        }
        drop(clients);
        self.gate.metrics.denied(Denied::PerClient);
        if self.gate.crowded.is_time() {
            let peer = client.to_string();
            tracing::warn!(peer, limit, "a client has too many connections (tidegate.edge.perclient)");
        }
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            let mut clients = lock(&self.gate.clients);
            match clients.get_mut(&client) {
                Some(open) if *open > 1 => *open -= 1,
                _ => drop(clients.remove(&client)),
            }
        }
        if self.gate.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.gate.left.notify_waiters();
        }
    }
}

/// What counts as one client: an address, or with IPv6 the /64 that one subscriber has.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        IpAddr::V4(_) => ip,
    }
}

/// Lets something be said once in a while.
#[derive(Debug, Default)]
struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    fn is_time(&self) -> bool {
        let now = clock::monotonic();
        let mut last = lock(&self.0);
        let is_time = last.is_none_or(|last| now.saturating_duration_since(last) >= TOLD_FOR);
        if is_time {
            *last = Some(now);
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(rules: Rules) -> Arc<Gate> {
        Gate::new(rules, Arc::default())
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn an_empty_list_lets_everybody_in_and_another_one_its_own() {
        assert!(Rules::default().admits(ip("192.0.2.1")) && Rules::default().admits(None));
        let allow = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let rules = Rules { allow, ..Rules::default() };
        assert!(rules.admits(ip("192.0.2.255")) && rules.admits(ip("2001:db8::1")) && rules.admits(None));
        assert!(!rules.admits(ip("192.0.3.0")) && !rules.admits(ip("2001:db9::")));
    }

    #[test]
    fn a_place_is_given_back() {
        let gate = gate(Rules { connections_max: 2, ..Rules::default() });
        let (one, two) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(gate.enter().is_none() && gate.enter().is_none());
        drop(one);
        assert!(gate.enter().is_some());
        gate.change(Rules { connections_max: 1, ..Rules::default() });
        assert!(gate.enter().is_none());
        drop(two);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn each_client_has_so_many_and_a_64_is_one_client() {
        let gate = gate(Rules { connections_max: 100, per_client_max: Some(2), ..Rules::default() });
        let enter = |client: Option<IpAddr>| {
            let mut place = gate.enter().unwrap();
            place.belongs_to(client).then_some(place)
        };
        let held = (enter(ip("2001:db8::1")), enter(ip("2001:db8::2")));
        assert!(held.0.is_some() && held.1.is_some() && enter(ip("2001:db8::3")).is_none());
        assert!(enter(ip("2001:db8:0:1::1")).is_some() && enter(None).is_some());
        drop(held);
        assert!(enter(ip("2001:db8::3")).is_some());
        assert!(lock(&gate.clients).is_empty());
    }

    #[tokio::test]
    async fn the_last_one_to_leave_is_noticed() {
        let gate = gate(Rules { connections_max: 2, ..Rules::default() });
        let place = gate.enter().unwrap();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(place);
        waiting.await.unwrap();
        gate.empty().await;
    }
}
