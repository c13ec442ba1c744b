//! All flights: whoever asks for a blob finds the one that brings it, or begins it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{Claim, Flight, Passenger};
use crate::engine::repository::Repository;
use crate::registry::{ByteRange, Digest};
use crate::sys::sync::lock;

/// Most flights at once. Those over the number of fills wait for their turn with about 1 KiB each; a storm of digests that
/// nobody has ever seen ends here.
pub const FLIGHTS_MAX: usize = 10_000;

/// All flights by digest.
#[derive(Debug, Default)]
pub struct Flights {
    table: Mutex<HashMap<Digest, Arc<Flight>>>,
}

/// Whether a request found a flight or began one.
#[derive(Debug)]
pub enum Boarding {
    /// It was there.
    Joined(Passenger),
    /// It is new: the caller starts its task.
    Started(Passenger),
    /// There is one, and nothing shows that the repository may have the blob.
    Foreign,
    /// There are [`FLIGHTS_MAX`] of others.
    Full,
}

impl Flights {
    /// The flight for `digest`, if there is one.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Flight>> {
        lock(&self.table).get(digest).cloned()
    }

    /// Joins the flight for `digest` or begins one, to read what it wants. `entitled`: the repository is known to have a
    /// right to the blob. Another one may begin a flight, which the upstream then grants or denies it, but not join one
    /// of others.
    pub fn board(
        &self,
        digest: Digest,
        repository: &Repository,
        entitled: bool,
        want: ByteRange,
    ) -> Boarding {
        let mut table = lock(&self.table);
        if let Some(flight) = table.get(&digest) {
            match flight.claim(repository, entitled) {
                Claim::Taken => return Boarding::Joined(flight.seat(want, repository.client)),
                Claim::Foreign => return Boarding::Foreign,
                Claim::Closed => {}
            }
        } else if table.len() >= FLIGHTS_MAX {
            return Boarding::Full;
        }
        let flight = Arc::new(Flight::new(digest, repository.clone()));
        table.insert(digest, Arc::clone(&flight));
        Boarding::Started(flight.seat(want, repository.client))
    }

    /// Ends a flight that nobody reads; whether it did. Whoever comes now begins another one.
    pub fn abandon(&self, flight: &Arc<Flight>) -> bool {
        let mut table = lock(&self.table);
        let empty = flight.empty_since().is_some();
        if empty && table.get(&flight.digest).is_some_and(|found| Arc::ptr_eq(found, flight)) {
            table.remove(&flight.digest);
        }
        empty
    }

    /// Takes a flight out of the table: what it fetched is found without it, or it failed. Another one in its place stays.
    pub fn remove(&self, flight: &Arc<Flight>) {
        let mut table = lock(&self.table);
        if table.get(&flight.digest).is_some_and(|found| Arc::ptr_eq(found, flight)) {
            table.remove(&flight.digest);
        }
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        lock(&self.table).len()
    }
}
