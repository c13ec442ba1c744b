//! Bodies of answers: empty, whole or piece by piece, with a length that is kept or visibly not kept, and a report at
//! the end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::activity::Busy;
use super::forward::Passed;
use super::socket::Poison;
use crate::engine::deliver::{self, Cut};

/// What is called with the number of bytes that were handed over, once, however the answer ends.
pub type Report = Box<dyn FnOnce(u64) + Send>;

/// Why a body ends before its length.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The engine cut it.
    #[error(transparent)]
    Engine(#[from] Cut),
    /// The backend that it is passed on from is gone.
    #[error("the backend broke off: {0}")]
    Backend(hyper::Error),
    /// It gave no byte for long.
    #[error("the backend gave nothing for {0:?}")]
    Silent(std::time::Duration),
}

/// A body on its way to a client.
pub struct Body {
    content: Content,
    left: u64,
    sent: u64,
    poison: Poison,
    report: Option<Report>,
    busy: Option<Busy>,
}

enum Content {
    Whole(Option<Bytes>),
    Pieces(deliver::Pieces),
    Passed(Box<Passed>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// Bytes that are here.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let left = bytes.len() as u64;
        let content = Content::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()));
        Self { content, left, sent: 0, poison: Poison::default(), report: None, busy: None }
    }

    /// What the engine gives out: exactly `length` bytes, or a cut.
    pub fn delivered(body: deliver::Body, length: u64, poison: Poison) -> Self {
        match body {
            deliver::Body::Whole(bytes) => Self::whole(bytes),
            deliver::Body::Pieces(pieces) => Self {
                content: Content::Pieces(pieces),
                left: length,
                sent: 0,
                poison,
                report: None,
                busy: None,
            },
        }
    }

    /// What a backend gives, with the end that it gives it.
    pub fn passed(passed: Passed, poison: Poison) -> Self {
        let left = passed.size_hint().lower();
        let content = Content::Passed(Box::new(passed));
        Self { content, left, sent: 0, poison, report: None, busy: None }
    }

    /// Has `report` called at the end.
    pub fn reporting(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }

    /// Keeps its connection busy until its end.
    pub fn keeping(mut self, mut busy: Busy) -> Self {
        busy.offer();
        self.busy = Some(busy);
        self
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.left
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let piece = match &mut self.content {
            Content::Passed(passed) => return passed.next(cx),
            _ if self.left == 0 => return Poll::Ready(None),
            Content::Whole(bytes) => bytes.take().map(Ok),
            Content::Pieces(pieces) => ready!(pieces.as_mut().poll_next(cx)),
        };
        Poll::Ready(Some(match piece {
            Some(Ok(piece)) if piece.len() as u64 <= self.left => Ok(Frame::data(piece)),
            // More than was promised, or less: either way the framing must not close cleanly.
            Some(Ok(_)) | None => Err(Cut::Disk(std::io::ErrorKind::UnexpectedEof.into()).into()),
            Some(Err(cut)) => Err(cut.into()),
        }))
    }

    fn is_passed(&self) -> bool {
        matches!(self.content, Content::Passed(_))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.busy.iter_mut().for_each(Busy::taken);
        let next = ready!(self.next(cx));
        if matches!(next, Some(Ok(_))) {
            self.busy.iter_mut().for_each(Busy::offer);
        }
        match &next {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |piece| piece.len() as u64);
                self.left = self.left.saturating_sub(bytes);
                self.sent += bytes;
            }
            Some(Err(broken)) => {
                tracing::warn!(sent = self.sent, left = self.left, reason = %broken, "an answer is cut");
                // A body without a length, too, must not end as if it were whole.
                if matches!(broken, Broken::Engine(Cut::Wrong)) || self.is_passed() {
                    self.poison.mark();
                }
            }
            None => {}
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Passed(passed) => passed.has_ended(),
            Content::Whole(_) | Content::Pieces(_) => self.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Passed(passed) => passed.size_hint(),
            Content::Whole(_) | Content::Pieces(_) => SizeHint::with_exact(self.left),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(self.sent);
        }
    }
}
