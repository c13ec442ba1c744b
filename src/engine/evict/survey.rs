//! A look at every blob of the index: how much there is, how recent each one is, and which ones go.
//!
//! A blob is as recent as the newest of itself, the manifests that name it and the indexes that name those. So the base
//! layer of a hot image is hot, and no manifest goes later than what it names: when the first of that goes, so do the
//! manifest and its index.

use std::collections::{HashMap, HashSet, VecDeque};

use super::plan::{Candidate, PINNED, Plan, Terms};
use crate::engine::budget::room::{SMALL_BYTES, on_disk};
use crate::index::heat::{self, Seconds};
use crate::index::scan::Cursor;
use crate::index::{BlobRow, Index};
use crate::registry::Digest;

/// Rows read in one transaction: a millisecond.
const PAGE_ROWS: usize = 1_024;

/// Most manifests whose last use is remembered during a scan (about 6 MB); then it starts anew.
const REMEMBERED_MAX: usize = 65_536;

/// What a scan found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many blobs there are.
    pub blobs: u64,
    /// Bytes of the small ones on the disk.
    pub small: u64,
    /// Bytes of the large ones on the disk.
    pub large: u64,
    /// Bytes of those that are pinned.
    pub pinned: u64,
    /// Those that go.
    pub victims: Vec<Candidate>,
}

/// What a scan looks by.
#[derive(Debug)]
pub struct Survey<'i> {
    recency: Recency<'i>,
    parents: Parents<'i>,
    /// Blobs that are not to be considered, for reasons of their own.
    spared: &'i dyn Spared,
}

/// What is left out of a scan, though it may go.
pub trait Spared: std::fmt::Debug {
    /// Whether a blob is left out.
    fn spares(&self, digest: &Digest, row: &BlobRow) -> bool;
}

impl<'i> Survey<'i> {
    /// A scan of an index. `pinned`: manifests and blobs that stay, with all that they name.
    pub fn new(index: &'i Index, pinned: &'i HashSet<Digest>, spared: &'i dyn Spared) -> Self {
        Self { recency: Recency::new(index, pinned), parents: Parents::new(index), spared }
    }

    /// Reads all rows.
    pub fn run(mut self, terms: Terms) -> Found {
        let (mut found, mut plan) = (Found::default(), Plan::new(terms));
        let mut from = None;
        loop {
            let page = self.recency.index.blobs(from.as_ref(), PAGE_ROWS);
            for (digest, row) in page.rows {
                self.look(&digest, &row, &mut found, &mut plan);
            }
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        found.victims = plan.victims();
        found
    }

    fn look(&mut self, digest: &Digest, row: &BlobRow, found: &mut Found, plan: &mut Plan) {
        let own = self.recency.own(digest, Some(row));
        let used =
            self.parents.of(digest).map(|parent| self.recency.of_manifest(&parent)).fold(own, Seconds::max);
        let bytes = on_disk(row.size);
        found.blobs += 1;
        *(if row.size < SMALL_BYTES { &mut found.small } else { &mut found.large }) += bytes;
        if used == PINNED {
            found.pinned += bytes;
        }
        if !self.spared.spares(digest, row) {
            plan.offer(Candidate { used, digest: *digest, bytes: row.size });
        }
    }
}

/// How recent things are.
#[derive(Debug)]
struct Recency<'i> {
    index: &'i Index,
    pinned: &'i HashSet<Digest>,
    now: Seconds,
    manifests: HashMap<Digest, Seconds>,
}

impl<'i> Recency<'i> {
    fn new(index: &'i Index, pinned: &'i HashSet<Digest>) -> Self {
        Self { index, pinned, now: heat::now(), manifests: HashMap::new() }
    }

    /// Of a blob alone.
    fn own(&self, digest: &Digest, row: Option<&BlobRow>) -> Seconds {
        if self.pinned.contains(digest) {
            return PINNED;
        }
        self.index.last_use(digest, row, self.now)
    }

    /// Of a manifest and the indexes that name it.
    fn of_manifest(&mut self, manifest: &Digest) -> Seconds {
        if let Some(known) = self.manifests.get(manifest) {
            return *known;
        }
        let own = self.own(manifest, self.index.blob(manifest).as_ref());
        let indexes = Cursor::all(|from| self.index.parents_of(manifest, from, PAGE_ROWS));
        let used = indexes.iter().map(|index| self.own(index, self.index.blob(index).as_ref()));
        let used = used.fold(own, Seconds::max);
        if self.manifests.len() >= REMEMBERED_MAX {
            self.manifests.clear();
        }
        self.manifests.insert(*manifest, used);
        used
    }
}

/// Who names what, read along with the blobs: both tables have the order of digests.
#[derive(Debug)]
struct Parents<'i> {
    index: &'i Index,
    read: VecDeque<(Digest, Digest)>,
    next: Option<Option<Cursor>>,
}

impl<'i> Parents<'i> {
    fn new(index: &'i Index) -> Self {
        Self { index, read: VecDeque::new(), next: Some(None) }
    }

    /// The manifests that name a blob. Must be asked for blobs in order.
    fn of<'p>(&'p mut self, child: &'p Digest) -> impl Iterator<Item = Digest> + use<'p, 'i> {
        while self.first().is_some_and(|(named, _)| named < *child) {
            self.read.pop_front();
        }
        std::iter::from_fn(move || {
            self.first().filter(|(named, _)| named == child)?;
            self.read.pop_front().map(|(_, parent)| parent)
        })
    }

    fn first(&mut self) -> Option<(Digest, Digest)> {
        while self.read.is_empty() {
            let from = self.next.take()?;
            let page = self.index.parents(from.as_ref(), PAGE_ROWS);
            self.read.extend(page.rows);
            self.next = page.next.map(Some);
        }
        self.read.front().copied()
    }
}

#[cfg(test)]
#[path = "survey/tests.rs"]
mod tests;
