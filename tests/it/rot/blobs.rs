//! Files that somebody changes, shortens, replaces or removes while the mirror runs.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{data, is_right, is_right_or_cut, mended, watched};
use crate::support::command::run;
use crate::support::hub::{Host, Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::Setup;
use crate::support::pull::{ask, attempt, finish, get, open};
use reqwest::Method;

/// Changes a byte in place.
fn flip(path: &Path, at: u64) {
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut content = fs::read(path).unwrap();
    content[at as usize] ^= 1;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&content[at as usize..=at as usize]).unwrap();
}

type Damage = (&'static str, fn(&Path));

/// What can happen to a file. After all but the first two the right bytes come within the same request, whatever the size.
const DAMAGES: [Damage; 11] = [
    ("flipped at the front", |path| flip(path, 0)),
    ("flipped at the end, its time put back", |path| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        flip(path, fs::metadata(path).unwrap().len() - 1);
        fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }),
    ("cut short", |path| {
        let length = fs::metadata(path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(length - 1).unwrap();
    }),
    ("empty", |path| fs::write(path, b"").unwrap()),
    ("longer", |path| {
        fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    }),
    ("replaced", |path| {
        fs::write(path.with_extension("new"), b"something else").unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }),
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("deleted with its folder", |path| fs::remove_dir_all(path.parent().unwrap()).unwrap()),
    ("a link", |path| {
        fs::remove_file(path).unwrap();
        symlink("/etc/passwd", path).unwrap();
    }),
    ("a pipe", |path| {
        fs::remove_file(path).unwrap();
        run("mkfifo", &[path.to_str().unwrap()]);
    }),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("data")).unwrap();
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_damaged_under_a_running_mirror_is_mended() {
    let hub = Hub::start().await;
    let layers = [image::layer(1, 20_000), image::layer(2, 300_000), image::layer(3, 3_000_000)];
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &layers);
    let mirror = watched(Setup::of(&hub.url())).start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    for (number, layer) in image.layers.iter().enumerate() {
        let url = mirror.url(&format!("/v2/library/app/blobs/{layer}"));
        is_right(&get(&url).await, layer, "the first pull");
        mended(&mirror, layer).await;
        for (kind, (what, damage)) in DAMAGES.iter().enumerate() {
            hub.forget();
            damage(&data(&mirror.setup, layer));
            let what = format!("{what}, layer {number}");
            let first = get(&url).await;
            is_right_or_cut(Some(&first), layer, &what);
            if number < 2 || kind >= 2 {
                is_right(&first, layer, &what);
            }
            is_right(&get(&url).await, layer, &what);
            mended(&mirror, layer).await;
            assert_eq!(hub.count(Seen::is_blob_transfer), 1, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_damaged_under_a_running_mirror_is_mended() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1_000)]);
    let path = format!("/v2/library/app/manifests/{}", image.digest);
    let mirror = Setup::of(&hub.url()).start();
    is_right(&get(&mirror.url(&path)).await, &image.digest, "the first pull");
    // A stop ends when everything is where it belongs.
    let (mut setup, _) = mirror.stop();
    for (what, damage) in DAMAGES {
        let mirror = setup.start();
        hub.forget();
        is_right(&get(&mirror.url(&path)).await, &image.digest, what);
        damage(&data(&mirror.setup, &image.digest));
        is_right(&get(&mirror.url(&path)).await, &image.digest, what);
        assert_eq!(hub.count(Seen::is_counted), 1, "{what}");
        (setup, _) = mirror.stop();
        let mended = fs::read(data(&setup, &image.digest)).unwrap();
        assert_eq!(mended, image.manifest, "{what}");
    }
}

const GIANT: u64 = 64 * 1024 * 1024;

