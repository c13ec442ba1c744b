//! Health: the configured checks, which gate as in `registry`, and the store, which does not.
//!
//! A mirror that can't write still serves what it holds, and passes through the rest; taking it out of service would be
//! worse than leaving it in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::{Check, Probe};
use crate::sys::sync::lock;

/// How often the store is looked at.
const STORE_INTERVAL: Duration = Duration::from_secs(10);

/// The name of the store's check, as `registry` calls it.
const STORE: &str = "storagedriver_filesystem";

/// What fails now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Failing>>>);

#[derive(Debug, Clone)]
struct Failing {
    reason: String,
    gates: bool,
}

impl Health {
    /// Whether everything is to be answered with 503.
    pub fn gates(&self) -> bool {
        lock(&self.0).values().any(|failing| failing.gates)
    }

    /// What fails, by the names of the checks.
    pub fn failing(&self) -> BTreeMap<String, String> {
        lock(&self.0).iter().map(|(name, failing)| (name.clone(), failing.reason.clone())).collect()
    }

    fn set(&self, name: &str, gates: bool, result: Result<(), String>) {
        let mut all = lock(&self.0);
        match result {
            Ok(()) => {
                if all.remove(name).is_some() {
                    tracing::info!(check = name, "a health check passes again");
                }
            }
            Err(reason) => {
                if all.insert(name.to_owned(), Failing { reason: reason.clone(), gates }).is_none() {
                    tracing::error!(check = name, reason, "a health check fails");
                }
            }
        }
    }

    /// Starts the checks; they run as long as the process.
    pub fn start(&self, checks: Vec<Check>, root: Option<PathBuf>) {
        for check in checks {
            tokio::spawn(watch(self.clone(), check));
        }
        if let Some(root) = root {
            tokio::spawn(watch_store(self.clone(), root));
        }
    }
}

async fn watch(health: Health, check: Check) {
    let mut ticks = tokio::time::interval(check.interval.max(Duration::from_millis(100)));
    let mut failures = 0;
    let name = name(&check.probe);
    let client = client_for(&check.probe);
    loop {
        ticks.tick().await;
        let looked = tokio::time::timeout(check.timeout, look(&check.probe, &client)).await;
        match looked.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout))) {
            Ok(()) => {
                failures = 0;
                health.set(&name, true, Ok(()));
            }
            Err(reason) => {
                failures += 1;
                if failures >= check.threshold {
                    health.set(&name, true, Err(reason));
                }
            }
        }
    }
}

async fn watch_store(health: Health, root: PathBuf) {
    let mut ticks = tokio::time::interval(STORE_INTERVAL);
    loop {
        ticks.tick().await;
        let root = root.clone();
        let looked = tokio::task::spawn_blocking(move || writable(&root)).await;
        health.set(STORE, false, looked.unwrap_or_else(|error| Err(error.to_string())));
    }
}

/// Whether a file can be made in the store.
fn writable(root: &Path) -> Result<(), String> {
    let probe = root.join("tidegate").join("health");
    let written = std::fs::write(&probe, b"ok").and_then(|()| std::fs::remove_file(&probe));
    written.map_err(|error| format!("{}: {error}", root.display()))
}

fn name(probe: &Probe) -> String {
    match probe {
        Probe::File(path) => path.display().to_string(),
        // Without a login, which the log and the debug port are no place for.
        Probe::Http { url, .. } => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
        }
        Probe::Tcp(address) => address.clone(),
    }
}

/// What asks; built once. Checks are about this machine or its neighbours, so through no proxy.
fn client_for(probe: &Probe) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    if !matches!(probe, Probe::Http { url, .. } if url.scheme() == "https") {
        // A machine without any CA can be asked over HTTP all the same.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| error.to_string())
}

async fn look(probe: &Probe, client: &Result<reqwest::Client, String>) -> Result<(), String> {
    match probe {
        Probe::File(path) => match tokio::fs::try_exists(path).await {
            Ok(false) => Ok(()),
            Ok(true) => Err("file exists".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        Probe::Tcp(address) => TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string()),
        Probe::Http { url, headers, status } => {
            let mut request = client.as_ref().map_err(String::clone)?.head(url.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
            let got = answer.status().as_u16();
            if got == *status { Ok(()) } else { Err(format!("status {got} instead of {status}")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_check_fails_while_the_file_exists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("down");
        let probe = Probe::File(path.clone());
        assert_eq!(look(&probe, &client_for(&probe)).await, Ok(()));
        std::fs::write(&path, "").unwrap();
        assert!(look(&probe, &client_for(&probe)).await.is_err());
    }

    #[tokio::test]
    async fn a_tcp_check_wants_a_listener() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = Probe::Tcp(listener.local_addr().unwrap().to_string());
        assert_eq!(look(&probe, &client_for(&probe)).await, Ok(()));
        drop(listener);
        assert!(look(&probe, &client_for(&probe)).await.is_err());
    }

    #[test]
    fn a_check_is_named_without_its_login() {
        let url = "http://bot:hunter2@127.0.0.1:81/ready?token=hunter2".parse().unwrap();
        let probe = Probe::Http { url, headers: vec![], status: 200 };
        assert_eq!(name(&probe), "http://127.0.0.1:81/ready");
    }

    #[test]
    fn the_store_shows_and_does_not_gate() {
        let health = Health::default();
        health.set(STORE, false, Err("read-only".into()));
        assert!(!health.gates() && health.failing().contains_key(STORE));
        health.set("/down", true, Err("file exists".into()));
        assert!(health.gates());
        health.set("/down", true, Ok(()));
        assert!(!health.gates());
    }

    #[test]
    fn a_missing_root_is_not_writable() {
        assert!(writable(Path::new("/nonexistent")).is_err());
    }
}
