//! `strace` that makes the calls of a running mirror fail.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::PATIENCE;
use super::process::{self, Signal};

/// A strace that holds on to a running mirror.
pub struct Attached {
    process: Child,
    log: PathBuf,
    mirror: u32,
}

impl Attached {
    /// From now on calls of the process fail. `when` counts for each thread.
    pub fn fail(mirror: u32, call: &str, error: &str, when: &str, log: &Path) -> Self {
        let inject = format!("inject={call}:error={error}:when={when}");
        let process = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-y",
                "-o",
                log.to_str().unwrap(),
                "-e",
                &format!("trace={call}"),
                "-e",
                &inject,
            ])
            .args(["-p", &mirror.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is needed by the tests (tests/run installs it)");
        let attached = Self { process, log: log.to_owned(), mirror };
        attached.wait_until(|traced| traced);
        attached
    }

    /// Lets go, and gives the calls that failed.
    pub fn detach(mut self) -> Vec<String> {
        process::signal(self.process.id(), Signal::INT);
        self.process.wait().unwrap();
        self.wait_until(|traced| !traced);
        injected(&self.log)
    }

    /// Until all threads are traced, or none.
    fn wait_until(&self, wanted: impl Fn(bool) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !threads(self.mirror).into_iter().all(&wanted) {
            assert!(Instant::now() < deadline, "strace neither holds nor lets go");
            std::thread::yield_now();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            process::signal(self.process.id(), Signal::INT);
            let _ = self.process.wait();
        }
    }
}

/// The lines of a log whose calls were made to fail.
fn injected(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains("(INJECTED)")).map(str::to_owned).collect()
}

/// Of each thread, whether it is traced.
fn threads(process: u32) -> Vec<bool> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let states = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let tracers = states.map(|state| !state.contains("TracerPid:\t0\n"));
    tracers.collect()
}
