//! The byte budget: what goes, what stays, and what a client notices of it, which is nothing.

mod adopted;
mod load;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use reqwest::Method;
use tidegate::index::{Batch, Heat, Index, heat};
use tidegate::registry::Digest;

use crate::disk::Mounted;
use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup, files};
use crate::support::pull::{self, MODERN, ask, get};
use crate::support::{is_long, until};
use crate::volumes::Registry;

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

/// Pins things while no mirror runs.
fn pin(setup: &Setup, pins: &[&str]) {
    let index = Index::open(&setup.root().join("tidegate/index"));
    index.apply(pins.iter().fold(Batch::new(), |batch, pin| batch.put_pin(pin)));
}

async fn metric(mirror: &Mirror, name: &str) -> u64 {
    let line = mirror.logged("debug server listening ");
    let address = line.split("debug server listening ").nth(1).unwrap().trim_end_matches(['"', '\n']);
    let address = address.split('"').next().unwrap();
    let text = String::from_utf8(get(&format!("http://{address}/metrics")).await.body.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_fill_is_given_room() {
    let hub = Hub::start().await;
    let images: Vec<_> =
        (0..5).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 2 * MIB)])).collect();
    let setup = setup(&hub, "100%", "0s").with("TIDEGATE_CACHE_MINFREE", "10%");
    let mounted = Mounted::over(&setup.root(), "20m");
    let mirror = setup.start();
    for placed in &images[..4] {
        assert!(pull(&mirror, placed).await.is_empty());
    }
    until("four images", async || images[..4].iter().all(|placed| is_held(&mirror, &placed.image.digest)))
        .await;
    // Somebody else takes nearly all that is left.
    std::fs::write(mirror.setup.root().join("filler"), vec![0; 8 * 1024 * 1024]).unwrap();
    assert!(pull(&mirror, &images[4]).await.is_empty(), "there was room to be made");
    until("the last image", async || is_held(&mirror, &images[4].image.layers[0])).await;
    let layers = images.iter().filter(|placed| is_held(&mirror, &placed.image.layers[0])).count();
    assert!(layers < 5, "nothing went");
    drop(mirror);
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_inodes_is_given_some() {
    let hub = Hub::start().await;
    let images: Vec<_> = (0..30)
        .map(|n| image::publish(&hub, "library/app", Some(&n.to_string()), OCI, &[layer(n, 20_000)]))
        .collect();
    let setup = setup(&hub, "80%", "0s").with("TIDEGATE_CACHE_MINFREE", "10%");
    let mounted = Mounted::over(&setup.root(), "64m,nr_inodes=300");
    let mirror = setup.start();
    for (tag, image) in images.iter().enumerate() {
        let manifest = mirror.url(&format!("/v2/library/app/manifests/{tag}"));
        assert_eq!(ask(Method::GET, &manifest, &[MODERN]).await.digest(), image.digest);
        for blob in image.layers.iter().chain([&image.config]) {
            let answer = get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await;
            assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, blob));
        }
    }
    until("the last image", async || is_held(&mirror, &images[29].layers[0])).await;
    assert!(metric(&mirror, "tidegate_evicted_blobs_total").await > 0);
    drop(mirror);
    drop(mounted);
}

/// `docker-registry garbage-collect --dry-run` over what a mirror left; whether it found its way through all links.
fn registry_reads(setup: &Setup, hub: &Hub) -> bool {
    let root = setup.root().display().to_string();
    let config = Registry::config(&root, 1, &hub.url());
    let output = std::process::Command::new("docker-registry")
        .args(["garbage-collect", "--dry-run", &config])
        .output()
        .expect("docker-registry is needed by the tests (tests/run installs it)");
    eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_leaves_no_link_that_registry_stumbles_over() {
    let hub = Hub::start().await;
    let images: Vec<_> =
        (0..8).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 2 * MIB)])).collect();
    let again = hub.manifest("library/again", Some("1"), OCI.manifest, images[0].image.manifest.clone());
    assert_eq!(again, images[0].image.digest);
    let mirror = setup(&hub, "10MiB", "0s").start();
    assert_eq!(get(&mirror.url("/v2/library/again/manifests/1")).await.digest(), again);
    for placed in &images {
        pull(&mirror, placed).await;
    }
    until("the first image is gone", async || !is_held(&mirror, &again)).await;
    let newest = &images[7].image;
    until("the last image is there", async || is_held(&mirror, &newest.digest)).await;
    let (setup, _) = mirror.stop();
    let links = files(&setup.root().join("docker/registry/v2/repositories"));
    assert!(links.iter().all(|link| !link.to_string_lossy().contains(&again[7..])), "{links:?}");
    assert_eq!(links_to_nowhere(&setup), Vec::<String>::new());
    assert!(registry_reads(&setup, &hub));
    // And that it would have shown.
    std::fs::remove_file(data(&setup.root(), &newest.digest)).unwrap();
    assert_eq!(links_to_nowhere(&setup).len(), 3, "a revision, a tag, and its past");
}

