//! Rows that are not committed yet, readable by everybody.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::sync::lock;

/// Most rows that wait for the disk (about 50 MB). What comes on top is forgotten: the tree knows it.
pub(super) const PENDING_ROWS_MAX: usize = 262_144;

/// Most rows of an index that lives in memory alone (about 250 MB).
pub(super) const KEPT_ROWS_MAX: usize = 1_000_000;

/// From this many rows on, a commit does not wait for more.
const FULL_GROUP: usize = 512;

/// A key, its row or none for a removal, and the generation that wrote it.
pub(super) type Write = (Vec<u8>, Pending, u64);

/// What is pending for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pending {
    /// A row.
    Row(std::sync::Arc<[u8]>),
    /// None any more.
    Removed,
}

/// The pending rows.
#[derive(Debug)]
pub(super) struct Overlay {
    rows: Mutex<Rows>,
    changed: Condvar,
    limit: usize,
}

#[derive(Debug, Default)]
struct Rows {
    pending: BTreeMap<Vec<u8>, (Pending, u64)>,
    generation: u64,
    forgotten: u64,
    stopping: bool,
    ended: bool,
}

impl Overlay {
    pub(super) fn new(limit: usize) -> Self {
        Self { rows: Mutex::default(), changed: Condvar::new(), limit }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Pending> {
        lock(&self.rows).pending.get(key).map(|(pending, _)| pending.clone())
    }

    /// Pending rows under a prefix, from a key on: up to so many rows, and the removals before them.
    pub(super) fn from(&self, start: &[u8], prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Pending)> {
        let rows = lock(&self.rows);
        let range = (std::ops::Bound::Included(start), std::ops::Bound::Unbounded);
        let mut left = limit;
        let under = rows.pending.range::<[u8], _>(range).take_while(|(key, _)| key.starts_with(prefix));
        let wanted = under.take_while(|(_, (pending, _))| {
            let takes = left > 0;
            left -= usize::from(takes && matches!(pending, Pending::Row(_)));
            takes
        });
        wanted.map(|(key, (pending, _))| (key.clone(), pending.clone())).collect()
    }

    /// Takes rows in, as one generation.
    pub(super) fn put(&self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        // A generation without rows would never be committed, and whoever waits for it would wait for ever.
        if rows.is_empty() {
            return;
        }
        let mut held = lock(&self.rows);
        held.generation += 1;
        let generation = held.generation;
        for (key, value) in rows {
            if held.pending.len() >= self.limit && !held.pending.contains_key(&key) {
                held.forget();
                continue;
            }
            let pending = value.map_or(Pending::Removed, |value| Pending::Row(value.into()));
            held.pending.insert(key, (pending, generation));
        }
        self.changed.notify_one();
    }

    /// The newest generation.
    pub(super) fn generation(&self) -> u64 {
        lock(&self.rows).generation
    }

    /// Waits for rows, then up to `gather` for more; `None` at the stop. Everything pending, and its generation.
    pub(super) fn next_group(&self, gather: Duration) -> Option<(Vec<Write>, u64)> {
        let idle = |rows: &mut Rows| rows.pending.is_empty() && !rows.stopping;
        let few = |rows: &mut Rows| rows.pending.len() < FULL_GROUP && !rows.stopping;
        let rows = self.changed.wait_while(lock(&self.rows), idle).unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.changed.wait_timeout_while(rows, gather, few).unwrap_or_else(PoisonError::into_inner);
        let rows = waited.0;
        if rows.pending.is_empty() {
            return None;
        }
        let group =
            rows.pending.iter().map(|(key, (pending, at))| (key.clone(), pending.clone(), *at)).collect();
        Some((group, rows.generation))
    }

    /// The group is in the map: what did not change meanwhile need not be here any more.
    pub(super) fn committed(&self, group: &[Write]) {
        let mut rows = lock(&self.rows);
        for (key, _, at) in group {
            if rows.pending.get(key).is_some_and(|(_, now)| now == at) {
                rows.pending.remove(key);
            }
        }
    }

    /// Tells the writer to commit what there is and to end.
    pub(super) fn stop(&self) {
        lock(&self.rows).stopping = true;
        self.changed.notify_all();
    }

    /// The writer has ended.
    pub(super) fn end(&self) {
        lock(&self.rows).ended = true;
        self.changed.notify_all();
    }

    /// Waits for the end of the writer; whether it came.
    pub(super) fn wait_for_end(&self, wait: Duration) -> bool {
        let rows = lock(&self.rows);
        let waited = self.changed.wait_timeout_while(rows, wait, |rows| !rows.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Waits a while before the next try; whether the writer is to end.
    pub(super) fn wait_or_stop(&self, wait: Duration) -> bool {
        let rows = lock(&self.rows);
        let waited = self.changed.wait_timeout_while(rows, wait, |rows| !rows.stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

impl Rows {
    fn forget(&mut self) {
        self.forgotten += 1;
        if self.forgotten == 1 {
            tracing::warn!("the index takes no more rows: its disk does not keep up, or its memory is full");
        }
    }
}
