//! Bodies that are passed on, piece by piece, in both directions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use crate::edge::activity::Activity;
use crate::edge::body::Broken;

/// What a client sends. Each piece shows that the request goes on.
pub struct Upload {
    body: Incoming,
    progress: Arc<Activity>,
}

impl Upload {
    /// The body of a request.
    pub fn new(body: Incoming, progress: Arc<Activity>) -> Self {
        Self { body, progress }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.touch();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the backend gives. It ends as the backend ends it, or it is cut.
pub struct Passed {
    body: Incoming,
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
    _slot: OwnedSemaphorePermit,
}

impl Passed {
    /// The body of an answer, which is cut after so long without a piece.
    pub fn new(body: Incoming, slot: OwnedSemaphorePermit, silence_max: Duration) -> Self {
        Self { body, silence: Box::pin(sleep(silence_max)), silence_max, _slot: slot }
    }

    /// The next piece.
    pub fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.silence.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Broken::Silent(self.silence_max))));
        };
        self.silence.as_mut().reset(Instant::now() + self.silence_max);
        Poll::Ready(frame.map(|frame| frame.map_err(Broken::Backend)))
    }

    /// Whether nothing is left.
    pub fn has_ended(&self) -> bool {
        self.body.is_end_stream()
    }

    /// What is known of what is left.
    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
