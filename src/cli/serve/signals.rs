//! What an operator tells the process, and the end of it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::reload::Live;
use crate::edge::drain::Stop;

/// What an operator tells the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Never asked: caught, it lets a write beyond the limit of file sizes fail as on a full disk instead of ending us.
    _file_size: Signal,
}

impl Signals {
    /// From now on none is lost.
    pub fn listen() -> Result<Self, String> {
        let of = |kind| signal(kind).map_err(|error| format!("no signals: {error}"));
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
            _file_size: of(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

/// Waits for the word to stop; then for the open answers, but not for ever, nor after a second word.
pub async fn wait_and_drain(
    mut signals: Signals,
    stop: &Stop,
    mut running: tokio::task::JoinHandle<()>,
    live: &mut Live,
) -> Result<(), String> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => live.reload().await,
        }
    }
    let drain = live.drain();
    tracing::info!("stopping server gracefully. Draining connections for {drain:?}");
    stop.begin();
    tokio::select! {
        _ = &mut running => return Ok(()),
        () = tokio::time::sleep(drain) => {}
        _ = signals.terminate.recv() => {}
        _ = signals.interrupt.recv() => {}
    }
    stop.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), running).await;
    Ok(())
}
