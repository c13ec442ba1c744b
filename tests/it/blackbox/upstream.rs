//! What the upstream does to us.

use super::{by_digest, layer, one_image, tag};
use crate::support::hub::{Fault, Host, PULL_LIMIT};
use crate::support::image::{self, OCI};
use crate::support::pull::{get, head, open};
use crate::support::{hub, mirror, pull};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn check_01_start_with_upstream_down() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    for url in [tag(&mirror), layer(&mirror, &image)] {
        assert_eq!(get(&url).await.status, 200);
    }
    hub.stop();
    let (setup, status) = mirror.stop();
    assert!(status.success());
    let mirror = setup.start();
    let known = get(&tag(&mirror)).await;
    assert_eq!((known.status, known.digest()), (200, image.digest.clone()));
    assert!(
        known.header("cache-status").ends_with("; detail=stale-down"),
        "{}",
        known.header("cache-status")
    );
    assert_eq!(get(&by_digest(&mirror, &image)).await.header("cache-status"), "tidegate; hit");
    let held = get(&layer(&mirror, &image)).await;
    assert_eq!((held.header("cache-status"), held.digest()), ("tidegate; hit", image.layers[0].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_02_upstream_429_on_a_tag() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    get(&tag(&mirror)).await;
    let limit = hub.fault(Host::Registry, "/manifests/", PULL_LIMIT);
    let known = get(&tag(&mirror)).await;
    assert_eq!((known.status, known.digest()), (200, image.digest));
    assert!(known.header("cache-status").ends_with("; detail=stale-limited"));
    let unknown = get(&mirror.url("/v2/library/app/manifests/2")).await;
    assert_eq!(
        (unknown.status, unknown.code().as_str(), unknown.header("retry-after")),
        (503, "UNAVAILABLE", "77")
    );
    assert!(limit.applied() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_03_upstream_404_on_a_digest() {
    let (_hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let missing = mirror.url(&format!("/v2/library/app/manifests/{}", image.layers[0]));
    for outcome in ["tidegate; fwd=uri-miss", "tidegate; hit; detail=negative"] {
        let answer = get(&missing).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "MANIFEST_UNKNOWN"));
        assert_eq!(answer.header("cache-status"), outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_04_tag_moves_between_head_and_get() {
    let (hub, first, setup) = one_image().await;
    let mirror = setup.start();
    assert_eq!(head(&tag(&mirror)).await.header("docker-content-digest"), first.digest);
    // The mirror's own HEAD has named the first digest; its GET is held until the tag has moved.
    let gate = hub.fault(Host::Registry, "GET /v2/library/app/manifests/", Fault::Gate(0));
    let url = tag(&mirror);
    let pulled = tokio::spawn(async move { get(&url).await });
    hub.arrived(1, hub::Seen::is_counted).await;
    let second = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(2, 1000)]);
    hub.release();
    let pulled = pulled.await.unwrap();
    assert_eq!(
        (pulled.digest(), pulled.header("docker-content-digest")),
        (first.digest.clone(), first.digest.as_str())
    );
    assert_eq!(gate.applied(), 1);
    let moved = get(&tag(&mirror)).await;
    assert_eq!(
        (moved.digest(), moved.header("docker-content-digest")),
        (second.digest.clone(), second.digest.as_str())
    );
    assert_eq!(get(&by_digest(&mirror, &first)).await.digest(), first.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_05_wrong_bytes_for_a_digest() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let manifest = hub.fault(Host::Registry, "GET /v2/library/app/manifests/", Fault::Wrong);
    let blob = hub.fault(Host::Cdn, "GET", Fault::Wrong);
    for url in [tag(&mirror), by_digest(&mirror, &image)] {
        let answer = get(&url).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"));
    }
    let mut stream = tokio::net::TcpStream::connect(&mirror.address).await.unwrap();
    let request = format!("GET /v2/library/app/blobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", image.layers[0]);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let ended = pull_to_end(&mut stream, &mut bytes).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(bytes.len() < 1_000_000);
    assert!(manifest.applied() >= 1 && blob.applied() >= 1);
    assert_eq!(mirror.files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        mirror::files(&mirror.setup.root().join("tidegate/partial")),
        Vec::<std::path::PathBuf>::new()
    );
}

async fn pull_to_end(stream: &mut tokio::net::TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    crate::support::soon("the end of a body", stream.read_to_end(bytes)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_06_upstream_cut_in_mid_blob() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let gate = hub.fault(Host::Cdn, "GET", Fault::Gate(300_000));
    let mut cut = open(&layer(&mirror, &image)).await;
    assert_eq!(cut.status(), 200);
    let first = cut.chunk().await.unwrap().unwrap();
    hub.stop();
    let rest = pull::finish(cut).await;
    assert!(!rest.whole && gate.applied() == 1);
    let got = [first.as_ref(), rest.body.as_ref()].concat();
    assert!(image::layer(1, 1_000_000).starts_with(&got), "something else than the blob's bytes was sent");
    hub.behave();
    hub.restart().await;
    let next = get(&layer(&mirror, &image)).await;
    assert!(next.whole);
    assert_eq!(next.digest(), image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_06_a_cut_transfer_is_resumed_by_range() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let cut = hub.fault(Host::Cdn, "GET", Fault::Cut(300_000));
    let pulled = get(&layer(&mirror, &image)).await;
    assert!(pulled.whole);
    assert_eq!(pulled.digest(), image.layers[0]);
    assert!(cut.applied() >= 3);
    assert!(hub.seen().iter().any(|seen| seen.range.as_deref() == Some("bytes=300000-")));
    assert_eq!(hub.bytes_sent(Host::Cdn), image::layer(1, 1_000_000).len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_06_an_upstream_without_ranges_is_read_again_from_the_front() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    hub.fault(Host::Cdn, "GET", Fault::Cut(300_000)).times(1);
    let whole = hub.fault(Host::Cdn, "GET", Fault::NoRange);
    let pulled = get(&layer(&mirror, &image)).await;
    assert_eq!((pulled.whole, pulled.digest(), whole.applied()), (true, image.layers[0].clone(), 1));
}
