//! An index that is lost or damaged, and a volume full of what does not belong there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{data, is_right, watched};
use crate::support::PATIENCE;
use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{MODERN, ask, get};
use reqwest::Method;

async fn pull(mirror: &Mirror, image: &Image, what: &str) {
    let tag = ask(Method::GET, &mirror.url("/v2/library/app/manifests/1"), &[MODERN]).await;
    is_right(&tag, &image.digest, what);
    for blob in image.layers.iter().chain([&image.config]) {
        is_right(&get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await, blob, what);
    }
}

/// Waits until all of an image is in the tree, with its links.
fn published(setup: &Setup, image: &Image) {
    let link =
        setup.root().join("docker/registry/v2/repositories/library/app/_manifests/tags/1/current/link");
    let all = image.layers.iter().chain([&image.config, &image.digest]);
    let deadline = Instant::now() + PATIENCE;
    while !link.exists() || !all.clone().all(|blob| data(setup, blob).exists()) {
        assert!(Instant::now() < deadline, "not published");
        std::thread::yield_now();
    }
}

fn flip_every(path: &Path, bytes: usize) {
    let mut content = fs::read(path).unwrap();
    (0..content.len()).step_by(bytes).for_each(|at| content[at] ^= 0x10);
    fs::write(path, content).unwrap();
}

type Damage = (&'static str, fn(&Path));

/// What can happen to the folder of the index.
const DAMAGES: [Damage; 10] = [
    ("deleted", |index| fs::remove_dir_all(index).unwrap()),
    ("a file instead", |index| {
        fs::remove_dir_all(index).unwrap();
        fs::write(index, b"no folder").unwrap();
    }),
    ("a file instead of its version", |index| {
        fs::remove_dir_all(index.join("v1")).unwrap();
        fs::write(index.join("v1"), b"no folder").unwrap();
    }),
    ("garbage", |index| fs::write(index.join("v1/data.mdb"), vec![0xA5; 100_000]).unwrap()),
    ("empty", |index| fs::write(index.join("v1/data.mdb"), b"").unwrap()),
    ("cut short", |index| {
        let file = fs::File::options().write(true).open(index.join("v1/data.mdb")).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("a folder instead of its file", |index| {
        fs::remove_file(index.join("v1/data.mdb")).unwrap();
        fs::create_dir(index.join("v1/data.mdb")).unwrap();
    }),
    ("a bit of each 100 bytes flipped", |index| flip_every(&index.join("v1/data.mdb"), 100)),
    ("a bit of each 5000 bytes flipped", |index| flip_every(&index.join("v1/data.mdb"), 5_000)),
    ("a garbled lock", |index| fs::write(index.join("v1/lock.mdb"), vec![0xFF; 10_000]).unwrap()),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_garbled_index_costs_no_error_and_no_transfer() {
    let hub = Hub::start().await;
    let layers: Vec<_> = (0..20).map(|number| image::layer(number, 30_000)).collect();
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &layers);
    let mirror = Setup::of(&hub.url()).start();
    pull(&mirror, &image, "the first pull").await;
    published(&mirror.setup, &image);
    let (mut setup, _) = mirror.stop();
    hub.forget();
    let note = setup.root().join("tidegate/index/v1/in-order");
    assert!(note.exists(), "it is not known that the index is in order");
    for (what, damage) in DAMAGES {
        damage(&setup.root().join("tidegate/index"));
        // With the upstream, and with none: what is held needs nobody.
        let began = Instant::now();
        let mirror = setup.start();
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
        assert!(!note.exists(), "{what}: the note counts once");
        pull(&mirror, &image, what).await;
        assert_eq!(hub.count(|seen| seen.is_blob_transfer() || seen.is_counted()), 0, "{what}");
        (setup, _) = mirror.stop();
    }
    hub.stop();
    fs::remove_dir_all(setup.root().join("tidegate")).unwrap();
    let mirror = setup.start();
    pull(&mirror, &image, "without an upstream").await;
    mirror.logged("the index was filled from the tree");
}

/// The process was killed, so that nothing says whether its index is in order.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_garbled_after_a_crash_is_set_aside() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 30_000)]);
    let mirror = Setup::of(&hub.url()).start();
    pull(&mirror, &image, "the first pull").await;
    published(&mirror.setup, &image);
    let setup = mirror.kill();
    let index = setup.root().join("tidegate/index");
    // The newest meta page leads to the middle of nowhere.
    let mut content = fs::read(index.join("v1/data.mdb")).unwrap();
    for meta in [0, 4096] {
        content[meta + 130..meta + 134].copy_from_slice(&[0x7F; 4]);
    }
    fs::write(index.join("v1/data.mdb"), content).unwrap();
    hub.forget();
    let mirror = setup.start();
    mirror.logged("the index is set aside");
    pull(&mirror, &image, "after the crash").await;
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_say_nothing_are_no_rights_and_no_errors() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 30_000)]);
    let mirror = Setup::of(&hub.url()).start();
    pull(&mirror, &image, "the first pull").await;
    published(&mirror.setup, &image);
    let (mut setup, _) = mirror.stop();
    let links = || -> Vec<_> {
        let all = crate::support::mirror::files(&setup.root().join("docker/registry/v2/repositories"));
        all.into_iter().filter(|path| path.ends_with("link")).collect()
    };
    let links = links();
    assert!(links.len() >= 5, "{links:?}");
    let digest = format!("sha256:{}", "0".repeat(64));
    for content in ["", "garbage", &"x".repeat(100_000), &format!("{}\n", image.digest), &digest] {
        links.iter().for_each(|link| fs::write(link, content).unwrap());
        let _ = fs::remove_dir_all(setup.root().join("tidegate/index"));
        hub.forget();
        let mirror = setup.start();
        pull(&mirror, &image, content.get(..20).unwrap_or(content)).await;
        assert_eq!(hub.count(Seen::is_blob_transfer), 0, "a HEAD says whose the blobs are");
        (setup, _) = mirror.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_in_the_volume_does_not_hold_up_the_start() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 30_000)]);
    let mirror = watched(Setup::of(&hub.url())).start();
    pull(&mirror, &image, "the first pull").await;
    published(&mirror.setup, &image);
    let (setup, _) = mirror.stop();
    hub.forget();
    let shard = data(&setup, &image.layers[0]).parent().unwrap().parent().unwrap().to_owned();
    let ours = setup.root().join("tidegate");
    for folder in [ours.join("partial"), ours.join("quarantine"), ours.join("index"), shard] {
        (0..10_000).for_each(|number| fs::write(folder.join(format!("junk-{number}")), b"junk").unwrap());
        fs::create_dir_all(folder.join("folder/in/folder")).unwrap();
    }
    let began = Instant::now();
    let mirror = setup.start();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pull(&mirror, &image, "among junk").await;
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
}
