//! One transfer of a fill: from where it begins to where it is told to end, whatever breaks off on the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};

use super::plan::Span;
use super::{Failure, Room, blocking, disk};
use crate::engine::Engine;
use crate::engine::flight::Flight;
use crate::engine::turns::Turn;
use crate::registry::{ByteRange, RepositoryName};
use crate::store::Partial;
use crate::sys::sync::lock;
use crate::upstream::{Class, FetchError, Part, Transfer};

/// Waits between the tries to go on with a transfer that broke off; the last one given up on ends it. A transfer that
/// got on meanwhile has all of them anew.
const RESUME_WAITS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// Bytes gathered before they go to the disk together. Whatever has arrived goes at once; this bounds a fast upstream.
pub(super) const BATCH_BYTES: usize = 1024 * 1024;

/// Why a transfer ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The upstream.
    Fetch(FetchError),
    /// It gives no parts, or now calls the blob another one: only a transfer from the front can do.
    NoParts,
    /// Our disk.
    Disk(Failure),
}

/// Where a transfer is and where it is to end, as its task and the fill see it.
#[derive(Debug)]
pub(super) struct Leg {
    span: Mutex<Span>,
    changed: Notify,
}

/// An answer of the upstream with its place among the transfers.
pub(super) struct Carrier {
    pub(super) transfer: Transfer,
    pub(super) turn: Turn,
}

/// What all transfers of a fill have in common.
#[derive(Clone)]
pub(super) struct Cargo {
    pub(super) engine: Arc<Engine>,
    pub(super) flight: Arc<Flight>,
    pub(super) name: RepositoryName,
    pub(super) partial: Arc<Partial>,
    /// The length of the blob, if it is known.
    pub(super) total: Option<u64>,
    /// The entity tag of the first answer, if it had a strong one.
    pub(super) etag: Option<String>,
    /// Whether the upstream gives parts of this blob.
    pub(super) proof: Arc<watch::Sender<Proof>>,
    /// The room of a blob of unknown length grows with it.
    pub(super) room: Room,
}

/// What is known of an upstream that should give parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nobody has asked.
    Unasked,
    /// A part was asked for.
    Awaited,
    /// It gave one.
    Given,
    /// It did not.
    Refused,
}

impl Leg {
    pub(super) fn new(id: u64, range: ByteRange) -> Self {
        let span = Span { id, written: range.first, reached: range.first, end: range.end };
        Self { span: Mutex::new(span), changed: Notify::new() }
    }

    pub(super) fn span(&self) -> Span {
        *lock(&self.span)
    }

    /// Ends it earlier.
    pub(super) fn cut(&self, end: u64) {
        lock(&self.span).end = end;
        self.changed.notify_one();
    }

    /// Takes on all up to `end` if another leg begins where this one ends; whether it does.
    pub(super) fn take_over(&self, other: Span, end: u64) -> bool {
        let mut span = lock(&self.span);
        let follows = span.end == other.reached;
        if follows {
            span.end = end;
            self.changed.notify_one();
        }
        follows
    }

    /// Takes on as much of what arrived as is still wanted; gives its place and what is over.
    fn reach(&self, bytes: u64) -> (u64, u64) {
        let mut span = lock(&self.span);
        let at = span.reached;
        span.reached = span.end.min(at.saturating_add(bytes)).max(at);
        (at, bytes - (span.reached - at))
    }

    fn write(&self, written: u64) {
        lock(&self.span).written = written;
    }

    fn is_done(&self) -> bool {
        let span = self.span();
        span.reached >= span.end
    }
}

impl Cargo {
    /// Carries everything of a leg, beginning with an answer that is there already, if any.
    pub(super) async fn carry(&self, leg: Arc<Leg>, first: Option<Carrier>) -> Result<(), Broken> {
        let mut next = first.map(Ok);
        let mut waits = RESUME_WAITS.iter();
        loop {
            // One that was cut to nothing before it asked has nothing to ask for.
            if next.is_none() && leg.is_done() {
                return Ok(());
            }
            let before = leg.span().reached;
            let carrier = match next.take() {
                Some(carrier) => carrier,
                None => self.open(&leg).await,
            };
            let error = match carrier {
                Ok(carrier) => match self.receive(&leg, carrier).await? {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) if is_passing(&error) => error,
                Err(error) => return Err(Broken::Fetch(error)),
            };
            if leg.span().reached > before {
                waits = RESUME_WAITS.iter();
            }
            let Some(wait) = waits.next() else { return Err(Broken::Fetch(error)) };
            tracing::warn!(digest = %self.flight.digest, at = leg.span().reached, %error, "the upstream broke off; going on");
            tokio::select! {
                () = tokio::time::sleep(*wait) => {}
                () = leg.changed.notified() => {}
            }
        }
    }

    /// Asks for what is left of a leg. The registry is asked anew each time: the address that it redirected to before may
    /// have ended.
    async fn open(&self, leg: &Leg) -> Result<Carrier, FetchError> {
        let turn = self.engine.fills.take(&self.flight.digest, &self.flight.clients()).await;
        let span = leg.span();
        let end = Some(span.end).filter(|end| self.total.is_some_and(|total| *end < total));
        let part = Part { from: span.reached, end };
        let transfer = self.engine.upstream.blob(&self.name, &self.flight.digest, part).await?;
        if transfer.total().zip(self.total).is_some_and(|(now, before)| now != before) {
            let host = transfer.host().to_owned();
            return Err(FetchError::Malformed { host, what: "another length than before" });
        }
        Ok(Carrier { transfer, turn })
    }

