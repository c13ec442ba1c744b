//! Blobs: from the tree if held, else from a flight.

use std::sync::Arc;

use bytes::Bytes;

use super::deliver::{PIECE_BYTES, Source};
use super::flight::{Boarding, Failure, Flight, Passenger, WHOLE};
use super::outcome::Outcome;
use super::passing::{Passing, length_of};
use super::rescue::{HeldBlob, Rescue, Witness};
use super::{Denial, Engine, Repository, Want, blocking, fault, in_time};
use crate::index::{Batch, BlobRow, Identity, MemberRow};
use crate::registry::range::{Asked, Wanted};
use crate::registry::{ByteRange, Digest};
use crate::store::{OpenBlob, Store};
use crate::sys::{clock, files};
use crate::upstream::{Class, FetchError, Part};

/// A blob for a client.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Why it is what it is.
    pub outcome: Outcome,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes; absent where only the head was wanted.
    pub source: Option<Source>,
}

/// The upstream's word that a blob belongs to a repository, and its length.
pub type Confirmed = Result<Option<u64>, Arc<FetchError>>;

/// What the tree has under a digest.
pub(super) enum Held {
    /// The very file that was verified, its beginning if it is small and was wanted, and what it was like after that was read.
    Verified(OpenBlob, Option<Bytes>, Witness),
    /// A file that we did not verify, or that changed since.
    Suspect(OpenBlob),
    /// None.
    Absent,
}

