//! Making room: what was used longest ago goes, until the usage is below the low mark.
//!
//! One pass at a time. Each round of it scans the index, chooses, and lets go in small groups with pauses between them, so
//! that neither the disk nor the index is kept busy. The unit is a blob with the manifests that name it, since an image
//! without one of its layers is none. Rows go first, durably; then the links that lead to a manifest; then the files.
//! Whatever interrupts that leaves a state that reads as a miss, or as a file to adopt.
//!
//! What stays: pins and all that they lead to, what was named in an answer moments ago, what is being filled or checked,
//! and what was found in the volume, until its upstream confirmed that it still has it.

pub mod pins;
pub mod plan;
pub mod survey;

mod confirm;
mod holders;
mod unit;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};

use serde::Serialize;

use super::budget::ROOM_WAIT;
use super::budget::room::{Aim, Need};
use super::tend::tend;
use super::{Engine, blocking, recent::Recent};
use crate::index::heat;
use crate::registry::Digest;
use crate::store::Unfinished;
use crate::sys::{clock, files};
use crate::upstream::AccountState;
use plan::Terms;
use survey::{Found, Survey};
use unit::Unit;

/// Most blobs that go without a pause between them, as in nginx's cache manager.
const GROUP_BLOBS_MAX: usize = 100;

/// How long a group is gathered.
const GATHER: Duration = Duration::from_millis(200);

/// The pause.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a pass that could not make all the room is not repeated, in times of what it took: a scan of millions of rows
/// in vain must not follow upon another.
const REST_TIMES: u32 = 4;

/// Longest such rest.
const REST_MAX: Duration = Duration::from_secs(30);

/// Most rounds of one pass. Another one follows when somebody wants room, or a minute later.
const ROUNDS_MAX: usize = 16;

/// How often the disk is looked at when nobody wants room: others may have filled it.
const WATCH_INTERVAL: Duration = Duration::from_secs(60);

/// How often what is idle is looked for: a part of the time after which it is, within these.
const IDLE_LOOKS: u32 = 16;
const IDLE_INTERVAL_MIN: Duration = Duration::from_secs(1);
const IDLE_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// How often it is said that there is no room.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// How long a blob that was just in use is left out of the choice.
const SPARED_FOR: Duration = Duration::from_secs(600);

/// Most of them (about 8 MB); one more is chosen again, in vain.
const SPARED_MAX: usize = 65_536;

/// What the making of room knows.
#[derive(Debug)]
pub struct Evictor {
    /// One pass at a time.
    turn: Mutex<()>,
    /// Set once every link to a manifest is known.
    holders: OnceCell<()>,
    /// What was just in use.
    spared: Recent<Digest>,
    /// What was found in the volume, and the upstream does not have.
    refused: Recent<Digest>,
    /// Questions to the upstream about what was found in the volume, in this pass.
    questions: AtomicU64,
    /// When the links of the volume could not be read.
    unread: Recent<()>,
    /// When the upstream did not answer for what was found in the volume.
    silent: Recent<()>,
    /// That it was said that there is no room.
    told: Recent<()>,
    /// Bytes of what is pinned, as the last scan had them.
    pinned: AtomicU64,
}

impl Default for Evictor {
    fn default() -> Self {
        Self {
            turn: Mutex::default(),
            holders: OnceCell::default(),
            spared: Recent::new(SPARED_FOR, SPARED_MAX),
            refused: Recent::new(confirm::REFUSED_FOR, confirm::REFUSED_MAX),
            questions: AtomicU64::new(0),
            unread: Recent::new(WATCH_INTERVAL, 1),
            silent: Recent::new(confirm::SILENT_FOR, 1),
            told: Recent::new(TOLD_FOR, 1),
            pinned: AtomicU64::new(0),
        }
    }
}

/// What went, or would go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EvictReport {
    /// How many blobs and manifests.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far a round came.
#[derive(Debug, Default)]
struct Round {
    report: EvictReport,
    /// How many of the choice may not go, and are left out of the next one.
    spared: usize,
}

impl Engine {
    /// Keeps the usage within the budget, for as long as the runtime lives.
    pub fn keep_budget(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        tokio::spawn(async move { tend("the making of room", || Arc::clone(&engine).watch()).await });
    }

