//! A flight: one missing blob being filled, and everybody who reads it meanwhile.
//!
//! The flight belongs to the server. It is in the table from the first request until what it fetched can be found
//! without it, so nobody ever starts a second transfer of the same bytes. Readers follow a watermark of committed
//! bytes; the last of them are held back until the digest matched, so that no wrong blob can look complete.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;

use super::repository::Repository;
use super::rescue::Witness;
use crate::index::RepoKey;
use crate::registry::Digest;
use crate::sys::files::{self, Identity, State};
use crate::sys::sync::lock;
use crate::upstream::FetchError;

/// How much of the end of a blob is held back until its digest matched. Any amount will do, since a body one byte short
/// is not complete; this one saves a small blob a second read.
pub const HELD_BACK_BYTES: u64 = 16 * 1024;

/// One blob on its way.
#[derive(Debug)]
pub struct Flight {
    /// What is being filled.
    pub digest: Digest,
    progress: watch::Sender<Progress>,
    claimants: Mutex<Claimants>,
    /// The file of the tree that is carried, if it is not a partial of ours.
    suspect: OnceLock<(Arc<File>, Witness)>,
}

/// Who asked, in order, and whom the upstream turned away. All but the first were known to have a right to the blob when
/// they came.
#[derive(Debug, Default)]
struct Claimants {
    waiting: Vec<Repository>,
    denied: Vec<(RepoKey, Arc<FetchError>)>,
    /// Nobody is left to fetch it for: whoever comes now needs a flight of its own.
    closed: bool,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Taken,
    /// The flight is somebody else's, and nothing shows that the repository may have the blob.
    Foreign,
    /// The flight ends without the blob.
    Closed,
}

/// How far a flight is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The length of the blob, once known.
    pub total: Option<u64>,
    /// Bytes from the front that were written and hashed.
    pub committed: u64,
    /// The state of the whole.
    pub phase: Phase,
    /// Where the bytes are.
    pub file: Option<Arc<File>>,
    /// Grows when the upstream turned a repository away.
    denials: usize,
}

/// The states of a flight.
#[derive(Debug, Clone)]
pub enum Phase {
    /// The upstream has not answered yet.
    Opening,
    /// Bytes are coming.
    Filling,
    /// All bytes are there and hash to the digest.
    Verified,
    /// It ended without the blob.
    Failed(Failure),
}

/// Why a flight ended without the blob.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The upstream.
    Fetch(Arc<FetchError>),
    /// The bytes do not hash to the digest. Readers are reset: what they have is wrong.
    Mismatch,
    /// Our disk would not take the bytes.
    Disk(Arc<std::io::Error>),
    /// The file of the tree that was to be verified is damaged; it was set aside, and the blob can be fetched anew.
    Rotten,
    /// The task is gone, by a panic or at the stop of the server.
    Abandoned,
}

impl Flight {
    fn new(digest: Digest, first: Repository) -> Self {
        let opening = Progress { total: None, committed: 0, phase: Phase::Opening, file: None, denials: 0 };
        let claimants = Claimants { waiting: vec![first], ..Claimants::default() };
        Self {
            digest,
            progress: watch::Sender::new(opening),
            claimants: Mutex::new(claimants),
            suspect: OnceLock::new(),
        }
    }

    /// A view that wakes when the flight moves.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the length is known, for a reader of `repository`; for a blob of which nothing goes out before it is
    /// verified, until it is: then a wrong one is refused in words, not cut.
    pub async fn opened(&self, repository: &RepoKey) -> Result<u64, Failure> {
        let mut progress = self.watch();
        let opened = progress.wait_for(|now| {
            let over = matches!(now.phase, Phase::Verified | Phase::Failed(_));
            let flows = now.total.is_some_and(|total| total > HELD_BACK_BYTES) && now.file.is_some();
            over || flows || self.denial(repository).is_some()
        });
        let known = opened.await.map_err(|_| Failure::Abandoned)?;
        if let Some(denial) = self.denial(repository) {
            return Err(Failure::Fetch(denial));
        }
        match (&known.phase, known.total) {
            (Phase::Failed(failure), _) => Err(failure.clone()),
            (_, total) => total.ok_or(Failure::Abandoned),
        }
    }

    /// The length of the blob, for a repository that has a right to it; if it is known by now.
    pub fn total(&self) -> Option<u64> {
        self.progress.borrow().total
    }

    /// Whether all bytes are there and hash to the digest.
    pub fn is_verified(&self) -> bool {
        matches!(self.progress.borrow().phase, Phase::Verified)
    }

