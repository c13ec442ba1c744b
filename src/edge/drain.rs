//! The end of service: first no new connections, then no open ones.

use tokio::sync::watch;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// What is under way may end.
    Draining,
    /// Nothing may.
    Closing,
}

/// Says when to stop.
#[derive(Debug)]
pub struct Stop(watch::Sender<Stage>);

/// Hears it.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<Stage>);

/// A stop that has not begun.
pub fn new() -> (Stop, Drain) {
    let (sender, receiver) = watch::channel(Stage::Serving);
    (Stop(sender), Drain(receiver))
}

impl Stop {
    /// Nothing new; what is under way may end.
    pub fn begin(&self) {
        self.0.send_replace(Stage::Draining);
    }

    /// Everything ends now.
    pub fn close(&self) {
        self.0.send_replace(Stage::Closing);
    }
}

impl Drain {
    /// Whether the stop has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() >= Stage::Draining
    }

    /// Waits until the stop has begun.
    pub async fn began(&mut self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits until everything has to end.
    pub async fn closes(&mut self) {
        self.reached(Stage::Closing).await;
    }

    async fn reached(&mut self, stage: Stage) {
        // Whoever could say so is gone: that is the end, too.
        let _ = self.0.wait_for(|now| *now >= stage).await;
    }
}
