//! Held blobs whose files fail while they are given out.
//!
//! Nothing on the disk is trusted for longer than one piece. After each read a look at the file says whether it still is
//! what was verified: every write changes the ctime before it changes a byte, so what was read before that look is
//! right. A file that changed, became shorter or can't be read is left where it fails, and the body goes on from
//! wherever the blob is right: from another file in its place, checked or being checked, or from the upstream. What the
//! client got until then stays right, so the whole is right; where that is not sure, the body is cut.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::blob::Held;
use super::deliver::{Body, Cut, FlightReader, pieces, read};
use super::flight::{Boarding, Failure, Flight, Passenger};
use super::{Engine, Repository, Want, budget};
use crate::index::{Batch, BlobRow};
use crate::registry::{ByteRange, Digest};
use crate::sys::clock;
use crate::sys::files::{self, Identity, State};

/// How often one body goes on elsewhere before it is cut: a file that changes all the time must not be followed for ever.
const RESCUES_MAX: u32 = 3;

/// What was wrong with a file. Remembered for a while, so that one that can't be set aside is not looked at again for
/// each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Its bytes do not hash to its digest.
    Wrong,
    /// The disk does not give its bytes.
    Unreadable,
}

/// A file as it was when it was known to be the one that was verified.
#[derive(Debug, Clone, Copy)]
pub struct Witness(State);

impl Witness {
    /// Takes down what a file is like.
    pub fn new(state: State) -> Self {
        Self(state)
    }

    /// Whether what was read before `now` was taken is what was verified.
    ///
    /// To lose its name changes the ctime of a file, but not its content: one that was deleted or replaced is read to its
    /// end, if its time of modification says that nobody wrote into it.
    pub fn vouches_for(&mut self, now: State) -> bool {
        let (was, is) = (self.0.identity, now.identity);
        let nameless = now.links == 0 && now.mtime_ns == self.0.mtime_ns;
        let same = is == was || (nameless && is == Identity { ctime_ns: is.ctime_ns, ..was });
        if same {
            self.0 = now;
        }
        same
    }

    fn is_of(&self, other: &Identity) -> bool {
        (self.0.identity.device, self.0.identity.inode) == (other.device, other.inode)
    }
}

/// Where a blob may be had when its file fails, and for whom.
#[derive(Debug, Clone)]
pub struct Rescue {
    engine: Arc<Engine>,
    repository: Repository,
    digest: Digest,
    /// The length that was promised to the client.
    size: u64,
}

/// A blob that is held whole.
#[derive(Debug)]
pub struct HeldBlob {
    pub(super) file: Arc<File>,
    /// Its beginning, if that was read already.
    pub(super) head: Option<Bytes>,
    pub(super) witness: Witness,
    pub(super) rescue: Rescue,
    /// Counts this reader of the file.
    pub(super) reader: Option<budget::readers::Reader>,
}

/// Reads a part of a blob from wherever it is right.
struct Reader {
    place: Place,
    range: ByteRange,
    piece: u64,
    rescue: Rescue,
    rescues_left: u32,
    /// Whether the client got a byte from the place.
    given: bool,
}

/// Where a reader is.
enum Place {
    File(
        Arc<File>,
        Witness,
        #[expect(dead_code, reason = "it counts as long as it lives")] Option<budget::readers::Reader>,
    ),
    /// The reader is absent only while it is asked for its next piece.
    Flight(Arc<Flight>, Option<Box<FlightReader>>),
}

impl HeldBlob {
    /// The bytes of `range`, at most `piece` at a time.
    pub(super) fn read(self, range: ByteRange, piece: u64) -> Body {
        match self.head.as_ref().and_then(|head| cut_out(head, range)) {
            Some(all) => Body::Whole(all),
            None => body(Place::File(self.file, self.witness, self.reader), range, piece, self.rescue),
        }
    }
}

/// The bytes of `range` of a blob in flight.
pub(super) fn follow(passenger: Passenger, range: ByteRange, piece: u64, rescue: Rescue) -> Body {
    body(Place::flight(passenger, range, piece), range, piece, rescue)
}

