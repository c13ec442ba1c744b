//! A power cut: what the kernel had not been told to sync is gone.

use std::os::unix::process::ExitStatusExt;

use super::{Script, run, start};
use crate::support::is_long;
use crate::support::loopback::Disk;
use crate::support::mirror::Setup;
use crate::support::pull::get;
use crate::support::strace::kill_at;
use crate::support::volume::Volume;

/// Where the power goes: at the n-th entry of a thread into a call. `exit_group` is the end, when all is done and little
/// of it synced by the kernel itself.
fn points() -> Vec<(&'static str, usize)> {
    let calls = ["fdatasync", "fsync", "rename", "pwrite64", "mkdir", "write"];
    let most = |call| match (is_long(), call) {
        (true, "write" | "mkdir") => 40,
        (true, _) => 12,
        (false, "fsync") => 4,
        (false, "fdatasync" | "rename") => 3,
        (false, _) => 0,
    };
    let all = calls.iter().flat_map(|call| (1..=most(*call)).map(move |nth| (*call, nth)));
    all.chain([("exit_group", 1)]).collect()
}

struct Machine {
    setup: Setup,
    disk: Disk,
}

impl Machine {
    fn new(script: &Script) -> Option<Self> {
        let setup = Setup::of(&script.hub.url());
        let root = setup.root();
        let disk = Disk::mount(&root.with_extension("ext4"), &root)?;
        Some(Self { setup, disk })
    }
}

/// What holds after the power is back: nothing is torn, no link dangles, what a link led to is there, and with it all
/// goes on.
async fn check(script: &Script, machine: &Machine, before: &Volume) {
    machine.disk.power_on();
    let after = Volume::read(&machine.setup.root());
    after.assert_sound();
    // A link is written after its data was synced, so whoever saw the link finds the data.
    let linked = before.layers.iter().chain(&before.revisions).map(|(_, digest)| digest);
    for digest in linked.chain(before.tags.values()) {
        assert!(after.blobs.contains(digest), "{digest} was published, and is lost");
    }
    super::check(script, &machine.setup, &after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_change_of_the_disk_loses_nothing_that_was_published() {
    let script = Script::new().await;
    let (mut cuts, mut lost, mut kept) = (0, 0, 0);
    for (call, nth) in points() {
        let Some(machine) = Machine::new(&script) else { return };
        let status = run(&script, &machine.setup, &kill_at(call, nth)).await;
        if status.signal() != Some(9) {
            assert!(status.success(), "{call} {nth}: {status}");
            continue;
        }
        let before = Volume::read(&machine.setup.root());
        machine.disk.cut();
        check(&script, &machine, &before).await;
        cuts += 1;
        let after = Volume::read(&machine.setup.root());
        kept += before.blobs.len();
        lost += before.blobs.difference(&after.blobs).count();
    }
    eprintln!("power cuts: {cuts}, with {kept} blobs in the tree, of which {lost} had not been synced");
    assert!(cuts >= 8 && kept > 0, "only {cuts} cuts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_the_mirror_starts_after_another_changes_nothing() {
    let script = Script::new().await;
    for (call, nth) in [("unlink", 1), ("fdatasync", 1), ("pwrite64", 1)] {
        let Some(machine) = Machine::new(&script) else { return };
        let first = run(&script, &machine.setup, &kill_at("fsync", 4)).await;
        assert_eq!(first.signal(), Some(9), "{first}");
        // A leftover to remove, whatever the cut spared.
        let leftover = machine.setup.root().join("tidegate/partial/leftover");
        std::fs::write(&leftover, "half").unwrap();
        std::fs::File::open(&leftover).unwrap().sync_all().unwrap();
        let before = Volume::read(&machine.setup.root());
        machine.disk.cut();
        machine.disk.power_on();
        let second = run(&script, &machine.setup, &kill_at(call, nth)).await;
        assert_eq!(second.signal(), Some(9), "{call} {nth}: {second}");
        machine.disk.cut();
        check(&script, &machine, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_goes_away_under_a_running_mirror_is_passed_by() {
    let script = Script::new().await;
    let Some(machine) = Machine::new(&script) else { return };
    let mirror = start(machine.setup.clone());
    script.pull(&mirror).await;
    let before = Volume::read(&machine.setup.root());
    machine.disk.cut();
    // Twice: what can't be read or stored is fetched, for as long as it takes.
    for _ in 0..2 {
        for image in &script.images {
            script.hub.tag("library/app", "1", &image.digest);
            let tag = get(&mirror.url("/v2/library/app/manifests/1")).await;
            assert_eq!((tag.status, tag.digest()), (200, image.digest.clone()));
            for blob in image.layers.iter().chain([&image.config]) {
                let answer = get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await;
                assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, blob));
            }
        }
    }
    tokio::task::block_in_place(|| mirror.kill());
    check(&script, &machine, &before).await;
}