/// What happens to a file whose first bytes were sent; whether the answer is whole all the same, and how many transfers
/// it takes until the blob is right again.
async fn while_it_is_read(what: &str, damage: fn(&Path), whole: Option<bool>, transfers: usize) {
    let hub = Hub::start().await;
    let digest = hub.giant("library/app", GIANT);
    let mirror = watched(Setup::of(&hub.url())).start();
    let url = mirror.url(&format!("/v2/library/app/blobs/{digest}"));
    is_right(&get(&url).await, &digest, what);
    mended(&mirror, &digest).await;
    hub.forget();
    let begun = open(&url).await;
    assert_eq!(begun.headers()["cache-status"], "tidegate; hit");
    damage(&data(&mirror.setup, &digest));
    let first = finish(begun).await;
    is_right_or_cut(Some(&first), &digest, what);
    assert!(whole.is_none_or(|whole| first.whole == whole), "{what}: {} of {GIANT} bytes", first.body.len());
    is_right(&get(&url).await, &digest, what);
    mended(&mirror, &digest).await;
    // What the reader waits for, and what lies before it, may be two transfers; together they are one blob.
    let (count, sent) = (hub.count(Seen::is_blob_transfer), hub.bytes_sent(Host::Cdn));
    assert!((transfers..=2 * transfers).contains(&count), "{what}: {count}");
    assert!(sent >= transfers as u64 * GIANT && sent <= transfers as u64 * GIANT * 5 / 4, "{what}: {sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_gets_shorter_while_it_is_read_goes_on_from_the_upstream() {
    let shorten = |path: &Path| {
        fs::File::options().write(true).open(path).unwrap().set_len(GIANT / 2).unwrap();
    };
    while_it_is_read("shortened", shorten, Some(true), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_overwritten_while_it_is_read_is_never_given_out_whole_and_wrong() {
    while_it_is_read("overwritten", |path| flip(path, GIANT * 3 / 4), None, 1).await;
}

/// The client came while the blob was being fetched, and is slower than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_overwritten_after_its_fill_is_never_given_out_whole_and_wrong() {
    let hub = Hub::start().await;
    let digest = hub.giant("library/app", GIANT);
    let mirror = watched(Setup::of(&hub.url())).start();
    let url = mirror.url(&format!("/v2/library/app/blobs/{digest}"));
    let begun = open(&url).await;
    assert_eq!(begun.headers()["cache-status"], "tidegate; fwd=uri-miss");
    mended(&mirror, &digest).await;
    flip(&data(&mirror.setup, &digest), GIANT * 3 / 4);
    let answer = finish(begun).await;
    is_right_or_cut(Some(&answer), &digest, "overwritten after the fill");
    is_right(&get(&url).await, &digest, "afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_deleted_while_it_is_read_is_read_to_its_end() {
    while_it_is_read("deleted", |path| fs::remove_file(path).unwrap(), Some(true), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_mode_changes_while_it_is_read_costs_no_transfer() {
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    while_it_is_read("chmod", mode, Some(true), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_damaged_blob_are_right_or_cut() {
    let hub = Hub::start().await;
    let layer = image::layer(5, 3_000_000);
    let image = image::publish(&hub, "library/app", Some("1"), OCI, std::slice::from_ref(&layer));
    let mirror = watched(Setup::of(&hub.url())).start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    let url = mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]));
    is_right(&get(&url).await, &image.layers[0], "the first pull");
    mended(&mirror, &image.layers[0]).await;
    for (what, damage) in &DAMAGES[2..] {
        damage(&data(&mirror.setup, &image.layers[0]));
        let part = ask(Method::GET, &url, &[("range", "bytes=2900000-2999999")]).await;
        assert_eq!((part.status, part.whole), (206, true), "{what}");
        assert_eq!(part.body, layer[2_900_000..3_000_000], "{what}");
        mended(&mirror, &image.layers[0]).await;
    }
}

/// The disk gives no byte of this file any more, whoever wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_disk_does_not_give_comes_from_the_upstream() {
    let hub = Hub::start().await;
    let layers = [image::layer(1, 20_000), image::layer(2, 2_000_000)];
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &layers);
    for layer in &image.layers {
        let mirror = watched(Setup::of(&hub.url())).start();
        assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
        is_right(&get(&mirror.url(&format!("/v2/library/app/blobs/{layer}"))).await, layer, "the first pull");
        mended(&mirror, layer).await;
        let (setup, _) = mirror.stop();
        hub.forget();
        let path = data(&setup, layer).display().to_string();
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace").display().to_string();
        let reads = "inject=pread64,preadv2:error=EIO";
        let wrapper = ["strace", "-f", "-qq", "-o", &trace, "-P", &path, "-e", reads];
        let mirror = setup.under(&wrapper).start();
        let mut whole = 0;
        // What is fetched anew lands in the same place, where it can't be read either.
        for _ in 0..3 {
            let answer = attempt(&mirror.url(&format!("/v2/library/app/blobs/{layer}"))).await;
            is_right_or_cut(answer.as_ref(), layer, "EIO");
            whole += usize::from(answer.is_some_and(|answer| answer.whole));
        }
        assert!(whole > 0 && hub.count(Seen::is_blob_transfer) > 0, "{whole} whole answers");
        assert!(
            mirror.log().iter().any(|line| line.contains("level=error") && line.contains(layer.as_str()))
        );
        drop(mirror);
        let traced = fs::read_to_string(&trace).unwrap();
        assert!(traced.contains("INJECTED"), "no read failed:\n{traced}");
    }
}

/// To hash it takes 64 reads of a tenth of a second each.
#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_large_adopted_blob_on_a_slow_disk_is_there_at_once() {
    let hub = Hub::start().await;
    let digest = hub.giant("library/app", GIANT);
    let mirror = watched(Setup::of(&hub.url())).start();
    let path = format!("/v2/library/app/blobs/{digest}");
    is_right(&get(&mirror.url(&path)).await, &digest, "the first pull");
    mended(&mirror, &digest).await;
    let (setup, _) = mirror.stop();
    // Nobody knows any more who put the file there.
    fs::remove_dir_all(setup.root().join("tidegate/index")).unwrap();
    hub.forget();
    let folder = tempfile::tempdir().unwrap();
    let (file, trace) = (data(&setup, &digest).display().to_string(), folder.path().join("trace"));
    let wrapper = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap(), "-P", &file];
    let delay = ["-e", "inject=pread64:delay_enter=100000"];
    let mirror = setup.under(&[&wrapper[..], &delay].concat()).start();
    let began = Instant::now();
    let head = open(&mirror.url(&path)).await;
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    is_right(&finish(head).await, &digest, "the whole");
    assert!(began.elapsed() > Duration::from_secs(6), "the disk was not slow: {:?}", began.elapsed());
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
    drop(mirror);
    assert!(fs::read_to_string(&trace).unwrap().contains("DELAYED"));
}
