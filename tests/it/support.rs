//! What the scenarios are told with: a scripted Hub, a running mirror, images, clients.

pub mod authority;
pub mod command;
pub mod counter;
pub mod hub;
pub mod image;
pub mod loopback;
pub mod mirror;
pub mod network;
pub mod pebble;
pub mod process;
pub mod proxy;
pub mod pull;
pub mod raw;
pub mod script;
pub mod strace;
pub mod tls;
pub mod trace;
pub mod writer;

use std::time::Duration;

/// How long anything that must happen may take before a test fails. Generous: it bounds a hang, it measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a future that must end.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// How often a test looks for what only looking shows.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits for what shows only to those who look, such as a file or a number, and must come. What has a line in a log is
/// waited for by that line.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    soon(what, looking).await;
}

/// Whether the full figures are wanted (`tests/run --long`), or the same stories on a smaller scale.
pub fn is_long() -> bool {
    std::env::var_os("TIDEGATE_TESTS_LONG").is_some()
}
