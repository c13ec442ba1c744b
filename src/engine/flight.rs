//! A flight: one missing blob being filled, and everybody who reads it meanwhile.
//!
//! The flight belongs to the server. It is in the table from the first request until what it fetched can be found
//! without it, so nobody ever starts a second transfer of the same bytes. Readers are passengers: each says which bytes
//! it wants next, and follows those that are there. Of the whole the last bytes are held back until the digest matched,
//! so that no wrong blob can look complete.

mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::budget::readers::Reader;
use super::repository::Repository;
use super::rescue::Witness;
use super::turns::{CLIENTS_MAX, Client};
use crate::index::RepoKey;
use crate::registry::{ByteRange, Digest};
use crate::store::Extents;
use crate::sys::clock;
use crate::sys::files::{self, Identity, State};
use crate::sys::sync::lock;
use crate::upstream::FetchError;
pub use table::{Boarding, Flights};

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
    seats: Mutex<Seats>,
    moved: Notify,
    /// Whether what it brings is given out and not kept.
    passing: AtomicBool,
    /// The file of the tree that is carried, if it is not a partial of ours.
    suspect: OnceLock<(Arc<File>, Witness)>,
}

/// Who reads, and what each wants next.
#[derive(Debug)]
struct Seats {
    wants: BTreeMap<u64, ByteRange>,
    /// How many there ever were.
    taken: u64,
    /// The first clients among them.
    clients: Vec<Client>,
    empty_since: Instant,
}

/// One reader of a flight, until it is dropped.
#[derive(Debug)]
pub struct Passenger {
    /// The flight.
    pub flight: Arc<Flight>,
    seat: u64,
}

/// All of a blob, of whatever size.
pub const WHOLE: ByteRange = ByteRange { first: 0, end: u64::MAX };

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
    /// The bytes that were written.
    pub extents: Extents,
    /// The state of the whole.
    pub phase: Phase,
    /// Where the bytes are.
    pub file: Option<Arc<File>>,
    /// Grows when the upstream turned a repository away.
    denials: usize,
    /// Counts everybody who reads the file as one reader, once it is in the tree.
    reader: Option<Arc<Reader>>,
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
    /// Its task is gone, by a panic or at the stop of the server; or nobody reads any more.
    Abandoned,
}

impl Flight {
    fn new(digest: Digest, first: Repository) -> Self {
        let opening = Progress {
            total: None,
            extents: Extents::default(),
            phase: Phase::Opening,
            file: None,
            denials: 0,
            reader: None,
        };
        let claimants = Claimants { waiting: vec![first], ..Claimants::default() };
        let seats =
            Seats { wants: BTreeMap::new(), taken: 0, clients: Vec::new(), empty_since: clock::monotonic() };
        Self {
            digest,
            progress: watch::Sender::new(opening),
            claimants: Mutex::new(claimants),
            seats: Mutex::new(seats),
            moved: Notify::new(),
            passing: AtomicBool::new(false),
            suspect: OnceLock::new(),
        }
    }

    /// Takes a seat. Under the lock of the table, so that a flight that ends for want of readers is not joined.
    fn seat(self: &Arc<Self>, want: ByteRange, client: Client) -> Passenger {
        let mut seats = lock(&self.seats);
        if seats.clients.len() < CLIENTS_MAX && !seats.clients.contains(&client) {
            seats.clients.push(client);
        }
        seats.taken += 1;
        let seat = seats.taken;
        seats.wants.insert(seat, want);
        Passenger { flight: Arc::clone(self), seat }
    }

    /// What the readers want next, in the order in which they came.
    pub fn wants(&self) -> Vec<ByteRange> {
        lock(&self.seats).wants.values().copied().collect()
    }

    /// Who read it first, for whose turn its transfers wait.
    pub fn clients(&self) -> Vec<Client> {
        lock(&self.seats).clients.clone()
    }

    /// How many readers there ever were.
    pub fn readers_ever(&self) -> u64 {
        lock(&self.seats).taken
    }

    /// Since when nobody reads; `None` while somebody does.
    pub fn empty_since(&self) -> Option<Instant> {
        let seats = lock(&self.seats);
        seats.wants.is_empty().then_some(seats.empty_since)
    }

    /// What it brings will not be kept.
    pub fn pass(&self) {
        self.passing.store(true, Ordering::Release);
    }

    /// Whether what it brings is not kept, as far as that is known.
    pub fn is_passing(&self) -> bool {
        self.passing.load(Ordering::Acquire)
    }

    /// Waits until a reader came to where there is nothing, or left.
    pub async fn moved(&self) {
        self.moved.notified().await;
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

    /// Whether a repository is among those that it flies for. Once the length is known, the upstream has granted it to
    /// the first of them, and the others came with a right of their own.
    pub fn flies_for(&self, repository: &RepoKey) -> bool {
        lock(&self.claimants).waiting.iter().any(|waiting| waiting.key == *repository)
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

    /// These bytes are written.
    pub fn commit(&self, extents: Extents) {
        self.progress.send_modify(|progress| progress.extents = extents);
    }

    /// The bytes from the front up to `end` are written.
    pub fn commit_front(&self, end: u64) {
        let mut extents = Extents::default();
        extents.insert(ByteRange { first: 0, end });
        self.commit(extents);
    }

    /// All bytes are there and hash to the digest.
    pub fn verified(&self) {
        self.progress.send_modify(|progress| {
            progress.total = Some(progress.extents.end_from(0));
            progress.phase = Phase::Verified;
        });
    }

    /// The file is in the tree: whoever follows the flight reads it.
    pub fn read_by(&self, reader: Reader) {
        self.progress.send_modify(|progress| progress.reader = Some(Arc::new(reader)));
    }

    /// The flight ended without the blob.
    pub fn fail(&self, failure: Failure) {
        self.progress.send_modify(|progress| progress.phase = Phase::Failed(failure));
    }
}

impl Progress {
    /// Up to where bytes may be given out from a place on. Of the `whole` the last ones wait for the digest; a part is
    /// what the upstream sent for it.
    pub fn readable(&self, from: u64, whole: bool) -> u64 {
        let end = self.extents.end_from(from);
        match (&self.phase, self.total) {
            (Phase::Verified, _) => end,
            (Phase::Filling, Some(total)) if whole => end.min(total.saturating_sub(HELD_BACK_BYTES)),
            (Phase::Filling, Some(_)) => end,
            _ => 0,
        }
    }
}

impl Passenger {
    /// Says what is wanted next.
    pub fn want(&self, range: ByteRange) {
        let known = lock(&self.flight.seats).wants.insert(self.seat, range);
        if known != Some(range) {
            self.flight.moved.notify_one();
        }
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        let mut seats = lock(&self.flight.seats);
        seats.wants.remove(&self.seat);
        seats.empty_since = clock::monotonic();
        drop(seats);
        self.flight.moved.notify_one();
    }
}
