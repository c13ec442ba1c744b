//! What goes together: a blob, the manifests that name it, and the indexes that name those.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::plan::Candidate;
use super::{EvictReport, PAUSE};
use crate::engine::{Engine, blocking, manifest};
use crate::index::heat::{self, Seconds};
use crate::index::scan::Cursor;
use crate::index::{Batch, BlobKind, BlobRow};
use crate::registry::{Digest, Manifest, RepositoryName};
use crate::sys::clock;
use crate::sys::sync::lock;

/// How long rows may take to become durable. A disk that is full takes none, and is the one that most needs room: a
/// crash then leaves rows without files, which read as misses.
const COMMIT_WAIT: Duration = Duration::from_secs(2);

/// How long files are removed without a pause.
const BURST: Duration = Duration::from_millis(200);

/// Rows of one page.
const PAGE_ROWS: usize = 1_024;

/// Most repositories whose links to one digest are looked for; each shares it with the others.
const HOLDERS_MAX: usize = 100_000;

/// Blobs that go together, or stay together.
#[derive(Debug)]
pub struct Unit {
    /// Those that go; manifests last.
    members: Vec<(Digest, BlobRow)>,
    /// Everything that makes them recent: themselves and all that names them, held or not.
    watched: HashSet<Digest>,
    /// The last use that was known when they were chosen.
    used: Seconds,
    /// Who named whom, as it was removed from the index.
    named: Vec<(Digest, Digest)>,
}

impl Unit {
    /// How many, and their bytes.
    pub fn size(&self) -> EvictReport {
        EvictReport {
            blobs: self.members.len() as u64,
            bytes: self.members.iter().map(|(_, row)| row.size).sum(),
        }
    }

    /// What goes.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.members.iter().map(|(digest, _)| *digest)
    }

    /// What was found in the volume.
    pub fn adopted(&self) -> impl Iterator<Item = &(Digest, BlobRow)> {
        self.members.iter().filter(|(_, row)| row.adopted)
    }
}

impl Engine {
    /// What goes with a blob, but for what goes already; `None` if it may not go now.
    pub(super) fn unit(&self, victim: &Candidate, gone: &HashSet<Digest>) -> Option<Unit> {
        let mut unit = Unit { members: vec![], watched: HashSet::new(), used: victim.used, named: vec![] };
        let mut open = vec![victim.digest];
        // At most three rounds in sound content: blob, manifests, indexes. Nothing is looked at twice.
        while let Some(digest) = open.pop() {
            if !unit.watched.insert(digest) {
                continue;
            }
            open.extend(self.parents(&digest));
            if let Some(row) = self.index.blob(&digest).filter(|_| !gone.contains(&digest)) {
                unit.members.push((digest, row));
            }
        }
        let held = unit.digests().any(|digest| digest == victim.digest);
        unit.members.sort_by_key(|(_, row)| row.kind == BlobKind::Manifest);
        (held && !self.is_used(&unit)).then_some(unit)
    }

    fn parents(&self, child: &Digest) -> Vec<Digest> {
        Cursor::all(|from| self.index.parents_of(child, from, PAGE_ROWS))
    }

    /// Whether any of it was used since it was chosen, or is being filled or checked.
    fn is_used(&self, unit: &Unit) -> bool {
        let now = heat::now();
        let touched = |digest: &Digest| self.index.heat().last_use(digest, now) > Some(unit.used);
        let busy = |digest: &Digest| {
            self.flights.find(digest).is_some() || self.unpublished.is_being_written(digest)
        };
        unit.watched.iter().any(|digest| touched(digest) || busy(digest))
    }

