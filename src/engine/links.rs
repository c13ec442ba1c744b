//! `registry`'s link files: the way back to it, and the way in from a volume that it filled.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::flight::Flight;
use super::{Engine, Repository, blocking, manifest};
use crate::index::{Batch, RepoKey};
use crate::registry::{Digest, Manifest};
use crate::sys::sync::lock;

/// Most links remembered as written (about 7 MB). When it is full, it starts anew; a link that is there already is
/// found by reading it.
const LINKED_MAX: usize = 65_536;

/// Most layer links on their way to the disk; a disk that hangs must not take the blocking pool with them.
pub const LINKINGS_MAX: usize = 64;

/// Most tags of one repository that are looked through when a manifest arrives that some of them may name.
const TAGS_MAX: usize = 1_000;

/// Layer links known to be on the disk, so that a hit does not look for them each time.
#[derive(Debug, Default)]
pub struct Linked {
    known: Mutex<HashSet<(RepoKey, Digest)>>,
}

impl Linked {
    fn knows(&self, repository: RepoKey, digest: Digest) -> bool {
        lock(&self.known).contains(&(repository, digest))
    }

    pub(super) fn forget(&self, link: &(RepoKey, Digest)) {
        lock(&self.known).remove(link);
    }

    fn insert(&self, repository: RepoKey, digest: Digest) {
        let mut known = lock(&self.known);
        if known.len() >= LINKED_MAX {
            known.clear();
        }
        known.insert((repository, digest));
    }
}

impl Engine {
    /// Sees to the layer link of a blob that was just given out for a repository, in the background. The first time only:
    /// one that is not written for want of room is written at a later request.
    pub(super) fn link_layer(self: &Arc<Self>, repository: &Repository, digest: &Digest) {
        if self.linked.knows(repository.key, *digest) {
            return;
        }
        // No room: the next request for it tries again.
        let Ok(permit) = Arc::clone(&self.linkings).try_acquire_owned() else { return };
        let (engine, repository, digest) = (Arc::clone(self), repository.clone(), *digest);
        tokio::spawn(async move {
            engine.write_layer_link(&repository, &digest).await;
            drop(permit);
        });
    }

    /// The same for all whom a flight gave a blob that is in the tree.
    pub(super) fn link_claimants(self: &Arc<Self>, flight: &Flight) {
        flight.claimants().iter().for_each(|claimant| self.link_layer(claimant, &flight.digest));
    }

    /// Writes the link of a blob that is in the tree.
    pub(super) async fn write_layer_link(&self, repository: &Repository, digest: &Digest) {
        self.linked.insert(repository.key, *digest);
        // Noted first: what is not known to be linked is not unlinked.
        self.index.apply(Batch::new().put_holder(digest, &repository.name));
        let (store, name, digest) = (Arc::clone(&self.store), repository.name.clone(), *digest);
        let written = blocking(move || store.link_layer(&name, &digest)).await;
        if let Err(error) = written.and_then(|result| result) {
            self.linked.forget(&(repository.key, digest));
            tracing::warn!(%digest, repository = %repository.name, %error, "could not write the layer link");
        }
    }

    /// Sees to the links of a manifest that is in the tree, in the background.
    pub(super) fn link_manifest(self: &Arc<Self>, repository: &Repository, digest: &Digest) {
        let (engine, repository, digest) = (Arc::clone(self), repository.clone(), *digest);
        tokio::spawn(async move {
            let _permit = engine.publications.acquire().await;
            engine.write_manifest_links(&repository, &digest).await;
        });
    }

    /// Writes the links of a manifest and of the tags that name it. After its data, so that no link ever dangles; and not
    /// for one that `registry` 2 cannot read, which would fail its whole garbage collection.
    pub(super) async fn write_manifest_links(self: &Arc<Self>, repository: &Repository, digest: &Digest) {
        let (engine, target, wanted) = (Arc::clone(self), repository.clone(), *digest);
        let written = blocking(move || engine.link_readable(&target, &wanted)).await;
        if let Err(error) = written.and_then(|result| result) {
            tracing::warn!(%digest, repository = %repository.name, %error, "could not write the manifest links");
        }
    }

    fn link_readable(&self, repository: &Repository, digest: &Digest) -> std::io::Result<()> {
        // One writer at a time: a tag that moves meanwhile gets its newest link last, and what is just being evicted none.
        let _turn = lock(&self.tag_links);
        let Some((bytes, _)) = manifest::read(&self.store, digest)? else { return Ok(()) };
        if !Manifest::parse(&bytes, None).is_ok_and(|manifest| manifest.read_by_registry_2) {
            return Ok(());
        }
        self.index.apply(Batch::new().put_holder(digest, &repository.name));
        self.store.link_revision(&repository.name, digest)?;
        for tag in self.index.tags(&repository.key, None, TAGS_MAX) {
            let row = self.index.tag(&repository.key, &tag);
            if row.is_some_and(|row| row.digest == *digest) {
                self.store.link_tag(&repository.name, &tag, digest)?;
            }
        }
        Ok(())
    }
}
