//! The byte budget: who may write how much, and what is used.
//!
//! A fill reserves its bytes before it begins. If they don't fit, room is made first, which the fill waits for a moment;
//! what can't be given room is served without being kept. A reservation lasts until the blob is in the tree, where it
//! turns into usage, or until the fill gives up. So the sum of what is used and what is promised is never over the
//! budget, but for what readers hold open after its eviction.
//!
//! The usage is counted by each scan of the index, the first one in the background of the start, and kept up in between.

pub mod readers;
pub mod room;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::{Engine, blocking};
use crate::config::Cache;
use crate::store::OwnBytes;
use crate::sys::clock;
use crate::sys::files::{self, Space};
use crate::sys::sync::lock;
use readers::Readers;
use room::{Aim, Limits, Need, SMALL_BYTES, Usage, on_disk};

/// How long a fill waits for room. Its client waits too, and gives up at 10 s.
pub(super) const ROOM_WAIT: Duration = Duration::from_secs(2);

/// The budget has no room for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache has no room for it (tidegate.cache.maxsize, tidegate.cache.minfree), and nothing may go")]
pub struct OverBudget;

impl From<OverBudget> for std::io::Error {
    fn from(over: OverBudget) -> Self {
        Self::new(std::io::ErrorKind::QuotaExceeded, over)
    }
}

/// Whether it was not the disk that refused, but the budget.
pub fn is_over_budget(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OverBudget>())
}

/// The ledger.
#[derive(Debug)]
pub struct Budget {
    rules: ArcSwap<Cache>,
    readers: Arc<Readers>,
    ledger: Mutex<Ledger>,
    wanted: Notify,
    passes: watch::Sender<Passes>,
}

#[derive(Debug, Default)]
struct Ledger {
    small: u64,
    large: u64,
    reserved: u64,
    /// What each of those wants that wait for room: as many as there are fills and publications.
    waiting: Vec<u64>,
    measured: OwnBytes,
    /// As they were when the disk was last looked at.
    limits: Option<Limits>,
    /// Whether the blobs were counted.
    counted: bool,
    /// Whether there are rows that no count has seen, and no fill.
    recount: bool,
    /// Until then nothing more may go, so that nobody need wait for room.
    full_until: Option<Instant>,
}

/// How far the making of room is.
#[derive(Debug, Clone, Copy, Default)]
struct Passes {
    begun: u64,
    ended: u64,
    /// Grows with each group of blobs that went.
    steps: u64,
}

/// Bytes that a fill may write; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

/// What the cache uses, and may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is used.
    pub usage: Usage,
    /// The limits, as they were when the disk was last looked at.
    pub limits: Option<Limits>,
}

