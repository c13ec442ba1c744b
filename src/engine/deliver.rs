//! Bodies on their way to a client: from a finished blob, or from a flight below its watermark.
//!
//! A read is tried without waiting first; only when the bytes are not in the page cache does it go to the blocking pool,
//! so no worker ever sleeps on the disk.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::flight::{Failure, Passenger, Phase, Progress};
use super::rescue::{self, HeldBlob, Rescue};
use crate::registry::ByteRange;
use crate::sys::files;

/// Bytes of one read for a connection of its own. Larger ones gain nothing, and each reader holds one.
pub const PIECE_BYTES: u64 = 128 * 1024;

/// Bytes of one read for one of many streams of an HTTP/2 connection: hyper holds a piece for each stream that waits, so
/// 128 of them hold 4 MiB.
pub const STREAM_PIECE_BYTES: u64 = 32 * 1024;

/// Why a body ended before its length: the connection is broken off, so that nobody takes it for whole.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// What was sent is wrong: the connection is reset, not closed.
    #[error("the bytes do not hash to the digest")]
    Wrong,
    /// The flight failed for another reason.
    #[error("the transfer from the upstream failed: {0:?}")]
    Flight(Failure),
    /// The file is shorter than it was, or unreadable.
    #[error("the stored blob could not be read: {0}")]
    Disk(#[from] std::io::Error),
    /// The upstream of a body that is passed through.
    #[error("the upstream broke off: {0}")]
    Fetch(#[from] crate::upstream::FetchError),
}

/// Where the bytes of a blob come from.
#[derive(Debug)]
pub enum Source {
    /// A blob that is held whole.
    Held(Box<HeldBlob>),
    /// A flight, and where to go on if it turns out that its file is damaged.
    Flight(Passenger, Rescue),
    /// Straight from the upstream, uncached: the disk would not take it.
    Passing(Box<super::passing::Passing>),
}

/// A body: whole in memory, or a stream of pieces whose lengths add up to what was promised, or end in a [`Cut`].
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece.
    Pieces(Pieces),
}

/// Pieces in order; none is empty.
pub type Pieces = futures_util::stream::BoxStream<'static, Result<Bytes, Cut>>;

impl Source {
    /// Whether a part can be read, or only the whole.
    pub fn has_parts(&self) -> bool {
        !matches!(self, Self::Passing(_))
    }

    /// The bytes of `range`, at most `piece` at a time. A passing source ignores both and gives everything as it comes.
    pub fn read(self, range: ByteRange, piece: u64) -> Body {
        match self {
            Self::Held(held) => held.read(range, piece),
            Self::Flight(passenger, rescue) => rescue::follow(passenger, range, piece, rescue),
            Self::Passing(passing) => pieces(*passing, super::passing::Passing::next),
        }
    }
}

/// A stream from a reader that is asked again and again for its next piece.
pub(super) fn pieces<R, F>(reader: R, next: fn(R) -> F) -> Body
where
    R: Send + 'static,
    F: Future<Output = Result<Option<(Bytes, R)>, Cut>> + Send + 'static,
{
    let stream = stream::try_unfold(reader, next);
    Body::Pieces(Box::pin(stream) as std::pin::Pin<Box<dyn Stream<Item = _> + Send>>)
}

/// Follows a flight.
pub(super) struct FlightReader {
    passenger: Passenger,
    progress: watch::Receiver<Progress>,
    range: ByteRange,
    piece: u64,
    whole: bool,
}

impl FlightReader {
    /// Reads `range`, at most `piece` at a time.
    pub(super) fn new(passenger: Passenger, range: ByteRange, piece: u64) -> Self {
        let progress = passenger.flight.watch();
        let whole = range.first == 0 && progress.borrow().total == Some(range.end);
        passenger.want(range);
        Self { passenger, progress, range, piece, whole }
    }

    pub(super) async fn next(mut self) -> Result<Option<(Bytes, Self)>, Cut> {
        if self.range.first >= self.range.end {
            return Ok(None);
        }
        let (file, readable) = self.wait().await?;
        let end = self.range.end.min(readable).min(self.range.first.saturating_add(self.piece));
        let piece = read(&file, ByteRange { first: self.range.first, end }).await?;
        self.range.first += piece.len() as u64;
        Ok(Some((piece, self)))
    }

    /// Waits until there is something to read.
    async fn wait(&mut self) -> Result<(Arc<File>, u64), Cut> {
        let (first, whole) = (self.range.first, self.whole);
        let ready =
            |now: &Progress| now.readable(first, whole) > first || matches!(now.phase, Phase::Failed(_));
        if !ready(&self.progress.borrow()) {
            self.passenger.want(self.range);
        }
        let now = self.progress.wait_for(ready).await.map_err(|_| Cut::Flight(Failure::Abandoned))?;
        match (&now.phase, &now.file) {
            (Phase::Failed(Failure::Mismatch), _) => Err(Cut::Wrong),
            (Phase::Failed(failure), _) => Err(Cut::Flight(failure.clone())),
            (_, Some(file)) => Ok((Arc::clone(file), now.readable(first, whole))),
            (_, None) => Err(Cut::Flight(Failure::Abandoned)),
        }
    }
}

/// Reads a part, or the beginning of it: at once if it is in memory, else on the blocking pool. Never empty.
pub(super) async fn read(file: &Arc<File>, range: ByteRange) -> Result<Bytes, Cut> {
    let length = usize::try_from(range.length()).unwrap_or(usize::MAX);
    let mut buffer = vec![0; length];
    let taken = match files::read_now(file, range.first, &mut buffer)? {
        Some(taken) => taken,
        None => {
            let file = Arc::clone(file);
            let (back, taken) = super::blocking(move || {
                let taken = files::read_some_at(&file, range.first, &mut buffer);
                (buffer, taken)
            })
            .await?;
            buffer = back;
            taken?
        }
    };
    if taken == 0 {
        return Err(Cut::Disk(std::io::ErrorKind::UnexpectedEof.into()));
    }
    buffer.truncate(taken);
    Ok(Bytes::from(buffer))
}
