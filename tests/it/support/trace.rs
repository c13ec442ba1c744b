//! The system calls of a mirror that change what is on the disk, and faults at any one of them, by `strace`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::mirror::Setup;
use super::script::{Layers, Script};

/// Calls that change something. `openat` counts where it creates.
const CHANGING: &str = "openat,write,pwrite64,pwritev,pwritev2,fallocate,ftruncate,fsync,fdatasync,msync,rename,\
                        renameat,renameat2,unlink,unlinkat,mkdir,mkdirat";

/// One call of a run that can be found again in another run: the n-th of its name by one thread, on one path if its path
/// is the same in every run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    pub call: String,
    /// Below the root.
    pub path: Option<String>,
    /// `strace` counts for each thread.
    pub nth: usize,
}

/// All points of one undisturbed life, in their order.
pub async fn points_of(layers: &Layers) -> Vec<Point> {
    let script = Script::of(layers).await;
    let mirror = traced(script.setup()).start();
    script.play(&mirror).await;
    assert!(script.settled(&mirror.setup.root(), || false).await);
    let (setup, status) = mirror.stop();
    assert!(status.success(), "{status}");
    points(&setup)
}

/// Runs a mirror under `strace`, which notes the calls in a file beside the root.
fn traced(setup: Setup) -> Setup {
    let log = log_of(&setup);
    setup.under(&["strace", "-f", "-qq", "-y", "-s", "0", "-o", &log, "-e", &format!("trace={CHANGING}")])
}

/// Runs a mirror to which `what` happens at a point: `signal=SIGKILL`, `error=EIO`; from there on if it is to last.
pub fn injected(setup: Setup, point: &Point, what: &str, lasts: bool) -> Setup {
    let (log, call) = (log_of(&setup), &point.call);
    let when = format!("{}{}", point.nth, if lasts { "+" } else { "" });
    let inject = format!("inject={call}:{what}:when={when}");
    let trace = format!("trace={call}");
    let path = point.path.as_ref().map(|path| setup.root().join(path).display().to_string());
    let mut words = vec!["strace", "-f", "-qq", "-y", "-s", "0", "-o", &log, "-e", &trace, "-e", &inject];
    words.extend(path.iter().flat_map(|path| ["-P", path.as_str()]));
    setup.under(&words)
}

/// Whether an error was put in the place of a call.
pub fn was_injected(setup: &Setup) -> bool {
    std::fs::read_to_string(log_of(setup)).is_ok_and(|log| log.contains("(INJECTED)"))
}

fn log_of(setup: &Setup) -> String {
    setup.root().with_extension("trace").display().to_string()
}

/// The points of a run that was [`traced`].
fn points(setup: &Setup) -> Vec<Point> {
    let log = std::fs::read_to_string(log_of(setup)).unwrap();
    let (mut counts, mut seen, mut found) = (HashMap::new(), BTreeSet::new(), Vec::new());
    let mut count = |key: (String, String, String)| {
        let count = counts.entry(key).or_insert(0_usize);
        *count += 1;
        *count
    };
    for line in log.lines() {
        let Some((thread, call, rest)) = parse(line) else { continue };
        let anywhere = count((thread.into(), call.into(), String::new()));
        let Some(path) = path_of(rest, &setup.root()) else { continue };
        let here = count((thread.into(), call.into(), path.clone()));
        if call == "openat" && !rest.contains("O_CREAT") {
            continue;
        }
        let point = if is_random(&path) {
            Point { call: call.into(), path: None, nth: anywhere }
        } else {
            Point { call: call.into(), path: Some(path), nth: here }
        };
        if seen.insert(point.clone()) {
            found.push(point);
        }
    }
    found
}

/// At most so many of them: of each call as many as of any other, as far as there are, and those spread over the life.
pub fn sample<P: Clone>(points: &[P], most: usize, point: impl Fn(&P) -> &Point) -> Vec<P> {
    let mut calls: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, one) in points.iter().enumerate() {
        calls.entry(&point(one).call).or_default().push(at);
    }
    let mut calls: Vec<_> = calls.into_values().collect();
    calls.sort_by_key(Vec::len);
    let (mut left, mut taken) = (most, Vec::new());
    for (before, places) in calls.iter().enumerate() {
        let number = places.len().min(left / (calls.len() - before));
        taken.extend((0..number).map(|nth| places[nth * places.len() / number]));
        left -= number;
    }
    taken.sort_unstable();
    taken.into_iter().map(|at| points[at].clone()).collect()
}

/// The thread, the call and its arguments.
fn parse(line: &str) -> Option<(&str, &str, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (call, rest) = rest.trim_start().split_once('(')?;
    call.chars().all(|char| char.is_ascii_alphanumeric()).then_some((thread, call, rest))
}

/// The first path of a call that is below the root. Of two names the old one, by which alone `strace` finds a call.
fn path_of(arguments: &str, root: &Path) -> Option<String> {
    let root = root.to_str()?;
    let at = arguments.find(root)? + root.len();
    let rest = &arguments[at..];
    let end = rest.find(['"', '>'])?;
    Some(rest[..end].trim_start_matches('/').to_owned())
}

/// Whether a name has a part that is another one in each run: it ends in 16 hex digits behind a dot.
fn is_random(path: &str) -> bool {
    let (_, last) = path.rsplit_once('.').unwrap_or_default();
    last.len() == 16 && last.chars().all(|char| char.is_ascii_hexdigit())
}
