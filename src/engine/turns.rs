//! Whose transfer is next, when as many are under way as there may be: every client in its turn, so that one who asks for
//! hundreds of cold blobs makes nobody else wait for more than one of them.

mod line;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::registry::Digest;
use crate::sys::sync::lock;
pub use line::CLIENTS_MAX;
use line::Line;

/// Who asks: an address. All without one (Unix sockets, the mirror itself) are one client, and so are all behind one proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(Option<IpAddr>);

impl Client {
    /// The client at an address.
    pub fn at(address: Option<IpAddr>) -> Self {
        Self(address)
    }
}

/// A number of transfers at once, and who waits for one.
#[derive(Debug)]
pub struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    line: Line<oneshot::Sender<Turn>>,
}

/// One transfer may run, until this is dropped.
#[derive(Debug)]
pub struct Turn(Option<Arc<Turns>>);

/// A place in the line, until it is dropped.
struct Place<'t> {
    turns: &'t Turns,
    ticket: u64,
}

impl Turns {
    /// So many at once, of at least one.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: most.max(1), line: Line::default() })))
    }

    /// Waits for the turn of one of those who want a blob. Whoever drops it gives the place up.
    pub async fn take(self: &Arc<Self>, digest: &Digest, clients: &[Client]) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let ticket = lock(&self.0).line.enter(*digest, clients, sender);
        let _place = Place { turns: self, ticket };
        self.pass_on();
        // Nobody drops the sender while the place is there, except to send. If that ever breaks, one transfer too many
        // is better than none.
        receiver.await.unwrap_or(Turn(None))
    }

    /// Another client wants a blob: what waits for it waits for that client too.
    pub fn join(&self, digest: &Digest, client: Client) {
        lock(&self.0).line.join(digest, client);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        lock(&self.0).line.len()
    }

    /// Gives what is free to whoever is next.
    fn pass_on(self: &Arc<Self>) {
        while let Some(next) = self.next() {
            // Whoever left in this very moment gives it back.
            if let Err(mut turn) = next.send(Turn(Some(Arc::clone(self)))) {
                turn.0 = None;
                lock(&self.0).free += 1;
            }
        }
    }

    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = lock(&self.0);
        state.free.checked_sub(1).and_then(|left| {
            let next = state.line.next()?;
            state.free = left;
            Some(next)
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            lock(&turns.0).free += 1;
            turns.pass_on();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.turns.0).line.leave(self.ticket);
    }
}