impl Engine {
    /// A blob of a repository. `part` is what will be read of it: a flight begins there.
    pub async fn blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        want: Want,
        part: Asked,
    ) -> Result<BlobAnswer, Denial> {
        in_time(self.find_blob(repository, digest, want, part), fault::late_blob).await
    }

    async fn find_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        want: Want,
        part: Asked,
    ) -> Result<BlobAnswer, Denial> {
        if self.negatives.holds(&(repository.key, super::Wanted::Blob(*digest)), clock::monotonic()) {
            return Err(fault::blob_absent(digest));
        }
        let (held, member) = self.look_up(repository, digest, want).await;
        match held {
            Held::Absent if want == Want::Head => self.head_of_missing(repository, digest, member).await,
            Held::Absent => self.blob_from_upstream(repository, digest, member, part).await,
            Held::Verified(open, head, witness) => {
                let outcome = self.entitled(repository, digest, member.is_some()).await?;
                self.index.touch(digest);
                self.link_layer(repository, digest);
                let size = open.identity.size;
                let rescue = Rescue::new(self, repository, digest, size);
                // What is in memory already needs no file.
                let reader = head.is_none().then(|| self.budget.readers().enter(&open.identity));
                let held = HeldBlob { file: open.file, head, witness, rescue, reader };
                let source = Source::Held(Box::new(held));
                Ok(BlobAnswer { outcome, digest: *digest, size, source: Some(source) })
            }
            Held::Suspect(open) => {
                let outcome = self.entitled(repository, digest, member.is_some()).await?;
                self.index.touch(digest);
                let expected = member.and_then(|row| row.size);
                let passenger = self.verify_adopted(repository, digest, open, expected);
                self.follow(repository, passenger.ok_or_else(fault::crowded)?, outcome, part).await
            }
        }
    }

    /// The file under a digest, and the row that entitles the repository to it. One trip to the blocking pool.
    pub(super) async fn look_up(
        &self,
        repository: &Repository,
        digest: &Digest,
        want: Want,
    ) -> (Held, Option<MemberRow>) {
        let in_flight = self.flights.find(digest).is_some();
        let row = self.index.blob(digest);
        let known = row.as_ref().and_then(|row| self.verified(row));
        let indexed = self.index.member(&repository.key, digest);
        let (store, name, digest) = (Arc::clone(&self.store), repository.name.clone(), *digest);
        let looked = blocking(move || {
            let member = indexed.or_else(|| {
                store.has_layer(&name, &digest).then(|| MemberRow { size: None, seen_ms: clock::unix_ms() })
            });
            // What is in flight is not in the tree yet, or not believed yet.
            (if in_flight { Held::Absent } else { open(&store, &digest, known, want) }, member)
        });
        let (held, member) = looked.await.unwrap_or((Held::Absent, indexed));
        (self.judge(&digest, held, row.filter(|_| !in_flight)), member)
    }

    /// The file whose bytes were hashed, unless a power cut may have changed them since.
    fn verified(&self, row: &BlobRow) -> Option<Identity> {
        row.verified_identity().filter(|file| !self.store.is_doubtful(file))
    }

    /// What the tree has, less what is known to be damaged. A row that leads to no file is removed.
    fn judge(&self, digest: &Digest, held: Held, row: Option<BlobRow>) -> Held {
        match held {
            Held::Suspect(open) | Held::Verified(open, ..) if self.is_damaged(digest, &open.identity) => {
                Held::Absent
            }
            Held::Absent if row.is_some() && self.index.blob(digest) == row => {
                self.index.apply(Batch::new().remove_blob(*digest));
                Held::Absent
            }
            held => held,
        }
    }

    /// Whether the repository may have a blob that is held: by a manifest, or by the upstream's word, which is asked for
    /// once and remembered.
    async fn entitled(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        member: bool,
    ) -> Result<Outcome, Denial> {
        if member {
            return Ok(Outcome::Hit);
        }
        self.confirm_blob(repository, digest).await.map(|_| Outcome::Revalidated)
    }

    /// Asks the upstream by HEAD whether a blob belongs to the repository, together with all who ask now.
    async fn confirm_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Denial> {
        let (engine, target, wanted) = (Arc::clone(self), repository.clone(), *digest);
        let mut ticket = self.confirmations.join((repository.key, *digest), || async move {
            let size = engine.upstream.blob_head(&target.name, &wanted).await.map_err(Arc::new)?;
            // What a manifest said of the length stays.
            let known = engine.index.member(&target.key, &wanted).and_then(|row| row.size);
            let member = MemberRow { size: known.or(size), seen_ms: clock::unix_ms() };
            engine.index.apply(Batch::new().put_member(target.key, wanted, member));
            Ok(size)
        });
        match ticket.wait().await {
            Some(Ok(size)) => Ok(size),
            Some(Err(error)) => Err(self.deny_blob(repository, digest, &error)),
            None => Err(fault::blob_busy("the question failed", "the task of the question is gone")),
        }
    }

    /// A blob that is not held.
    async fn blob_from_upstream(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        member: Option<MemberRow>,
        part: Asked,
    ) -> Result<BlobAnswer, Denial> {
        if self.mistrusted.holds(digest, clock::monotonic()) {
            return Err(fault::blob_busy(fault::WRONG, "wrong bytes moments ago"));
        }
        if self.unstorable.holds(digest, clock::monotonic()) {
            return self.pass_through(repository, digest).await;
        }
        let expected = member.and_then(|row| row.size);
        let (mut entitled, want) = (member.is_some(), wanted(part, expected));
        let mut boarding = self.flights.board(*digest, repository, entitled, want);
        if matches!(boarding, Boarding::Foreign) {
            self.confirm_blob(repository, digest).await?;
            entitled = true;
            boarding = self.flights.board(*digest, repository, entitled, want);
        }
        let (passenger, outcome) = match boarding {
            Boarding::Joined(passenger) if passenger.flight.is_verified() => (passenger, Outcome::Hit),
            Boarding::Joined(passenger) => {
                self.fills.join(digest, repository.client);
                tracing::debug!(%digest, repository = %repository.name, "joined a flight");
                (passenger, Outcome::Collapsed)
            }
            Boarding::Started(passenger) => {
                // Without a pause before: a client that leaves now must not leave a flight that nobody fills.
                self.start_fill(Arc::clone(&passenger.flight), repository.clone(), entitled, expected);
                (passenger, Outcome::Miss)
            }
            Boarding::Foreign | Boarding::Full => return Err(fault::crowded()),
        };
        self.follow(repository, passenger, outcome, part).await
    }

    /// The head of a blob that is not in the tree: from a flight that knows its length, else by a HEAD at the upstream.
    async fn head_of_missing(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        member: Option<MemberRow>,
    ) -> Result<BlobAnswer, Denial> {
        let flight = self.flights.find(digest);
        let granted = flight.filter(|flight| member.is_some() || flight.flies_for(&repository.key));
        let flying = granted.and_then(|flight| flight.total());
        let (size, outcome) = match flying {
            Some(size) => (Some(size), Outcome::Collapsed),
            None => {
                let size = self.confirm_blob(repository, digest).await?;
                (size.or(member.and_then(|row| row.size)), Outcome::Miss)
            }
        };
        let size =
            size.ok_or_else(|| fault::blob_busy("the length of the blob is not known", "HEAD gave none"))?;
        Ok(BlobAnswer { outcome, digest: *digest, size, source: None })
    }

    /// Whether another flight brought the blob after somebody had looked for it: then this one carries what that one
    /// stored, and nothing is fetched again. The row is readable before a flight leaves the table, so looking once it is
    /// boarded is enough.
    pub(super) async fn landed_meanwhile(self: &Arc<Self>, flight: &Arc<Flight>) -> bool {
        let digest = flight.digest;
        let row = self.index.blob(&digest);
        let Some(known) = row.as_ref().and_then(|row| self.verified(row)) else { return false };
        let store = Arc::clone(&self.store);
        let found = blocking(move || open(&store, &digest, Some(known), Want::Head)).await;
        let Ok(Held::Verified(held, _, witness)) = found else { return false };
        if self.is_damaged(&digest, &held.identity) {
            return false;
        }
        flight.carry(&held.file, witness);
        flight.open(Some(held.identity.size), held.file);
        flight.commit_front(held.identity.size);
        flight.verified();
        self.flights.remove(flight);
        self.link_claimants(flight);
        true
    }

    /// The answer from a flight, once it knows how long the blob is.
    async fn follow(
        self: &Arc<Self>,
        repository: &Repository,
        passenger: Passenger,
        outcome: Outcome,
        part: Asked,
    ) -> Result<BlobAnswer, Denial> {
        let digest = passenger.flight.digest;
        match passenger.flight.opened(&repository.key).await {
            Ok(size) => {
                let passing = outcome == Outcome::Miss && passenger.flight.is_passing();
                let outcome = if passing { Outcome::Bypass } else { outcome };
                let source = Source::Flight(passenger, Rescue::new(self, repository, &digest, size));
                Ok(BlobAnswer { outcome, digest, size, source: Some(source) })
            }
            Err(Failure::Fetch(error)) => Err(self.deny_blob(repository, &digest, &error)),
            Err(Failure::Disk(_)) => self.pass_through(repository, &digest).await,
            Err(Failure::Mismatch) => Err(fault::blob_busy(fault::WRONG, "mismatch")),
            // It is not in the tree any more, or known to be damaged, so this goes to the upstream.
            Err(Failure::Rotten) => {
                let member = self.index.member(&repository.key, &digest);
                drop(passenger);
                Box::pin(self.blob_from_upstream(repository, &digest, member, part)).await
            }
            Err(Failure::Abandoned) => {
                Err(fault::blob_busy("the transfer was abandoned", "the task of the fill is gone"))
            }
        }
    }

    /// Our disk would not take the blob: this client gets it all the same, uncached.
    async fn pass_through(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<BlobAnswer, Denial> {
        // In its turn, like every other transfer.
        let turn = self.fills.take(digest, &[repository.client]).await;
        let expected = self.index.member(&repository.key, digest).and_then(|row| row.size);
        let opened = self.upstream.blob(&repository.name, digest, Part::WHOLE).await;
        let sized = opened.and_then(|transfer| length_of(&transfer, expected).map(|size| (transfer, size)));
        let (transfer, size) = sized.map_err(|error| self.deny_blob(repository, digest, &Arc::new(error)))?;
        let metrics = Arc::clone(&self.metrics);
        let source = Source::Passing(Box::new(Passing::new(transfer, *digest, metrics, turn)));
        Ok(BlobAnswer { outcome: Outcome::Bypass, digest: *digest, size, source: Some(source) })
    }

    /// The denial for a failed fetch; an absence is remembered.
    pub(super) fn deny_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        error: &Arc<FetchError>,
    ) -> Denial {
        if error.class() == Class::Absent {
            self.negatives.add((repository.key, super::Wanted::Blob(*digest)), (), clock::monotonic());
        }
        fault::blob(digest, error)
    }
}

