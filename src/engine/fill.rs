//! Filling a flight: one upstream transfer into one partial file, hashed as it is written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::flight::{Failure, Flight};
use super::{Engine, Repository, blocking};
use crate::index::{Batch, BlobKind, BlobRow, MemberRow};
use crate::registry::Digest;
use crate::store::Partial;
use crate::sys::{clock, files};
use crate::upstream::{Class, FetchError, Transfer};

/// Waits between the tries to go on with a transfer that broke off; the last one given up on ends the flight.
const RESUME_WAITS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// Bytes gathered before they go to the disk together. Whatever has arrived goes at once; this bounds a fast upstream.
const BATCH_BYTES: usize = 1024 * 1024;

/// Largest blob that is taken without an announced length: an endless one must not fill the disk.
const UNANNOUNCED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// A fill under way.
struct Fill {
    engine: Arc<Engine>,
    flight: Arc<Flight>,
    repository: Repository,
    expected: Option<u64>,
}

impl Engine {
    /// Starts the task of a new flight. It runs to its end whoever leaves.
    pub(super) fn start_fill(
        self: &Arc<Self>,
        flight: Arc<Flight>,
        repository: Repository,
        expected: Option<u64>,
    ) {
        let fill = Fill { engine: Arc::clone(self), flight, repository, expected };
        tokio::spawn(async move {
            let guard = Landing::new(&fill.engine, &fill.flight);
            if !fill.engine.landed_meanwhile(&fill.flight).await {
                fill.fly().await;
            }
            drop(guard);
        });
    }

    /// Publishes a verified partial and makes its row readable.
    async fn publish(self: &Arc<Self>, digest: Digest, partial: Partial) -> std::io::Result<()> {
        let store = Arc::clone(&self.store);
        let identity = blocking(move || store.publish(partial, &digest)).await??;
        self.index.apply(Batch::new().put_blob(digest, blob_row(identity, false)));
        Ok(())
    }
}

