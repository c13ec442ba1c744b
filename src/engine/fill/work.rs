//! The transfers of one fill: begun and ended as the plan says, until everything is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::carry::{Broken, Cargo, Carrier, Leg, Proof};
use super::plan::{self, Chart, Span, Step};
use super::{Opening, blocking, disk};
use crate::engine::flight::{Failure, Flight};
use crate::registry::ByteRange;
use crate::store::{Extents, Record};
use crate::upstream::{Part, Transfer};

/// Largest blob that is taken without an announced length: an endless one must not fill the disk.
const UNANNOUNCED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// How long a fill without readers goes on before it is judged whether it is worth going on: a client whose connection
/// broke is back within seconds.
const EMPTY_WAIT: Duration = Duration::from_secs(10);

/// How a part of the work of a fill ended.
enum Ended {
    /// A transfer.
    Leg(u64, Result<(), Broken>),
    /// The check of what an earlier process left, one block at a time.
    TakenBack(std::io::Result<bool>, Record),
}

/// The transfers of a fill, and what is known of them.
pub(super) struct Work {
    cargo: Cargo,
    legs: HashMap<u64, Arc<Leg>>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// What an earlier process left, not yet checked; its blocks in reverse order.
    left: Vec<Record>,
    legs_ever: u64,
}

impl Work {
    /// Begins with the answer that is there, and with what an earlier process left besides.
    pub(super) fn new(cargo: Cargo, opening: Opening, mut left: Vec<Record>) -> Self {
        left.reverse();
        let (legs, running) = (HashMap::new(), FuturesUnordered::new());
        let mut work = Self { cargo, legs, running, left, legs_ever: 0 };
        if let Some((part, carrier)) = opening.begun {
            let range = range_of(part, &carrier.transfer, work.cargo.total);
            work.left.retain(|left| left.range.end <= range.first || range.end <= left.range.first);
            if part.from > 0 {
                let given = range.first == part.from;
                work.cargo.proof.send_replace(if given { Proof::Given } else { Proof::Refused });
            }
            if range.first < range.end {
                work.begin(range, Some(carrier));
            }
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
    pub(super) async fn finish(&mut self) -> Result<(), Failure> {
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
            parts: self.proof() != Proof::Refused,
            lazy: rules.lazy,
            segments: rules.segments,
        };
        for step in plan::plan(&chart) {
            match step {
                Step::Start(range) => {
                    if range.first > 0 && self.proof() == Proof::Unasked {
                        self.cargo.proof.send_replace(Proof::Awaited);
                    }
                    self.begin(range, None);
                }
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
                let span = self.legs.remove(&id).map(|leg| leg.span());
                result.or_else(|broken| self.cope(broken, span))
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
    fn cope(&mut self, broken: Broken, span: Option<Span>) -> Result<(), Failure> {
        match broken {
            Broken::Disk(failure) => Err(failure),
            Broken::NoParts => {
                tracing::info!(digest = %self.cargo.flight.digest, "the upstream gives no parts of this blob; it is read from the front");
                self.go_on_in_one(span);
                Ok(())
            }
            Broken::Fetch(error) if self.legs.is_empty() => Err(Failure::Fetch(Arc::new(error))),
            Broken::Fetch(error) => {
                tracing::warn!(digest = %self.cargo.flight.digest, %error, "one of several transfers is given up; the others go on");
                self.go_on_in_one(span);
                Ok(())
            }
        }
    }

    /// From now on there is one transfer. The one before the one that failed was to end where that one began: it had
    /// better go on.
    fn go_on_in_one(&mut self, failed: Option<Span>) {
        if let Some(failed) = failed {
            let mut taken = self.cargo.partial.extents();
            left_extents(&self.left).iter().for_each(|range| taken.insert(range));
            self.legs.values().for_each(|leg| taken.insert(leg.span().range()));
            let end = taken.next_from(failed.reached).or(self.cargo.total).unwrap_or(failed.end);
            self.legs.values().any(|leg| leg.take_over(failed, end));
        }
        self.cargo.proof.send_replace(Proof::Refused);
    }

    fn proof(&self) -> Proof {
        *self.cargo.proof.borrow()
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

/// What of a blob comes with the answer to a request for a part of it: that part, or everything from the front.
fn range_of(part: Part, transfer: &Transfer, total: Option<u64>) -> ByteRange {
    let (start, total) = (transfer.start(), total.unwrap_or(UNANNOUNCED_BYTES_MAX));
    let end = part.end.filter(|_| start == part.from).unwrap_or(total);
    ByteRange { first: start, end: end.min(total) }
}
