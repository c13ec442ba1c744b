//! An operator's commands: over the admin socket while a mirror runs, on its volume while none does.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::get;
use crate::support::soon;
use serde_json::{Value, json};

fn tell(setup: &Setup, words: &[&str]) -> Output {
    let config = setup.config().display().to_string();
    let words: Vec<_> = words.iter().copied().chain([config.as_str(), "--json"]).collect();
    setup.clone().arguments(&words).output()
}

#[track_caller]
fn told(setup: &Setup, words: &[&str]) -> Value {
    let output = tell(setup, words);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn pulled(hub: &Hub, mirror: &Mirror) -> image::Image {
    let image = image::publish(hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(&get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await.digest(), blob);
    }
    let in_tree = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:");
        let tree = mirror.setup.root().join("docker/registry/v2/blobs/sha256");
        tree.join(&hex[..2]).join(hex).join("data").exists()
    };
    soon("all blobs in the tree", async {
        while ![&image.digest, &image.config, &image.layers[0]].iter().all(|digest| in_tree(digest)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_the_running_mirror_and_its_volume() {
    let hub = Hub::start().await;
    let mirror = Setup::of(&hub.url()).start();
    let image = pulled(&hub, &mirror).await;
    let setup = mirror.setup.clone();
    assert_eq!(told(&setup, &["pin", "library/app:1"]), json!({ "pinned": "library/app:1" }));
    mirror.logged("an operator asked for a change");
    assert!(mirror.log().iter().any(|line| line.contains("peer=\"uid ")), "{:?}", mirror.log());
    assert_eq!(told(&setup, &["scrub"])["checked"], 3);
    assert_eq!(told(&setup, &["index", "verify"])["without_row"], 0);
    assert_eq!(told(&setup, &["evict", "--dry-run"])["blobs"], 0);
    mirror.stop();
    // The same on the volume, with nobody running.
    assert_eq!(told(&setup, &["pins"]), json!({ "pins": ["library/app:1"] }));
    assert_eq!(told(&setup, &["index", "rebuild"])["blobs"], 3);
    assert_eq!(told(&setup, &["unpin", "library/app:1"])["was-pinned"], true);
    assert_eq!(told(&setup, &["garbage-collect", "--dry-run"])["blobs"], 0);
    hub.forget();
    let mirror = setup.start();
    let layer = mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]));
    assert_eq!(get(&layer).await.digest(), image.layers[0]);
    assert_eq!(hub.count(Seen::is_blob_transfer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_makes_no_sense_is_refused_with_the_reason() {
    let hub = Hub::start().await;
    let mirror = Setup::of(&hub.url()).start();
    let refused = tell(&mirror.setup, &["pin", "Not A Name"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!refused.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_can_not_be_asked_and_has_its_volume_is_exit_3() {
    let hub = Hub::start().await;
    let mirror = Setup::of(&hub.url()).start();
    let astray = mirror.setup.clone().with("TIDEGATE_ADMIN_SOCKET", "/nowhere/admin.sock");
    let refused = tell(&astray, &["pins"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{words}");
    assert!(words.contains("/nowhere/admin.sock") && words.contains("in use"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_socket_is_its_owners_alone() {
    let hub = Hub::start().await;
    let mirror = Setup::of(&hub.url()).start();
    let socket = mirror.setup.config().with_file_name("admin.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let setup = mirror.stop().0;
    assert!(!setup.config().with_file_name("admin.sock").exists());
}
