//! The scrub: every blob is read and hashed again once in a while, since a hit is not.
//!
//! It finds what the file system does not know of: bits that rotted on the disk while inode, length and ctime stayed the
//! same. It finds files without rows and rows without files on its way. It reads one file at a time, at a rate that
//! leaves the disk to requests, and leaves the page cache as it was.
//!
//! When each blob was read last stands in its row, so a restart loses nothing. What is in the page cache is hashed from
//! there, as a client would get it; the disk below is read when it is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::pace::{Pace, is_due};
use super::rescue::Damage;
use super::{Engine, blocking};
use crate::index::{Batch, BlobRow};
use crate::registry::{Digest, digest::Hasher};
use crate::store::OpenBlob;
use crate::sys::{clock, files};

/// Bytes read and hashed in one step on the blocking pool.
const STEP_BYTES: u64 = 1024 * 1024;

/// Bytes of one read: what is in the page cache is told from what is not in parts of this size.
const READ_BYTES: usize = 128 * 1024;

/// Rows looked through at a time for what is due.
const STEP_ROWS: usize = 1_024;

/// Times in one period at which the rows are looked through for what is due.
const ROUNDS: u32 = 16;

/// Shortest and longest time between two looks at the rows.
const ROUND_MIN: Duration = Duration::from_secs(1);
const ROUND_MAX: Duration = Duration::from_secs(3600);

/// Most blobs in a row that can't be read before a pass is given up: the disk is in trouble, and to go through everything
/// helps nobody.
const UNREADABLE_MAX: usize = 16;

/// How often and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How often each blob is read; zero for never.
    pub period: Duration,
    /// How fast, in bytes a second.
    pub bytes_per_second: u64,
}

/// What a pass found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Scrubbed {
    /// Blobs that were read whole and are right.
    pub checked: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blobs with wrong bytes, set aside.
    pub damaged: usize,
    /// Blobs that can't be read; they stay until the right bytes take their place.
    pub unreadable: usize,
    /// Rows without a file, removed.
    pub missing: usize,
    /// Files without a row, taken in.
    pub adopted: usize,
    /// Whether it was given up because the disk gives nothing.
    pub given_up: bool,
}

/// What became of one blob.
enum Finding {
    Right,
    Damaged,
    Unreadable,
    Missing,
    /// It is on its way, or changed while it was read.
    Busy,
}

impl Engine {
    /// Scrubs what is due, for as long as the process lives.
    pub async fn scrub_for_ever(self: Arc<Self>) {
        let period = self.scrub.period;
        if period.is_zero() {
            return;
        }
        let round = (period / ROUNDS).clamp(ROUND_MIN, ROUND_MAX);
        let mut walked: Option<Instant> = None;
        loop {
            tokio::time::sleep(round).await;
            let _turn = self.scrubbing.acquire().await;
            let mut found = Scrubbed::default();
            let now = clock::monotonic();
            if walked.is_none_or(|walked| now.saturating_duration_since(walked) >= period.max(ROUND_MAX)) {
                found.adopted = self.take_in_tree().await.adopted;
                walked = Some(now);
            }
            self.scrub_due_until_wanted(&mut found).await;
            tracing::debug!(?found, "scrubbed what was due");
        }
    }

    /// Whoever wants everything read now does not wait for a pass that may take days.
    async fn scrub_due_until_wanted(self: &Arc<Self>, found: &mut Scrubbed) {
        let wanted = self.scrub_wanted.notified();
        tokio::pin!(wanted);
        // From here on no word is missed; one that came before shows by the permit.
        wanted.as_mut().enable();
        if self.scrub_on_demand.available_permits() == 0 {
            return;
        }
        tokio::select! {
            () = self.scrub_due(self.scrub.bytes_per_second, self.scrub.period, found) => {}
            () = wanted => {}
        }
    }

    /// Reads every blob now, whenever it was read last. `None`: another such pass is under way. Without a rate it reads at
    /// the rate of the configuration.
    pub async fn scrub_now(self: &Arc<Self>, bytes_per_second: Option<u64>) -> Option<Scrubbed> {
        let _only = self.scrub_on_demand.try_acquire().ok()?;
        self.scrub_wanted.notify_waiters();
        let _turn = self.scrubbing.acquire().await.ok()?;
        let mut found = Scrubbed { adopted: self.take_in_tree().await.adopted, ..Scrubbed::default() };
        let rate = bytes_per_second.unwrap_or(self.scrub.bytes_per_second);
        self.scrub_due(rate, Duration::ZERO, &mut found).await;
        tracing::info!(
            checked = found.checked,
            bytes = found.bytes,
            damaged = found.damaged,
            unreadable = found.unreadable,
            missing = found.missing,
            adopted = found.adopted,
            "scrubbed everything"
        );
        Some(found)
    }

