//! Blobs that are begun, gone on with, or given up.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::partial::{self, Extents, Partial, Place, Record};
use super::{Store, remove};
use crate::registry::Digest;
use crate::sys::entropy;

/// How long an unfinished blob waits for somebody who wants the rest.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// A blob that was begun, and what an earlier process may have left of it: each block is checked before it counts.
#[derive(Debug)]
pub struct Begun {
    /// Where its bytes go.
    pub partial: Partial,
    /// The blocks that may be there already, in order.
    pub left: Vec<Record>,
}

/// Which unfinished files are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// At the start, all but those that a fill can go on with.
    OfEarlierProcesses,
    /// Later on, those that nothing was written to for a day.
    Old,
    /// When room is short, all that nobody writes to now.
    Unused,
}

impl Store {
    /// Begins a blob, or goes on with what an earlier process left of it. With its length known, room is reserved first:
    /// a full disk shows here.
    pub fn begin(&self, digest: &Digest, total: Option<u64>) -> io::Result<Begun> {
        let large = total.filter(|total| *total >= partial::KEPT_FROM_BYTES);
        if let Some((total, living)) = large.zip(self.alive.claim(digest)) {
            let place = Place { path: self.layout.kept_partial(digest), digest: *digest, total: Some(total) };
            let (partial, left) = Partial::create_kept(&place, total, living)?;
            return Ok(Begun { partial, left });
        }
        let path = self.layout.partial(digest, &entropy::hex());
        let partial = Partial::create(&Place { path, digest: *digest, total }, None)?;
        Ok(Begun { partial, left: Vec::new() })
    }

    /// Begins a blob without a name: it ends with the last who has it open, and can't be published.
    pub fn begin_nameless(&self, digest: &Digest, total: Option<u64>) -> io::Result<Begun> {
        let path = self.layout.partial(digest, &entropy::hex());
        let partial = Partial::create(&Place { path, digest: *digest, total }, None)?;
        partial.discard()?;
        Ok(Begun { partial, left: Vec::new() })
    }

    /// What an earlier process says it received of a blob, not yet checked.
    pub fn unfinished(&self, digest: &Digest) -> Extents {
        partial::left_behind(&self.layout.kept_partial(digest), digest)
    }

    /// Removes what was left unfinished and will not be gone on with. If room is short, the evidence of damage goes as well.
    pub fn sweep(&self, now: SystemTime, unfinished: Unfinished) {
        if unfinished == Unfinished::Unused {
            self.thin_quarantine(0, 0);
        }
        for entry in fs::read_dir(self.layout.partials()).into_iter().flatten().flatten() {
            let path = entry.path();
            let wanted = match unfinished {
                Unfinished::OfEarlierProcesses => partial::is_kept(&path) && !is_old(&path, now),
                // The names of others say nothing of who writes to them: they are of a moment.
                Unfinished::Unused => partial::digest_of(&path).is_none_or(|digest| self.alive.has(&digest)),
                Unfinished::Old => {
                    partial::digest_of(&path).is_some_and(|digest| self.alive.has(&digest))
                        || !is_old(&path, now)
                }
            };
            if !wanted {
                remove(&path, "an unfinished download");
            }
        }
    }
}

fn is_old(path: &Path, now: SystemTime) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > KEPT_FOR))
}
