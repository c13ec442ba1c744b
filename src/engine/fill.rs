//! Filling a flight: upstream transfers into one partial file, hashed as it grows from the front.
//!
//! One task owns a fill. It makes a [`plan`] whenever something moved, and drives the transfers ([`carry`]) that the plan
//! asks for; none of them knows of the others. It ends when everything is there and hashes to the digest, when the
//! upstream or the disk gives up, or when nobody wants it any more.

mod carry;
mod land;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::flight::{Failure, Flight, WHOLE};
use super::{Engine, Repository, blocking};
use crate::registry::ByteRange;
use crate::store::{Begun, Extents, Partial, Record};
use crate::upstream::{Class, FetchError, Part};
use carry::{Broken, Cargo, Carrier, Leg};
pub(super) use land::{Landing, blob_row};
use plan::{Chart, NEAR_BYTES, Step};

/// Largest blob that is taken without an announced length: an endless one must not fill the disk.
const UNANNOUNCED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// How long a fill without readers goes on before it is judged whether it is worth going on: a client whose connection
/// broke is back within seconds.
const EMPTY_WAIT: Duration = Duration::from_secs(10);

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

/// How a part of the work of a fill ended.
enum Ended {
    /// A transfer.
    Leg(u64, Result<(), Broken>),
    /// The check of what an earlier process left, one block at a time.
    TakenBack(std::io::Result<bool>, Record),
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
        let total = opening.carrier.transfer.total().or(self.expected);
        let Begun { partial, left } = self.begin(total).await?;
        let kept = Kept(Some(Arc::new(partial)));
        let partial = kept.partial()?;
        self.flight.open(total, partial.file());
        let (engine, flight) = (Arc::clone(&self.engine), Arc::clone(&self.flight));
        let cargo = Cargo { engine, flight, name: opening.repository.name.clone(), partial, total };
        let mut work = Work::new(cargo, opening, left);
        let done = work.finish().await;
        drop(work);
        done.and_then(|()| self.check(&kept)).map(|()| kept)
    }

    /// Opens a transfer of what is wanted first, under the first repository that the upstream lets have the blob.
    async fn open(&self, left: &Extents) -> Result<Opening, Failure> {
        let (mut repository, mut part) = (self.repository.clone(), self.first_part(left));
        loop {
            let turn =
                Arc::clone(&self.engine.fills).acquire_owned().await.map_err(|_| Failure::Abandoned)?;
            let opened = self.engine.upstream.blob(&repository.name, &self.flight.digest, part).await;
            let error = match opened {
                Ok(transfer) => return Ok(Opening { repository, part, carrier: Carrier { transfer, turn } }),
                Err(error) => Arc::new(error),
            };
            // The blob is shorter than was thought: its length comes with the whole.
            if matches!(*error, FetchError::Status { status: 416, .. }) && part != Part::WHOLE {
                part = Part::WHOLE;
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

    /// What the first transfer is of: the first that is missing of what the first reader wants, or all from the front if
    /// that is not far.
    fn first_part(&self, left: &Extents) -> Part {
        let lazy = self.engine.fill_rules.lazy;
        let near = self.want.first <= NEAR_BYTES && !lazy;
        let from = left.end_from(if near { 0 } else { self.want.first });
        let known = self.expected.unwrap_or(WHOLE.end);
        let end = left.next_from(from).unwrap_or(WHOLE.end).min(if near { WHOLE.end } else { self.want.end });
        if from >= end || from >= known {
            return Part::WHOLE;
        }
        Part { from, end: Some(end).filter(|end| *end < known) }
    }

    async fn begin(&self, total: Option<u64>) -> Result<Begun, Failure> {
        let (store, digest) = (Arc::clone(&self.engine.store), self.flight.digest);
        blocking(move || store.begin(&digest, total)).await.and_then(|begun| begun).map_err(disk)
    }
}

/// The first answer of the upstream.
struct Opening {
    repository: Repository,
    /// What was asked for.
    part: Part,
    carrier: Carrier,
}

impl Opening {
    /// What of a blob comes with it.
    fn range(&self, total: Option<u64>) -> ByteRange {
        let (start, total) = (self.carrier.transfer.start(), total.unwrap_or(UNANNOUNCED_BYTES_MAX));
        let end = self.part.end.filter(|_| start == self.part.from).unwrap_or(total);
        ByteRange { first: start, end: end.min(total) }
    }
}

/// The transfers of a fill, and what is known of them.
struct Work {
    cargo: Cargo,
    legs: HashMap<u64, Arc<Leg>>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// What an earlier process left, not yet checked; its blocks in reverse order.
    left: Vec<Record>,
    parts: bool,
    legs_ever: u64,
}

impl Work {
    /// Begins with the answer that is there, and with what an earlier process left besides.
    fn new(cargo: Cargo, opening: Opening, mut left: Vec<Record>) -> Self {
        let range = opening.range(cargo.total);
        left.retain(|record| record.range.end <= range.first || range.end <= record.range.first);
        left.reverse();
        let parts = opening.carrier.transfer.start() == opening.part.from;
        let (legs, running) = (HashMap::new(), FuturesUnordered::new());
        let mut work = Self { cargo, legs, running, left, parts, legs_ever: 0 };
        if range.first < range.end {
            work.begin(range, Some(opening.carrier));
        }
        work.take_back();
        work
    }

    /// Starts a transfer, with an answer that is there already or to be asked for.
    fn begin(&mut self, range: ByteRange, first: Option<Carrier>) {
        self.legs_ever += 1;
        let (id, cargo) = (self.legs_ever, self.cargo.clone());
        let leg = Arc::new(Leg::new(id, range));
        self.legs.insert(id, Arc::clone(&leg));
        self.running.push(Box::pin(async move { Ended::Leg(id, cargo.carry(leg, first).await) }));
    }

    /// Checks the next block that an earlier process left.
    fn take_back(&mut self) {
        let Some(record) = self.left.last().copied() else { return };
        let partial = Arc::clone(&self.cargo.partial);
        self.running.push(Box::pin(async move {
            let checked = blocking(move || partial.take_back(&record)).await.and_then(|result| result);
            Ended::TakenBack(checked, record)
        }));
    }

    /// Runs until everything is there.
    async fn finish(&mut self) -> Result<(), Failure> {
        loop {
            self.follow_the_plan();
            if self.is_complete() {
                return Ok(());
            }
            let flight = Arc::clone(&self.cargo.flight);
            tokio::select! {
                Some(ended) = self.running.next() => self.take(ended)?,
                () = flight.moved() => {}
                () = until_judged(&flight) => {
                    if !self.is_worth_it() && self.cargo.engine.flights.abandon(&flight) {
                        tracing::info!(digest = %flight.digest, "nobody wants the blob any more; what there is of it is kept for a while");
                        return Err(Failure::Abandoned);
                    }
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.legs.is_empty()
            && self.cargo.total.is_none_or(|total| self.cargo.partial.extents().end_from(0) == total)
    }

    /// Whether a fill that nobody reads is to go on: most is done, or others asked for it too.
    fn is_worth_it(&self) -> bool {
        let done = self.cargo.partial.extents().bytes();
        let most = self.cargo.total.is_some_and(|total| done.saturating_mul(2) >= total);
        !self.cargo.engine.fill_rules.lazy && (most || self.cargo.flight.readers_ever() > 1)
    }

    fn follow_the_plan(&mut self) {
        // Of a blob without a length there is one transfer, from the front.
        let Some(total) = self.cargo.total else { return };
        let rules = self.cargo.engine.fill_rules;
        let chart = Chart {
            total,
            done: self.cargo.partial.extents(),
            left: left_extents(&self.left),
            spans: self.legs.values().map(|leg| leg.span()).collect(),
            wants: self.cargo.flight.wants(),
            parts: self.parts,
            lazy: rules.lazy,
            segments: rules.segments,
        };
        for step in plan::plan(&chart) {
            match step {
                Step::Start(range) => self.begin(range, None),
                Step::Cut { id, end } => {
                    if let Some(leg) = self.legs.get(&id) {
                        leg.cut(end);
                    }
                }
            }
        }
    }

    fn take(&mut self, ended: Ended) -> Result<(), Failure> {
        match ended {
            Ended::Leg(id, result) => {
                self.legs.remove(&id);
                result.or_else(|broken| self.cope(broken))
            }
            Ended::TakenBack(checked, record) => {
                if !checked.map_err(disk)? {
                    tracing::warn!(digest = %self.cargo.flight.digest, at = record.range.first, "a block of an unfinished download is not what was received; it is fetched again");
                }
                self.left.pop();
                self.cargo.flight.commit(self.cargo.partial.extents());
                self.take_back();
                Ok(())
            }
        }
    }

    /// A transfer besides others that broke off leaves its part to them; the only one ends the fill.
    fn cope(&mut self, broken: Broken) -> Result<(), Failure> {
        match broken {
            Broken::Disk(failure) => Err(failure),
            Broken::NoParts => {
                tracing::info!(digest = %self.cargo.flight.digest, "the upstream gives no parts of this blob; it is read from the front");
                self.parts = false;
                Ok(())
            }
            Broken::Fetch(error) if self.legs.is_empty() => Err(Failure::Fetch(Arc::new(error))),
            Broken::Fetch(error) => {
                tracing::warn!(digest = %self.cargo.flight.digest, %error, "one of several transfers is given up; the others go on");
                self.parts = false;
                Ok(())
            }
        }
    }
}

fn left_extents(left: &[Record]) -> Extents {
    let mut extents = Extents::default();
    left.iter().for_each(|record| extents.insert(record.range));
    extents
}

/// Waits until a flight has been without readers for a while.
async fn until_judged(flight: &Flight) {
    match flight.empty_since() {
        Some(since) => tokio::time::sleep_until((since + EMPTY_WAIT).into()).await,
        None => std::future::pending().await,
    }
}

/// The partial of a fill. One that comes to nothing is removed on the blocking pool: to give gigabytes back to the file
/// system takes a while.
pub(super) struct Kept(Option<Arc<Partial>>);

impl Kept {
    fn partial(&self) -> Result<Arc<Partial>, Failure> {
        self.0.clone().ok_or(Failure::Abandoned)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(partial) = self.0.take() {
            tokio::task::spawn_blocking(move || drop(partial));
        }
    }
}

fn disk(error: std::io::Error) -> Failure {
    Failure::Disk(Arc::new(error))
}