impl Budget {
    /// A budget of which nothing is known to be used yet.
    pub fn new(rules: Cache) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            readers: Arc::default(),
            ledger: Mutex::default(),
            wanted: Notify::new(),
            passes: watch::Sender::new(Passes::default()),
        })
    }

    /// The configuration.
    pub fn rules(&self) -> Cache {
        **self.rules.load()
    }

    /// Another configuration, which counts from now on.
    pub fn change(&self, rules: Cache) {
        self.rules.store(Arc::new(rules));
        self.wanted.notify_one();
    }

    /// Who reads what.
    pub fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// What is used, and what may be.
    pub fn standing(&self) -> Standing {
        let ledger = lock(&self.ledger);
        Standing { usage: self.usage_of(&ledger), limits: ledger.limits }
    }

    /// What is used.
    pub fn usage(&self) -> Usage {
        self.usage_of(&lock(&self.ledger))
    }

    fn usage_of(&self, ledger: &Ledger) -> Usage {
        Usage {
            small: ledger.small,
            large: ledger.large,
            unfinished: ledger.reserved.max(ledger.measured.partials),
            lingering: self.readers.lingering(),
            other: ledger.measured.other,
        }
    }

    /// A blob is in the tree that was not, without a reservation.
    pub fn found(&self, bytes: u64) {
        lock(&self.ledger).add(bytes);
        self.wanted.notify_one();
    }

    /// A blob is not in the tree any more.
    pub fn freed(&self, bytes: u64) {
        let mut ledger = lock(&self.ledger);
        let class = ledger.class(bytes);
        *class = class.saturating_sub(on_disk(bytes));
    }

    /// What a scan counted, small and large, and what the ledger said when the scan began; what changed meanwhile is kept.
    pub fn counted(&self, small: u64, large: u64, before: &Usage) {
        let mut ledger = lock(&self.ledger);
        let grown = |counted: u64, now: u64, before: u64| {
            counted.saturating_add(now.saturating_sub(before)).saturating_sub(before.saturating_sub(now))
        };
        ledger.small = grown(small, ledger.small, before.small);
        ledger.large = grown(large, ledger.large, before.large);
        ledger.counted = true;
    }

    /// Rows came that are of no fill: the next pass counts anew.
    pub fn recount(&self) {
        lock(&self.ledger).recount = true;
        self.wanted.notify_one();
    }

    /// A count begins: what is used by now, as far as it is known.
    pub fn count_begins(&self) -> Usage {
        let mut ledger = lock(&self.ledger);
        ledger.recount = false;
        self.usage_of(&ledger)
    }

    /// Whether all blobs were counted, so that what has to go is known.
    pub fn is_counted(&self) -> bool {
        let ledger = lock(&self.ledger);
        ledger.counted && !ledger.recount
    }

    /// What has to go.
    pub fn need(&self, space: &Space, measured: OwnBytes, aim: Aim) -> Need {
        let mut ledger = lock(&self.ledger);
        ledger.measured = measured;
        let limits = Limits::new(&self.rules(), space);
        ledger.limits = Some(limits);
        room::need(&self.usage_of(&ledger), &limits, space, limits.ahead(&ledger.waiting), aim)
    }

    /// Waits until somebody wants room.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A pass begins; gives its number.
    pub fn pass_begins(&self) -> u64 {
        let mut number = 0;
        self.passes.send_modify(|passes| {
            passes.begun += 1;
            number = passes.begun;
        });
        number
    }

    /// Blobs went.
    pub fn pass_goes_on(&self) {
        self.passes.send_modify(|passes| passes.steps += 1);
    }

    /// A pass has ended: what does not fit now will not before the next one, which begins after a rest if this one could
    /// not make all the room that is wanted.
    pub fn pass_ends(&self, number: u64, rest: Option<Duration>) {
        lock(&self.ledger).full_until = rest.map(|rest| clock::monotonic() + rest);
        self.passes.send_modify(|passes| passes.ended = passes.ended.max(number));
    }

    /// How long nothing more may go.
    pub fn rest(&self) -> Option<Duration> {
        let until = lock(&self.ledger).full_until?;
        Some(until.saturating_duration_since(clock::monotonic()))
    }

    /// Whether it is known that no room can be made now.
    fn is_full(&self) -> bool {
        lock(&self.ledger).full_until.is_some_and(|until| clock::monotonic() < until)
    }

    fn try_reserve(self: &Arc<Self>, bytes: u64, space: &Space) -> Option<Reservation> {
        let mut ledger = lock(&self.ledger);
        let limits = Limits::new(&self.rules(), space);
        if !ledger.counted || !room::fits(&self.usage_of(&ledger), &limits, space, bytes) {
            return None;
        }
        ledger.reserved = ledger.reserved.saturating_add(bytes);
        Some(Reservation { budget: Arc::clone(self), bytes })
    }

    fn could_fit(&self, bytes: u64, space: &Space, measured: OwnBytes) -> bool {
        let mut ledger = lock(&self.ledger);
        ledger.measured = measured;
        room::could_fit(&self.usage_of(&ledger), &Limits::new(&self.rules(), space), bytes)
    }
}

impl Ledger {
    fn class(&mut self, bytes: u64) -> &mut u64 {
        if bytes < SMALL_BYTES { &mut self.small } else { &mut self.large }
    }

