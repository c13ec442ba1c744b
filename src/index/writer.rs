//! The one thread that writes: LMDB ties a write transaction to its thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Map;
use super::overlay::{Overlay, Pending, Write};

/// How long rows gather into one commit. A commit costs two syncs; a reader never waits for it.
const GATHER: Duration = Duration::from_millis(100);

/// How long the last commit may take at the stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Waits between tries of a commit that failed; the last one goes on.
const RETRY_WAITS: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// The writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    overlay: Arc<Overlay>,
    committed: watch::Receiver<u64>,
}

impl Writer {
    pub(super) fn start(map: Map, overlay: Arc<Overlay>) -> Self {
        let (done, committed) = watch::channel(0);
        let pending = Arc::clone(&overlay);
        let spawned = std::thread::Builder::new().name("index".to_owned()).spawn(move || {
            let _end = End(Arc::clone(&pending));
            // Closed before the end is told, so that the folder can be opened again.
            let map = map;
            run(&map, &pending, &done);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "the index has no writer; it is lost at the stop");
            overlay.end();
        }
        Self { overlay, committed }
    }

    /// Waits until a generation is durable, and says whether it is: a writer that is gone makes nothing so.
    pub(super) async fn committed(&self, generation: u64) -> bool {
        self.committed.clone().wait_for(|done| *done >= generation).await.is_ok()
    }

    /// Commits what is pending, and ends the thread; a disk that hangs is not waited for long. Whether the thread has ended.
    pub(super) fn stop(self) -> bool {
        self.overlay.stop();
        let ended = self.overlay.wait_for_end(STOP_WAIT);
        if !ended {
            tracing::error!("the disk does not take the index; its last rows are found again in the tree");
        }
        ended
    }
}

/// Says that the thread has ended, however it does.
struct End(Arc<Overlay>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn run(map: &Map, overlay: &Overlay, done: &watch::Sender<u64>) {
    let mut failures = 0;
    while let Some((group, generation)) = overlay.next_group(GATHER) {
        match commit(map, &group) {
            Ok(()) => {
                overlay.committed(&group);
                done.send_replace(generation);
                failures = 0;
            }
            Err(error) => {
                let wait = RETRY_WAITS.get(failures).or(RETRY_WAITS.last()).copied().unwrap_or(GATHER);
                tracing::warn!(%error, rows = group.len(), "the index could not be written; trying again");
                failures += 1;
                if overlay.wait_or_stop(wait) {
                    return;
                }
            }
        }
    }
}

fn commit(map: &Map, group: &[Write]) -> Result<(), heed::Error> {
    let mut transaction = map.environment.write_txn()?;
    for (key, pending, _) in group {
        match pending {
            Pending::Row(value) => map.rows.put(&mut transaction, key, value)?,
            Pending::Removed => {
                map.rows.delete(&mut transaction, key)?;
            }
        }
    }
    transaction.commit()
}
