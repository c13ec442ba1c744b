//! Filling a flight: upstream transfers into one partial file, hashed as it grows from the front.
//!
//! One task owns a fill. It makes a [`plan`] whenever something moved, and drives ([`work`]) the transfers ([`carry`])
//! that the plan asks for; none of them knows of the others. It ends when everything is there and hashes to the digest, when the
//! upstream or the disk gives up, or when nobody wants it any more.

mod carry;
mod land;
mod plan;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::budget::Reservation;
use super::flight::{Failure, Flight, WHOLE};
use super::{Engine, Repository, blocking};
use crate::registry::ByteRange;
use crate::store::{Begun, Extents, Partial, Record};
use crate::upstream::{Class, FetchError, Part};
use carry::{Cargo, Carrier, Proof};
pub(super) use land::{Landing, blob_row};
use plan::NEAR_BYTES;
use work::{UNANNOUNCED_BYTES_MAX, Work};

/// Longest life of a fill, so that none runs for ever: 100 GB at 10 Mbit/s. What there is by then is kept for the next.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// How fills behave: `tidegate.fill.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillRules {
    /// Transfers of one large blob at once for speed alone.
    pub segments: usize,
    /// Whether only what is asked for is fetched.
    pub lazy: bool,
}

/// A fill under way.
struct Fill {
    engine: Arc<Engine>,
    flight: Arc<Flight>,
    repository: Repository,
    /// What the manifest says of the length; the upstream's own word comes first, and the digest decides.
    expected: Option<u64>,
    /// What the first reader wants.
    want: ByteRange,
}

impl Engine {
    /// Starts the task of a new flight. It runs to its end whoever leaves, unless all leave early.
    pub(super) fn start_fill(
        self: &Arc<Self>,
        flight: Arc<Flight>,
        repository: Repository,
        entitled: bool,
        expected: Option<u64>,
    ) {
        let want = flight.wants().first().copied().unwrap_or(WHOLE);
        let fill = Fill { engine: Arc::clone(self), flight, repository, expected, want };
        tokio::spawn(async move {
            let guard = Landing::new(&fill.engine, &fill.flight);
            if !fill.finds_it_landed(entitled).await {
                fill.fly().await;
            }
            drop(guard);
        });
    }
}

impl Fill {
    /// What landed meanwhile for others is not fetched again; but it takes a right to get it, which the upstream knows.
    async fn finds_it_landed(&self, entitled: bool) -> bool {
        let digest = &self.flight.digest;
        if !entitled {
            let asked = self.engine.index.blob(digest).is_some();
            if !asked || self.engine.upstream.blob_head(&self.repository.name, digest).await.is_err() {
                return false;
            }
        }
        self.engine.landed_meanwhile(&self.flight).await
    }

    async fn fly(&self) {
        let late = || FetchError::Timeout {
            host: self.engine.upstream.host().to_owned(),
            what: "whole blob",
            limit: LIFE,
        };
        let filled = tokio::time::timeout(LIFE, self.run()).await;
        match filled.unwrap_or_else(|_| Err(Failure::Fetch(Arc::new(late())))) {
            Ok(kept) => self.land(kept).await,
            Err(failure) => self.crash(failure),
        }
    }

    /// Fetches everything, and checks it.
    async fn run(&self) -> Result<Kept, Failure> {
        let (store, digest) = (Arc::clone(&self.engine.store), self.flight.digest);
        let left = blocking(move || store.unfinished(&digest)).await.unwrap_or_default();
        let opening = self.open(&left).await?;
        let total = opening.total;
        let (kept, left) = self.begin(total).await?;
        let partial = kept.partial()?;
        self.flight.open(total, partial.file());
        let (engine, flight) = (Arc::clone(&self.engine), Arc::clone(&self.flight));
        let name = opening.repository.name.clone();
        let etag = opening.begun.as_ref().and_then(|(_, carrier)| carrier.transfer.etag()).map(str::to_owned);
        let proof = Arc::new(watch::Sender::new(Proof::Unasked));
        let room = kept.room.clone();
        let cargo = Cargo { engine, flight, name, partial, total, etag, proof, room };
        let mut work = Work::new(cargo, opening, left);
        let done = work.finish().await;
        drop(work);
        if let Err(Failure::Disk(_)) = &done {
            // What the disk refused is not gone on with, and a full one wants its room back.
            let partial = kept.partial()?;
            let _ = blocking(move || partial.discard()).await;
        }
        done?;
        self.check(&kept).await?;
        Ok(kept)
    }

