//! The end at any moment: `kill -9` at every change of the disk, and the power cut after it.
//!
//! A scripted run (an image of two layers, then its tag moves) is killed when a thread enters a system call for the n-th
//! time, for n = 1, 2, 3, … until it gets through. Each time the next start is quick, what had been published by then is
//! served with the upstream down, nothing on the disk is torn, and a full pull is right.

mod power;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::support::hub::{Fault, Host, Hub};
use crate::support::image::{self, Image, OCI};
use crate::support::is_long;
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull;
use crate::support::strace::{CHANGES, kill_at};
use crate::support::volume::{Place, Volume};

/// How long a start may take after a crash.
const START: Duration = Duration::from_secs(5);

/// Loops at once.
const CALLS_AT_ONCE: usize = 3;

/// The upstream of the run: where the tag points first, and then.
struct Script {
    hub: Hub,
    images: [Image; 2],
}

impl Script {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let layers = [image::layer(1, 3_000), image::layer(2, 40_000), image::layer(3, 20_000)];
        let first = image::publish(&hub, "library/app", None, OCI, &layers[..2]);
        let second = image::publish(&hub, "library/app", None, OCI, &layers[1..]);
        Self { hub, images: [first, second] }
    }

    /// The whole run, as far as the mirror lives.
    async fn perform(&self, mirror: &Mirror) {
        for image in &self.images {
            self.hub.tag("library/app", "1", &image.digest);
            let paths = image.layers.iter().chain([&image.config]).map(|blob| format!("blobs/{blob}"));
            for path in ["manifests/1".to_owned()].into_iter().chain(paths) {
                if !ask(mirror, &path).await {
                    return;
                }
            }
        }
    }

    /// A full pull, which must be right.
    async fn pull(&self, mirror: &Mirror) {
        let image = &self.images[1];
        self.hub.tag("library/app", "1", &image.digest);
        let tag = pull::get(&mirror.url("/v2/library/app/manifests/1")).await;
        assert_eq!((tag.status, tag.digest()), (200, image.digest.clone()));
        for blob in image.layers.iter().chain([&image.config]) {
            let answer = pull::get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await;
            assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, blob));
        }
    }

    /// Everything that was there before is given out, without an upstream.
    async fn serves(&self, mirror: &Mirror, before: &Volume) {
        let down =
            [Host::Registry, Host::Token, Host::Cdn].map(|host| self.hub.fault(host, "", Fault::Close));
        for (repository, digest) in before.layers.iter().chain(&before.revisions) {
            let kind =
                if self.images.iter().any(|image| image.digest == *digest) { "manifests" } else { "blobs" };
            let answer = pull::get(&mirror.url(&format!("/v2/{repository}/{kind}/{digest}"))).await;
            assert_eq!((answer.status, &answer.digest()), (200, digest), "published before the end");
        }
        for ((repository, tag), digest) in &before.tags {
            let answer = pull::get(&mirror.url(&format!("/v2/{repository}/manifests/{tag}"))).await;
            let known = self.images.iter().any(|image| image.digest == answer.digest());
            assert!(answer.status == 200 && known, "{tag} was {digest}, and is {}", answer.status);
        }
        drop(down);
        self.hub.behave();
    }
}

/// Whether the mirror still answers.
async fn ask(mirror: &Mirror, path: &str) -> bool {
    let url = mirror.url(&format!("/v2/library/app/{path}"));
    let Ok(response) = pull::client().get(url).send().await else { return false };
    let answer = pull::finish(response).await;
    !answer.whole || answer.status == 200
}

fn start(setup: Setup) -> Mirror {
    let began = Instant::now();
    let mirror = tokio::task::block_in_place(|| setup.start());
    assert!(began.elapsed() < START, "the start took {:?}", began.elapsed());
    mirror
}

/// Runs the script under a wrapper; how it ended.
async fn run(script: &Script, setup: &Setup, wrapper: &[String]) -> ExitStatus {
    // One processor: fewer threads share the calls, so that n reaches more of them.
    let words: Vec<_> =
        ["taskset", "-c", "0"].into_iter().chain(wrapper.iter().map(String::as_str)).collect();
    let doomed = setup.clone().under(&words);
    let mut mirror = match tokio::task::block_in_place(|| doomed.try_start()) {
        Ok(mirror) => mirror,
        Err((status, _)) => return status,
    };
    script.perform(&mirror).await;
    tokio::task::block_in_place(|| {
        mirror.ask_to_stop();
        mirror.ended()
    })
}

/// Everything that must hold after the end.
async fn check(script: &Script, setup: &Setup, before: &Volume) {
    let mut setup = setup.clone().under(&[]);
    if !before.layers.is_empty() || !before.revisions.is_empty() {
        let mirror = start(setup);
        script.serves(&mirror, before).await;
        let (stopped, status) = tokio::task::block_in_place(|| mirror.stop());
        assert!(status.success());
        Volume::read(&stopped.root()).assert_sound();
        setup = stopped;
    }
    let mirror = start(setup);
    script.pull(&mirror).await;
    let (setup, _) = tokio::task::block_in_place(|| mirror.stop());
    let after = Volume::read(&setup.root());
    after.assert_sound();
    let manifest: Place = ("library/app".to_owned(), script.images[1].digest.clone());
    assert!(after.has(&manifest) && after.tags.values().all(|digest| *digest == manifest.1));
}

/// The next point after the n-th. The calls that order the disk are tried at each; of the others, most of which are none
/// of the store's, growing steps reach the end of the run.
fn next(call: &str, nth: usize) -> usize {
    let all =
        is_long() || ["fallocate", "fdatasync", "fsync", "ftruncate", "rename", "unlink"].contains(&call);
    if all { nth + 1 } else { nth * 2 }
}

/// Kills at entries into a call; how many there were.
async fn points(call: &str) -> usize {
    let script = Script::new().await;
    let (mut killed, mut nth) = (0, 1);
    loop {
        let setup = Setup::of(&script.hub.url());
        let status = run(&script, &setup, &kill_at(call, nth)).await;
        if status.signal() != Some(9) {
            assert!(status.success(), "{call} {nth}: {status}");
            eprintln!("crash points at {call}: {killed}");
            return killed;
        }
        killed += 1;
        let before = Volume::read(&setup.root());
        before.assert_sound();
        check(&script, &setup, &before).await;
        nth = next(call, nth);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_change_of_the_disk_loses_nothing_that_was_published() {
    let loops = futures_util::stream::iter(CHANGES).map(|call| tokio::spawn(points(call)));
    let counts: Vec<_> = loops.buffer_unordered(CALLS_AT_ONCE).collect().await;
    let total: usize = counts.into_iter().map(Result::unwrap).sum();
    eprintln!("crash points: {total}");
    assert!(total >= 40, "only {total} points were met");
}