/// What a reader wants of a blob, as far as that can be told before its length is known.
fn wanted(part: Asked, expected: Option<u64>) -> ByteRange {
    match (part, expected.map(|size| part.within(size))) {
        (_, Some(Wanted::Part(range))) => range,
        (Asked::From { first, end }, None) => ByteRange { first, end: end.unwrap_or(WHOLE.end) },
        _ => WHOLE,
    }
}

/// Opens what the tree has, and reads a small blob while it is at it.
fn open(store: &Store, digest: &Digest, known: Option<files::Identity>, want: Want) -> Held {
    let open = match store.open_blob(digest) {
        Ok(Some(open)) => open,
        Ok(None) => return Held::Absent,
        Err(error) => {
            tracing::error!(%digest, %error, "a stored blob can't be opened; it is fetched again");
            return Held::Absent;
        }
    };
    if known != Some(open.identity) {
        return Held::Suspect(open);
    }
    let small = want == Want::Body && open.identity.size <= PIECE_BYTES;
    let length = usize::try_from(open.identity.size).unwrap_or(usize::MAX);
    let head = small.then(|| files::read_at(&open.file, 0, length)).transpose();
    // After the read: what a file is like says nothing about what is read later.
    match (head, files::state(&open.file)) {
        (Ok(head), Ok(state)) if state.identity == open.identity => {
            let head = head.filter(|head| head.len() == length);
            Held::Verified(open, head, Witness::new(state))
        }
        // It can't be read, or changed meanwhile: the hash decides.
        _ => Held::Suspect(open),
    }
}
