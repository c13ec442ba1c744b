//! Files that we did not verify: what another program left in the tree, or what changed since we did.
//!
//! They are checked like a flight: the headers go out at once, the body follows the hash, and the last bytes go out
//! after the match. A file that can't be right is set aside, and the blob fetched anew.

use std::sync::Arc;

use super::Engine;
use super::fill::{Landing, blob_row};
use super::flight::{Boarding, Failure, Flight, HELD_BACK_BYTES, Passenger, WHOLE};
use super::manifest::{self, Held};
use super::rescue::{Damage, Witness};
use super::{Repository, blocking};
use crate::index::{Batch, BlobRow};
use crate::registry::manifest::Role;
use crate::registry::{Digest, Manifest, digest::Hasher};
use crate::store::{OpenBlob, Store};
use crate::sys::files;

/// A suspect of at most this size is verified before anything goes out, so that a damaged one is mended within the same
/// request: a millisecond of hashing. So is a larger one whose length is not the one that its manifest names; of others
/// the headers go out at once, and whoever got bytes of a damaged one is cut.
const VERIFIED_FIRST_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes read and hashed at a time.
const STEP_BYTES: usize = 1024 * 1024;

/// Most children of an adopted index that are looked for at once; the others are found when they are asked for.
const CHILDREN_ADOPTED_MAX: usize = 64;

impl Engine {
    /// Verifies a file of the tree, as a flight that readers can follow. Nothing but its hash condemns it: what a manifest
    /// says of its length, `expected`, is a claim of whoever pushed that manifest; but one that disagrees is a reason to
    /// give nothing out before the hash is known. `None`: the mirror has too much to do.
    pub(super) fn verify_adopted(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        open: OpenBlob,
        expected: Option<u64>,
    ) -> Option<Passenger> {
        let size = open.identity.size;
        let passenger = match self.flights.board(*digest, repository, true, WHOLE) {
            Boarding::Joined(passenger) => return Some(passenger),
            Boarding::Started(passenger) => passenger,
            Boarding::Foreign | Boarding::Full => return None,
        };
        let flight = Arc::clone(&passenger.flight);
        // What is hashed, and what readers get below the watermark, is the file as it is now.
        if let Ok(state) = files::state(&open.file) {
            flight.carry(&open.file, Witness::new(state));
        }
        if size > VERIFIED_FIRST_BYTES_MAX && expected.is_none_or(|expected| expected == size) {
            flight.open(Some(size), Arc::clone(&open.file));
        }
        let (engine, task) = (Arc::clone(self), Arc::clone(&flight));
        tokio::spawn(async move {
            let guard = Landing::new(&engine, &task);
            engine.verify(&task, open).await;
            drop(guard);
        });
        Some(passenger)
    }

    /// Hashes the file, moving the watermark along.
    async fn verify(self: &Arc<Self>, flight: &Arc<Flight>, open: OpenBlob) {
        // Small ones have a turn of their own: a config must not wait behind gigabytes.
        let small = open.identity.size <= VERIFIED_FIRST_BYTES_MAX;
        let _permit = if small { &self.small_verifications } else { &self.verifications }.acquire().await;
        let digest = flight.digest;
        let hashed = self.hash(flight, &open).await;
        if flight.has_changed() {
            tracing::warn!(%digest, "a stored blob was changed while it was verified; it is fetched again");
            self.flights.remove(flight);
            flight.fail(Failure::Rotten);
            return;
        }
        if hashed.as_ref().is_ok_and(|got| *got == digest) {
            // One that lost its name meanwhile is given out all the same, and is not held any more.
            if files::identity(&open.file).is_ok_and(|now| now == open.identity) {
                self.note_found(&digest, open.identity.size);
                self.index.apply(Batch::new().put_blob(digest, self.verified_row(&digest, open.identity)));
            }
            flight.read_by(self.budget.readers().enter(&open.identity));
            flight.open(Some(open.identity.size), open.file);
            flight.commit_front(open.identity.size);
            flight.verified();
            self.flights.remove(flight);
            self.link_claimants(flight);
            return;
        }
        match hashed {
            Ok(_) => self.set_aside(&digest, open.identity).await,
            // It stays where it is until the right bytes take its place: the disk may think better of it.
            Err(error) => {
                tracing::error!(%digest, %error, "a stored blob can't be read; it is fetched again");
                self.distrust(&digest, open.identity, Damage::Unreadable);
            }
        }
        self.flights.remove(flight);
        flight.fail(Failure::Rotten);
    }

    /// The row of a file that was hashed just now: what was known of the blob stays known.
    pub(super) fn verified_row(&self, digest: &Digest, identity: files::Identity) -> BlobRow {
        let fresh = blob_row(identity, true);
        match self.index.blob(digest) {
            Some(known) => BlobRow {
                size: fresh.size,
                identity: fresh.identity,
                verified_ms: fresh.verified_ms,
                ..known
            },
            None => fresh,
        }
    }

