//! Concurrent requests for the same small thing become one.
//!
//! The work belongs to the server: it runs in its own task to its end, whoever asked and whoever left. It is joinable
//! until its result is known, and whoever joined gets that result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::sys::sync::lock;

/// Work in progress by key.
#[derive(Debug)]
pub struct Collapse<K, V> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

/// A place in the queue for one result.
#[derive(Debug)]
pub struct Ticket<V> {
    result: watch::Receiver<Option<V>>,
    /// Whether somebody else had started the work.
    pub joined: bool,
}

impl<K, V> Default for Collapse<K, V> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, V> Collapse<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the work for `key`, or starts it.
    pub fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Ticket<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(result) = running.get(&key) {
            return Ticket { result: result.clone(), joined: true };
        }
        let (sender, result) = watch::channel(None);
        running.insert(key.clone(), result.clone());
        let entry = Entry { key, running: Arc::clone(&self.running) };
        let work = work();
        tokio::spawn(async move {
            let value = work.await;
            // Left first: whoever comes now starts anew instead of joining something that has ended.
            drop(entry);
            sender.send_replace(Some(value));
        });
        Ticket { result, joined: false }
    }
}

impl<V: Clone> Ticket<V> {
    /// The result, or `None` if the work panicked.
    pub async fn wait(&mut self) -> Option<V> {
        self.result.wait_for(Option::is_some).await.ok().and_then(|value| value.clone())
    }
}

/// Takes the key out of the table however the work ends.
struct Entry<K: Eq + Hash, V> {
    key: K,
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn many_who_ask_at_once_cause_one_piece_of_work() {
        let collapse: Collapse<&str, u32> = Collapse::default();
        let runs = Arc::new(AtomicU32::new(0));
        let (finish, finished) = oneshot::channel::<()>();
        let counter = Arc::clone(&runs);
        let mut first = collapse.join("a", || async move {
            let _ = finished.await;
            counter.fetch_add(1, Ordering::SeqCst)
        });
        let mut others: Vec<_> = (0..20).map(|_| collapse.join("a", || async { 99 })).collect();
        assert!(!first.joined && others.iter().all(|ticket| ticket.joined));
        finish.send(()).unwrap();
        assert_eq!(first.wait().await, Some(0));
        for ticket in &mut others {
            assert_eq!(ticket.wait().await, Some(0));
        }
        assert_eq!(collapse.join("a", || async { 7 }).wait().await, Some(7));
    }

    #[tokio::test]
    async fn the_work_goes_on_when_everybody_left() {
        let collapse: Collapse<&str, ()> = Collapse::default();
        let (done, finished) = oneshot::channel();
        drop(collapse.join("a", || async move { done.send(()).unwrap_or_default() }));
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_told_to_all_and_leaves_no_entry() {
        let collapse: Collapse<&str, ()> = Collapse::default();
        assert_eq!(collapse.join("a", || async { panic!("on purpose") }).wait().await, None);
        assert!(!collapse.join("a", || async {}).joined);
    }
}