/// The row of a blob that was just verified.
pub(super) fn blob_row(identity: files::Identity, adopted: bool) -> BlobRow {
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
    async fn fly(&self) {
        let permit = Arc::clone(&self.engine.fills).acquire_owned().await;
        let filled = self.run().await;
        drop(permit);
        match filled {
            Ok(partial) => self.land(partial).await,
            Err(failure) => self.crash(failure),
        }
    }

    /// Fetches everything, and checks it.
    async fn run(&self) -> Result<Partial, Failure> {
        let (repository, transfer) = self.open().await?;
        let total = self.total(&transfer)?;
        let mut partial = self.begin(total).await?;
        self.flight.open(total, partial.file());
        let mut transfer = Some(transfer);
        let mut waits = RESUME_WAITS.iter();
        loop {
            let before = partial.written();
            let (back, ended) = self.receive(partial, transfer.take(), total).await?;
            partial = back;
            let error = match ended {
                Ok(()) => return self.check(partial),
                Err(error) => error,
            };
            if partial.written() > before {
                waits = RESUME_WAITS.iter();
            }
            let Some(wait) = waits.next() else {
                return Err(Failure::Fetch(Arc::new(error)));
            };
            tracing::warn!(digest = %self.flight.digest, at = partial.written(), %error, "the upstream broke off; going on");
            tokio::time::sleep(*wait).await;
            transfer = self.resume(&repository, partial.written()).await?;
        }
    }

    /// Opens the transfer under the first repository that the upstream lets have the blob.
    async fn open(&self) -> Result<(Repository, Transfer), Failure> {
        let mut repository = self.repository.clone();
        loop {
            let error = match self.engine.upstream.blob(&repository.name, &self.flight.digest, 0).await {
                Ok(transfer) => return Ok((repository, transfer)),
                Err(error) => Arc::new(error),
            };
            if error.class() != Class::Absent {
                return Err(Failure::Fetch(error));
            }
            self.engine.deny_blob(&repository, &self.flight.digest, &error);
            match self.flight.deny(&repository.key, Arc::clone(&error)) {
                Some(next) => repository = next,
                None => return Err(Failure::Fetch(error)),
            }
        }
    }

    /// The length to promise: what the upstream announces, which must be what the manifest says.
    fn total(&self, transfer: &Transfer) -> Result<Option<u64>, Failure> {
        match (transfer.total(), self.expected) {
            (Some(announced), Some(expected)) if announced != expected => {
                let host = transfer.host().to_owned();
                Err(Failure::Fetch(Arc::new(FetchError::Malformed {
                    host,
                    what: "a blob of another length than its manifest says",
                })))
            }
            (announced, expected) => Ok(announced.or(expected)),
        }
    }

    async fn begin(&self, total: Option<u64>) -> Result<Partial, Failure> {
        let (store, digest) = (Arc::clone(&self.engine.store), self.flight.digest);
        blocking(move || store.begin(&digest, total)).await.and_then(|begun| begun).map_err(disk)
    }

    /// Goes on where the last transfer ended. An upstream that can't be reached now may be at the next try.
    async fn resume(&self, repository: &Repository, written: u64) -> Result<Option<Transfer>, Failure> {
        match self.engine.upstream.blob(&repository.name, &self.flight.digest, written).await {
            Ok(transfer) => Ok(Some(transfer)),
            Err(error) if matches!(error.class(), Class::Down | Class::Slow | Class::Limited) => Ok(None),
            Err(error) => Err(Failure::Fetch(Arc::new(error))),
        }
    }

    /// Writes a transfer to its end, or to where it breaks off; only a failure of our own disk is final here.
    async fn receive(
        &self,
        mut partial: Partial,
        transfer: Option<Transfer>,
        total: Option<u64>,
    ) -> Result<(Partial, Result<(), FetchError>), Failure> {
        let Some(mut transfer) = transfer else {
            let host = self.engine.upstream.host().to_owned();
            return Ok((partial, Err(FetchError::Cut { host })));
        };
        let mut skip = partial.written().saturating_sub(transfer.start());
        let limit = total.unwrap_or(UNANNOUNCED_BYTES_MAX);
        loop {
            let (batch, ended) = gather(&mut transfer, &mut skip).await;
            let bytes: usize = batch.iter().map(Bytes::len).sum();
            if partial.written() + bytes as u64 > limit {
                return Err(Failure::Fetch(Arc::new(FetchError::TooLarge {
                    host: transfer.host().to_owned(),
                })));
            }
            if bytes > 0 {
                partial = append(partial, batch).await?;
                self.engine.metrics.pulled_blob(bytes as u64);
                self.flight.commit(partial.written());
            }
            match ended {
                None => {}
                Some(Ok(())) if total.is_some_and(|total| partial.written() < total) => {
                    return Ok((partial, Err(FetchError::Cut { host: transfer.host().to_owned() })));
                }
                Some(ended) => return Ok((partial, ended)),
            }
        }
    }

    fn check(&self, partial: Partial) -> Result<Partial, Failure> {
        let got = partial.digest();
        if got == self.flight.digest {
            return Ok(partial);
        }
        tracing::error!(digest = %self.flight.digest, %got, host = self.engine.upstream.host(), "the upstream gave wrong bytes; nothing was kept");
        self.engine.mistrusted.add(self.flight.digest, (), clock::monotonic());
        Err(Failure::Mismatch)
    }

    /// The last bytes go out at once; the disk syncs behind everybody's back. Until the row is readable the flight can
    /// be joined.
    async fn land(&self, partial: Partial) {
        let digest = self.flight.digest;
        let size = Some(partial.written());
        self.flight.verified();
        let _permit = self.engine.publications.acquire().await;
        let published = self.engine.publish(digest, partial).await;
        let claimants = self.flight.claimants();
        let member = MemberRow { size, seen_ms: clock::unix_ms() };
        let batch = claimants
            .iter()
            .fold(Batch::new(), |batch, claimant| batch.put_member(claimant.key, digest, member));
        self.engine.index.apply(batch);
        self.engine.flights.remove(&self.flight);
        match published {
            Ok(()) => {
                for claimant in claimants {
                    self.engine.write_layer_link(&claimant, &digest).await;
                }
            }
            Err(error) => {
                tracing::error!(%digest, %error, "could not store a blob; it was served uncached");
            }
        }
    }

    fn crash(&self, failure: Failure) {
        self.engine.flights.remove(&self.flight);
        self.flight.fail(failure);
    }
}

/// Takes a flight out of the table however its task ends, even by a panic: then its readers are cut.
pub(super) struct Landing(Arc<Engine>, Arc<Flight>);

impl Landing {
    /// Guards a flight.
    pub(super) fn new(engine: &Arc<Engine>, flight: &Arc<Flight>) -> Self {
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

/// What has arrived, at most a batch, and whether it was the end. The bytes that are had already are skipped.
async fn gather(transfer: &mut Transfer, skip: &mut u64) -> (Vec<Bytes>, Option<Result<(), FetchError>>) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = Some(transfer.next().await);
    while let Some(piece) = next.take() {
        match piece {
            Ok(Some(piece)) => {
                let piece = skip_front(piece, skip);
                bytes += piece.len();
                batch.push(piece);
            }
            Ok(None) => return (batch, Some(Ok(()))),
            Err(error) => return (batch, Some(Err(error))),
        }
        if bytes < BATCH_BYTES {
            next = transfer.next().now_or_never();
        }
    }
    (batch, None)
}

fn skip_front(mut piece: Bytes, skip: &mut u64) -> Bytes {
    let known = usize::try_from(*skip).unwrap_or(usize::MAX).min(piece.len());
    *skip -= known as u64;
    piece.split_off(known)
}

async fn append(mut partial: Partial, batch: Vec<Bytes>) -> Result<Partial, Failure> {
    let appended = blocking(move || partial.append(&batch).map(|_| partial)).await;
    appended.and_then(|result| result).map_err(disk)
}

fn disk(error: std::io::Error) -> Failure {
    Failure::Disk(Arc::new(error))
}
