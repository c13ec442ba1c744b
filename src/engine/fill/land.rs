//! The end of a fill: what is right becomes a blob, what is wrong is set aside, what is unfinished stays for a while.

use std::sync::Arc;

use super::carry::BATCH_BYTES;
use super::{Failure, Fill, Kept, blocking, disk};
use crate::engine::Engine;
use crate::engine::budget::is_over_budget;
use crate::engine::flight::Flight;
use crate::index::{Batch, BlobKind, BlobRow, MemberRow};
use crate::registry::Digest;
use crate::store::Partial;
use crate::sys::{clock, files};

/// The row of a blob that was just verified.
pub(in crate::engine) fn blob_row(identity: files::Identity, adopted: bool) -> BlobRow {
    let now = clock::unix_ms();
    BlobRow {
        size: identity.size,
        identity: Some(identity),
        kind: BlobKind::Other,
        media_type: None,
        created_ms: now,
        verified_ms: Some(now),
        adopted,
    }
}

impl Fill {
    /// Whether what is there is what was asked for.
    pub(super) async fn check(&self, kept: &Kept) -> Result<(), Failure> {
        let partial = kept.partial()?;
        let got = partial.digest();
        if got == self.flight.digest {
            return Ok(());
        }
        self.engine.mistrusted.add(self.flight.digest, (), clock::monotonic());
        let (store, digest) = (Arc::clone(&self.engine.store), self.flight.digest);
        // One without a name, and one that can't be set aside, ends here.
        let aside = move || store.quarantine_partial(&partial, &digest).or_else(|_| partial.discard());
        blocking(aside).await.and_then(|result| result).map_err(disk)?;
        tracing::error!(digest = %self.flight.digest, %got, host = self.engine.upstream.host(), "the upstream gave wrong bytes; they are set aside");
        Err(Failure::Mismatch)
    }

    /// The last bytes go out at once; the disk syncs behind everybody's back. Until the row is readable the flight can
    /// be joined.
    pub(super) async fn land(&self, kept: Kept) {
        let digest = self.flight.digest;
        self.flight.verified();
        if !kept.lasting {
            return self.last_with_readers().await;
        }
        let _permit = self.engine.publications.acquire().await;
        let published = self.engine.publish(digest, &kept).await;
        let claimants = self.flight.claimants();
        let size = kept.partial().ok().map(|partial| partial.hashed());
        let member = MemberRow { size, seen_ms: clock::unix_ms() };
        let mut batch = claimants
            .iter()
            .fold(Batch::new(), |batch, claimant| batch.put_member(claimant.key, digest, member));
        let stored = published.as_ref().ok().map(|row| row.size);
        match published {
            Ok(row) => {
                self.engine.index.touch(&digest);
                if let Some(file) = &row.identity {
                    self.flight.carry_published(*file);
                    self.flight.read_by(self.engine.budget.readers().enter(file));
                }
                for claimant in &claimants {
                    self.engine.write_layer_link(claimant, &digest).await;
                }
                batch = batch.put_blob(digest, row);
            }
            Err(error) => {
                self.engine.unstorable.add(digest, (), clock::monotonic());
                tracing::error!(%digest, %error, "could not store a blob; it was served uncached");
                self.forsake(&kept).await;
                self.relieve(&Arc::new(error));
            }
        }
        self.engine.index.apply(batch);
        // Only now: a count of the rows that lacks this one must find it promised.
        if let (Some(bytes), Some(room)) = (stored, kept.room.lock().await.take()) {
            room.keep(bytes);
        }
        self.engine.flights.remove(&self.flight);
    }

    /// The file has no name: it ends with the last who reads it, and can be joined until then.
    async fn last_with_readers(&self) {
        while !self.engine.flights.abandon(&self.flight) {
            self.flight.moved().await;
        }
    }

    /// A file that could not be synced is never synced again: the kernel forgets what it could not write, and the next
    /// call says that all is well. Its readers keep it open.
    async fn forsake(&self, kept: &Kept) {
        let Ok(partial) = kept.partial() else { return };
        if let Ok(Err(error)) = blocking(move || partial.discard()).await {
            tracing::warn!(digest = %self.flight.digest, %error, "an unfinished blob can't be removed");
        }
    }

    /// Room for the next try, if the disk is full.
    fn relieve(&self, error: &Arc<std::io::Error>) {
        let (engine, error) = (Arc::clone(&self.engine), Arc::clone(error));
        let bytes = self.flight.total().unwrap_or(BATCH_BYTES as u64);
        tokio::spawn(async move { engine.relieve(&error, bytes).await });
    }

    pub(super) fn crash(&self, failure: Failure) {
        if let Failure::Disk(error) = &failure {
            let digest = self.flight.digest;
            self.engine.unstorable.add(digest, (), clock::monotonic());
            self.relieve(error);
            match is_over_budget(error) {
                true => tracing::info!(%digest, %error, "a blob is passed through uncached"),
                false => {
                    tracing::error!(%digest, %error, "the disk would not take a blob; it is passed through uncached")
                }
            }
        }
        self.engine.flights.remove(&self.flight);
        self.flight.fail(failure);
    }
}

impl Engine {
    /// Publishes a verified partial; gives its row.
    async fn publish(self: &Arc<Self>, digest: Digest, kept: &Kept) -> std::io::Result<BlobRow> {
        let Ok(partial) = kept.partial() else { return Err(std::io::ErrorKind::NotFound.into()) };
        let store = Arc::clone(&self.store);
        let publish = move |partial: Arc<Partial>| store.publish(&partial, &digest);
        let identity = blocking(move || publish(partial)).await??;
        Ok(blob_row(identity, false))
    }
}

/// Takes a flight out of the table however its task ends, even by a panic: then its readers are cut.
pub(in crate::engine) struct Landing(Arc<Engine>, Arc<Flight>);

impl Landing {
    /// Guards a flight.
    pub(in crate::engine) fn new(engine: &Arc<Engine>, flight: &Arc<Flight>) -> Self {
        Self(Arc::clone(engine), Arc::clone(flight))
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.flights.remove(&self.1);
            self.1.fail(Failure::Abandoned);
        }
    }
}