    /// Opens a transfer of what is wanted first, under the first repository that the upstream lets have the blob.
    async fn open(&self, left: &Extents) -> Result<Opening, Failure> {
        let (mut repository, mut part) = (self.repository.clone(), self.first_part(left));
        loop {
            let error = match self.ask(&repository, part).await {
                Ok(opening) => return Ok(opening),
                Err(error) => Arc::new(error),
            };
            // The blob is shorter than was thought: its length comes with the whole.
            if matches!(*error, FetchError::Status { status: 416, .. }) && part != Some(Part::WHOLE) {
                part = Some(Part::WHOLE);
                continue;
            }
            // These concern the repository that was asked for, and nobody else's.
            if !matches!(error.class(), Class::Absent | Class::LoginRefused) {
                return Err(Failure::Fetch(error));
            }
            self.engine.deny_blob(&repository, &self.flight.digest, &error);
            match self.flight.deny(&repository.key, Arc::clone(&error)) {
                Some(next) => repository = next,
                None => return Err(Failure::Fetch(error)),
            }
        }
    }

    /// Asks for a part, or with none for the upstream's word that the blob is still there.
    async fn ask(&self, repository: &Repository, part: Option<Part>) -> Result<Opening, FetchError> {
        let (upstream, digest) = (&self.engine.upstream, &self.flight.digest);
        let repository = repository.clone();
        let Some(part) = part else {
            let total = upstream.blob_head(&repository.name, digest).await?.or(self.expected);
            if total.is_some() {
                return Ok(Opening { repository, total, begun: None });
            }
            return Box::pin(self.ask(&repository, Some(Part::WHOLE))).await;
        };
        let turn = self.engine.fills.take(digest, &self.flight.clients()).await;
        let transfer = upstream.blob(&repository.name, digest, part).await?;
        let total = transfer.total().or(self.expected);
        Ok(Opening { repository, total, begun: Some((part, Carrier { transfer, turn })) })
    }

    /// What the first transfer is of: the first that is missing of what the first reader wants, or all from the front if
    /// that is not far; none if nothing of that is missing.
    fn first_part(&self, left: &Extents) -> Option<Part> {
        let near = self.want.first <= NEAR_BYTES && !self.engine.fill_rules.lazy;
        let want = if near { WHOLE } else { self.want };
        let known = self.expected.unwrap_or(WHOLE.end);
        let gap = left.gap_from(want.first, want.end.min(known));
        match gap {
            Some(gap) => Some(Part { from: gap.first, end: Some(gap.end).filter(|end| *end < known) }),
            // Behind what is thought to be the end: the upstream knows better.
            None if want.first >= known => Some(Part::WHOLE),
            None => None,
        }
    }

    /// Begins the file, in the room that there is for it. What the budget has no room for gets a file without a name,
    /// which lives as long as its readers, if that leaves others enough of the disk; else it is passed through.
    async fn begin(&self, total: Option<u64>) -> Result<(Kept, Vec<Record>), Failure> {
        // What has no length gets its room as it grows.
        let room = self.engine.reserve(total.unwrap_or(0)).await;
        if let Err(over) = room
            && !self.engine.leaves_enough_free(total.unwrap_or(UNANNOUNCED_BYTES_MAX)).await
        {
            return Err(disk(over.into()));
        }
        let lasting = room.is_ok();
        let mut begun = self.try_begin(total, lasting).await;
        if let Err(error) = &begun
            && self.engine.relieve(error, total.unwrap_or(0)).await
        {
            begun = self.try_begin(total, lasting).await;
        }
        let Begun { partial, left } = begun.map_err(disk)?;
        if !lasting {
            self.flight.pass();
            tracing::info!(digest = %self.flight.digest, "the budget has no room for a blob; it is served and not kept");
        }
        let room = Arc::new(tokio::sync::Mutex::new(room.ok()));
        Ok((Kept { partial: Some(Arc::new(partial)), room, lasting }, left))
    }

    async fn try_begin(&self, total: Option<u64>, lasting: bool) -> std::io::Result<Begun> {
        let (store, digest) = (Arc::clone(&self.engine.store), self.flight.digest);
        let begin = move || match lasting {
            true => store.begin(&digest, total),
            false => store.begin_nameless(&digest, total),
        };
        blocking(begin).await?
    }
}

/// The first answer of the upstream.
struct Opening {
    repository: Repository,
    /// The length of the blob, if it is known.
    total: Option<u64>,
    /// What was asked for and its transfer, if anything was.
    begun: Option<(Part, Carrier)>,
}

/// The room of a fill, which grows with a blob of unknown length.
pub(super) type Room = Arc<tokio::sync::Mutex<Option<Reservation>>>;

/// The partial of a fill and its room. One that comes to nothing is removed on the blocking pool: to give gigabytes back
/// to the file system takes a while.
pub(super) struct Kept {
    partial: Option<Arc<Partial>>,
    room: Room,
    /// Whether it is to become a blob of the tree.
    lasting: bool,
}

impl Kept {
    fn partial(&self) -> Result<Arc<Partial>, Failure> {
        self.partial.clone().ok_or(Failure::Abandoned)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(partial) = self.partial.take() {
            tokio::task::spawn_blocking(move || drop(partial));
        }
    }
}

fn disk(error: std::io::Error) -> Failure {
    Failure::Disk(Arc::new(error))
}