fn body(place: Place, range: ByteRange, piece: u64, rescue: Rescue) -> Body {
    let reader = Reader { place, range, piece, rescue, rescues_left: RESCUES_MAX, given: false };
    pieces(reader, Reader::next)
}

fn cut_out(head: &Bytes, range: ByteRange) -> Option<Bytes> {
    let first = usize::try_from(range.first).ok()?;
    let end = usize::try_from(range.end).ok()?;
    (end <= head.len()).then(|| head.slice(first..end))
}

impl Place {
    fn flight(passenger: Passenger, range: ByteRange, piece: u64) -> Self {
        let flight = Arc::clone(&passenger.flight);
        Self::Flight(flight, Some(Box::new(FlightReader::new(passenger, range, piece))))
    }
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Cut> {
        while self.range.first < self.range.end {
            match self.read().await {
                Ok(Some(piece)) => {
                    self.range.first += piece.len() as u64;
                    self.given = true;
                    return Ok(Some((piece, self)));
                }
                Ok(None) => return Ok(None),
                Err(cut) => self.go_on(cut).await?,
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Cut> {
        match &mut self.place {
            Place::File(file, witness, _) => {
                let end = self.range.end.min(self.range.first.saturating_add(self.piece));
                let piece = read(file, ByteRange { first: self.range.first, end }).await?;
                // An open file's inode is in memory: this waits for no disk.
                match witness.vouches_for(files::state(file)?) {
                    true => Ok(Some(piece)),
                    false => Err(changed()),
                }
            }
            Place::Flight(flight, reader) => {
                let asked = reader.take().ok_or(Cut::Flight(Failure::Abandoned))?;
                let Some((piece, back)) = asked.next().await? else { return Ok(None) };
                *reader = Some(Box::new(back));
                if flight.has_changed() { Err(changed()) } else { Ok(Some(piece)) }
            }
        }
    }

    /// Finds another place for the rest of the body, or says why it is cut.
    async fn go_on(&mut self, cut: Cut) -> Result<(), Cut> {
        let given = std::mem::replace(&mut self.given, false);
        match (&self.place, &cut) {
            (Place::File(file, witness, _), Cut::Disk(error)) => {
                if given && self.rescue.is_rotten(witness) {
                    return Err(Cut::Wrong);
                }
                self.rescue.note(file, witness, error);
            }
            // What was given out was never verified.
            (Place::Flight(..), Cut::Flight(Failure::Rotten)) if given => return Err(Cut::Wrong),
            (Place::Flight(flight, _), Cut::Disk(_)) if given && !flight.is_verified() => return Err(cut),
            (Place::Flight(..), Cut::Flight(Failure::Rotten) | Cut::Disk(_)) => {}
            _ => return Err(cut),
        }
        self.rescues_left = self.rescues_left.checked_sub(1).ok_or(cut)?;
        self.place = self.rescue.find(self.range, self.piece).await?;
        Ok(())
    }
}

fn changed() -> Cut {
    Cut::Disk(io::Error::other("the file was changed while it was read"))
}

impl Rescue {
    /// For a client that was promised `size` bytes of a blob that its repository has a right to.
    pub fn new(engine: &Arc<Engine>, repository: &Repository, digest: &Digest, size: u64) -> Self {
        Self { engine: Arc::clone(engine), repository: repository.clone(), digest: *digest, size }
    }

    /// Whether the file was found to hold wrong bytes: then nobody knows which of those given out were right.
    fn is_rotten(&self, witness: &Witness) -> bool {
        let found = self.engine.damaged.find(&self.digest, clock::monotonic());
        found.is_some_and(|(which, damage)| damage == Damage::Wrong && witness.is_of(&which))
    }

    /// Says what happened. A file that is as it was and yet can't be read is not to be read again.
    fn note(&self, file: &File, witness: &Witness, error: &io::Error) {
        let digest = self.digest;
        tracing::error!(%digest, %error, "a stored blob failed while it was read; the answer goes on from elsewhere");
        if files::state(file).is_ok_and(|now| now.identity == witness.0.identity) {
            self.engine.distrust(&digest, witness.0.identity, Damage::Unreadable);
        }
    }

    /// The place where the rest of the blob is: first the tree, where another file may be by now, then the upstream.
    async fn find(&self, range: ByteRange, piece: u64) -> Result<Place, Cut> {
        for _ in 0..RESCUES_MAX {
            let passenger = match self.engine.look_up(&self.repository, &self.digest, Want::Head).await.0 {
                Held::Verified(held, _, witness) if held.identity.size == self.size => {
                    let reader = self.engine.budget.readers().enter(&held.identity);
                    return Ok(Place::File(held.file, witness, Some(reader)));
                }
                Held::Suspect(held) => {
                    self.engine.verify_adopted(&self.repository, &self.digest, held, Some(self.size))
                }
                Held::Absent => self.board(range),
                Held::Verified(..) => None,
            };
            let passenger = passenger.ok_or(Cut::Flight(Failure::Abandoned))?;
            match passenger.flight.opened(&self.repository.key).await {
                // Another length than was promised can't be put right any more.
                Ok(size) if size != self.size => return Err(Cut::Wrong),
                Ok(_) => return Ok(Place::flight(passenger, range, piece)),
                Err(Failure::Rotten) => {}
                Err(failure) => return Err(Cut::Flight(failure)),
            }
        }
        Err(Cut::Flight(Failure::Rotten))
    }

    /// Joins or starts a flight from the upstream.
    fn board(&self, range: ByteRange) -> Option<Passenger> {
        if self.engine.mistrusted.holds(&self.digest, clock::monotonic()) {
            return None;
        }
        match self.engine.flights.board(self.digest, &self.repository, true, range) {
            Boarding::Joined(passenger) => {
                self.engine.fills.join(&self.digest, self.repository.client);
                Some(passenger)
            }
            Boarding::Started(passenger) => {
                let flight = Arc::clone(&passenger.flight);
                self.engine.start_fill(flight, self.repository.clone(), true, Some(self.size));
                Some(passenger)
            }
            Boarding::Foreign | Boarding::Full => None,
        }
    }
}

impl Engine {
    /// A file under a digest is not to be believed any more. Its row says so at once; the file stays as it is, for the
    /// right bytes to take its place, or for whoever sets it aside.
    pub(super) fn distrust(&self, digest: &Digest, which: Identity, damage: Damage) {
        let now = clock::monotonic();
        if self.damaged.find(digest, now) == Some((which, Damage::Wrong)) {
            return;
        }
        self.damaged.add(*digest, (which, damage), now);
        self.metrics.damaged();
        if let Some(row) = self.index.blob(digest).filter(|row| row.identity == Some(which)) {
            self.index.apply(Batch::new().put_blob(*digest, BlobRow { verified_ms: None, ..row }));
        }
    }

    /// Whether this very file was found damaged a while ago.
    pub(super) fn is_damaged(&self, digest: &Digest, which: &Identity) -> bool {
        self.damaged.find(digest, clock::monotonic()).is_some_and(|(known, _)| known == *which)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(ctime_ns: i64, mtime_ns: i64, size: u64, links: u64) -> State {
        State { identity: Identity { device: 1, inode: 2, size, ctime_ns }, mtime_ns, links }
    }

    #[track_caller]
    fn check(now: State, expected: bool) {
        assert_eq!(Witness::new(state(10, 5, 100, 1)).vouches_for(now), expected, "{now:?}");
    }

    #[test]
    fn a_file_vouches_for_what_was_read_until_it_changes() {
        check(state(10, 5, 100, 1), true);
        check(state(11, 11, 100, 1), false);
        check(state(11, 11, 50, 1), false);
        // The time of modification was put back: the ctime tells.
        check(state(11, 5, 100, 1), false);
    }

    #[test]
    fn a_file_without_a_name_is_read_to_its_end() {
        check(state(11, 5, 100, 0), true);
        check(state(11, 11, 100, 0), false);
        check(state(11, 5, 99, 0), false);
        let mut witness = Witness::new(state(10, 5, 100, 1));
        assert!(witness.vouches_for(state(11, 5, 100, 0)) && witness.vouches_for(state(11, 5, 100, 0)));
        assert!(!witness.vouches_for(state(12, 12, 100, 0)));
    }
}
