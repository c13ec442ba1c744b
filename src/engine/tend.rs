//! Tasks of the background, which must outlive their own mistakes.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

/// How long a task rests after a panic: one that panics at once must not spin.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Runs a task to its end. After a panic, which is a line in the log, it begins anew.
pub async fn tend<F: Future<Output = ()>>(what: &'static str, mut begin: impl FnMut() -> F) {
    // What a panic left half done belongs to the task that is gone; locks of the process are taken all the same.
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        tracing::error!(what, "a task of the background broke down; it begins anew");
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_of_the_background_that_panics_begins_anew() {
        let mut begun = 0;
        tend("a test", || {
            begun += 1;
            let number = begun;
            async move { assert!(number == 2, "the first time it breaks down") }
        })
        .await;
        assert_eq!(begun, 2);
    }
}
