//! What a volume held before tidegate came may be the only copy there is.

use std::path::Path;

use super::{data, is_held, links_to_nowhere, registry_reads, setup, until};
use crate::support::hub::Hub;
use crate::support::image::OCI;
use crate::support::mirror::Setup;
use crate::volumes;

/// A volume that another program filled, known to the index, and what of it the archive holds.
async fn adopted(hub: &Hub) -> (Setup, Vec<String>) {
    let setup = setup(hub, "80%", "0s");
    volumes::unpack(&setup, "registry-2.8.2-volume");
    let mirror = setup.start();
    hub.stop();
    volumes::pull_all(&mirror).await;
    hub.restart().await;
    let contents = volumes::contents();
    let held = contents["blobs"].as_object().unwrap().keys().map(|hex| format!("sha256:{hex}"));
    (mirror.stop().0, held.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_volume_held_stays_unless_the_upstream_has_it() {
    let hub = Hub::start().await;
    let (setup, held) = adopted(&hub).await;
    hub.forget();
    let mirror = setup.with("TIDEGATE_CACHE_MAXSIZE", "4KiB").start();
    // The upstream is asked for it, and knows nothing of it.
    hub.arrived(8, |seen| {
        seen.method == "HEAD" && held.iter().any(|digest| seen.path.contains(digest.as_str()))
    })
    .await;
    assert!(held.iter().all(|digest| is_held(&mirror, digest)));
    // Nor does anything go when it says nothing.
    let (setup, _) = mirror.stop();
    hub.stop();
    let mirror = setup.start();
    mirror.logged("what was found in the volume stays");
    assert!(held.iter().all(|digest| is_held(&mirror, digest)));
    volumes::pull_all(&mirror).await;
    let (setup, _) = mirror.stop();
    assert!(held.iter().all(|digest| data(&setup.root(), digest).exists()));
}

/// Gives the Hub all that a manifest of the volume leads to.
fn publish(hub: &Hub, root: &Path, repository: &str, digest: &str, tag: Option<&str>) {
    let Ok(bytes) = std::fs::read(data(root, digest)) else { return };
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for child in document["manifests"].as_array().unwrap_or(&vec![]) {
        publish(hub, root, repository, child["digest"].as_str().unwrap(), None);
    }
    for blob in document["layers"].as_array().unwrap_or(&vec![]).iter().chain(document.get("config")) {
        if let Ok(bytes) = std::fs::read(data(root, blob["digest"].as_str().unwrap())) {
            hub.blob(repository, bytes);
        }
    }
    let media_type = document["mediaType"].as_str().unwrap_or(OCI.manifest).to_owned();
    hub.manifest(repository, tag, &media_type, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_volume_held_goes_once_the_upstream_confirmed_it() {
    let hub = Hub::start().await;
    let (setup, held) = adopted(&hub).await;
    let contents = volumes::contents();
    for (repository, digest) in contents["tags"].as_object().unwrap() {
        publish(&hub, &setup.root(), repository, digest.as_str().unwrap(), Some("latest"));
    }
    let mirror = setup.with("TIDEGATE_CACHE_MAXSIZE", "4KiB").start();
    until("all of it is gone", async || held.iter().all(|digest| !is_held(&mirror, digest))).await;
    let (setup, _) = mirror.stop();
    assert_eq!(links_to_nowhere(&setup), Vec::<String>::new());
    assert!(registry_reads(&setup, &hub));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_volume_held_goes_unasked_if_that_is_allowed() {
    let hub = Hub::start().await;
    let (setup, held) = adopted(&hub).await;
    hub.stop();
    let setup = setup.with("TIDEGATE_CACHE_MAXSIZE", "4KiB").with("TIDEGATE_CACHE_EVICTADOPTED", "true");
    let mirror = setup.start();
    until("all of it is gone", async || held.iter().all(|digest| !is_held(&mirror, digest))).await;
}