    async fn hash(&self, flight: &Arc<Flight>, open: &OpenBlob) -> std::io::Result<Digest> {
        let mut hasher = Hasher::new(flight.digest.algorithm());
        let mut at = 0;
        while at < open.identity.size {
            let file = Arc::clone(&open.file);
            let (back, step) = blocking(move || {
                let step = files::read_at(&file, at, STEP_BYTES)?;
                hasher.update(&step);
                Ok::<_, std::io::Error>((hasher, step.len() as u64))
            })
            .await??;
            hasher = back;
            if step == 0 {
                // It became shorter: what there is does not hash to the digest.
                break;
            }
            at += step;
            // Of a part the last bytes wait for the digest too: nobody has checked this file yet.
            flight.commit_front(at.min(open.identity.size.saturating_sub(HELD_BACK_BYTES)));
        }
        Ok(hasher.finish())
    }

    /// Counts what is about to get its first row.
    fn note_found(&self, digest: &Digest, bytes: u64) {
        if self.index.blob(digest).is_none() {
            self.budget.found(bytes);
        }
    }

    /// Takes a file with wrong bytes out of the tree. If that can't be done, it is remembered not to be read.
    pub(super) async fn set_aside(&self, digest: &Digest, which: files::Identity) {
        self.distrust(digest, which, Damage::Wrong);
        tracing::error!(%digest, "a stored blob does not match its digest; it is set aside and fetched again");
        let (store, digest) = (Arc::clone(&self.store), *digest);
        match blocking(move || store.quarantine(&digest, which)).await.and_then(|result| result) {
            Ok(true) => self.index.apply(Batch::new().remove_blob(digest)),
            Ok(false) => {}
            Err(error) => tracing::error!(%digest, %error, "could not set a damaged blob aside"),
        }
    }

    /// Takes a manifest that another program fetched into the index, with all that it leads to.
    pub(super) async fn adopt_manifest(
        &self,
        repository: &Repository,
        held: &Held,
        identity: files::Identity,
    ) {
        let Ok(manifest) = Manifest::parse(&held.bytes, Some(&held.media_type)) else { return };
        self.note_found(&held.digest, identity.size);
        let own = self.membership(repository, held.digest, identity.size, &manifest);
        let own = own.put_holder(&held.digest, &repository.name);
        self.index
            .apply(own.put_blob(held.digest, BlobRow { adopted: true, ..manifest::row(held, identity) }));
        self.adopt_children(repository, &manifest).await;
    }

    /// What an index of a repository names belongs to that repository, and so does what its children name; of those
    /// that are here already, fetched for another repository or by another program, this says so.
    pub(super) async fn adopt_children(&self, repository: &Repository, index: &Manifest) {
        let children = children_of(index);
        if children.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let found = blocking(move || read_all(&store, &children)).await.unwrap_or_default();
        self.take_in_children(repository, found);
    }

    /// The same on the blocking pool.
    pub(super) fn adopt_children_here(&self, repository: &Repository, index: &Manifest) {
        self.take_in_children(repository, read_all(&self.store, &children_of(index)));
    }

    fn take_in_children(&self, repository: &Repository, found: Vec<(Held, Manifest, files::Identity)>) {
        for (child, manifest, identity) in found {
            let mut batch = self.membership(repository, child.digest, identity.size, &manifest);
            // A row that a walk made of a file says nothing of how the blob came.
            if self.index.blob(&child.digest).is_none_or(|row| row.adopted && row.verified_ms.is_none()) {
                self.note_found(&child.digest, identity.size);
                batch = batch
                    .put_blob(child.digest, BlobRow { adopted: true, ..manifest::row(&child, identity) });
            }
            self.index.apply(batch);
        }
    }
}

fn children_of(index: &Manifest) -> Vec<Digest> {
    let children = index.descriptors.iter().filter(|named| named.role == Role::Child);
    children.take(CHILDREN_ADOPTED_MAX).map(|named| named.digest).collect()
}

fn read_all(store: &Store, children: &[Digest]) -> Vec<(Held, Manifest, files::Identity)> {
    children.iter().filter_map(|child| read_child(store, child)).collect()
}

/// A manifest of the tree, checked, and what it says.
pub(super) fn read_child(store: &Store, digest: &Digest) -> Option<(Held, Manifest, files::Identity)> {
    let (bytes, identity) = manifest::read(store, digest).ok().flatten()?;
    let manifest = Manifest::parse(&bytes, None).ok()?;
    Some((Held { digest: *digest, media_type: manifest.media_type.clone(), bytes }, manifest, identity))
}
