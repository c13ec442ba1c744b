//! The index from the tree.
//!
//! The index is a cache of the tree. One that starts empty (it was lost, set aside, or the volume is another program's) is
//! filled by a walk while requests are served: all blobs as rows that nobody verified, manifests by the links of their
//! repositories, with what they name, tags as never confirmed. Nobody waits for it: what a request asks for is found in
//! the tree without it. It makes what is held countable, and so evictable.
//!
//! A blob that we fetched ourselves before the index was lost counts as found in the volume from then on, since nothing
//! tells it from others.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::adopt::read_child;
use super::{Engine, Repository, blocking, manifest};
use crate::index::{Batch, BlobKind, BlobRow, TagRow};
use crate::registry::{Digest, RepositoryName, Tag};
use crate::store::Shard;
use crate::sys::clock;
use crate::sys::files::Identity;

/// Most repositories that a walk takes in (about 10 MB of names).
const REPOSITORIES_MAX: usize = 100_000;

/// Blobs looked at in one step on the blocking pool: about 10 ms of a warm disk.
pub(super) const STEP_BLOBS: usize = 1_024;

/// Manifests read in one step: about 10 ms.
const STEP_MANIFESTS: usize = 64;

/// Rows that may wait for the disk before the walk waits too: a quarter of what the index lets wait, so that requests have
/// the rest.
const ROWS_AHEAD_MAX: usize = 65_536;

/// The walk rests for this part of the time that a step took, so that requests get at the disk in between.
const REST: u32 = 4;

/// What a walk found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Repositories in the tree.
    pub repositories: usize,
    /// Manifests taken in by their links.
    pub manifests: usize,
    /// Tags taken in by their links.
    pub tags: usize,
    /// Blobs in the tree.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that had no row.
    pub adopted: usize,
    /// Blobs whose file was another one than their row says; they are verified before their next use.
    pub changed: usize,
    /// Rows that led to no file, and were removed.
    pub removed: usize,
    /// Folders and files that could not be read.
    pub unreadable: usize,
}

impl Engine {
    /// Takes in what the index does not know of the tree; at the start, in the background. An index that has been whole
    /// once gets the names of the repositories only, and what `registry` noted of the volume.
    pub async fn recover(self: &Arc<Self>) {
        if self.index.is_whole() {
            self.take_in_names(&mut Rebuilt::default()).await;
        } else {
            self.fill_index().await;
        }
        self.take_over_schedule().await;
        // What was found has rows now; no fill counted it.
        self.budget.recount();
        self.end_doubt().await;
    }

    async fn fill_index(self: &Arc<Self>) {
        let found = self.rebuild_index().await;
        if found.blobs > 0 {
            tracing::info!(
                blobs = found.blobs,
                bytes = found.bytes,
                manifests = found.manifests,
                tags = found.tags,
                repositories = found.repositories,
                "the index was filled from the tree"
            );
        }
    }

    /// Makes the index agree with the tree, while requests are served: rows for all that is there, none for what is not.
    /// What was known of a blob stays known. Ends when the rows are durable, where they ever are.
    pub async fn rebuild_index(self: &Arc<Self>) -> Rebuilt {
        let mut found = self.take_in_tree().await;
        self.remove_dangling(&mut found).await;
        if found.unreadable == 0 {
            self.index.apply(Batch::new().mark_whole());
        }
        self.index.committed().await;
        found
    }

    /// Takes in everything that the tree has.
    pub(super) async fn take_in_tree(self: &Arc<Self>) -> Rebuilt {
        let mut found = Rebuilt::default();
        for name in self.take_in_names(&mut found).await {
            self.take_in_repository(self.naming.known(name), &mut found).await;
        }
        let mut ahead = 0;
        for shard in Shard::all() {
            let digests = self.digests_in(shard).await.unwrap_or_else(|| {
                found.unreadable += 1;
                Vec::new()
            });
            for step in digests.chunks(STEP_BLOBS) {
                ahead += self.take_in_blobs(step.to_vec(), &mut found).await;
            }
            if ahead >= ROWS_AHEAD_MAX {
                self.index.committed().await;
                ahead = 0;
            }
        }
        found
    }

