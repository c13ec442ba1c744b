//! A process that dies between any two system calls, and a machine that loses its power there.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::command::run;
use crate::support::mirror::Setup;
use crate::support::script::{self, Layers, Script};
use crate::support::trace::{self, Point};
use crate::support::{PATIENCE, is_long};

/// How many points of a life a normal run tries; a long one tries all.
const KILLS: usize = 44;
const POWER_CUTS: usize = 10;

/// Plays a life whose process is killed at a point, before the call is made. Whether it came to that.
async fn killed(script: &Script, setup: Setup, point: &Point) -> bool {
    let setup = trace::injected(setup, point, "signal=SIGKILL", false);
    let root = setup.root();
    let status = match setup.try_start() {
        Err(ended) => ended.status,
        Ok(mut mirror) => {
            script.play(&mirror).await;
            if script.settled(&root, || mirror.has_ended()).await {
                // The last calls are those of the stop.
                mirror.stop().1
            } else {
                mirror.ended()
            }
        }
    };
    // `strace` ends as its child did.
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "{point:?}: {status}");
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_system_call_loses_nothing_that_was_published() {
    let layers = Layers::make();
    let all = trace::points_of(&layers).await;
    let most = if is_long() { all.len() } else { KILLS };
    let tried = trace::sample(&all, most, |point| point);
    let hits = script::in_lanes(&layers, &tried, |script, point| async move {
        let setup = script.setup();
        let hit = killed(&script, setup.clone(), &point).await;
        script.check(setup).await;
        hit
    })
    .await;
    eprintln!("killed at {hits} of {} points of {}", tried.len(), all.len());
    // Which thread makes a call differs from run to run, so some points are not met; most are.
    assert!(hits * 4 >= tried.len() * 3, "killed at {hits} of {}", tried.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_system_call_loses_nothing_that_was_published() {
    let layers = Layers::make();
    let all = trace::points_of(&layers).await;
    let most = if is_long() { all.len() } else { POWER_CUTS };
    let tried = trace::sample(&all, most, |point| point);
    let hits = script::in_lanes(&layers, &tried, |script, point| async move {
        let setup = script.setup();
        let disk = Disk::mount(&setup.root());
        let hit = killed(&script, setup.clone(), &point).await;
        disk.cut_power();
        script.check(setup).await;
        drop(disk);
        hit
    })
    .await;
    eprintln!("cut the power at {hits} of {} points of {}", tried.len(), all.len());
    assert!(hits * 4 >= tried.len() * 3, "cut at {hits} of {}", tried.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_after_the_stop_loses_nothing_at_all() {
    let script = Script::of(&Layers::make()).await;
    let setup = script.setup();
    let disk = Disk::mount(&setup.root());
    let mirror = setup.start();
    script.play(&mirror).await;
    assert!(script.settled(&mirror.setup.root(), || false).await);
    let (setup, status) = mirror.stop();
    assert!(status.success(), "{status}");
    disk.cut_power();
    let mirror = setup.start();
    script.all_is_held(&mirror).await;
    drop(mirror);
    drop(disk);
}

/// A disk of its own at a folder: ext4 in a file beside it.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: &Path) -> Self {
        let disk = Self { image: folder.with_extension("ext4"), folder: folder.to_owned() };
        std::fs::create_dir_all(folder).unwrap();
        let image = std::fs::File::create(&disk.image).unwrap();
        image.set_len(128 * 1024 * 1024).unwrap();
        run("mkfs.ext4", &["-q", "-F", disk.image.to_str().unwrap()]);
        disk.attach();
        disk
    }

    /// Without the commits of the journal every 5 s: only what was synced survives.
    fn attach(&self) {
        let (image, folder) = (self.image.to_str().unwrap(), self.folder.to_str().unwrap());
        run("mount", &["-t", "ext4", "-o", "loop,commit=300", image, folder]);
    }

    /// A process that is being started beside us may have our files open for a moment, and the killed one still ends.
    fn detach(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !Command::new("umount").arg(&self.folder).stderr(Stdio::null()).status().unwrap().success() {
            assert!(Instant::now() < deadline, "{} stays in use", self.folder.display());
        }
    }

    /// Loses all that is not on the disk, and comes back as after a reboot.
    fn cut_power(&self) {
        let unsynced = self.folder.join("unsynced");
        std::fs::write(&unsynced, b"gone with the power").unwrap();
        let file = std::fs::File::open(&self.folder).unwrap();
        shut_down(&file);
        let denied = std::fs::write(self.folder.join("denied"), b"").unwrap_err();
        assert_eq!(denied.raw_os_error(), Some(EIO), "the power is still on: {denied}");
        drop(file);
        self.detach();
        self.attach();
        assert!(!unsynced.exists(), "the disk lost nothing");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = Command::new("umount").args(["-l".as_ref(), self.folder.as_os_str()]).status();
    }
}

const EIO: i32 = 5;

/// `EXT4_IOC_SHUTDOWN` of Linux: `_IOR('X', 125, __u32)`.
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;

/// Neither data nor the journal are written.
const WITHOUT_FLUSHING_THE_LOG: u32 = 2;

#[expect(unsafe_code, reason = "there is no safe call that cuts the power of a file system")]
fn shut_down(file: &std::fs::File) {
    // SAFETY: the call reads the u32 behind the pointer and writes nothing into this process.
    let cut = unsafe {
        let argument = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSHING_THE_LOG);
        rustix::ioctl::ioctl(file, argument)
    };
    cut.unwrap();
}
