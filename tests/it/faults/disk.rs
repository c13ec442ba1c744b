//! Disks and files that are not as they were left.

use super::Cold;
use crate::support::hub::Hub;
use crate::support::image::{self, OCI};
use crate::support::loopback::{Disk, Tmpfs};
use crate::support::mirror::Setup;
use crate::support::pull::{finish, get};
use crate::support::strace::Attached;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_inodes_is_passed_through() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 30_000)]);
    let setup = Setup::of(&hub.url());
    let disk = Tmpfs::mount(&setup.root(), "size=64m,nr_inodes=24");
    let cold = Cold { hub, image, mirror: setup.start() };
    // Whatever is left is taken by somebody else.
    let full =
        (0..100).find(|n| std::fs::write(cold.mirror.setup.root().join(format!("taken-{n}")), "").is_err());
    assert!(full.is_some());
    for _ in 0..2 {
        cold.is_pulled().await;
    }
    cold.has_no_layer();
    drop(cold);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_file_sizes_is_a_full_disk_and_no_end() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 300_000)]);
    // Too little for the layer, also without a reservation: then the kernel sends SIGXFSZ, which ends who does not ignore it.
    let mirror = Setup::of(&hub.url()).under(&["prlimit", "--fsize=200000"]).start();
    let cold = Cold { hub, image, mirror };
    // A reservation does not meet this limit: the first client may be cut, the next are not.
    let first = get(&cold.layer()).await;
    assert!(first.status == 200 && (!first.whole || first.digest() == cold.image.layers[0]));
    for _ in 0..2 {
        cold.is_pulled().await;
    }
    cold.has_no_layer();
    cold.mirror.logged("File too large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_blob_that_can_not_be_read_is_not_given_out_wrong() {
    let cold = Cold::new().await;
    cold.is_pulled().await;
    let (setup, _) = cold.mirror.stop();
    let cold = Cold { mirror: setup.start(), ..cold };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let pid = cold.mirror.pid();
    let mut failed = 0;
    for nth in ["1", "2", "1+"] {
        for call in ["preadv2", "pread64"] {
            let attached = tokio::task::block_in_place(|| Attached::fail(pid, call, "EIO", nth, &log));
            let answer = match crate::support::pull::client().get(cold.layer()).send().await {
                Ok(answer) => Some(finish(answer).await),
                Err(_) => None,
            };
            failed += tokio::task::block_in_place(|| attached.detach()).len();
            // Right, or visibly broken off.
            if let Some(answer) = answer.filter(|answer| answer.status == 200) {
                assert!(!answer.whole || answer.digest() == cold.image.layers[0]);
                assert!(image::layer(1, 300_000).starts_with(&answer.body));
            }
            cold.is_pulled().await;
        }
    }
    assert!(failed >= 2, "{failed} reads failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_goes_away_under_a_running_mirror_is_passed_by() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 30_000)]);
    let setup = Setup::of(&hub.url());
    let root = setup.root();
    let Some(disk) = Disk::mount(&root.with_extension("ext4"), &root) else { return };
    let cold = Cold { hub, image, mirror: setup.start() };
    cold.is_pulled().await;
    disk.cut();
    // Twice: what can't be read or stored is fetched, for as long as it takes.
    for _ in 0..2 {
        cold.is_pulled().await;
        let other = image::publish(&cold.hub, "library/app", Some("2"), OCI, &[image::layer(2, 30_000)]);
        assert_eq!(get(&cold.url("manifests/2")).await.digest(), other.digest);
        let layer = get(&cold.url(&format!("blobs/{}", other.layers[0]))).await;
        assert_eq!((layer.status, layer.whole, &layer.digest()), (200, true, &other.layers[0]));
    }
    let setup = cold.mirror.kill();
    disk.power_on();
    let cold = Cold { mirror: setup.start(), ..cold };
    cold.is_pulled().await;
    drop(cold);
    drop(disk);
}
