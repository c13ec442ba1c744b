//! A disk that is slow, full, or gone; a process that is killed.

use std::time::{Duration, Instant};

use crate::support::command::run;
use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::get;
use crate::support::until;

async fn ten_layers(hub: &Hub) -> Image {
    let layers: Vec<_> = (0..10).map(|number| image::layer(number, 200_000)).collect();
    image::publish(hub, "library/app", Some("1"), OCI, &layers)
}

async fn pull(mirror: &Mirror, image: &Image) -> Duration {
    let began = Instant::now();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(&get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await.digest(), blob);
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_the_disk_to_sync() {
    let hub = Hub::start().await;
    let image = ten_layers(&hub).await;
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let calls = "fsync,fdatasync,sync_file_range,syncfs,msync";
    let wrapper = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap(), "-e", &format!("trace={calls}")];
    let plain = Setup::of(&hub.url()).under(&wrapper).start();
    let usual = pull(&plain, &image).await;
    drop(plain);
    hub.forget();
    let inject = format!("inject={calls}:delay_enter=2000000");
    let slow = Setup::of(&hub.url()).under(&[&wrapper[..], &["-e", &inject]].concat()).start();
    let slowed = pull(&slow, &image).await;
    assert!(slowed < usual + Duration::from_secs(1), "{slowed:?} instead of {usual:?}");
    // And once more while nothing is durable yet: what was fetched is known.
    pull(&slow, &image).await;
    assert_eq!((hub.count(Seen::is_blob_transfer), hub.count(Seen::is_counted)), (11, 1));
    drop(slow);
    let traced = std::fs::read_to_string(&trace).unwrap();
    assert!(traced.contains("DELAYED"), "no sync was delayed:\n{traced}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_passed_through() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 20_000_000)]);
    let setup = Setup::of(&hub.url());
    let root = setup.root();
    let mounted = Mounted::over(&root, "8m");
    let mirror = setup.start();
    for _ in 0..2 {
        let layer = get(&mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]))).await;
        assert_eq!((layer.status, layer.whole, layer.digest()), (200, true, image.layers[0].clone()));
        assert_eq!(layer.header("cache-status"), "tidegate; fwd=bypass");
    }
    mirror.logged("passed through uncached");
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    drop(mirror);
    drop(mounted);
}

/// A file system in memory, until the end of a test.
pub struct Mounted(String);

impl Mounted {
    /// Mounts one of a size such as `8m`.
    pub fn over(path: &std::path::Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let path = path.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none", path]);
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_published() {
    let hub = Hub::start().await;
    let image = ten_layers(&hub).await;
    let mirror = Setup::of(&hub.url()).start();
    pull(&mirror, &image).await;
    // Published: the files are in the tree. The index may know of it or not.
    let blobs = || mirror.files().iter().filter(|path| path.ends_with("data")).count();
    until("all is published", async || blobs() == 12).await;
    let setup = mirror.kill();
    hub.stop();
    pull(&setup.start(), &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_mended_within_the_request() {
    let hub = Hub::start().await;
    let image = ten_layers(&hub).await;
    let mirror = Setup::of(&hub.url()).start();
    pull(&mirror, &image).await;
    let (setup, _) = mirror.stop();
    let hex = &image.layers[0][7..];
    let data = setup.root().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    hub.forget();
    let mirror = setup.start();
    pull(&mirror, &image).await;
    assert_eq!(hub.count(Seen::is_blob_transfer), 1);
    mirror.logged("does not match its digest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_does_not_fit_any_more_is_passed_through_whatever_its_size() {
    let hub = Hub::start().await;
    let layers = [image::layer(1, 100_000), image::layer(2, 900_000)];
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &layers);
    // Without the check of the store, whose own file comes and goes, nothing gives room back.
    let setup = Setup::of(&hub.url()).with("REGISTRY_HEALTH_STORAGEDRIVER_ENABLED", "false");
    let root = setup.root();
    let mounted = Mounted::over(&root, "2m");
    let mirror = setup.start();
    // Whatever is left is taken by somebody else.
    assert!(std::fs::write(root.join("filler"), vec![0; 4 * 1024 * 1024]).is_err());
    for layer in &image.layers {
        for _ in 0..2 {
            let answer = get(&mirror.url(&format!("/v2/library/app/blobs/{layer}"))).await;
            assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, layer));
            assert_eq!(answer.header("cache-status"), "tidegate; fwd=bypass");
        }
    }
    let tag = mirror.url("/v2/library/app/manifests/1");
    assert_eq!(get(&tag).await.digest(), image.digest);
    // The manifest is kept in memory meanwhile: a counted question at every pull would burn the limit.
    mirror.logged("kept in memory");
    assert_eq!(get(&tag).await.digest(), image.digest);
    assert_eq!(hub.count(Seen::is_counted), 1);
    drop(mirror);
    drop(mounted);
}
