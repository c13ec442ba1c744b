//! Rot below the file system: the bits on the disk change, and nothing that the file system knows of them does.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{counter, data, is_right, mended, watched};
use crate::support::command::run;
use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::Setup;
use crate::support::pull::get;
use tidegate::registry::Digest;

/// An ext4 of its own on a loop device.
struct Disk {
    device: String,
    mounted: Option<PathBuf>,
}

impl Disk {
    fn new(image: &Path) -> Self {
        let path = image.to_str().unwrap();
        fs::File::create(image).unwrap().set_len(64 * 1024 * 1024).unwrap();
        run("mkfs.ext4", &["-q", "-F", path]);
        let device = run("losetup", &["--find", "--show", path]).trim().to_owned();
        Self { device, mounted: None }
    }

    fn mount(&mut self, at: &Path) {
        run("mount", &[&self.device, at.to_str().unwrap()]);
        self.mounted = Some(at.to_owned());
    }

    fn unmount(&mut self) {
        if let Some(at) = self.mounted.take() {
            run("umount", &[at.to_str().unwrap()]);
        }
    }

    /// Flips a bit of the first block of a file, by its inode.
    fn rot(&self, inode: u64) {
        let map = run("debugfs", &["-R", &format!("bmap <{inode}> 0"), &self.device]);
        let block: u64 = map.trim().parse().unwrap();
        let stats = run("dumpe2fs", &["-h", &self.device]);
        let size = stats.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap();
        let at = block * size.trim().parse::<u64>().unwrap() + 1_000;
        let device = fs::File::options().read(true).write(true).open(&self.device).unwrap();
        let mut byte = [0];
        device.read_exact_at(&mut byte, at).unwrap();
        device.write_all_at(&[byte[0] ^ 4], at).unwrap();
        device.sync_all().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(at) = &self.mounted {
            let _ = std::process::Command::new("umount").arg("-l").arg(at).status();
        }
        let _ = std::process::Command::new("losetup").args(["-d", &self.device]).status();
    }
}

fn what_the_file_system_knows(path: &Path) -> (u64, u64, u64, i64, i64, i64) {
    let known = fs::metadata(path).unwrap();
    (known.dev(), known.ino(), known.len(), known.ctime(), known.ctime_nsec(), known.mtime())
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_below_the_file_system_is_found_and_mended_by_the_scrub() {
    let hub = Hub::start().await;
    let layers = [image::layer(1, 300_000), image::layer(2, 3_000_000)];
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &layers);
    let setup = watched(Setup::of(&hub.url())).with("TIDEGATE_CACHE_SCRUB", "0s");
    let root = setup.root();
    fs::create_dir_all(&root).unwrap();
    let mut disk = Disk::new(&root.with_extension("ext4"));
    disk.mount(&root);
    let mirror = setup.start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    for layer in &image.layers {
        is_right(&get(&mirror.url(&format!("/v2/library/app/blobs/{layer}"))).await, layer, "the first pull");
        mended(&mirror, layer).await;
    }
    let (setup, _) = mirror.stop();
    let files: Vec<_> = image.layers.iter().map(|layer| data(&setup, layer)).collect();
    let before: Vec<_> = files.iter().map(|file| what_the_file_system_knows(file)).collect();
    disk.unmount();
    before.iter().for_each(|known| disk.rot(known.1));
    disk.mount(&root);
    for (file, layer) in files.iter().zip(&image.layers) {
        assert_ne!(&Digest::sha256(&fs::read(file).unwrap()).to_string(), layer, "nothing rotted");
    }
    let after: Vec<_> = files.iter().map(|file| what_the_file_system_knows(file)).collect();
    assert_eq!(before, after, "the file system noticed");
    hub.forget();
    let mirror = setup.with("TIDEGATE_CACHE_SCRUB", "1s").with("TIDEGATE_CACHE_SCRUBRATE", "1GiB").start();
    for layer in &image.layers {
        mirror.logged(&format!("it is set aside and fetched again\" digest={layer}"));
        is_right(
            &get(&mirror.url(&format!("/v2/library/app/blobs/{layer}"))).await,
            layer,
            "after the scrub",
        );
        mended(&mirror, layer).await;
    }
    assert_eq!(hub.count(Seen::is_blob_transfer), 2);
    assert_eq!(counter(&mirror, "tidegate_blobs_damaged_total").await, 2);
    assert_eq!(fs::read_dir(root.join("tidegate/quarantine")).unwrap().count(), 2);
    drop(mirror);
    disk.unmount();
}
