//! One transfer for everybody.

use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::Setup;
use crate::support::pull::{self, get, head, open};
use crate::support::{is_long, soon};

const MIB: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_of_a_cold_blob_cause_one_transfer_and_all_start_before_it_ends() {
    let hub = Hub::start().await;
    let digest = hub.giant("library/app", 64 * MIB);
    let mirror = Setup::of(&hub.url()).start();
    let gate = hub.fault(Host::Cdn, "GET", Fault::Gate(32 * MIB));
    let url = mirror.url(&format!("/v2/library/app/blobs/{digest}"));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = open(&url).await;
        let first = soon("the first byte", client.chunk()).await.unwrap().unwrap();
        clients.push((first, client));
    }
    // Every client has its first bytes, and the upstream can't have sent more than half.
    assert_eq!(gate.applied(), 1);
    assert!(hub.bytes_sent(Host::Cdn) <= 32 * MIB);
    hub.release();
    let rest: Vec<_> =
        clients.into_iter().map(|(first, client)| (first, tokio::spawn(pull::finish(client)))).collect();
    for (first, rest) in rest {
        let rest = rest.await.unwrap();
        assert!(rest.whole);
        assert_eq!(tidegate::registry::Digest::sha256(&[first, rest.body].concat()).to_string(), digest);
    }
    assert_eq!((hub.count(Seen::is_blob_transfer), hub.bytes_sent(Host::Cdn)), (1, 64 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_readers_of_a_giant_take_little_memory() {
    let size = if is_long() { 2048 * MIB } else { 192 * MIB };
    let hub = Hub::start().await;
    let digest = hub.giant("library/app", size);
    let mirror = Setup::of(&hub.url()).start();
    let url = mirror.url(&format!("/v2/library/app/blobs/{digest}"));
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let (mut reader, mut length) = (open(&url).await, 0);
                while let Some(piece) = soon("a piece", reader.chunk()).await.unwrap() {
                    length += piece.len() as u64;
                }
                length
            })
        })
        .collect();
    let mut most = 0;
    for reader in readers {
        let mut reader = reader;
        let length = loop {
            tokio::select! {
                length = &mut reader => break length.unwrap(),
                () = tokio::task::yield_now() => most = most.max(mirror.anonymous_memory()),
            }
        };
        assert_eq!(length, size);
    }
    assert_eq!(hub.bytes_sent(Host::Cdn), size);
    assert!(most > 0 && most <= 150_000_000, "RssAnon {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pulls_of_an_index_cost_the_hub_each_manifest_once() {
    let hub = Hub::start().await;
    let amd = image::publish_for(&hub, "library/app", None, OCI, &[image::layer(1, 50_000)], "amd64");
    let arm = image::publish_for(&hub, "library/app", None, OCI, &[image::layer(2, 50_000)], "arm64");
    let index = image::publish_index(&hub, "library/app", "1", OCI, &[("amd64", &amd), ("arm64", &arm)]);
    let mirror = Setup::of(&hub.url()).start();
    let address = mirror.address.clone();
    let pulls: Vec<_> = (0..5)
        .map(|_| {
            let (address, amd, index) = (address.clone(), amd.clone(), index.clone());
            tokio::spawn(async move {
                for _ in 0..4 {
                    let of = |rest: &str| format!("http://{address}/v2/library/app/{rest}");
                    assert_eq!(get(&of("manifests/1")).await.digest(), index);
                    assert_eq!(get(&of(&format!("manifests/{}", amd.digest))).await.digest(), amd.digest);
                    for blob in amd.layers.iter().chain([&amd.config]) {
                        assert_eq!(&get(&of(&format!("blobs/{blob}"))).await.digest(), blob);
                    }
                }
            })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap();
    }
    assert_eq!(hub.count(Seen::is_counted), 2);
    assert!(hub.count(|seen| seen.host == Host::Token && seen.query.contains("library")) <= 1);
    let cdn: Vec<_> = hub.seen().into_iter().filter(|seen| seen.host == Host::Cdn).collect();
    assert_eq!(cdn.len(), 2);
    assert!(cdn.iter().all(|seen| seen.authorization.is_none()));
    assert!(
        hub.seen()
            .iter()
            .all(|seen| seen.agent.as_deref().is_some_and(|agent| agent.starts_with("tidegate/")))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_heads_of_a_cold_tag_cost_nothing() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[]);
    let mirror = Setup::of(&hub.url()).start();
    for _ in 0..100 {
        let answer = head(&mirror.url("/v2/library/app/manifests/1")).await;
        assert_eq!((answer.status, answer.header("docker-content-digest")), (200, image.digest.as_str()));
        assert_eq!(answer.header("content-length"), image.manifest.len().to_string());
    }
    assert_eq!(hub.count(Seen::is_counted), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_no_permission_for_another_repository() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 50_000)]);
    image::publish(&hub, "library/other", Some("1"), OCI, &[]);
    image::publish(&hub, "library/sharing", Some("1"), OCI, &[image::layer(1, 50_000)]);
    let mirror = Setup::of(&hub.url()).start();
    let layer = |name: &str| mirror.url(&format!("/v2/library/{name}/blobs/{}", image.layers[0]));
    assert_eq!(get(&layer("app")).await.status, 200);
    let foreign = get(&layer("other")).await;
    assert_eq!((foreign.status, foreign.code().as_str()), (404, "BLOB_UNKNOWN"));
    let shared = get(&layer("sharing")).await;
    assert_eq!((shared.status, shared.header("cache-status")), (200, "tidegate; hit; detail=revalidated"));
    assert_eq!(hub.count(Seen::is_blob_transfer), 1);
}
