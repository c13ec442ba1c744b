//! The line itself: one lane for each client, served in turn. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::Client;
use crate::registry::Digest;

/// Most clients for whom one ticket waits: the turn of one of so many comes soon enough.
pub const CLIENTS_MAX: usize = 8;

/// Who waits, in lanes. Bounded by the flights and what passes through: each has few tickets.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// By ticket, so that what is older comes first.
    waiting: BTreeMap<u64, Waiting<T>>,
    /// The tickets of each client, oldest first; none is empty.
    lanes: HashMap<Client, VecDeque<u64>>,
    /// The clients that have a lane, the one whose turn is next in front.
    round: VecDeque<Client>,
    by_digest: HashMap<Digest, Vec<u64>>,
    tickets_ever: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    digest: Digest,
    clients: Vec<Client>,
    token: T,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            lanes: HashMap::new(),
            round: VecDeque::new(),
            by_digest: HashMap::new(),
            tickets_ever: 0,
        }
    }
}

impl<T> Line<T> {
    /// Takes a ticket for a blob, in the lanes of all who want it; for nobody known in the lane of those.
    pub(super) fn enter(&mut self, digest: Digest, clients: &[Client], token: T) -> u64 {
        self.tickets_ever += 1;
        let ticket = self.tickets_ever;
        self.waiting.insert(ticket, Waiting { digest, clients: Vec::new(), token });
        self.by_digest.entry(digest).or_default().push(ticket);
        let nobody = [Client::default()];
        let clients = if clients.is_empty() { &nobody } else { clients };
        clients.iter().for_each(|client| self.queue(ticket, *client));
        ticket
    }

    /// Another client wants a blob too.
    pub(super) fn join(&mut self, digest: &Digest, client: Client) {
        let tickets = self.by_digest.get(digest).cloned().unwrap_or_default();
        tickets.into_iter().for_each(|ticket| self.queue(ticket, client));
    }

    fn queue(&mut self, ticket: u64, client: Client) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        if waiting.clients.len() >= CLIENTS_MAX || waiting.clients.contains(&client) {
            return;
        }
        waiting.clients.push(client);
        let lane = self.lanes.entry(client).or_default();
        if lane.is_empty() {
            self.round.push_back(client);
        }
        lane.push_back(ticket);
    }

    /// The oldest ticket of the client whose turn it is; that one goes to the end of the round.
    pub(super) fn next(&mut self) -> Option<T> {
        let client = self.round.pop_front()?;
        self.round.push_back(client);
        let ticket = self.lanes.get(&client).and_then(|lane| lane.front().copied())?;
        self.take_out(ticket)
    }

    /// How many tickets wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Gives a ticket up, if its turn did not come before.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.take_out(ticket);
    }

    fn take_out(&mut self, ticket: u64) -> Option<T> {
        let waiting = self.waiting.remove(&ticket)?;
        for client in waiting.clients {
            let Some(lane) = self.lanes.get_mut(&client) else { continue };
            lane.retain(|other| *other != ticket);
            if lane.is_empty() {
                self.lanes.remove(&client);
                self.round.retain(|other| *other != client);
            }
        }
        if let Some(tickets) = self.by_digest.get_mut(&waiting.digest) {
            tickets.retain(|other| *other != ticket);
            if tickets.is_empty() {
                self.by_digest.remove(&waiting.digest);
            }
        }
        Some(waiting.token)
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