    /// The repositories of a volume that another program filled, so that the catalogue has them.
    async fn take_in_names(self: &Arc<Self>, found: &mut Rebuilt) -> Vec<RepositoryName> {
        let engine = Arc::clone(self);
        let walked = blocking(move || {
            let names = engine.store.repositories(REPOSITORIES_MAX);
            for name in &names {
                engine.index.apply(Batch::new().put_repository(engine.naming.upstream(), name));
            }
            names
        });
        let names = walked.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not list the repositories of the volume");
            Vec::new()
        });
        found.repositories = names.len();
        names
    }

    async fn take_in_repository(self: &Arc<Self>, repository: Repository, found: &mut Rebuilt) {
        let (engine, name) = (Arc::clone(self), repository.name.clone());
        let listed = blocking(move || {
            let revisions = engine.store.revisions(&name)?;
            Ok::<_, std::io::Error>((revisions, engine.store.tags(&name)?))
        });
        let (revisions, tags) = match listed.await.and_then(|result| result) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(repository = %repository.name, %error, "the links of a repository can't be read");
                found.unreadable += 1;
                return;
            }
        };
        for step in revisions.chunks(STEP_MANIFESTS) {
            let (engine, repository, step) = (Arc::clone(self), repository.clone(), step.to_vec());
            found.manifests += rested(move || engine.take_in_manifests(&repository, &step)).await;
        }
        for step in tags.chunks(STEP_BLOBS) {
            let (engine, repository, step) = (Arc::clone(self), repository.clone(), step.to_vec());
            found.tags += rested(move || engine.take_in_tags(&repository, &step)).await;
        }
    }

    /// Manifests that belong to a repository: they, and what they name, may be asked for there; and so may what the
    /// manifests of an index name, which have no links of their own if they came with it.
    fn take_in_manifests(&self, repository: &Repository, digests: &[Digest]) -> usize {
        let mut taken = 0;
        // All of them, whatever is known: that a digest is a member says nothing of what it names.
        for digest in digests {
            let Some((held, manifest, identity)) = read_child(&self.store, digest) else { continue };
            let own = self.membership(repository, *digest, identity.size, &manifest);
            let fresh = BlobRow { adopted: true, ..manifest::row(&held, identity) };
            let row = match self.index.blob(digest) {
                Some(known) => BlobRow { adopted: known.adopted, created_ms: known.created_ms, ..fresh },
                None => fresh,
            };
            // Children first: whoever finds this row takes them for known.
            self.adopt_children_here(repository, &manifest);
            self.index.apply(own.put_blob(*digest, row));
            taken += 1;
        }
        taken
    }

    /// Tags that are not known otherwise: as never confirmed, so that each is asked for at its next use.
    fn take_in_tags(&self, repository: &Repository, tags: &[(Tag, Digest)]) -> usize {
        let mut taken = 0;
        for (tag, digest) in tags {
            if self.is_held_manifest(digest) && self.index.tag(&repository.key, tag).is_none() {
                let row =
                    TagRow { digest: *digest, media_type: None, size: None, validated_ms: 0, before: None };
                self.index.apply(Batch::new().put_tag(repository.key, tag, row));
                taken += 1;
            }
        }
        taken
    }

    pub(super) async fn digests_in(self: &Arc<Self>, shard: Shard) -> Option<Vec<Digest>> {
        let store = Arc::clone(&self.store);
        let listed = blocking(move || store.digests_in(shard)).await.and_then(|result| result);
        listed.inspect_err(|error| tracing::warn!(%error, "a folder of blobs can't be read")).ok()
    }

    /// Blobs of the tree, whoever put them there; how many rows were written.
    async fn take_in_blobs(self: &Arc<Self>, digests: Vec<Digest>, found: &mut Rebuilt) -> usize {
        let engine = Arc::clone(self);
        let step = rested(move || {
            let (mut step, mut batch) = (Rebuilt::default(), Batch::new());
            for digest in &digests {
                match engine.store.identity_of(digest) {
                    Ok(Some(identity)) => batch = engine.take_in_blob(batch, digest, identity, &mut step),
                    Ok(None) => {}
                    Err(_) => step.unreadable += 1,
                }
            }
            engine.index.apply(batch);
            step
        });
        let step = step.await;
        found.blobs += step.blobs;
        found.bytes += step.bytes;
        found.adopted += step.adopted;
        found.changed += step.changed;
        found.unreadable += step.unreadable;
        step.adopted + step.changed
    }

    fn take_in_blob(&self, batch: Batch, digest: &Digest, identity: Identity, found: &mut Rebuilt) -> Batch {
        found.blobs += 1;
        found.bytes += identity.size;
        match self.index.blob(digest) {
            Some(row) if row.identity == Some(identity) => batch,
            // On its way: its row comes with it.
            _ if self.flights.find(digest).is_some() => batch,
            Some(row) => {
                found.changed += 1;
                batch.put_blob(
                    *digest,
                    BlobRow { size: identity.size, verified_ms: None, identity: Some(identity), ..row },
                )
            }
            None => {
                found.adopted += 1;
                batch.put_blob(*digest, unverified_row(identity))
            }
        }
    }

    /// Says in the rows what a power cut may have changed of the files, so that nothing else has to.
    async fn end_doubt(self: &Arc<Self>) {
        if self.store.doubtful_since().is_none() {
            return;
        }
        let (mut from, mut found, mut durable) = (None, 0, true);
        loop {
            let (engine, at) = (Arc::clone(self), from);
            let (doubtful, next) = rested(move || {
                let page = engine.index.blobs(at.as_ref(), STEP_BLOBS);
                let rows = page.rows.iter().filter(|(digest, row)| engine.doubt(digest, row));
                (rows.count(), page.next)
            })
            .await;
            found += doubtful;
            durable &= self.index.committed().await;
            match next {
                Some(_) => from = next,
                None => break,
            }
        }
        let store = Arc::clone(&self.store);
        match blocking(move || store.end_doubt(durable)).await.and_then(|result| result) {
            Ok(()) => {
                tracing::info!(blobs = found, "what was not synced is verified again before it is used")
            }
            Err(error) => tracing::warn!(%error, "what was not synced stays in doubt until the next start"),
        }
    }

    /// Takes back that a blob was verified; whether its file is in doubt.
    fn doubt(&self, digest: &Digest, row: &BlobRow) -> bool {
        let is_doubtful = row.verified_identity().is_some_and(|file| self.store.is_doubtful(&file));
        // One that changed since it was read is of this process.
        if is_doubtful && self.index.blob(digest).as_ref() == Some(row) {
            self.index.apply(Batch::new().put_blob(*digest, BlobRow { verified_ms: None, ..row.clone() }));
        }
        is_doubtful
    }

    /// Removes the rows that lead to no file.
    async fn remove_dangling(self: &Arc<Self>, found: &mut Rebuilt) {
        let mut from = None;
        loop {
            let (engine, at) = (Arc::clone(self), from);
            let (removed, next) = rested(move || {
                let page = engine.index.blobs(at.as_ref(), STEP_BLOBS);
                let gone = page.rows.iter().filter(|(digest, row)| engine.is_dangling(digest, row));
                let gone: Vec<_> = gone.map(|(digest, _)| *digest).collect();
                let batch = gone.iter().fold(Batch::new(), |batch, digest| batch.remove_blob(*digest));
                engine.index.apply(batch);
                (gone.len(), page.next)
            })
            .await;
            found.removed += removed;
            match next {
                Some(_) => from = next,
                None => return,
            }
        }
    }

    /// Whether a row leads to no file. One that changed since it was read is looked at another time.
    fn is_dangling(&self, digest: &Digest, row: &BlobRow) -> bool {
        matches!(self.store.identity_of(digest), Ok(None)) && self.index.blob(digest).as_ref() == Some(row)
    }
}

/// The row of a file that was found in the tree.
pub(super) fn unverified_row(identity: Identity) -> BlobRow {
    BlobRow {
        size: identity.size,
        identity: Some(identity),
        kind: BlobKind::Other,
        media_type: None,
        created_ms: clock::unix_ms(),
        verified_ms: None,
        adopted: true,
    }
}

/// Does a step on the blocking pool, and then nothing for a while. A step that panics has found nothing.
pub(super) async fn rested<T: Default + Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> T {
    let began = clock::monotonic();
    let done = blocking(step).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a step of a walk failed");
        T::default()
    });
    let took = clock::monotonic().saturating_duration_since(began);
    // The timer counts in milliseconds: shorter rests would be longer than meant.
    let rest = Some(took / REST).filter(|rest| *rest >= Duration::from_millis(1));
    match rest {
        Some(rest) => tokio::time::sleep(rest).await,
        None => tokio::task::yield_now().await,
    }
    done
}
