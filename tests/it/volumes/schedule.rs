//! `scheduler-state.json`: taken over from `registry`, and given back.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Registry, unpack};
use crate::support::hub::Hub;
use crate::support::image::{self, DOCKER};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::get;
use crate::support::until;

/// Its entries: what expires when, and as what.
fn entries(root: &Path) -> BTreeMap<String, (jiff::Timestamp, u64)> {
    let text = std::fs::read_to_string(root.join("scheduler-state.json")).unwrap();
    let document: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let entry = |(key, entry): (String, Value)| {
        assert_eq!(entry["Key"], key.as_str());
        let at = entry["ExpiryData"].as_str().unwrap().parse().unwrap();
        (key, (at, entry["EntryType"].as_u64().unwrap()))
    };
    document.into_iter().map(entry).collect()
}

/// A mirror that says when it has read the file.
fn start(setup: Setup) -> Mirror {
    let mirror = setup.with("REGISTRY_LOG_LEVEL", "debug").start();
    mirror.logged("scheduler-state.json is taken over");
    mirror
}

async fn keep_entries(name: &str) {
    let hub = Hub::start().await;
    let setup = Setup::of(&hub.url());
    unpack(&setup, name);
    let root = setup.root();
    let before = entries(&root);
    assert_eq!(before.len(), 15);
    let (setup, _) = start(setup).stop();
    let after = entries(&root);
    let kinds = |entries: &BTreeMap<String, (jiff::Timestamp, u64)>| -> Vec<_> {
        entries.iter().map(|(key, (_, kind))| (key.clone(), *kind)).collect()
    };
    assert_eq!(kinds(&before), kinds(&after));
    // Nobody used anything: as recent as the repository that fetched it last, never later.
    let newest =
        |digest: &str| before.iter().filter(|(key, _)| key.ends_with(digest)).map(|(_, (at, _))| *at).max();
    for (key, (at, _)) in &after {
        let digest = key.split('@').nth(1).unwrap();
        assert!(Some(*at) <= newest(digest), "{key} {at}");
    }
    // What was used since expires later, and nothing else does.
    let blob = "sha256:9dd81309e9bf3be53259f9c6c95e354d97f666b9d4e9fdfa49ccd36614f0e59b";
    let mirror = start(setup);
    let week = jiff::SignedDuration::from_hours(7 * 24);
    let used = jiff::Timestamp::now() + week - jiff::SignedDuration::from_secs(1);
    assert_eq!(get(&mirror.url(&format!("/v2/library/tool/blobs/{blob}"))).await.status, 200);
    let (_setup, _) = mirror.stop();
    let last = entries(&root);
    for (key, (at, _)) in &last {
        match key.ends_with(blob) {
            true => assert!(*at >= used, "{key} {at}"),
            false => assert_eq!(*at, after[key].0, "{key}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_registry_2_8_2_are_taken_over() {
    keep_entries("registry-2.8.2-volume").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_registry_3_1_1_are_taken_over() {
    keep_entries("registry-3.1.1-volume").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_us_expires_under_registry() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), DOCKER, &[image::layer(1, 40_000)]);
    // Long enough that nothing is idle while it is ours.
    let mirror = start(Setup::of(&hub.url()).with("REGISTRY_PROXY_TTL", "15s"));
    let blobs: Vec<_> = image.layers.iter().chain([&image.config]).collect();
    for blob in &blobs {
        assert_eq!(get(&mirror.url(&format!("/v2/library/app/blobs/{blob}"))).await.status, 200);
    }
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    let held = mirror.files();
    let (setup, _) = mirror.stop();
    let root = setup.root();
    assert_eq!(entries(&root).len(), 3);
    let registry = Registry::start(&root.display().to_string(), &hub.url()).await;
    let is_data = |path: &&std::path::PathBuf| {
        path.ends_with("data") && blobs.iter().any(|blob| path.to_string_lossy().contains(&blob[7..]))
    };
    let data: Vec<_> = held.iter().filter(is_data).collect();
    assert_eq!(data.len(), 2);
    let revision = root.join("docker/registry/v2/repositories/library/app/_manifests/revisions/sha256");
    let link = revision.join(&image.digest[7..]).join("link");
    assert!(link.exists());
    until("registry lets go of it", async || !link.exists() && data.iter().all(|path| !path.exists())).await;
    let log = registry.log();
    assert!(!log.contains("level=error") && !log.contains("level=fatal") && !log.contains("panic"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_of_the_scheduler_is_a_line_in_the_log() {
    let hub = Hub::start().await;
    let setup = Setup::of(&hub.url());
    unpack(&setup, "registry-2.8.2-volume");
    let file = setup.root().join("scheduler-state.json");
    let whole = std::fs::read(&file).unwrap();
    let mut setup = setup;
    for damage in [&b""[..], &whole[..whole.len() / 2], b"{\"a\":1}", &[0; 4096]] {
        std::fs::write(&file, damage).unwrap();
        let mirror = start(setup);
        mirror.logged("scheduler-state.json can't be read");
        (setup, _) = mirror.stop();
        assert_eq!(std::fs::read(&file).unwrap(), b"{}");
    }
}