    /// A repository wants the blob too; if the ones before it are turned away, the flight goes on under it.
    fn claim(&self, repository: &Repository, entitled: bool) -> Claim {
        let mut claimants = lock(&self.claimants);
        let known = claimants.waiting.iter().any(|waiting| waiting.key == repository.key);
        match (claimants.closed, known, entitled) {
            (true, ..) => Claim::Closed,
            (_, true, _) => Claim::Taken,
            (_, false, false) => Claim::Foreign,
            (_, false, true) => {
                claimants.waiting.push(repository.clone());
                claimants.denied.retain(|(denied, _)| *denied != repository.key);
                Claim::Taken
            }
        }
    }

    /// The upstream turned `repository` away: its readers are told, and the next claimant, if any, is returned.
    pub fn deny(&self, repository: &RepoKey, denial: Arc<FetchError>) -> Option<Repository> {
        let next = {
            let mut claimants = lock(&self.claimants);
            claimants.denied.push((*repository, denial));
            claimants.waiting.retain(|waiting| waiting.key != *repository);
            claimants.closed = claimants.waiting.is_empty();
            claimants.waiting.first().cloned()
        };
        self.progress.send_modify(|progress| progress.denials += 1);
        next
    }

    fn denial(&self, repository: &RepoKey) -> Option<Arc<FetchError>> {
        let claimants = lock(&self.claimants);
        claimants.denied.iter().find(|(denied, _)| denied == repository).map(|(_, denial)| Arc::clone(denial))
    }

    /// Everybody who asked and was not turned away.
    pub fn claimants(&self) -> Vec<Repository> {
        lock(&self.claimants).waiting.clone()
    }

    /// The upstream answered: bytes will appear in `file`.
    pub fn open(&self, total: Option<u64>, file: Arc<File>) {
        self.progress.send_modify(|progress| {
            progress.total = total;
            progress.file = Some(file);
            progress.phase = Phase::Filling;
        });
    }

    /// The flight carries a file of the tree, which others may change.
    pub fn carry(&self, file: &Arc<File>, witness: Witness) {
        // Set once, by the task that owns the flight.
        let _ = self.suspect.set((Arc::clone(file), witness));
    }

    /// The partial is a file of the tree from now on, which others may change: as it was published, it is what was hashed.
    pub fn carry_published(&self, identity: Identity) {
        let file = self.progress.borrow().file.clone();
        if let Some((file, state)) = file.and_then(|file| files::state(&file).ok().map(|state| (file, state)))
        {
            self.carry(&file, Witness::new(State { identity, ..state }));
        }
    }

    /// Whether a file of the tree that is carried is not any more what is, or was, hashed.
    pub fn has_changed(&self) -> bool {
        let Some((file, witness)) = self.suspect.get() else { return false };
        let (mut witness, now) = (*witness, files::state(file));
        now.map_or(true, |now| !witness.vouches_for(now))
    }

    /// Bytes from the front up to `committed` are written and hashed.
    pub fn commit(&self, committed: u64) {
        self.progress.send_modify(|progress| progress.committed = committed);
    }

    /// All bytes are there and hash to the digest.
    pub fn verified(&self) {
        self.progress.send_modify(|progress| {
            progress.total = Some(progress.committed);
            progress.phase = Phase::Verified;
        });
    }

    /// The flight ended without the blob.
    pub fn fail(&self, failure: Failure) {
        self.progress.send_modify(|progress| progress.phase = Phase::Failed(failure));
    }
}

impl Progress {
    /// Up to where bytes may be given out.
    pub fn readable(&self) -> u64 {
        match (&self.phase, self.total) {
            (Phase::Verified, _) => self.committed,
            (Phase::Filling, Some(total)) => self.committed.min(total.saturating_sub(HELD_BACK_BYTES)),
            _ => 0,
        }
    }
}

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
    Joined(Arc<Flight>),
    /// It is new: the caller starts its task.
    Started(Arc<Flight>),
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

    /// Joins the flight for `digest` or begins one. `entitled`: the repository is known to have a right to the blob.
    /// Another one may begin a flight, which the upstream then grants or denies it, but not join one of others.
    pub fn board(&self, digest: Digest, repository: &Repository, entitled: bool) -> Boarding {
        let mut table = lock(&self.table);
        if let Some(flight) = table.get(&digest) {
            match flight.claim(repository, entitled) {
                Claim::Taken => return Boarding::Joined(Arc::clone(flight)),
                Claim::Foreign => return Boarding::Foreign,
                Claim::Closed => {}
            }
        } else if table.len() >= FLIGHTS_MAX {
            return Boarding::Full;
        }
        let flight = Arc::new(Flight::new(digest, repository.clone()));
        table.insert(digest, Arc::clone(&flight));
        Boarding::Started(flight)
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