    /// Goes through all rows once, and reads what was not read for `period`.
    async fn scrub_due(self: &Arc<Self>, rate: u64, period: Duration, found: &mut Scrubbed) {
        let (mut pace, mut from, mut failures) = (Pace::new(rate), None, 0);
        loop {
            let (engine, at) = (Arc::clone(self), from);
            let Ok(page) = blocking(move || engine.index.blobs(at.as_ref(), STEP_ROWS)).await else { return };
            let now_ms = clock::unix_ms();
            for (digest, row) in page.rows.iter().filter(|(_, row)| is_due(row.verified_ms, period, now_ms)) {
                let finding = self.scrub_blob(digest, row, &mut pace, found).await;
                failures = if matches!(finding, Finding::Unreadable) { failures + 1 } else { 0 };
                found.count(&finding);
                if failures >= UNREADABLE_MAX {
                    tracing::error!(
                        "so many blobs can't be read that the disk must be in trouble; the scrub rests"
                    );
                    found.given_up = true;
                    return;
                }
            }
            from = page.next;
            if from.is_none() {
                return;
            }
        }
    }

    /// Reads one blob.
    async fn scrub_blob(
        self: &Arc<Self>,
        digest: &Digest,
        row: &BlobRow,
        pace: &mut Pace,
        found: &mut Scrubbed,
    ) -> Finding {
        if self.flights.find(digest).is_some() {
            return Finding::Busy;
        }
        let (store, wanted) = (Arc::clone(&self.store), *digest);
        let opened = blocking(move || {
            let open = store.open_blob(&wanted)?;
            // Advice that is not taken only costs page cache.
            open.iter().for_each(|open| drop(files::read_nothing_ahead(&open.file)));
            Ok(open)
        });
        match opened.await.and_then(|result| result) {
            Ok(Some(open)) => {
                rest(pace.file(clock::monotonic())).await;
                let hashed = self.hash_at_a_pace(digest, &open, pace, found).await;
                self.conclude(digest, &open, hashed).await
            }
            // Gone since the row was read, or for good.
            Ok(None) if self.index.blob(digest).as_ref() == Some(row) => {
                tracing::warn!(%digest, "a stored blob is gone; it is fetched again when it is asked for");
                self.index.apply(Batch::new().remove_blob(*digest));
                Finding::Missing
            }
            Ok(None) => Finding::Busy,
            Err(error) => {
                tracing::error!(%digest, %error, "a stored blob can't be opened; it is fetched again when it is asked for");
                Finding::Unreadable
            }
        }
    }

    async fn hash_at_a_pace(
        &self,
        digest: &Digest,
        open: &OpenBlob,
        pace: &mut Pace,
        found: &mut Scrubbed,
    ) -> std::io::Result<Digest> {
        let (mut hasher, mut at) = (Hasher::new(digest.algorithm()), 0);
        while at < open.identity.size {
            let file = Arc::clone(&open.file);
            let (back, taken) = blocking(move || hash_step(&file, at, hasher)).await??;
            hasher = back;
            if taken == 0 {
                break;
            }
            at += taken;
            found.bytes += taken;
            self.metrics.scrubbed_bytes(taken);
            rest(pace.bytes(taken, clock::monotonic())).await;
        }
        Ok(hasher.finish())
    }

    async fn conclude(
        self: &Arc<Self>,
        digest: &Digest,
        open: &OpenBlob,
        hashed: std::io::Result<Digest>,
    ) -> Finding {
        match hashed {
            Err(error) => {
                tracing::error!(%digest, %error, "a stored blob can't be read; it is fetched again when it is asked for");
                self.distrust(digest, open.identity, Damage::Unreadable);
                return Finding::Unreadable;
            }
            // Somebody wrote into it, renamed it, removed it: what was read says nothing about what is there.
            Ok(_) if files::identity(&open.file).ok() != Some(open.identity) => return Finding::Busy,
            Ok(got) if got != *digest => {
                self.set_aside(digest, open.identity).await;
                return Finding::Damaged;
            }
            Ok(_) => {}
        }
        self.metrics.scrubbed();
        // A row that is gone was evicted meanwhile, and its file is about to be.
        if self.index.blob(digest).is_some() {
            self.index.apply(Batch::new().put_blob(*digest, self.verified_row(digest, open.identity)));
        }
        Finding::Right
    }
}

impl Scrubbed {
    fn count(&mut self, finding: &Finding) {
        match finding {
            Finding::Right => self.checked += 1,
            Finding::Damaged => self.damaged += 1,
            Finding::Unreadable => self.unreadable += 1,
            Finding::Missing => self.missing += 1,
            Finding::Busy => {}
        }
    }
}

/// Hashes the next bytes, at most a step of them; none at the end of the file.
fn hash_step(file: &std::fs::File, at: u64, mut hasher: Hasher) -> std::io::Result<(Hasher, u64)> {
    let mut taken = 0;
    while taken < STEP_BYTES {
        let piece = files::read_leaving_cache(file, at + taken, READ_BYTES)?;
        hasher.update(&piece);
        taken += piece.len() as u64;
        if piece.len() < READ_BYTES {
            break;
        }
    }
    Ok((hasher, taken))
}

async fn rest(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
#[path = "scrub/tests.rs"]
mod tests;
