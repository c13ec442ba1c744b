//! Filling a flight: one upstream transfer into one partial file, hashed as it is written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::budget::{Reservation, is_over_budget};
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
    /// What the manifest says of the length; the upstream's own word comes first, and the digest decides.
    expected: Option<u64>,
}

impl Engine {
    /// Starts the task of a new flight. It runs to its end whoever leaves.
    pub(super) fn start_fill(
        self: &Arc<Self>,
        flight: Arc<Flight>,
        repository: Repository,
        entitled: bool,
        expected: Option<u64>,
    ) {
        let fill = Fill { engine: Arc::clone(self), flight, repository, expected };
        tokio::spawn(async move {
            let guard = Landing::new(&fill.engine, &fill.flight);
            if !fill.finds_it_landed(entitled).await {
                fill.fly().await;
            }
            drop(guard);
        });
    }

    /// Publishes a verified partial; gives its row.
    async fn publish(self: &Arc<Self>, digest: Digest, partial: Partial) -> std::io::Result<BlobRow> {
        let store = Arc::clone(&self.store);
        let identity = blocking(move || store.publish(partial, &digest)).await??;
        Ok(blob_row(identity, false))
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
    /// What landed meanwhile for others is not fetched again; but it takes a right to get it, which the upstream knows.
    async fn finds_it_landed(&self, entitled: bool) -> bool {
        let digest = &self.flight.digest;
        if !entitled {
            let asked = self.engine.index.blob(digest).is_some();
            if !asked || self.engine.upstream.blob_head(&self.repository.name, digest).await.is_err() {
                return false;
            }
        }
        self.engine.landed_meanwhile(&self.flight).await
    }

    async fn fly(&self) {
        let permit = Arc::clone(&self.engine.fills).acquire_owned().await;
        let filled = self.run().await;
        drop(permit);
        match filled {
            Ok((partial, room)) => self.land(partial, room).await,
            Err(failure) => self.crash(failure),
        }
    }

    /// Fetches everything, and checks it.
    async fn run(&self) -> Result<(Partial, Reservation), Failure> {
        let (repository, transfer) = self.open().await?;
        let total = transfer.total().or(self.expected);
        // What has no length gets its room as it grows.
        let room = self.engine.reserve(total.unwrap_or(0)).await.map_err(|over| disk(over.into()))?;
        let partial = self.begin(total).await?;
        self.flight.open(total, partial.file());
        let mut kept = Kept(Some(partial), Some(room));
        self.fetch(&repository, transfer, total, &mut kept).await?;
        kept.0.take().zip(kept.1.take()).ok_or(Failure::Abandoned)
    }

    /// Fetches until everything is there and hashes to the digest.
    async fn fetch(
        &self,
        repository: &Repository,
        transfer: Transfer,
        total: Option<u64>,
        kept: &mut Kept,
    ) -> Result<(), Failure> {
        let mut transfer = Some(transfer);
        let mut waits = RESUME_WAITS.iter();
        loop {
            let before = kept.written();
            let error = match self.receive(kept, transfer.take(), total).await? {
                Ok(()) => return self.check(kept),
                Err(error) => error,
            };
            if kept.written() > before {
                waits = RESUME_WAITS.iter();
            }
            let Some(wait) = waits.next() else {
                return Err(Failure::Fetch(Arc::new(error)));
            };
            tracing::warn!(digest = %self.flight.digest, at = kept.written(), %error, "the upstream broke off; going on");
            tokio::time::sleep(*wait).await;
            transfer = self.resume(repository, kept.written()).await?;
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
            // These concern the repository that was asked for, and nobody else's.
            if !matches!(error.class(), Class::Absent | Class::LoginRefused) {
                return Err(Failure::Fetch(error));
            }
            self.engine.deny_blob(&repository, &self.flight.digest, &error);
            match self.flight.deny(&repository.key, Arc::clone(&error)) {
                Some(next) => repository = next,
                None => return Err(Failure::Fetch(error)),
            }
        }
    }

    /// Begins the file; on a full disk once more, after room was made.
    async fn begin(&self, total: Option<u64>) -> Result<Partial, Failure> {
        let mut begun = self.try_begin(total).await;
        if let Err(error) = &begun
            && self.engine.relieve(error, total.unwrap_or(0)).await
        {
            begun = self.try_begin(total).await;
        }
        begun.map_err(disk)
    }

    async fn try_begin(&self, total: Option<u64>) -> std::io::Result<Partial> {
        let (store, digest) = (Arc::clone(&self.engine.store), self.flight.digest);
        blocking(move || store.begin(&digest, total)).await?
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
        kept: &mut Kept,
        transfer: Option<Transfer>,
        total: Option<u64>,
    ) -> Result<Result<(), FetchError>, Failure> {
        let Some(mut transfer) = transfer else {
            return Ok(Err(FetchError::Cut { host: self.engine.upstream.host().to_owned() }));
        };
        let mut skip = kept.written().saturating_sub(transfer.start());
        let limit = total.unwrap_or(UNANNOUNCED_BYTES_MAX);
        loop {
            let (batch, ended) = gather(&mut transfer, &mut skip).await;
            let bytes: usize = batch.iter().map(Bytes::len).sum();
            if kept.written() + bytes as u64 > limit {
                let host = transfer.host().to_owned();
                return Err(Failure::Fetch(Arc::new(FetchError::TooLarge { host })));
            }
            if let Some(room) = kept.1.as_mut().filter(|_| total.is_none()) {
                let more = self.engine.reserve_more(room, bytes as u64).await;
                more.map_err(|over| disk(over.into()))?;
            }
            if bytes > 0 {
                kept.append(batch).await?;
                self.engine.metrics.pulled_blob(bytes as u64);
                self.flight.commit(kept.written());
            }
            match ended {
                None => {}
                Some(Ok(())) if total.is_some_and(|total| kept.written() < total) => {
                    return Ok(Err(FetchError::Cut { host: transfer.host().to_owned() }));
                }
                Some(ended) => return Ok(ended),
            }
        }
    }

    fn check(&self, kept: &Kept) -> Result<(), Failure> {
        let got = kept.0.as_ref().map(Partial::digest);
        if got == Some(self.flight.digest) {
            return Ok(());
        }
        tracing::error!(digest = %self.flight.digest, ?got, host = self.engine.upstream.host(), "the upstream gave wrong bytes; nothing was kept");
        self.engine.mistrusted.add(self.flight.digest, (), clock::monotonic());
        Err(Failure::Mismatch)
    }

    /// The last bytes go out at once; the disk syncs behind everybody's back. Until the row is readable the flight can
    /// be joined.
    async fn land(&self, partial: Partial, room: Reservation) {
        let digest = self.flight.digest;
        let size = Some(partial.written());
        self.flight.verified();
        let _permit = self.engine.publications.acquire().await;
        let published = self.engine.publish(digest, partial).await;
        let claimants = self.flight.claimants();
        let member = MemberRow { size, seen_ms: clock::unix_ms() };
        let mut batch = claimants
            .iter()
            .fold(Batch::new(), |batch, claimant| batch.put_member(claimant.key, digest, member));
        match published {
            Ok(row) => {
                room.keep(row.size);
                self.engine.index.touch(&digest);
                if let Some(file) = &row.identity {
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
                self.relieve(&Arc::new(error));
            }
        }
        self.engine.index.apply(batch);
        self.engine.flights.remove(&self.flight);
    }

    /// Room for the next try, if the disk is full.
    fn relieve(&self, error: &Arc<std::io::Error>) {
        let (engine, error) = (Arc::clone(&self.engine), Arc::clone(error));
        let bytes = self.flight.total().unwrap_or(BATCH_BYTES as u64);
        tokio::spawn(async move { engine.relieve(&error, bytes).await });
    }

    fn crash(&self, failure: Failure) {
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

/// The partial of a fill, and its room. One that comes to nothing is removed on the blocking pool: to give gigabytes back to the file
/// system takes a while.
struct Kept(Option<Partial>, Option<Reservation>);

impl Kept {
    fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, Partial::written)
    }

    /// Writes and hashes on the blocking pool.
    async fn append(&mut self, batch: Vec<Bytes>) -> Result<(), Failure> {
        let mut partial = self.0.take().ok_or(Failure::Abandoned)?;
        let appended = blocking(move || partial.append(&batch).map(|_| partial)).await;
        self.0 = Some(appended.and_then(|result| result).map_err(disk)?);
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(partial) = self.0.take() {
            tokio::task::spawn_blocking(move || drop(partial));
        }
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

fn disk(error: std::io::Error) -> Failure {
    Failure::Disk(Arc::new(error))
}
