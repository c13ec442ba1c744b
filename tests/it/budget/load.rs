//! Random pulls of more than fits, and a watch over what is used meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{MIB, Placed, is_held, layer, links_to_nowhere, metric, pin, place, pull, registry_reads, setup};
use crate::disk::Mounted;
use crate::support::hub::Hub;
use crate::support::mirror::Mirror;
use crate::support::{is_long, until};

/// What blobs and tidegate's own files take on the disk, by inode. Files that go away meanwhile do not count.
fn sizes(root: &Path) -> BTreeMap<u64, u64> {
    let mut open = vec![root.join("docker/registry/v2/blobs"), root.join("tidegate")];
    let mut sizes = BTreeMap::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => drop(sizes.insert(metadata.ino(), metadata.blocks() * 512)),
                Err(_) => {}
            }
        }
    }
    sizes
}

/// All of it at one moment: a walk during which something came or went has seen what was never there together.
fn usage(root: &Path) -> Option<u64> {
    let first = sizes(root);
    (first == sizes(root)).then(|| first.values().sum())
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
                largest.fetch_max(usage(&root).unwrap_or(0), Ordering::SeqCst);
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
    let base = |number: u64| layer(1_000_000 + number / 8, image_bytes);
    let make = |number: u64, name: &str| {
        place(hub, name, &[base(number), layer(number, image_bytes), layer(2_000_000 + number, 3_000)])
    };
    Load {
        hot: make(900, "library/hot"),
        pinned: (901..903).map(|number| make(number, &format!("pinned/image-{number}"))).collect(),
        others: (0..images).map(|number| make(number, &format!("library/image-{number}"))).collect(),
        image_bytes,
    }
}

/// Pulls images at random until so many bytes went out, and a hot one ever again beside them.
async fn pull_at_random(mirror: &Mirror, load: &Load, bytes: u64, hub: &Hub) -> HashSet<String> {
    let mut dice = Dice(42);
    eprintln!("seed 42");
    let mut passed = HashSet::new();
    for _ in 0..bytes / (load.image_bytes * 4) {
        let picked = &load.others[dice.below(load.others.len())];
        let (first, second) = tokio::join!(pull(mirror, picked), pull(mirror, &load.hot));
        passed.extend(first.into_iter().chain(second));
    }
    for blob in &load.hot.image.layers {
        let fetched = hub.count(|seen| seen.is_blob_transfer() && seen.path.contains(blob.as_str()));
        assert_eq!(fetched, 1, "the hot image lost {blob}");
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
            // An image may be on its way out, the manifest first.
            let is_there = passed.contains(blob) || is_held(mirror, blob);
            assert!(is_there || !is_held(mirror, &placed.image.digest), "{} lost {blob}", placed.repository);
        }
    }
    assert!(whole > 0, "nothing is left");
}

async fn under_a_budget(budget: u64, images: u64, image_bytes: u64, pulled: u64) {
    let hub = Hub::start().await;
    let load = load(&hub, images, image_bytes);
    let first = setup(&hub, &budget.to_string(), "0s").start();
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
    eprintln!("{most} of {budget} bytes used, {} blobs passed through", passed.len());
    assert!(most > budget / 2, "only {most} bytes were ever used");
    assert!(metric(&mirror, "tidegate_evicted_blobs_total").await > 0);
    // The last bytes go out before the file has its name.
    until("all fills are in the tree", async || metric(&mirror, "tidegate_fills").await == 0).await;
    hub.stop();
    nothing_is_broken(&mirror, &load, &passed).await;
    let (setup, _) = mirror.stop();
    assert_eq!(links_to_nowhere(&setup), Vec::<String>::new());
    assert!(registry_reads(&setup, &hub));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_is_never_over_the_budget_and_nobody_notices() {
    if is_long() {
        under_a_budget(200 * MIB, 120, 4 * MIB, 2048 * MIB).await;
    } else {
        under_a_budget(40 * MIB, 60, MIB + 100_000, 160 * MIB).await;
    }
}

/// The same with what the file system gives: nothing is configured but what is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_is_never_filled_and_nobody_notices() {
    let hub = Hub::start().await;
    let (size, images, image_bytes, pulled) =
        if is_long() { (100, 120, 4 * MIB, 1024 * MIB) } else { (32, 60, MIB + 100_000, 120 * MIB) };
    let load = load(&hub, images, image_bytes);
    let setup = setup(&hub, "80%", "0s").with("TIDEGATE_CACHE_MINFREE", "5%");
    let mounted = Mounted::over(&setup.root(), &format!("{size}m"));
    let first = setup.start();
    for placed in &load.pinned {
        assert!(pull(&first, placed).await.is_empty());
    }
    let (setup, _) = first.stop();
    pin(&setup, &["pinned/*"]);
    let mirror = setup.start();
    let watch = Watch::over(mirror.setup.root());
    let passed = pull_at_random(&mirror, &load, pulled, &hub).await;
    let (most, limit) = (watch.most(), size * MIB / 100 * 80);
    assert!(most <= limit, "{most} bytes on the disk, {} over the budget", most - limit);
    assert!(metric(&mirror, "tidegate_evicted_blobs_total").await > 0);
    // The last bytes go out before the file has its name.
    until("all fills are in the tree", async || metric(&mirror, "tidegate_fills").await == 0).await;
    hub.stop();
    nothing_is_broken(&mirror, &load, &passed).await;
    drop(mirror);
    drop(mounted);
}
