//! The way there and back: `registry`'s note of what it lets expire when.
//!
//! At the start it tells when what the volume holds was last wanted, which repositories have links to it, and what
//! `registry` fetched since we had the volume. At the stop and every hour it is written for what we hold, as the last use
//! and `proxy.ttl` behind it, so that `registry` frees it if it takes the volume back.
//!
//! What was found in the volume and never had an entry gets none: `registry` would delete what nobody may be able to bring
//! back.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rebuild::{STEP_BLOBS, rested, unverified_row};
use super::{Engine, blocking};
use crate::index::{Batch, BlobRow, heat};
use crate::registry::{Algorithm, Digest};
use crate::store::Expiry;

/// How long `registry` keeps things if nobody says otherwise.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often it is written: what a crash loses of it costs little.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Most repositories that are noted for one digest.
const HOLDERS_MAX: usize = 1_000;

impl Engine {
    /// Takes in what `registry` knew of the volume.
    pub(super) async fn take_over_schedule(self: &Arc<Self>) {
        let store = Arc::clone(&self.store);
        let read = blocking(move || {
            let mut entries = store.schedule()?;
            // Of several repositories, the one that wanted it last says when it was used.
            entries.sort_by_key(|expiry| Reverse(expiry.at_ms));
            Ok(entries)
        });
        let entries = read.await.and_then(|result| result).unwrap_or_else(|error| {
            tracing::warn!(%error, "scheduler-state.json can't be read and is done without; a new one takes its place");
            Vec::new()
        });
        for step in entries.chunks(STEP_BLOBS) {
            let (engine, step) = (Arc::clone(self), step.to_vec());
            rested(move || step.iter().for_each(|expiry| engine.take_over(expiry))).await;
        }
        self.schedule_known.store(true, Ordering::Release);
        tracing::debug!(entries = entries.len(), "scheduler-state.json is taken over");
    }

    fn take_over(&self, expiry: &Expiry) {
        let Expiry { name, digest, .. } = expiry;
        if self.store.link_kind(name, digest).is_none() {
            return;
        }
        let row = self.index.blob(digest).or_else(|| self.unknown_row(digest));
        let Some(row) = row else { return };
        if !self.index.has_holder(digest, name) {
            self.index.apply(Batch::new().put_holder(digest, name));
        }
        let now = heat::now();
        if self.index.heat().last_use(digest, now).is_some() {
            return;
        }
        let ttl_ms = u64::try_from(self.ttl().as_millis()).unwrap_or(u64::MAX);
        let used_ms = expiry.at_ms.saturating_sub(ttl_ms).min(u64::from(now) * 1000);
        self.index.heat().touch(digest, heat::Seconds::try_from(used_ms / 1000).unwrap_or(now));
        if row.adopted && used_ms < row.created_ms {
            // It came when `registry` fetched it, not when we found it.
            self.index.apply(Batch::new().put_blob(*digest, BlobRow { created_ms: used_ms, ..row }));
        }
    }

    /// What `registry` fetched while the volume was its own.
    fn unknown_row(&self, digest: &Digest) -> Option<BlobRow> {
        let identity = self.store.identity_of(digest).ok().flatten()?;
        // On its way: its row comes with it.
        if self.flights.find(digest).is_some() {
            return None;
        }
        let row = unverified_row(identity);
        self.index.apply(Batch::new().put_blob(*digest, row.clone()));
        Some(row)
    }

    /// Writes it every hour, for as long as the process lives.
    pub async fn keep_schedule(self: &Arc<Self>) {
        self.write_schedule_every(INTERVAL).await;
    }

    async fn write_schedule_every(self: &Arc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.write_schedule().await;
        }
    }

    /// Writes it at the stop, if the disk tells of all links within a time.
    pub async fn write_last_schedule(self: &Arc<Self>, within: Duration) {
        if tokio::time::timeout(within, self.write_schedule()).await.is_err() {
            // Its thread has the engine, which must be let go.
            self.schedule_turn.fetch_add(1, Ordering::AcqRel);
            tracing::warn!("the disk is slow: scheduler-state.json stays as it was within the last hour");
        }
    }

    /// Writes it now; one that is being written already is given up. One whose entries are not taken over yet stays: what they are about has no row to be found by.
    pub async fn write_schedule(self: &Arc<Self>) {
        if !self.schedule_known.load(Ordering::Acquire) {
            return;
        }
        let engine = Arc::clone(self);
        let turn = self.schedule_turn.fetch_add(1, Ordering::AcqRel) + 1;
        match blocking(move || engine.try_write_schedule(turn)).await.and_then(|result| result) {
            Ok(entries) => tracing::debug!(entries, "scheduler-state.json is written"),
            Err(error) => {
                tracing::warn!(%error, "scheduler-state.json can't be written: registry would keep what came since for ever")
            }
        }
    }

    fn try_write_schedule(&self, turn: u64) -> std::io::Result<usize> {
        let before = self.store.schedule().unwrap_or_default();
        let scheduled: HashSet<Digest> = before.into_iter().map(|expiry| expiry.digest).collect();
        let mut draft = self.store.draft_schedule()?;
        let mut from = None;
        loop {
            if self.schedule_turn.load(Ordering::Acquire) != turn {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let page = self.index.blobs(from.as_ref(), STEP_BLOBS);
            let known = |digest: &Digest, row: &BlobRow| !row.adopted || scheduled.contains(digest);
            for (digest, row) in page.rows.iter().filter(|(digest, row)| known(digest, row)) {
                for expiry in self.expiries(digest, row) {
                    if !draft.add(&expiry)? {
                        return draft.finish();
                    }
                }
            }
            from = page.next;
            if from.is_none() {
                return draft.finish();
            }
        }
    }

    /// The entries of a blob: one for each repository with a link to it, for `registry` looks for the link.
    fn expiries(&self, digest: &Digest, row: &BlobRow) -> Vec<Expiry> {
        if digest.algorithm() != Algorithm::Sha256 {
            return Vec::new();
        }
        let used_ms = u64::from(self.index.last_use(digest, Some(row), heat::now())) * 1000;
        let at_ms = used_ms.saturating_add(u64::try_from(self.ttl().as_millis()).unwrap_or(u64::MAX));
        let holders = self.index.holders(digest, HOLDERS_MAX).into_iter();
        let linked = holders.filter_map(|name| {
            let kind = self.store.link_kind(&name, digest)?;
            Some(Expiry { name, digest: *digest, kind, at_ms })
        });
        linked.collect()
    }

    fn ttl(&self) -> Duration {
        self.budget.rules().idle.unwrap_or(TTL)
    }
}

#[cfg(test)]
#[path = "schedule/tests.rs"]
mod tests;
