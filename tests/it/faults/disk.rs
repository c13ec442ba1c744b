//! Disks and files that are not as they were left.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Cold;
use crate::support::command::run;
use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::loopback::Tmpfs;
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{finish, get};
use crate::support::random::Random;
use crate::support::strace::Attached;

/// How long a start may take, whatever it finds.
const START: Duration = Duration::from_secs(5);

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

/// A mirror that was stopped, and all that it held.
async fn stopped() -> (Cold, Setup) {
    let cold = Cold::new().await;
    cold.is_pulled().await;
    let setup = cold.mirror.setup.clone();
    (cold, setup)
}

fn index(setup: &Setup) -> PathBuf {
    setup.root().join("tidegate/index/v1/data.mdb")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_lost_cut_or_foreign_costs_nothing() {
    let (cold, setup) = stopped().await;
    let Cold { hub, image, mirror } = cold;
    mirror.stop();
    let whole = std::fs::read(index(&setup)).unwrap();
    hub.stop();
    hub.forget();
    let mut random = Random::new(18);
    let mut damages: Vec<Option<Vec<u8>>> =
        vec![None, Some(vec![]), Some(b"garbage".repeat(5_000)), Some(vec![0; whole.len()])];
    damages.extend((0..6).map(|_| Some(whole[..random.below(whole.len())].to_vec())));
    for (number, damage) in damages.into_iter().enumerate() {
        match damage {
            None => std::fs::remove_file(index(&setup)).unwrap(),
            Some(bytes) => std::fs::write(index(&setup), bytes).unwrap(),
        }
        let began = Instant::now();
        let mirror = setup.clone().start();
        assert!(began.elapsed() < START, "{number}: {:?}", began.elapsed());
        let held = Cold { hub: Hub::start().await, image: image.clone(), mirror };
        held.is_pulled().await;
        held.mirror.stop();
    }
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_files_and_a_hundred_thousand_leftovers_do_not_hold_up_the_start() {
    let (cold, setup) = stopped().await;
    let Cold { hub, image, mirror } = cold;
    mirror.stop();
    let partials = setup.root().join("tidegate/partial");
    let count = if crate::support::is_long() { 100_000 } else { 5_000 };
    for number in 0..count {
        std::fs::write(partials.join(format!("{number:064x}.{number:016x}")), "").unwrap();
    }
    let odd = setup.root().join("docker/registry/v2/blobs/sha256/zz/not-a-digest");
    std::fs::create_dir_all(&odd).unwrap();
    std::fs::write(odd.join("data"), "x").unwrap();
    run("mkfifo", &[setup.root().join("tidegate/pipe").to_str().unwrap()]);
    hub.stop();
    let began = Instant::now();
    let mirror: Mirror = setup.start();
    assert!(began.elapsed() < START, "{:?}", began.elapsed());
    Cold { hub, image, mirror }.is_pulled().await;
}
