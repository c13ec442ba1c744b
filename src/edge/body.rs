//! Bodies of answers: empty, whole or piece by piece, with a length that is kept or visibly not kept, and a report at
//! the end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::activity::Busy;
use super::socket::Poison;
use crate::engine::deliver::{self, Cut};

/// What is called with the number of bytes that were handed over, once, however the answer ends.
pub type Report = Box<dyn FnOnce(u64) + Send>;

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

    /// Has `report` called at the end.
    pub fn reporting(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }

    /// Keeps its connection busy until its end.
    pub fn keeping(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.left
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Content::Pieces(pieces) => pieces.as_mut().poll_next(cx),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match std::task::ready!(self.next(cx)) {
            Some(Ok(piece)) if piece.len() as u64 <= self.left => piece,
            // More than was promised, or less: either way the framing must not close cleanly.
            Some(Ok(_)) | None => {
                return Poll::Ready(Some(Err(Cut::Disk(std::io::ErrorKind::UnexpectedEof.into()))));
            }
            Some(Err(cut)) => {
                tracing::warn!(sent = self.sent, left = self.left, reason = %cut, "an answer is cut");
                if matches!(cut, Cut::Wrong) {
                    self.poison.mark();
                }
                return Poll::Ready(Some(Err(cut)));
            }
        };
        self.left -= piece.len() as u64;
        self.sent += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(self.sent);
        }
    }
}
