//! A file system of our own in a file, whose power can be cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::PATIENCE;
use super::command::run;

/// Length of the file; sparse.
const BYTES: u64 = 96 * 1024 * 1024;

/// ext4 over a loop device, mounted.
pub struct Disk {
    image: PathBuf,
    place: PathBuf,
}

impl Disk {
    /// Makes one from `image` and mounts it; nothing on a machine without loop devices, as some containers are.
    pub fn mount(image: &Path, place: &Path) -> Option<Self> {
        if !Path::new("/dev/loop-control").exists() {
            eprintln!("no loop devices: power cuts are not tried on this machine");
            return None;
        }
        File::create(image).unwrap().set_len(BYTES).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1,nodiscard", image.to_str().unwrap()]);
        std::fs::create_dir_all(place).unwrap();
        let disk = Self { image: image.to_owned(), place: place.to_owned() };
        disk.attach();
        Some(disk)
    }

    /// From now on nothing reaches the disk any more, not even what waits in its journal: what was synced before is all
    /// that there will be.
    pub fn cut(&self) {
        let folder = File::open(&self.place).unwrap();
        shut_down(&folder);
        assert!(File::create(self.place.join("after")).is_err(), "the file system still works");
    }

    /// Power again: the journal is replayed.
    pub fn power_on(&self) {
        let deadline = Instant::now() + PATIENCE;
        // A process that another test is just starting holds, for a moment, all that this one has open; and one with mounts
        // of its own keeps the old file system alive.
        loop {
            let gone =
                Command::new("umount").arg(&self.place).stderr(Stdio::null()).status().unwrap().success();
            if gone {
                self.attach();
                if File::create(self.place.join("power")).is_ok() {
                    break std::fs::remove_file(self.place.join("power")).unwrap();
                }
            }
            assert!(Instant::now() < deadline, "{} stays in use", self.place.display());
            std::thread::yield_now();
        }
    }

    fn attach(&self) {
        let (image, place) = (self.image.to_str().unwrap(), self.place.to_str().unwrap());
        run("mount", &["-t", "ext4", "-o", "loop", image, place]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.place.to_str().unwrap()]).status();
    }
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (linux/ext4.h): the kernel's own way to try a power cut.
#[expect(unsafe_code, reason = "there is no safe call for this one")]
fn shut_down(folder: &File) {
    const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
    const WITHOUT_THE_JOURNAL: u32 = 2;
    // SAFETY: the call reads one u32 through the pointer that the setter makes, and writes nothing.
    let done = unsafe {
        let setter = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_THE_JOURNAL);
        rustix::ioctl::ioctl(folder, setter)
    };
    done.expect("the kernel shuts down an ext4 file system for root");
}

/// A small file system in memory.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn mount(place: &Path, options: &str) -> Self {
        std::fs::create_dir_all(place).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "none", place.to_str().unwrap()]);
        Self(place.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.0.to_str().unwrap()]).status();
    }
}
