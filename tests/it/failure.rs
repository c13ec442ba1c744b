//! Calls to the disk that fail: the n-th of its kind, for n = 1, 2, 3, …, once and from then on.
//!
//! strace makes them fail in a mirror that runs, and its log proves it. Whatever fails, the client gets the right bytes or
//! a refusal that is documented, the process lives, what is held goes on being served, and when the disk is well again
//! everything is as if nothing had been.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::hub::Hub;
use crate::support::image::{self, Image, OCI};
use crate::support::is_long;
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{self, Answer, get};
use crate::support::strace::{Attached, fail_at, injected};
use crate::support::volume::Volume;

/// What fails, and how. Not `write`: by it the runtime wakes its own threads, too.
const FAILURES: [(&str, &str); 24] = [
    ("openat", "EIO"),
    ("openat", "ENOSPC"),
    ("openat", "EROFS"),
    ("openat", "EACCES"),
    ("writev", "EIO"),
    ("writev", "ENOSPC"),
    ("writev", "EDQUOT"),
    ("writev", "EFBIG"),
    ("fallocate", "EIO"),
    ("fallocate", "ENOSPC"),
    ("fallocate", "EFBIG"),
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("mkdir", "ENOSPC"),
    ("mkdir", "EACCES"),
    ("mkdir", "EDQUOT"),
    ("rename", "EIO"),
    ("rename", "ENOSPC"),
    ("unlink", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("ftruncate", "EIO"),
];

/// A mirror that holds one image, and an upstream with any number of others.
struct Patient {
    hub: Hub,
    held: Image,
    mirror: Option<Mirror>,
    pulled: u64,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

/// What a pull under a failing disk came to.
struct Pull {
    image: Image,
    /// Answers that were cut, or never came.
    cut: usize,
}

impl Patient {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let held = image::publish(&hub, "library/held", Some("1"), OCI, &[image::layer(1, 30_000)]);
        let folder = tempfile::tempdir().unwrap();
        let mirror = Some(tokio::task::block_in_place(|| Setup::of(&hub.url()).start()));
        let log = folder.path().join("log");
        let patient = Self { hub, held, mirror, pulled: 0, log, _folder: folder };
        patient.serves_what_is_held().await;
        patient
    }

    fn mirror(&self) -> &Mirror {
        self.mirror.as_ref().unwrap()
    }

    async fn serves_what_is_held(&self) {
        let of = |rest: String| self.mirror().url(&format!("/v2/library/held/{rest}"));
        let tag = get(&of("manifests/1".to_owned())).await;
        assert_eq!((tag.status, tag.digest()), (200, self.held.digest.clone()));
        for blob in self.held.layers.iter().chain([&self.held.config]) {
            let answer = get(&of(format!("blobs/{blob}"))).await;
            assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, blob));
        }
    }

    /// An image that nobody has asked for yet.
    fn fresh(&mut self) -> Image {
        self.pulled += 1;
        let layers = [image::layer(2 * self.pulled, 2_000), image::layer(2 * self.pulled + 1, 40_000)];
        image::publish(&self.hub, "library/app", Some("1"), OCI, &layers)
    }

    /// Pulls a new image; every complete answer is right, and every refusal is one that clients know.
    async fn pull(&mut self) -> Pull {
        let image = self.fresh();
        let mut cut = 0;
        let blobs = image.layers.iter().chain([&image.config]);
        let wanted = [("manifests/1".to_owned(), &image.digest)].into_iter();
        for (path, digest) in wanted.chain(blobs.map(|blob| (format!("blobs/{blob}"), blob))) {
            match self.ask(&path).await {
                Some(answer) if answer.status == 200 => assert_eq!(&answer.digest(), digest, "{path}"),
                Some(answer) => {
                    let code = (answer.status, answer.code());
                    let documented = [(503, "UNAVAILABLE".to_owned()), (429, "TOOMANYREQUESTS".to_owned())];
                    assert!(documented.contains(&code), "{path}: {code:?}");
                }
                None => cut += 1,
            }
        }
        Pull { image, cut }
    }

    /// An answer that came whole.
    async fn ask(&self, path: &str) -> Option<Answer> {
        let url = self.mirror().url(&format!("/v2/library/app/{path}"));
        let response = pull::client().get(url).send().await.ok()?;
        Some(pull::finish(response).await).filter(|answer| answer.whole)
    }

    /// Pulls while a call fails; the calls that did.
    async fn suffer(&mut self, call: &str, error: &str, when: &str) -> Vec<String> {
        let pid = self.mirror().pid();
        let attached = tokio::task::block_in_place(|| Attached::fail(pid, call, error, when, &self.log));
        let pull = self.pull().await;
        let failed = tokio::task::block_in_place(|| attached.detach());
        // Answers go out by writev, too; and a blob that the disk takes no more of in the middle may be cut, once.
        let excuses = if call == "writev" { failed.len() } else { 0 };
        assert!(pull.cut <= excuses, "{call} {error} {when}: {} answers were cut by {failed:#?}", pull.cut);
        self.recovers(&pull.image).await;
        failed
    }

    /// The disk is well again: hits go on, and what could not be stored is given out.
    async fn recovers(&self, image: &Image) {
        self.serves_what_is_held().await;
        let blobs = image.layers.iter().chain([&image.config]).map(|blob| (format!("blobs/{blob}"), blob));
        for (path, digest) in [("manifests/1".to_owned(), &image.digest)].into_iter().chain(blobs) {
            let answer = self.ask(&path).await.expect("an answer");
            assert_eq!((answer.status, &answer.digest()), (200, digest), "{path}");
        }
    }

    /// A new start over what the failures left.
    async fn restarts(&mut self) {
        let (setup, status) = tokio::task::block_in_place(|| self.mirror.take().unwrap().stop());
        assert!(status.success(), "{status}");
        Volume::read(&setup.root()).assert_sound();
        self.mirror = Some(tokio::task::block_in_place(|| setup.start()));
        self.serves_what_is_held().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_costs_no_client_a_byte() {
    let mut patient = Patient::new().await;
    let mut delivered = BTreeMap::<_, usize>::new();
    let last = if is_long() { 12 } else { 3 };
    for (call, error) in FAILURES {
        for nth in 1..=last {
            // For good, too; but without any writev no client would hear a word.
            let lasting = (call != "writev" && (is_long() || nth == 1)).then(|| format!("{nth}+"));
            let mut failed = 0;
            for when in [nth.to_string()].into_iter().chain(lasting) {
                failed += patient.suffer(call, error, &when).await.len();
            }
            *delivered.entry(call).or_default() += failed;
            if failed == 0 {
                break;
            }
        }
        patient.restarts().await;
    }
    let total: usize = delivered.values().sum();
    eprintln!("failed calls: {total}: {delivered:?}");
    for call in ["openat", "writev", "fallocate", "fdatasync", "fsync", "mkdir", "rename", "pwrite64"] {
        assert!(delivered[call] >= 2, "hardly any {call} failed: {delivered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_failing_disk_works_or_says_why_not() {
    let hub = Hub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let calls = [
        ("mkdir", 17),
        ("ftruncate", 1),
        ("pwrite64", 3),
        ("fdatasync", 3),
        ("rename", 1),
        ("flock", 1),
        ("fcntl", 4),
    ];
    let (mut failures, mut refusals) = (0, 0);
    for (call, last) in calls {
        let step = if is_long() { 1 } else { last / 2 + 1 };
        for nth in (1..=last).step_by(step) {
            let setup = Setup::of(&hub.url());
            let words = fail_at(call, "EIO", &nth.to_string(), &log);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let started = tokio::task::block_in_place(|| setup.clone().under(&words).try_start());
            match started {
                Ok(mirror) => drop(tokio::task::block_in_place(|| mirror.kill())),
                Err((status, said)) => {
                    assert_eq!(status.code(), Some(1), "{call} {nth}: {said}");
                    assert!(said.contains("level=fatal") || said.contains("Input/output error"), "{said}");
                    refusals += 1;
                }
            }
            failures += injected(&log).len();
            // The disk is well again.
            tokio::task::block_in_place(|| setup.start());
        }
    }
    eprintln!("failed calls of starts: {failures}, of which {refusals} ended the start");
    assert!(failures >= 5, "only {failures} calls failed");
}
