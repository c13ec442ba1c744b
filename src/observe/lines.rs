//! Lines on their way out, written by a thread of their own: a pipe that nobody reads must not stop a worker.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait. At 200 bytes each about 3 MiB; beyond that lines are lost and counted.
const QUEUE_LINES: usize = 16 * 1024;

/// Bytes gathered for one write.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the last lines may take at the end: somebody may have stopped reading.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Where lines go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lines {
    sender: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(String),
    /// Tells the sender that everything before it is written.
    Mark(SyncSender<()>),
}

impl Lines {
    /// Starts a writer.
    pub fn new(target: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new().name("lines".into()).spawn(move || write_all(target, &receiver))?;
        Ok(Self { sender, lost: Arc::default() })
    }

    /// Queues a line, which ends with a newline.
    pub fn send(&self, line: String) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Item::Line(line)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were lost because nobody read the earlier ones.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until every line so far is written, but not for ever. Blocks: for the end of the process.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.sender.try_send(Item::Mark(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH_WAIT);
        }
    }
}

fn write_all(mut target: impl Write, receiver: &Receiver<Item>) {
    while let Ok(first) = receiver.recv() {
        let (mut batch, mut marks, mut next) = (String::new(), Vec::new(), Some(first));
        while let Some(item) = next {
            match item {
                Item::Line(line) => batch.push_str(&line),
                Item::Mark(done) => marks.push(done),
            }
            next = if batch.len() < BATCH_BYTES { receiver.try_recv().ok() } else { None };
        }
        // A reader that is gone is no reason to stop serving.
        let _ = target.write_all(batch.as_bytes()).and_then(|()| target.flush());
        for done in marks {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_line_is_lost_at_the_end() {
        let target = Shared::default();
        let lines = Lines::new(target.clone()).unwrap();
        (0..5000).for_each(|number| lines.send(format!("{number}\n")));
        lines.flush();
        assert_eq!(String::from_utf8(target.0.lock().unwrap().clone()).unwrap().lines().count(), 5000);
    }

    #[test]
    fn a_reader_that_does_not_read_loses_lines_and_holds_up_nobody() {
        let target = Shared::default();
        let stuck: MutexGuard<'_, _> = target.0.lock().unwrap();
        let lines = Lines::new(target.clone()).unwrap();
        // One batch may be in the writer's hands, the rest is in the queue.
        let sent = QUEUE_LINES * 2 + BATCH_BYTES;
        (0..sent).for_each(|_| lines.send("x\n".into()));
        assert!(lines.lost() > 0);
        let lost = lines.lost();
        drop(stuck);
        while target.0.lock().unwrap().len() as u64 / 2 + lost < sent as u64 {
            std::thread::yield_now();
        }
        assert_eq!(target.0.lock().unwrap().len() as u64 / 2 + lost, sent as u64);
    }
}
