//! A running tidegate: the real binary, with an environment of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use tempfile::TempDir;

use super::PATIENCE;
use super::process::{self, Signal};

/// The binary under test.
pub const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// How a mirror is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    variables: Vec<(String, String)>,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    root: Arc<TempDir>,
}

/// A mirror that listens.
pub struct Mirror {
    pub setup: Setup,
    process: Child,
    log: Arc<Lines>,
    access: Arc<Lines>,
    /// `127.0.0.1:port`.
    pub address: String,
}

/// A mirror that ended before it listened.
pub struct Ended {
    pub status: ExitStatus,
    pub log: Vec<String>,
}

/// Lines of an output, as they come.
#[derive(Default)]
pub struct Lines {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

impl Setup {
    /// A mirror of an upstream, with an empty root.
    pub fn of(upstream: &str) -> Self {
        let root = Arc::new(TempDir::new().unwrap());
        let setup = Self { variables: vec![], wrapper: vec![], arguments: vec![], root };
        let path = setup.root().display().to_string();
        // A file of its own: what the machine has under the default paths is none of our business.
        std::fs::write(setup.config(), "version: 0.1\n").unwrap();
        let config = setup.config().display().to_string();
        let setup =
            setup.with("REGISTRY_PROXY_REMOTEURL", upstream).with("REGISTRY_HTTP_ADDR", "127.0.0.1:0");
        let socket = setup.root.path().join("admin.sock").display().to_string();
        let setup = setup.with("TIDEGATE_ADMIN_SOCKET", &socket);
        setup.with("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", &path).arguments(&["serve", &config])
    }

    /// No mirror, but an edge in front of a backend.
    pub fn before(backend: &str) -> Self {
        Self::of("")
            .without("REGISTRY_PROXY_REMOTEURL")
            .without("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
            .with("TIDEGATE_EDGE_FORWARD", backend)
            .in_its_own_state()
    }

    fn in_its_own_state(self) -> Self {
        let state = self.root.path().join("state").display().to_string();
        self.with("STATE_DIRECTORY", &state)
    }

    /// Speaks TLS with a pair.
    pub fn secured(self, pair: &super::tls::Pair) -> Self {
        self.with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
            .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap())
    }

    /// Sets a variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// Runs it under another program, such as `strace`.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Other arguments than `serve`.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Where the cache is.
    pub fn root(&self) -> PathBuf {
        self.root.path().join("registry")
    }

    /// Its config.yml.
    pub fn config(&self) -> PathBuf {
        self.root.path().join("config.yml")
    }

    /// Gives all that it has to another user.
    pub fn give_to(&self, user: u32) {
        for path in [self.root.path().to_owned(), self.config()] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }

    /// The command, with its environment and nothing else's.
    pub fn command(&self) -> Command {
        let mut words: Vec<_> = self.wrapper.clone();
        words.push(TIDEGATE.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.arguments).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, which must come by itself.
    pub fn output(&self) -> std::process::Output {
        self.command().stdin(Stdio::null()).output().unwrap()
    }

    /// Starts it, and waits until it listens.
    pub fn start(self) -> Mirror {
        self.try_start()
            .unwrap_or_else(|ended| panic!("it ended before it listened:\n{}", ended.log.join("\n")))
    }

    /// The same for one that may end before it listens.
    pub fn try_start(self) -> Result<Mirror, Ended> {
        let mut process = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::follow(process.stderr.take().unwrap());
        let access = Lines::follow(process.stdout.take().unwrap());
        let Some(line) = log.find(|line| line.contains("msg=\"listening on ")) else {
            let status = process.wait().unwrap();
            return Err(Ended { status, log: log.all() });
        };
        let address = line
            .split("listening on ")
            .nth(1)
            .unwrap()
            .trim_end_matches(['"', '\n'])
            .trim_end_matches(", tls");
        let address = address.split('"').next().unwrap().trim_end_matches(", tls").to_owned();
        Ok(Mirror { setup: self, process, log, access, address })
    }
}

impl Mirror {
    /// `http://127.0.0.1:port` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The metrics, of a mirror that has a debug port.
    pub async fn metrics(&self) -> String {
        let line = self.logged("debug server listening");
        let debug = line.split("listening ").nth(1).unwrap().trim_end_matches('"');
        let answer = super::pull::get(&format!("http://{debug}/metrics")).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    /// The structured log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    /// Waits for a line of the structured log.
    pub fn logged(&self, words: &str) -> String {
        self.log.wait_for(|line| line.contains(words))
    }

    /// Waits for a line of the access log.
    pub fn accessed(&self, words: &str) -> String {
        self.access.wait_for(|line| line.contains(words))
    }

    /// The access log so far.
    pub fn access_log(&self) -> Vec<String> {
        self.access.all()
    }

    /// The process of tidegate itself, also under a wrapper.
    pub fn pid(&self) -> u32 {
        let own = self.process.id();
        if self.setup.wrapper.is_empty() {
            return own;
        }
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(own)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(process::signal(self.pid(), signal), "the mirror is gone");
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> (Setup, ExitStatus) {
        self.signal(Signal::TERM);
        let status = self.process.wait().unwrap();
        (self.setup.clone(), status)
    }

    /// Kills it, as the kernel or an impatient person would.
    pub fn kill(mut self) -> Setup {
        self.signal(Signal::KILL);
        self.process.wait().unwrap();
        self.setup.clone()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Memory that no file backs, in bytes.
    pub fn anonymous_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The files of the cache, without tidegate's own.
    pub fn files(&self) -> Vec<PathBuf> {
        files(&self.setup.root().join("docker"))
    }
}

/// All regular files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut found: Vec<_> = entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect();
    found.sort();
    found
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // A failing test shows what the mirror said.
        if std::thread::panicking() {
            self.log().iter().rev().take(40).rev().for_each(|line| eprintln!("tidegate: {line}"));
        }
        if matches!(self.process.try_wait(), Ok(None)) {
            process::signal(self.pid(), Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Lines {
    fn follow(output: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let target = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                target.lines.lock().unwrap().0.push(line);
                target.grown.notify_all();
            }
            target.lines.lock().unwrap().1 = true;
            target.grown.notify_all();
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        // A test that failed while it waited for a line still shows the others.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.find(wanted).unwrap_or_else(|| panic!("the line never came; so far:\n{}", self.all().join("\n")))
    }

    /// Waits for a line; nothing if the output ends without it.
    fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| wanted(line)) {
                return Some(line.clone());
            }
            if lines.1 {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the line never came; so far:\n{}", lines.0.join("\n"));
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }
}