    async fn watch(self: Arc<Self>) {
        let mut looked = None;
        loop {
            // Anew each time: the rules may have changed.
            let idle = self.budget.rules().idle;
            let looks = idle.map(|idle| (idle / IDLE_LOOKS).clamp(IDLE_INTERVAL_MIN, IDLE_INTERVAL_MAX));
            let wait = looks.map_or(WATCH_INTERVAL, |interval| interval.min(WATCH_INTERVAL));
            let now = clock::monotonic();
            let since = looked.map(|at| now.saturating_duration_since(at));
            let due = looks.is_some_and(|interval| since.is_none_or(|since| since >= interval));
            if due {
                looked = Some(now);
            }
            self.make_room(Aim::Watch, due).await;
            tokio::time::sleep(self.budget.rest().unwrap_or(PAUSE)).await;
            let _ = tokio::time::timeout(wait, self.budget.wanted()).await;
        }
    }

    /// Makes room down to the low mark now, or says what would go for it, if the upstream confirms what was found in the
    /// volume.
    pub async fn evict(self: &Arc<Self>, dry_run: bool) -> EvictReport {
        if !dry_run {
            return self.make_room(Aim::Sweep, false).await;
        }
        let Some(need) = self.need(Aim::Sweep).await else { return EvictReport::default() };
        let found = self.scan(need, false).await.unwrap_or_default();
        let engine = Arc::clone(self);
        let planned = blocking(move || {
            let (mut report, mut gone) = (EvictReport::default(), HashSet::new());
            for victim in &found.victims {
                if let Some(unit) = engine.unit(victim, &gone) {
                    report.add(unit.size());
                    gone.extend(unit.digests());
                }
            }
            report
        });
        planned.await.unwrap_or_default()
    }

    /// After an error of the disk: if it is full, lets go of so many bytes, and says that another try is worth it.
    pub async fn relieve(self: &Arc<Self>, error: &std::io::Error, bytes: u64) -> bool {
        if !files::is_full(error) || error.get_ref().is_some() {
            return false;
        }
        let engine = Arc::clone(self);
        // A task of its own: a caller that gives up must not leave a group half gone.
        let room = tokio::spawn(async move { engine.make_room(Aim::Free(bytes), false).await });
        let made = tokio::time::timeout(ROOM_WAIT, room).await;
        matches!(made, Ok(Ok(report)) if report.blobs > 0)
    }

    /// One pass.
    async fn make_room(self: &Arc<Self>, aim: Aim, idle: bool) -> EvictReport {
        let _turn = self.evictor.turn.lock().await;
        self.evictor.questions.store(0, Ordering::Relaxed);
        let (number, began) = (self.budget.pass_begins(), clock::monotonic());
        self.drop_unfinished(aim).await;
        let (report, is_over) = self.rounds(aim, idle).await;
        let is_short = is_over && self.need(Aim::Watch).await.is_some_and(|need| !need.is_nothing());
        if is_short {
            self.tell_of_want();
        }
        let took = clock::monotonic().saturating_duration_since(began);
        self.budget.pass_ends(number, is_short.then(|| (took * REST_TIMES).clamp(PAUSE, REST_MAX)));
        if report.blobs > 0 {
            tracing::info!(blobs = report.blobs, bytes = report.bytes, "made room");
        }
        report
    }

    /// What nobody fills any more goes first if there is too little room, else when it is a day old.
    async fn drop_unfinished(&self, aim: Aim) {
        let short = self.need(aim).await.is_some_and(|need| !need.is_nothing());
        let unfinished = if short { Unfinished::Unused } else { Unfinished::Old };
        let store = Arc::clone(&self.store);
        if let Err(error) = blocking(move || store.sweep(clock::now(), unfinished)).await {
            tracing::warn!(%error, "unfinished downloads could not be looked through");
        }
    }

    /// What went, and whether nothing more may go.
    async fn rounds(self: &Arc<Self>, mut aim: Aim, idle: bool) -> (EvictReport, bool) {
        let mut report = EvictReport::default();
        if !self.knows_holders().await {
            return (report, true);
        }
        for _ in 0..ROUNDS_MAX {
            let Some(need) = self.need(aim).await else { return (report, true) };
            let counted = self.budget.is_counted();
            if need.is_nothing() && !idle && counted {
                break;
            }
            let Some(found) = self.scan(need, idle).await else { return (report, true) };
            if !counted {
                continue;
            }
            let round = self.let_go(found).await;
            report.add(round.report);
            if let Aim::Free(bytes) = &mut aim {
                *bytes = bytes.saturating_sub(round.report.bytes);
            }
            if round.report.blobs == 0 && round.spared == 0 {
                return (report, true);
            }
        }
        (report, false)
    }