    /// Writes what arrives to the end of the leg, or to where it breaks off; only a failure of our own disk, or an answer
    /// that does not fit, is final here.
    async fn receive(&self, leg: &Leg, carrier: Carrier) -> Result<Result<(), FetchError>, Broken> {
        let Carrier { mut transfer, turn: _turn } = carrier;
        let span = leg.span();
        // From the front again: as far as all of that is there, it can be skipped.
        let mut skip = span.reached.saturating_sub(transfer.start());
        let other = self.etag.is_some() && transfer.etag() != self.etag.as_deref();
        if (skip > 0 || other) && self.partial.extents().end_from(0) < span.reached {
            return Err(Broken::NoParts);
        }
        if transfer.start() > 0 {
            self.proof.send_replace(Proof::Given);
        }
        while self.goes_on(leg).await {
            let gathered = tokio::select! {
                gathered = gather(&mut transfer, &mut skip) => gathered,
                () = leg.changed.notified() => continue,
            };
            self.engine.metrics.pulled_blob(gathered.received);
            self.write(leg, gathered.batch, &transfer).await?;
            match gathered.ended {
                None => {}
                Some(Ok(())) if !leg.is_done() && self.total.is_some() => {
                    return Ok(Err(FetchError::Cut { host: transfer.host().to_owned() }));
                }
                Some(ended) => return Ok(ended),
            }
        }
        Ok(Ok(()))
    }

    /// Whether there is more to carry. One that was ended early for another does not let go of its transfer before the
    /// upstream has shown that it gives parts: else all that it had would have to be read again.
    async fn goes_on(&self, leg: &Leg) -> bool {
        let mut proof = self.proof.subscribe();
        while leg.is_done() && leg.span().end < self.total.unwrap_or(0) {
            if *proof.borrow() != Proof::Awaited {
                return false;
            }
            tokio::select! {
                _ = proof.changed() => {}
                () = leg.changed.notified() => {}
            }
        }
        !leg.is_done()
    }

    async fn write(&self, leg: &Leg, mut batch: Vec<Bytes>, transfer: &Transfer) -> Result<(), Broken> {
        let bytes: usize = batch.iter().map(Bytes::len).sum();
        let (at, over) = leg.reach(bytes as u64);
        if over > 0 && self.total.is_none_or(|total| at + bytes as u64 > total) {
            let host = transfer.host().to_owned();
            return Err(Broken::Fetch(FetchError::TooLarge { host }));
        }
        drop_end(&mut batch, over);
        if bytes as u64 == over {
            return Ok(());
        }
        if self.total.is_none() {
            self.make_room(bytes as u64).await?;
        }
        let (partial, end) = (Arc::clone(&self.partial), at + bytes as u64 - over);
        let written = blocking(move || partial.write(at, &batch)).await.and_then(|result| result);
        written.map_err(|error| Broken::Disk(disk(error)))?;
        leg.write(end);
        self.flight.commit(self.partial.extents());
        Ok(())
    }

    async fn make_room(&self, bytes: u64) -> Result<(), Broken> {
        match self.room.lock().await.as_mut() {
            Some(room) => {
                let more = self.engine.reserve_more(room, bytes).await;
                more.map_err(|over| Broken::Disk(disk(over.into())))
            }
            None => Ok(()),
        }
    }
}

/// Whether it is worth asking again.
fn is_passing(error: &FetchError) -> bool {
    matches!(error.class(), Class::Down | Class::Slow | Class::Limited)
}

/// What arrived, at most a batch.
struct Gathered {
    batch: Vec<Bytes>,
    /// Bytes received, those that were skipped too.
    received: u64,
    /// Whether it was the end.
    ended: Option<Result<(), FetchError>>,
}

/// Waits for a piece, and takes what else is there. Safe to cancel: it waits for the first piece alone.
async fn gather(transfer: &mut Transfer, skip: &mut u64) -> Gathered {
    let mut gathered = Gathered { batch: Vec::new(), received: 0, ended: None };
    let mut next = Some(transfer.next().await);
    while let Some(piece) = next.take() {
        match piece {
            Ok(Some(piece)) => {
                gathered.received += piece.len() as u64;
                gathered.batch.push(skip_front(piece, skip));
            }
            Ok(None) => gathered.ended = Some(Ok(())),
            Err(error) => gathered.ended = Some(Err(error)),
        }
        if gathered.ended.is_none() && gathered.received < BATCH_BYTES as u64 {
            next = transfer.next().now_or_never();
        }
    }
    gathered
}

fn skip_front(mut piece: Bytes, skip: &mut u64) -> Bytes {
    let known = usize::try_from(*skip).unwrap_or(usize::MAX).min(piece.len());
    *skip -= known as u64;
    piece.split_off(known)
}

/// Takes bytes off the end.
fn drop_end(batch: &mut Vec<Bytes>, mut over: u64) {
    while over > 0 {
        let Some(mut last) = batch.pop() else { return };
        let kept = last.len().saturating_sub(usize::try_from(over).unwrap_or(usize::MAX));
        over -= (last.len() - kept) as u64;
        last.truncate(kept);
        if kept > 0 {
            batch.push(last);
        }
    }
}
