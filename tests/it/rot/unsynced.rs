//! What was given its name without waiting for the disk, and lost its bytes in a power cut.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tidegate::index::{Batch, BlobKind, BlobRow, Identity, Index};

use super::{data, is_right};
use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::get;
use crate::support::until;

fn layer(mirror: &Mirror, digest: &str) -> String {
    mirror.url(&format!("/v2/library/app/blobs/{digest}"))
}

/// Puts zeros into a file, and lets its row say that it was verified so: what a power cut leaves of a blob that had its
/// name and its row, and not its bytes.
fn lose_bytes(setup: &Setup, digest: &str) {
    let path = data(setup, digest);
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0; length as usize]).unwrap();
    let found = std::fs::metadata(&path).unwrap();
    let identity = Identity {
        device: found.dev(),
        inode: found.ino(),
        size: length,
        ctime_ns: found.ctime() * 1_000_000_000 + found.ctime_nsec(),
    };
    let row = BlobRow {
        size: length,
        identity: Some(identity),
        kind: BlobKind::Other,
        media_type: None,
        created_ms: 1,
        verified_ms: Some(1),
        adopted: false,
    };
    let index = Index::open(&setup.root().join("tidegate/index"));
    index.apply(Batch::new().put_blob(digest.parse().unwrap(), row));
}

async fn published(root: &Path, digest: &str) {
    let index = root.join("docker/registry/v2/repositories/library/app/_layers/sha256").join(&digest[7..]);
    until("the layer is linked", async || index.join("link").is_file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_synced_before_a_power_cut_is_verified_again() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 300_000)]);
    let blob = &image.layers[0];
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_CACHE_DURABILITY", "relaxed").start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    is_right(&get(&layer(&mirror, blob)).await, blob, "a miss");
    published(&mirror.setup.root(), blob).await;
    let setup = mirror.kill();
    lose_bytes(&setup, blob);
    hub.forget();
    let mirror = setup.start();
    mirror.logged("the last run did not sync what it fetched");
    is_right(&get(&layer(&mirror, blob)).await, blob, "lost bytes");
    assert_eq!(hub.count(Seen::is_blob_transfer), 1);
    mirror.logged("what was not synced is verified again");
    // Stopped in order, nothing is in doubt.
    let (setup, _) = mirror.stop();
    assert!(!setup.root().join("tidegate/unsynced").exists());
    let mirror = setup.start();
    let hit = get(&layer(&mirror, blob)).await;
    is_right(&hit, blob, "after a stop");
    assert_eq!(hit.header("cache-status"), "tidegate; hit");
    assert!(!mirror.log().iter().any(|line| line.contains("did not sync")));
}

/// The calls that sync a blob in the making. The mark that it was not synced and links are made in the same folder.
fn syncs_of_blobs(log: &str, blob: &str) -> usize {
    log.lines().filter(|line| line.contains(&format!("/tidegate/partial/{}", &blob[7..]))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_blobs_get_their_names_without_a_sync() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 300_000)]);
    let blob = &image.layers[0];
    let mut syncs = Vec::new();
    for durability in ["full", "relaxed"] {
        let setup = Setup::of(&hub.url()).with("TIDEGATE_CACHE_DURABILITY", durability);
        let log = setup.root().with_extension("strace").display().to_string();
        let calls = "trace=fdatasync,fsync";
        let mirror = setup.under(&["strace", "-f", "-qq", "-y", "-s", "0", "-o", &log, "-e", calls]).start();
        is_right(&get(&layer(&mirror, blob)).await, blob, durability);
        published(&mirror.setup.root(), blob).await;
        let (_setup, status) = mirror.stop();
        assert!(status.success());
        syncs.push(syncs_of_blobs(&std::fs::read_to_string(&log).unwrap(), blob));
    }
    assert!(syncs[0] >= 1 && syncs[1] == 0, "{syncs:?}");
}