    /// Whether every link is known that must not be left behind.
    async fn knows_holders(self: &Arc<Self>) -> bool {
        let unread = &self.evictor.unread;
        if unread.holds(&(), clock::monotonic()) {
            return false;
        }
        let found = self.evictor.holders.get_or_try_init(|| self.find_holders()).await;
        if let Err(error) = &found {
            unread.add((), (), clock::monotonic());
            tracing::warn!(%error, "the links of the volume can't be read; nothing goes");
        }
        found.is_ok()
    }

    /// What has to go now; `None` if the disk does not say.
    async fn need(&self, aim: Aim) -> Option<Need> {
        let (space, measured) = self.measure().await.ok()?;
        Some(self.budget.need(&space, measured, aim))
    }

    /// Scans the index, and takes down what there is.
    async fn scan(self: &Arc<Self>, need: Need, idle: bool) -> Option<Found> {
        let idle = idle && self.may_expire().await;
        let (engine, before) = (Arc::clone(self), self.budget.count_begins());
        let found = blocking(move || engine.survey(need, idle)).await;
        let found =
            found.inspect_err(|error| tracing::error!(%error, "the index could not be scanned")).ok()?;
        self.budget.counted(found.small, found.large, &before);
        self.evictor.pinned.store(found.pinned, Ordering::Relaxed);
        Some(found)
    }

    fn survey(&self, need: Need, idle: bool) -> Found {
        let (rules, now) = (self.budget.rules(), heat::now());
        let ago = |time: Duration| now.saturating_sub(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        let held_since = if rules.hold.is_zero() { now } else { ago(rules.hold + Duration::from_secs(1)) };
        // What was used before uses were noted is not idle yet.
        let idle_since =
            rules.idle.filter(|_| idle).map(ago).filter(|since| *since > self.index.heat().born());
        let pinned = self.pinned();
        let spared = confirm::Unconfirmed::new(self);
        let found = Survey::new(&self.index, &pinned, &spared).run(Terms { need, held_since, idle_since });
        self.index.heat().make_room_for(found.blobs);
        found
    }

    /// Nothing expires while the upstream can't bring it back.
    async fn may_expire(&self) -> bool {
        self.unconfirmed_for().is_zero()
            && matches!(self.upstream.check_account().await, Ok(state) if state != AccountState::Refused)
    }

    /// Says now and then that nothing more is kept, and why.
    fn tell_of_want(&self) {
        let now = clock::monotonic();
        if self.evictor.told.holds(&(), now) {
            return;
        }
        self.evictor.told.add((), (), now);
        let (usage, pinned) = (self.budget.usage(), self.evictor.pinned.load(Ordering::Relaxed));
        if pinned > usage.total() / 2 {
            tracing::warn!(
                pinned_bytes = pinned,
                "the pins leave no room: nothing more is kept, everything is served"
            );
        } else {
            let bytes = usage.total();
            tracing::warn!(
                bytes,
                "no room can be made for now: what is held may not go yet, or others fill the disk; all is served"
            );
        }
    }

    /// Lets the choice go, group by group.
    async fn let_go(self: &Arc<Self>, found: Found) -> Round {
        let mut round = Round::default();
        let (mut group, mut began) = (Group::default(), clock::monotonic());
        let mut victims = found.victims.into_iter().peekable();
        while let Some(victim) = victims.next() {
            // What went with another one is no victim any more.
            if self.index.blob(&victim.digest).is_some() && !group.going.contains(&victim.digest) {
                round.spared += usize::from(!self.add_unit(&victim, &mut group).await);
            }
            let is_last = victims.peek().is_none();
            // Questions to the upstream take their time, and somebody may be waiting.
            let is_late = clock::monotonic().saturating_duration_since(began) >= GATHER;
            let is_due = group.going.len() >= GROUP_BLOBS_MAX || is_late || is_last;
            if is_due && !group.units.is_empty() {
                round.report.add(self.remove(std::mem::take(&mut group).units).await);
                self.budget.pass_goes_on();
                if !is_last {
                    tokio::time::sleep(PAUSE).await;
                }
                began = clock::monotonic();
            }
        }
        round
    }
}

/// What goes without a pause between.
#[derive(Debug, Default)]
struct Group {
    units: Vec<Unit>,
    going: HashSet<Digest>,
}

impl EvictReport {
    fn add(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

#[cfg(test)]
#[path = "evict/tests.rs"]
mod tests;
