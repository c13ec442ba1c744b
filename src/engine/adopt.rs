//! Files that we did not verify: what another program left in the tree, or what changed since we did.
//!
//! They are checked like a flight: the headers go out at once, the body follows the hash, and the last bytes go out
//! after the match. A file that can't be right is set aside, and the blob fetched anew.

use std::sync::Arc;

use super::Engine;
use super::fill::blob_row;
use super::flight::{Boarding, Failure, Flight};
use super::{Repository, blocking};
use crate::index::Batch;
use crate::registry::{Digest, digest::Hasher};
use crate::store::OpenBlob;
use crate::sys::files;

/// A suspect of at most this size is verified before anything goes out, so that a damaged one is mended within the same
/// request. A millisecond of hashing; larger ones would make a client wait.
const VERIFIED_FIRST_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes read and hashed at a time.
const STEP_BYTES: usize = 1024 * 1024;

impl Engine {
    /// Verifies a file of the tree, as a flight that readers can follow. `None`: it can't be right, and was set aside.
    pub(super) async fn verify_adopted(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        open: OpenBlob,
        expected: Option<u64>,
    ) -> Option<Arc<Flight>> {
        let size = open.identity.size;
        let wrong_length = expected.is_some_and(|expected| expected != size);
        if wrong_length || (size == 0 && *digest != Digest::of(digest.algorithm(), b"")) {
            self.set_aside(digest).await;
            return None;
        }
        let flight = match self.flights.board(*digest, repository) {
            Boarding::Joined(flight) => return Some(flight),
            Boarding::Started(flight) => flight,
        };
        flight.open(Some(size), Arc::clone(&open.file));
        let (engine, task) = (Arc::clone(self), Arc::clone(&flight));
        let verified = tokio::spawn(async move { engine.verify(&task, open).await });
        if size > VERIFIED_FIRST_BYTES_MAX {
            return Some(flight);
        }
        verified.await.unwrap_or(false).then_some(flight)
    }

    /// Hashes the file, moving the watermark along; whether it is right.
    async fn verify(self: &Arc<Self>, flight: &Arc<Flight>, open: OpenBlob) -> bool {
        let _permit = self.verifications.acquire().await;
        let digest = flight.digest;
        match self.hash(flight, &open).await {
            Ok(got) if got == digest => {
                flight.verified();
                self.index.apply(Batch::new().put_blob(digest, blob_row(open.identity, true)));
                self.flights.remove(&digest);
                true
            }
            Ok(_) => {
                self.set_aside(&digest).await;
                self.flights.remove(&digest);
                flight.fail(Failure::Mismatch);
                false
            }
            Err(error) => {
                tracing::error!(%digest, %error, "a stored blob can't be read; it is fetched again");
                self.set_aside(&digest).await;
                self.flights.remove(&digest);
                flight.fail(Failure::Abandoned);
                false
            }
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
            if step == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            hasher = back;
            at += step;
            flight.commit(at.min(open.identity.size));
        }
        Ok(hasher.finish())
    }

    async fn set_aside(&self, digest: &Digest) {
        tracing::error!(%digest, "a stored blob does not match its digest; it is set aside and fetched again");
        self.index.apply(Batch::new().remove_blob(*digest));
        let (store, digest) = (Arc::clone(&self.store), *digest);
        if let Err(error) = blocking(move || store.quarantine(&digest)).await.and_then(|result| result) {
            tracing::error!(%digest, %error, "could not set a damaged blob aside");
        }
    }
}