/// Links to manifests that are not there.
fn links_to_nowhere(setup: &Setup) -> Vec<String> {
    let links = files(&setup.root().join("docker/registry/v2/repositories"));
    let manifests = links.into_iter().filter(|link| link.to_string_lossy().contains("/_manifests/"));
    let target = |link: PathBuf| std::fs::read_to_string(link).unwrap();
    manifests.map(target).filter(|digest| !data(&setup.root(), digest).exists()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_expires_but_not_while_the_upstream_is_gone() {
    let hub = Hub::start().await;
    let placed = place(&hub, "library/app", &[layer(1, MIB)]);
    let other = place(&hub, "library/other", &[layer(2, MIB)]);
    let mirror = setup(&hub, "80%", "0s").with("REGISTRY_PROXY_TTL", "3s").start();
    pull(&mirror, &placed).await;
    until("it is there", async || is_held(&mirror, &placed.image.layers[0])).await;
    // Whether it can be brought back is asked before anything goes; several times over, the answer is no.
    let gone = hub.fault(Host::Registry, "GET /v2/", Fault::Answer(503, "", ""));
    until("somebody asked", async || gone.applied() >= 8).await;
    assert!(is_held(&mirror, &placed.image.layers[0]) && is_held(&mirror, &placed.image.digest));
    hub.behave();
    pull(&mirror, &other).await;
    until("it is gone", async || !is_held(&mirror, &placed.image.layers[0])).await;
    until("and so is its manifest", async || !is_held(&mirror, &placed.image.digest)).await;
    until("and the other one", async || !is_held(&mirror, &other.image.layers[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_named_in_an_answer_stays_for_ten_minutes() {
    let hub = Hub::start().await;
    let named = place(&hub, "library/named", &[layer(100, 2 * MIB)]);
    let others: Vec<_> =
        (0..6).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 2 * MIB)])).collect();
    let mirror = setup(&hub, "6MiB", "10m").start();
    assert!(pull(&mirror, &named).await.is_empty());
    until("it is there", async || is_held(&mirror, &named.image.layers[0])).await;
    let mut passed = 0;
    for placed in &others {
        passed += pull(&mirror, placed).await.len();
    }
    assert!(passed >= 4, "only {passed} blobs found no room");
    assert!(metric(&mirror, "tidegate_over_budget_total").await >= 4);
    hub.forget();
    pull(&mirror, &named).await;
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
    // Without that promise it goes.
    let mirror = mirror.stop().0.with("TIDEGATE_CACHE_HOLD", "0s").start();
    for placed in &others {
        pull(&mirror, placed).await;
    }
    until("it is gone", async || !is_held(&mirror, &named.image.layers[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_longest_ago_goes_first() {
    let hub = Hub::start().await;
    let images: Vec<_> =
        (0..4).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 2 * MIB)])).collect();
    let mirror = setup(&hub, "80%", "0s").start();
    for placed in &images {
        pull(&mirror, placed).await;
    }
    until("all are there", async || images.iter().all(|placed| is_held(&mirror, &placed.image.digest))).await;
    let (setup, _) = mirror.stop();
    // When they came says the same of all; the last use does not.
    for placed in
        images.iter().flat_map(|placed| [&placed.image.digest, &placed.image.config, &placed.image.layers[0]])
    {
        forget_when_it_came(&setup, placed);
    }
    let used = Heat::open(&setup.root().join("tidegate/heat"));
    for (placed, ago) in images.iter().zip([300, 100, 400, 200]) {
        for digest in [&placed.image.digest, &placed.image.config, &placed.image.layers[0]] {
            used.touch(&digest.parse().unwrap(), heat::now() - ago);
        }
    }
    drop(used);
    let mirror = setup.with("TIDEGATE_CACHE_MAXSIZE", "6MiB").start();
    let held = || images.iter().map(|placed| is_held(&mirror, &placed.image.layers[0])).collect::<Vec<_>>();
    until("two are gone", async || held() == [false, true, false, true]).await;
    assert_eq!(
        images.iter().map(|placed| is_held(&mirror, &placed.image.digest)).collect::<Vec<_>>(),
        [false, true, false, true]
    );
}

/// Lets a blob look as if it came long ago.
fn forget_when_it_came(setup: &Setup, digest: &str) {
    let index = Index::open(&setup.root().join("tidegate/index"));
    let digest: Digest = digest.parse().unwrap();
    let row = index.blob(&digest).unwrap();
    index.apply(Batch::new().put_blob(digest, tidegate::index::BlobRow { created_ms: 1, ..row }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_what_goes_reads_it_to_its_end() {
    let hub = Hub::start().await;
    let read = place(&hub, "library/read", &[layer(100, 8 * MIB)]);
    let others: Vec<_> =
        (0..8).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 4 * MIB)])).collect();
    let mirror = setup(&hub, "26MiB", "0s").start();
    pull(&mirror, &read).await;
    until("it is there", async || is_held(&mirror, &read.image.layers[0])).await;
    let body = pull::open(&mirror.url(&format!("/v2/library/read/blobs/{}", read.image.layers[0]))).await;
    assert_eq!(body.headers()["cache-status"], "tidegate; hit");
    for placed in &others {
        pull(&mirror, placed).await;
    }
    until("it is gone", async || !is_held(&mirror, &read.image.layers[0])).await;
    let lingering = "tidegate_cache_bytes{part=\"lingering\"}";
    assert!(metric(&mirror, lingering).await >= 8 * MIB);
    let answer = pull::finish(body).await;
    assert_eq!((answer.whole, &answer.digest()), (true, &read.image.layers[0]));
    until("its bytes do not count any more", async || metric(&mirror, lingering).await == 0).await;
}

/// `kill -9` at each removal of an eviction: afterwards everything is served, and no link leads nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_things_go_breaks_nothing() {
    let hub = Hub::start().await;
    let images: Vec<_> =
        (0..3).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 300_000)])).collect();
    let mut deaths = 0;
    for boundary in 1..=if is_long() { 40 } else { 12 } {
        let first = setup(&hub, "80%", "0s").start();
        for placed in &images {
            pull(&first, placed).await;
        }
        until("all are there", async || images.iter().all(|placed| is_held(&first, &placed.image.digest)))
            .await;
        let (usual, _) = first.stop();
        let inject = format!("inject=unlink,unlinkat,rmdir:signal=KILL:when={boundary}");
        let wrapper =
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=unlink,unlinkat,rmdir", "-e", &inject];
        // The first of them may be in the start.
        let dying = usual.clone().with("TIDEGATE_CACHE_MAXSIZE", "4KiB").under(&wrapper).try_start();
        let status = dying.map_or_else(|ended| ended.status, |mut dying| dying.ended());
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
        deaths += usize::from(killed);
        assert_eq!(links_to_nowhere(&usual), Vec::<String>::new(), "after {boundary}");
        let again = usual.start();
        for placed in &images {
            pull(&again, placed).await;
        }
    }
    assert!(deaths >= 10, "it was killed only {deaths} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_that_fill_the_budget_stop_the_keeping_and_not_the_serving() {
    let hub = Hub::start().await;
    let images: Vec<_> =
        (0..5).map(|n| place(&hub, &format!("library/image-{n}"), &[layer(n, 2 * MIB)])).collect();
    let first = setup(&hub, "7MiB", "0s").start();
    assert_eq!(get(&first.url("/v2/")).await.status, 200);
    let (setup, _) = first.stop();
    pin(&setup, &["library/image-0:1", &images[1].image.digest, "library/image-2"]);
    let mirror = setup.start();
    let mut passed = Vec::new();
    for placed in &images {
        passed.extend(pull(&mirror, placed).await);
    }
    assert!(images[3..].iter().all(|placed| passed.contains(&placed.image.layers[0])), "{passed:?}");
    mirror.logged("the pins leave no room");
    hub.forget();
    for placed in &images[..2] {
        pull(&mirror, placed).await;
    }
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
}
