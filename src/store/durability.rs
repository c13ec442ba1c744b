//! Publishing without waiting for the disk, and what that costs after a power cut.
//!
//! A blob that was not synced before it got its name can be there after a power cut with a row that says it was verified,
//! under its name, with its length, and with zeros for bytes. So as long as there may be such blobs, a file says since when;
//! it goes when all of them were synced at a stop. Found at a start, everything that changed since then is as good as never
//! verified, until a walk has said so in the rows themselves.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;

use super::{Store, files};
use crate::config::Durability;
use crate::sys::clock;
use crate::sys::sync::{lock, read, write};

/// Longest content of the file that is read: a number of nanoseconds.
const MARK_BYTES_MAX: usize = 32;

impl Store {
    /// From now on blobs get their names without waiting for the disk. If it can't be noted that they may be lost, they wait.
    pub fn relax(&self) {
        let since = self.doubtful_since().unwrap_or(i64::MAX).min(now_ns());
        match self.mark(since) {
            Ok(()) => *write(&self.durability) = Durability::Relaxed,
            Err(error) => {
                tracing::error!(%error, "blobs are synced all the same: it can't be noted that they are not")
            }
        }
    }

    /// Since when what is in the tree may not have been synced, in nanoseconds since 1970, as the start found it.
    pub fn doubtful_since(&self) -> Option<i64> {
        *lock(&self.doubtful_since)
    }

    /// Whether a file may be another one than what was verified, though nothing of it says so.
    pub fn is_doubtful(&self, file: &files::Identity) -> bool {
        self.doubtful_since().is_some_and(|since| file.ctime_ns >= since)
    }

    /// No row calls verified any more what the start found in doubt. With `durable`, none will at the next start either;
    /// else the note of it stays.
    pub fn end_doubt(&self, durable: bool) -> io::Result<()> {
        if !durable {
            self.doubt_outlasts.store(true, Ordering::Release);
            *lock(&self.doubtful_since) = None;
            return Ok(());
        }
        // Nothing is published meanwhile.
        let durability = write(&self.durability);
        match *durability {
            Durability::Relaxed => self.mark(now_ns())?,
            Durability::Full => self.unmark()?,
        }
        *lock(&self.doubtful_since) = None;
        Ok(())
    }

    /// At the stop: everything published so far is on the disk, and everything from now on is synced.
    pub fn stop_relaxing(&self) -> io::Result<()> {
        if std::mem::replace(&mut *write(&self.durability), Durability::Full) == Durability::Full {
            return Ok(());
        }
        files::sync_file_system(self.root())?;
        // What an earlier process left in doubt is so still.
        let stays = self.doubtful_since().is_some() || self.doubt_outlasts.load(Ordering::Acquire);
        if stays { Ok(()) } else { self.unmark() }
    }

    /// Takes note of a file that was not synced: a clock that was set back must not hide it.
    pub(super) fn note_unsynced(&self, file: &files::Identity) -> io::Result<()> {
        let since = lock(&self.marked_since).unwrap_or(i64::MAX);
        if file.ctime_ns < since { self.mark(file.ctime_ns) } else { Ok(()) }
    }

    /// Reads what an earlier process left.
    pub(super) fn find_doubt(&self) {
        let path = self.layout.unsynced();
        let since = match files::read_small(&path, MARK_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // One that says nothing: everything is in doubt.
            Err(_) | Ok(None) => i64::MIN,
            Ok(Some(text)) => parse(&text).unwrap_or(i64::MIN),
        };
        tracing::warn!(
            "the last run did not sync what it fetched, and was not stopped: that is verified again before it is used"
        );
        *lock(&self.doubtful_since) = Some(since);
    }

    fn mark(&self, since_ns: i64) -> io::Result<()> {
        let mut marked = lock(&self.marked_since);
        self.replace(&self.layout.unsynced(), format!("{since_ns}\n").as_bytes())?;
        files::sync_folder(&self.layout.ours())?;
        *marked = Some(since_ns);
        Ok(())
    }

    fn unmark(&self) -> io::Result<()> {
        let mut marked = lock(&self.marked_since);
        *marked = None;
        match fs::remove_file(self.layout.unsynced()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a blob is to be synced; while the answer is held, the word for it does not change.
    pub(super) fn durability(&self) -> std::sync::RwLockReadGuard<'_, Durability> {
        read(&self.durability)
    }
}

fn parse(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.trim_end().parse().ok()
}

fn now_ns() -> i64 {
    i64::try_from(clock::unix_ms().saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "durability/tests.rs"]
mod tests;