    /// Removes units: their rows, their links, their files. How much went.
    pub(super) async fn remove(self: &Arc<Self>, mut units: Vec<Unit>) -> EvictReport {
        let (engine, decided_ms) = (Arc::clone(self), clock::unix_ms());
        let forgotten = blocking(move || {
            units.iter_mut().for_each(|unit| engine.forget(unit));
            // Taken from the end: what came first took the manifests of those after it along, and has to go first.
            units.reverse();
            units
        });
        let Ok(mut units) = forgotten.await else { return EvictReport::default() };
        let _ = tokio::time::timeout(COMMIT_WAIT, self.index.committed()).await;
        let mut report = EvictReport::default();
        loop {
            let engine = Arc::clone(self);
            let burst = blocking(move || {
                let (began, mut went) = (clock::monotonic(), EvictReport::default());
                while let Some(unit) = units.pop() {
                    went.add(engine.remove_unit(&unit, decided_ms));
                    if clock::monotonic().saturating_duration_since(began) >= BURST {
                        break;
                    }
                }
                (units, went)
            });
            let Ok((rest, went)) = burst.await else { return report };
            report.add(went);
            units = rest;
            if units.is_empty() {
                self.metrics.evicted(report.blobs, report.bytes);
                return report;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes the rows out of the index.
    pub(super) fn forget(&self, unit: &mut Unit) {
        let mut batch = Batch::new();
        for (digest, row) in &unit.members {
            batch = batch.remove_blob(*digest);
            unit.named.extend(self.parents(digest).into_iter().map(|parent| (*digest, parent)));
            if row.kind == BlobKind::Manifest {
                unit.named.extend(self.children(digest).into_iter().map(|child| (child, *digest)));
            }
        }
        // One that came since the unit was put together counts as well.
        unit.watched.extend(unit.named.iter().map(|(_, parent)| *parent));
        batch = unit.named.iter().fold(batch, |batch, (child, parent)| batch.remove_parent(child, parent));
        self.index.apply(batch);
    }

    fn children(&self, digest: &Digest) -> Vec<Digest> {
        let held = manifest::read(&self.store, digest).ok().flatten();
        let parsed = held.and_then(|(bytes, _)| Manifest::parse(&bytes, None).ok());
        let named = parsed.into_iter().flat_map(|manifest| manifest.descriptors);
        named.filter(|named| named.role.is_vouched_for()).map(|named| named.digest).collect()
    }

    /// Removes links and files, unless somebody came for them meanwhile: then the rows come back.
    pub(super) fn remove_unit(&self, unit: &Unit, decided_ms: u64) -> EvictReport {
        // Nobody writes a link to a manifest between the look and its end.
        let _turn = lock(&self.tag_links);
        if self.is_used(unit) || self.came_back(unit) {
            self.restore(unit);
            return EvictReport::default();
        }
        // A manifest that the disk refused is held in memory, and is as little worth without its layers.
        unit.watched.iter().for_each(|digest| self.unpublished.evicted(digest));
        let mut batch = Batch::new();
        for (digest, row) in unit.members.iter().rev() {
            let holders = self.index.holders(digest, HOLDERS_MAX);
            let removed =
                self.unlink(digest, row, &holders).and_then(|()| self.store.remove_blob(digest, decided_ms));
            match removed {
                Ok(Some(file)) => self.budget.readers().evicted(&file, file.size),
                Ok(None) => {}
                Err(error) => {
                    // Without its row it is found again like any file of another program.
                    tracing::error!(%digest, %error, "could not remove a blob");
                    continue;
                }
            }
            self.budget.freed(row.size);
            for name in &holders {
                let repository = self.naming.known(name.clone());
                self.linked.forget(&(repository.key, *digest));
                batch = batch.remove_holder(digest, name).remove_member(repository.key, *digest);
            }
        }
        self.index.apply(batch);
        unit.size()
    }

    fn unlink(&self, digest: &Digest, row: &BlobRow, holders: &[RepositoryName]) -> std::io::Result<()> {
        holders.iter().try_for_each(|name| match row.kind {
            BlobKind::Manifest => self.store.unlink_manifest(name, digest),
            BlobKind::Other => self.store.unlink_layer(name, digest),
        })
    }

    /// Whether any of it has a row again, or is named by a manifest that came meanwhile.
    fn came_back(&self, unit: &Unit) -> bool {
        let held = unit.watched.iter().any(|digest| self.index.blob(digest).is_some());
        held || unit.digests().any(|digest| !self.parents(&digest).is_empty())
    }

    fn restore(&self, unit: &Unit) {
        let missing = unit.members.iter().filter(|(digest, _)| self.index.blob(digest).is_none());
        let batch = missing.fold(Batch::new(), |batch, (digest, row)| batch.put_blob(*digest, row.clone()));
        let batch = unit.named.iter().fold(batch, |batch, (child, parent)| batch.put_parent(child, parent));
        self.index.apply(batch);
    }
}
