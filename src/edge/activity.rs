//! Whether a connection is in use, whatever it speaks. Requests and answers count, and so do bytes that the peer has not
//! taken yet: to close a connection on those would cut the end of an answer off for a slow client.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::sys::clock;
use crate::sys::sync::lock;

/// The use of one connection.
#[derive(Debug)]
pub struct Activity {
    requests: AtomicUsize,
    /// Whether there was any request, and who waits for the first one.
    begun: AtomicBool,
    first: Notify,
    /// The peer takes no more bytes at the moment.
    blocked: AtomicBool,
    idle_since: Mutex<Instant>,
    /// Bodies of which a piece waits for the peer.
    offers: AtomicUsize,
    /// When the peer last took a piece.
    taken_at: Mutex<Instant>,
}

/// A request that is being answered, until the last byte of its answer was handed over.
#[derive(Debug)]
pub struct Busy {
    activity: Arc<Activity>,
    offers: bool,
}

impl Busy {
    /// The next piece of the answer is at hand; it is for the peer to take it.
    pub fn offer(&mut self) {
        if !std::mem::replace(&mut self.offers, true)
            && self.activity.offers.fetch_add(1, Ordering::AcqRel) == 0
        {
            *lock(&self.activity.taken_at) = clock::monotonic();
        }
    }

    /// The peer has room for more.
    pub fn taken(&mut self) {
        if std::mem::replace(&mut self.offers, false) {
            *lock(&self.activity.taken_at) = clock::monotonic();
            self.activity.offers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Activity {
    /// A connection that was just opened.
    pub fn new() -> Arc<Self> {
        let now = clock::monotonic();
        Arc::new(Self {
            requests: AtomicUsize::new(0),
            begun: AtomicBool::new(false),
            first: Notify::new(),
            blocked: AtomicBool::new(false),
            idle_since: Mutex::new(now),
            offers: AtomicUsize::new(0),
            taken_at: Mutex::new(now),
        })
    }

    /// A request has come.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::AcqRel);
        if !self.begun.swap(true, Ordering::AcqRel) {
            self.first.notify_one();
        }
        Busy { activity: Arc::clone(self), offers: false }
    }

    /// Waits for the first request; one may wait.
    pub async fn first_request(&self) {
        if !self.begun.load(Ordering::Acquire) {
            self.first.notified().await;
        }
    }

    /// The peer took bytes, or took none.
    pub fn wrote(&self, blocked: bool) {
        if self.blocked.swap(blocked, Ordering::AcqRel) && !blocked {
            self.touch();
        }
    }

    /// Waits until nothing has happened for so long.
    pub async fn idle_for(&self, wait: Duration) {
        loop {
            let left = match self.idle_since() {
                Some(since) => wait.saturating_sub(clock::monotonic().saturating_duration_since(since)),
                None => wait,
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Waits until the peer, with pieces at hand, has taken none for so long.
    pub async fn stalled_for(&self, wait: Duration) {
        loop {
            let offers = self.offers.load(Ordering::Acquire) > 0;
            let since = clock::monotonic().saturating_duration_since(*lock(&self.taken_at));
            let left = if offers { wait.saturating_sub(since) } else { wait };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        let busy = self.requests.load(Ordering::Acquire) > 0 || self.blocked.load(Ordering::Acquire);
        (!busy).then(|| *lock(&self.idle_since))
    }

    /// Something has just happened.
    pub fn touch(&self) {
        *lock(&self.idle_since) = clock::monotonic();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.taken();
        self.activity.touch();
        self.activity.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_untaken_bytes_keep_a_connection_busy() {
        let activity = Activity::new();
        assert!(activity.idle_since().is_some());
        let (one, two) = (activity.begin(), activity.begin());
        drop(one);
        assert!(activity.idle_since().is_none());
        activity.wrote(true);
        drop(two);
        assert!(activity.idle_since().is_none());
        activity.wrote(false);
        assert!(activity.idle_since().is_some());
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_found_out() {
        let (activity, wait) = (Activity::new(), Duration::from_millis(20));
        let stalled = async || tokio::time::timeout(wait * 4, activity.stalled_for(wait)).await.is_ok();
        let mut busy = activity.begin();
        assert!(!stalled().await, "what waits for its source is no fault of the peer");
        busy.offer();
        assert!(stalled().await);
        busy.taken();
        assert!(!stalled().await);
        busy.offer();
        drop(busy);
        assert!(!stalled().await);
    }

    #[tokio::test]
    async fn an_idle_connection_is_found_out() {
        let activity = Activity::new();
        activity.idle_for(Duration::from_millis(5)).await;
        let busy = activity.begin();
        let found =
            tokio::time::timeout(Duration::from_millis(30), activity.idle_for(Duration::from_millis(5)));
        assert!(found.await.is_err());
        drop(busy);
        activity.idle_for(Duration::from_millis(5)).await;
    }
}
