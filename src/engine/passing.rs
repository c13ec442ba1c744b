//! A blob that is passed through because our disk would not take it: correct, uncached, for one client.

use std::sync::Arc;

use bytes::Bytes;

use super::deliver::Cut;
use super::turns::Turn;
use crate::observe::metrics::Metrics;
use crate::registry::{Digest, digest::Hasher};
use crate::upstream::{FetchError, Transfer};

/// One client's own transfer. The newest piece is always kept back, so that the last one goes out only after the digest
/// of everything matched.
#[derive(Debug)]
pub struct Passing {
    transfer: Transfer,
    digest: Digest,
    hasher: Option<Hasher>,
    held: Option<Bytes>,
    metrics: Arc<Metrics>,
    _turn: Turn,
}

impl Passing {
    /// Passes on a transfer from its very beginning. `turn` is held until it ends.
    pub fn new(transfer: Transfer, digest: Digest, metrics: Arc<Metrics>, turn: Turn) -> Self {
        let hasher = Some(Hasher::new(digest.algorithm()));
        Self { transfer, digest, hasher, held: None, metrics, _turn: turn }
    }

    /// The next piece, one behind the upstream.
    pub async fn next(mut self) -> Result<Option<(Bytes, Self)>, Cut> {
        while let Some(piece) = self.transfer.next().await? {
            self.metrics.pulled_blob(piece.len() as u64);
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&piece);
            }
            if let Some(before) = self.held.replace(piece) {
                return Ok(Some((before, self)));
            }
        }
        self.check()?;
        Ok(self.held.take().map(|last| (last, self)))
    }

    /// Checks the whole once; afterwards there is nothing left to check.
    fn check(&mut self) -> Result<(), Cut> {
        match self.hasher.take().map(Hasher::finish) {
            Some(got) if got != self.digest => Err(Cut::Wrong),
            _ => Ok(()),
        }
    }
}

/// What a passing transfer needs besides its bytes: a length to promise.
pub fn length_of(transfer: &Transfer, expected: Option<u64>) -> Result<u64, FetchError> {
    let whole = transfer.start() == 0;
    let length = transfer.total().or(expected).filter(|_| whole);
    length.ok_or_else(|| FetchError::Malformed {
        host: transfer.host().to_owned(),
        what: "a blob without a length",
    })
}