    fn add(&mut self, bytes: u64) {
        let class = self.class(bytes);
        *class = class.saturating_add(on_disk(bytes));
    }
}

/// Somebody waits for room; it counts as long as this lives.
struct Waiting<'b>(&'b Budget, u64);

impl<'b> Waiting<'b> {
    fn new(budget: &'b Budget, bytes: u64) -> Self {
        let mut ledger = lock(&budget.ledger);
        ledger.waiting.push(bytes);
        Self(budget, bytes)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut ledger = lock(&self.0.ledger);
        if let Some(at) = ledger.waiting.iter().position(|bytes| *bytes == self.1) {
            ledger.waiting.swap_remove(at);
        }
    }
}

impl Reservation {
    /// The blob is in the tree, with this length.
    pub fn keep(mut self, bytes: u64) {
        {
            let mut ledger = lock(&self.budget.ledger);
            ledger.reserved = ledger.reserved.saturating_sub(self.bytes);
            ledger.add(bytes);
        }
        self.bytes = 0;
        self.budget.wanted.notify_one();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut ledger = lock(&self.budget.ledger);
        ledger.reserved = ledger.reserved.saturating_sub(self.bytes);
    }
}

impl Engine {
    /// Reserves room for a blob, making it first if need be. May take 2 s.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation, OverBudget> {
        let bytes = on_disk(bytes);
        let reserved = tokio::time::timeout(ROOM_WAIT, self.reserve_in_turn(bytes)).await;
        reserved.unwrap_or(Err(OverBudget)).inspect_err(|_| self.metrics.over_budget())
    }

    /// More room for a blob whose length was not known.
    pub async fn reserve_more(&self, reservation: &mut Reservation, bytes: u64) -> Result<(), OverBudget> {
        let mut more = self.reserve(bytes).await?;
        reservation.bytes = reservation.bytes.saturating_add(std::mem::take(&mut more.bytes));
        Ok(())
    }

    async fn reserve_in_turn(&self, bytes: u64) -> Result<Reservation, OverBudget> {
        if let Some(reservation) = self.try_reserve(bytes).await? {
            return Ok(reservation);
        }
        if self.budget.is_full() {
            return Err(OverBudget);
        }
        let _waiting = Waiting::new(&self.budget, bytes);
        let mut passes = self.budget.passes.subscribe();
        // A pass that has begun already need not know of this one.
        let first = passes.borrow_and_update().begun + 1;
        loop {
            self.budget.wanted.notify_one();
            passes.changed().await.map_err(|_| OverBudget)?;
            let seen = *passes.borrow_and_update();
            if let Some(reservation) = self.try_reserve(bytes).await? {
                return Ok(reservation);
            }
            if seen.ended >= first && self.budget.is_full() {
                return Err(OverBudget);
            }
        }
    }

    async fn try_reserve(&self, bytes: u64) -> Result<Option<Reservation>, OverBudget> {
        let (space, measured) = self.measure().await.map_err(|_| OverBudget)?;
        if !self.budget.could_fit(bytes, &space, measured) {
            return Err(OverBudget);
        }
        Ok(self.budget.try_reserve(bytes, &space))
    }

    /// Whether so many bytes more leave what `tidegate.cache.minfree` leaves to others.
    pub async fn leaves_enough_free(&self, bytes: u64) -> bool {
        let Ok((space, _)) = self.measure().await else { return false };
        let least = Limits::new(&self.budget.rules(), &space).free_bytes_min;
        space.free_bytes >= least.saturating_add(bytes)
    }

    /// What is free on the file system of the cache, and what our own folder takes of it.
    pub(super) async fn measure(&self) -> std::io::Result<(Space, OwnBytes)> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok((files::space(store.root())?, store.own_bytes()))).await?
    }

    /// What the cache uses and may use. Asks nobody.
    pub fn standing(&self) -> Standing {
        self.budget.standing()
    }
}

#[cfg(test)]
#[path = "budget/tests.rs"]
mod tests;
