//! What was found in the volume, and not fetched by us, may be the only copy there is. It goes only after the upstream
//! said that it still has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Group;
use super::plan::Candidate;
use super::survey::Spared;
use crate::engine::{Engine, blocking};
use crate::index::scan::Cursor;
use crate::index::{BlobKind, BlobRow};
use crate::registry::{Digest, Reference, RepositoryName};
use crate::sys::clock;
use crate::upstream::{Class, FetchError};

/// How long an upstream that did not answer is not asked for what was found in the volume.
pub const SILENT_FOR: Duration = Duration::from_secs(60);

/// How long a blob that the upstream does not have is not asked for again: what it deleted rarely comes back.
pub const REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Most of them (about 8 MB); when it is full, what was found in the volume is not considered.
pub const REFUSED_MAX: usize = 65_536;

/// Most questions of one pass; then the upstream is left alone for [`SILENT_FOR`].
const QUESTIONS_MAX: u64 = 500;

/// Most repositories under which the upstream is asked for one blob.
const ASKED_MAX: usize = 8;

/// What is not considered now.
#[derive(Debug)]
pub struct Unconfirmed<'e> {
    engine: &'e Engine,
    /// Whether this goes for everything that was found in the volume.
    all_adopted: bool,
    now: Instant,
}

impl<'e> Unconfirmed<'e> {
    /// As it is now.
    pub fn new(engine: &'e Engine) -> Self {
        let (now, evictor) = (clock::monotonic(), &engine.evictor);
        let asks_nobody = evictor.silent.holds(&(), now) || evictor.refused.is_full(now);
        let all_adopted = asks_nobody && !engine.budget.rules().evict_adopted;
        Self { engine, all_adopted, now }
    }
}

impl Spared for Unconfirmed<'_> {
    fn spares(&self, digest: &Digest, row: &BlobRow) -> bool {
        let evictor = &self.engine.evictor;
        let refused = |digest| row.adopted && evictor.refused.holds(digest, self.now);
        (self.all_adopted && row.adopted) || evictor.spared.holds(digest, self.now) || refused(digest)
    }
}

impl Engine {
    /// Adds what goes with a blob to a group, if all of it may go. What may not is left out of the choice for a while.
    pub(super) async fn add_unit(self: &Arc<Self>, victim: &Candidate, group: &mut Group) -> bool {
        let (engine, victim, going) = (Arc::clone(self), *victim, std::mem::take(&mut group.going));
        let found = blocking(move || (engine.unit(&victim, &going), going)).await;
        let Ok((unit, going)) = found else { return false };
        group.going = going;
        let now = clock::monotonic();
        let Some(unit) = unit else {
            self.evictor.spared.add(victim.digest, (), now);
            return false;
        };
        if !self.budget.rules().evict_adopted {
            for (digest, row) in unit.adopted() {
                match self.upstream_has(digest, row).await {
                    Some(true) => {}
                    Some(false) => {
                        // Neither what it lacks goes, nor what would take that along.
                        self.evictor.refused.add(*digest, (), now);
                        self.evictor.spared.add(victim.digest, (), now);
                        return false;
                    }
                    None => return false,
                }
            }
        }
        group.going.extend(unit.digests());
        group.units.push(unit);
        true
    }

    /// Whether the upstream has a blob under a repository that had it here; `None` if it does not say, or is left alone.
    async fn upstream_has(self: &Arc<Self>, digest: &Digest, row: &BlobRow) -> Option<bool> {
        if self.evictor.refused.holds(digest, clock::monotonic()) {
            return Some(false);
        }
        let (engine, asked) = (Arc::clone(self), *digest);
        let names = blocking(move || engine.repositories_of(&asked)).await.unwrap_or_default();
        for name in names {
            if self.evictor.silent.holds(&(), clock::monotonic()) {
                return None;
            }
            if self.evictor.questions.fetch_add(1, Ordering::Relaxed) >= QUESTIONS_MAX {
                self.evictor.silent.add((), (), clock::monotonic());
                return None;
            }
            match self.ask_for(&name, digest, row).await {
                Ok(true) => return Some(true),
                Ok(false) => {}
                Err(error) if error.class() == Class::Absent => {}
                Err(error) => {
                    tracing::warn!(%error, "what was found in the volume stays: the upstream does not say whether it has it");
                    self.evictor.silent.add((), (), clock::monotonic());
                    return None;
                }
            }
        }
        Some(false)
    }

    async fn ask_for(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        row: &BlobRow,
    ) -> Result<bool, FetchError> {
        match row.kind {
            BlobKind::Manifest => {
                let head = self.upstream.manifest_head(name, &Reference::Digest(*digest)).await?;
                Ok(head.digest == Some(*digest))
            }
            BlobKind::Other => {
                let size = self.upstream.blob_head(name, digest).await?;
                Ok(size.is_none_or(|size| size == row.size))
            }
        }
    }

    /// Repositories that may be asked for a blob: those with a link to it, or to what names it.
    fn repositories_of(&self, digest: &Digest) -> BTreeSet<RepositoryName> {
        let parents = Cursor::all(|from| self.index.parents_of(digest, from, ASKED_MAX));
        let named = std::iter::once(digest).chain(&parents);
        let names = named.flat_map(|digest| self.index.holders(digest, ASKED_MAX));
        names.filter(|name| self.naming.is_served(name)).take(ASKED_MAX).collect()
    }
}
