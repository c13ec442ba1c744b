//! The byte budget: what goes, what stays, and what a client notices of it, which is nothing.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use reqwest::Method;
use tidegate::index::{Batch, Heat, Index, heat};
use tidegate::registry::Digest;

use crate::support::command::run;
use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup, files};
use crate::support::pull::{self, MODERN, ask, get};
use crate::support::{PATIENCE, is_long};

const MIB: u64 = 1 << 20;

/// An image and where it is.
#[derive(Debug, Clone)]
struct Placed {
    repository: String,
    image: Image,
}

fn place(hub: &Hub, repository: &str, layers: &[Bytes]) -> Placed {
    Placed {
        repository: repository.to_owned(),
        image: image::publish(hub, repository, Some("1"), OCI, layers),
    }
}

fn layer(seed: u64, bytes: u64) -> Bytes {
    image::layer(seed, usize::try_from(bytes).unwrap())
}

/// A mirror with a budget that does not care how full the disk of the tests is.
fn setup(hub: &Hub, maxsize: &str, hold: &str) -> Setup {
    Setup::of(&hub.url())
        .with("TIDEGATE_CACHE_MAXSIZE", maxsize)
        .with("TIDEGATE_CACHE_MINFREE", "0")
        .with("TIDEGATE_CACHE_HOLD", hold)
        .with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0")
        .with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true")
}

/// Everything of an image, checked; gives the digests that were passed through, not kept.
async fn pull(mirror: &Mirror, placed: &Placed) -> Vec<String> {
    let manifest = mirror.url(&format!("/v2/{}/manifests/1", placed.repository));
    let answer = ask(Method::GET, &manifest, &[MODERN]).await;
    assert_eq!((answer.status, answer.digest()), (200, placed.image.digest.clone()), "{}", placed.repository);
    let mut passed = Vec::new();
    for blob in placed.image.layers.iter().chain([&placed.image.config]) {
        let answer = get(&mirror.url(&format!("/v2/{}/blobs/{blob}", placed.repository))).await;
        assert_eq!(
            (answer.status, answer.whole, &answer.digest()),
            (200, true, blob),
            "{}",
            placed.repository
        );
        if answer.header("cache-status").contains("bypass") {
            passed.push(blob.clone());
        }
    }
    passed
}

fn data(root: &Path, digest: &str) -> PathBuf {
    let hex = &digest[7..];
    root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

fn is_held(mirror: &Mirror, digest: &str) -> bool {
    data(&mirror.setup.root(), digest).exists()
}

/// Waits until something is so, which must come by itself.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What blobs and tidegate's own files take on the disk. Files that go away meanwhile do not count.
fn usage(root: &Path) -> u64 {
    let mut open = vec![root.join("docker/registry/v2/blobs"), root.join("tidegate")];
    let mut bytes = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => bytes += metadata.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Looks at the usage all the time.
struct Watch {
    most: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn over(root: PathBuf) -> Self {
        let (most, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (largest, end) = (Arc::clone(&most), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                largest.fetch_max(usage(&root), Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        Self { most, ends, thread: Some(thread) }
    }

    fn most(mut self) -> u64 {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.most.load(Ordering::SeqCst)
    }
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Images of which some share a base.
struct Load {
    hot: Placed,
    pinned: Vec<Placed>,
    others: Vec<Placed>,
    image_bytes: u64,
}

/// Images with one layer of their own, and a base that eight of them share.
fn load(hub: &Hub, images: u64, image_bytes: u64) -> Load {
    let base = |number: u64| layer(1_000_000 + number / 8, image_bytes / 4);
    let make = |number: u64, name: &str| {
        place(hub, name, &[base(number), layer(number, image_bytes), layer(2_000_000 + number, 30_000)])
    };
    Load {
        hot: make(900, "library/hot"),
        pinned: (901..903).map(|number| make(number, &format!("pinned/image-{number}"))).collect(),
        others: (0..images).map(|number| make(number, &format!("library/image-{number}"))).collect(),
        image_bytes,
    }
}

/// Pins things while no mirror runs.
fn pin(setup: &Setup, pins: &[&str]) {
    let index = Index::open(&setup.root().join("tidegate/index"));
    index.apply(pins.iter().fold(Batch::new(), |batch, pin| batch.put_pin(pin)));
}

/// Pulls images at random until so many bytes went out, a hot one ever again, four at a time.
async fn pull_at_random(mirror: &Mirror, load: &Load, bytes: u64, hub: &Hub) -> HashSet<String> {
    let mut dice = Dice(42);
    println!("seed 42");
    let mut passed = HashSet::new();
    let rounds = bytes / (load.image_bytes * 5 / 4) / 3;
    for _ in 0..rounds {
        let mut pick = || &load.others[dice.below(load.others.len())];
        let (first, second, third) = (pick(), pick(), pick());
        let pulls = [pull(mirror, first), pull(mirror, second), pull(mirror, third), pull(mirror, &load.hot)];
        passed.extend(futures_util::future::join_all(pulls).await.into_iter().flatten());
    }
    for blob in &load.hot.image.layers {
        let fetched = hub.count(|seen| seen.is_blob_transfer() && seen.path.contains(blob.as_str()));
        assert!(fetched <= 1 + usize::from(passed.contains(blob)), "the hot image lost {blob}");
    }
    passed
}

/// With the upstream gone: what has its manifest has all its layers, and what is pinned is there.
async fn nothing_is_broken(mirror: &Mirror, load: &Load, passed: &HashSet<String>) {
    for placed in &load.pinned {
        pull(mirror, placed).await;
    }
    let mut whole = 0;
    for placed in load.others.iter().chain([&load.hot]) {
        if !is_held(mirror, &placed.image.digest) {
            continue;
        }
        whole += 1;
        for blob in placed.image.layers.iter().chain([&placed.image.config]) {
            assert!(passed.contains(blob) || is_held(mirror, blob), "{} lost {blob}", placed.repository);
        }
    }
    assert!(whole > 0, "nothing is left");
}

async fn metric(mirror: &Mirror, name: &str) -> u64 {
    let line = mirror.logged("debug server listening ");
    let address = line.split("debug server listening ").nth(1).unwrap().trim_end_matches(['"', '\n']);
    let address = address.split('"').next().unwrap();
    let text = String::from_utf8(get(&format!("http://{address}/metrics")).await.body.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

async fn under_a_budget(budget: u64, images: u64, image_bytes: u64, pulled: u64) {
    let hub = Hub::start().await;
    let load = load(&hub, images, image_bytes);
    let first = setup(&hub, &budget.to_string(), "1s").start();
    for placed in &load.pinned {
        assert!(pull(&first, placed).await.is_empty());
    }
    let (setup, _) = first.stop();
    pin(&setup, &["pinned/image-901:1", "pinned/*"]);
    let mirror = setup.start();
    let watch = Watch::over(mirror.setup.root());
    let passed = pull_at_random(&mirror, &load, pulled, &hub).await;
    let most = watch.most();
    assert!(most <= budget, "{most} bytes on the disk, {} over the budget", most - budget);
    println!("{most} of {budget} bytes used, {} blobs passed through", passed.len());
    assert!(most > budget / 2, "only {most} bytes were ever used");
    assert!(metric(&mirror, "tidegate_evicted_blobs_total").await > 0);
    hub.stop();
    nothing_is_broken(&mirror, &load, &passed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_is_never_over_the_budget_and_nobody_notices() {
    if is_long() {
        under_a_budget(200 * MIB, 120, 6 * MIB, 2048 * MIB).await;
    } else {
        under_a_budget(24 * MIB, 60, MIB + 100_000, 240 * MIB).await;
    }
}
