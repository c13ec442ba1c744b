//! The read-only list of the OCI distribution spec's conformance suite, with the statuses that it expects.

use reqwest::Method;

use crate::support::hub::Hub;
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{Answer, ask, get, head};

/// The suite sends only these two types with its questions for manifests.
const ACCEPT: (&str, &str) =
    ("accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json");

const NOWHERE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

async fn registry() -> (Hub, Image, Mirror) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/alpine", Some("latest"), OCI, &[image::layer(1, 5000)]);
    image::publish(&hub, "library/alpine", Some("edge"), OCI, &[image::layer(2, 5000)]);
    let mirror = Setup::of(&hub.url()).start();
    (hub, image, mirror)
}

async fn manifest(mirror: &Mirror, method: Method, reference: &str) -> Answer {
    ask(method, &mirror.url(&format!("/v2/library/alpine/manifests/{reference}")), &[ACCEPT]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ping() {
    let (_hub, _, mirror) = registry().await;
    let answer = get(&mirror.url("/v2/")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    assert_eq!(answer.json(), serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_what_follows_the_last() {
    let (_hub, _, mirror) = registry().await;
    let all = get(&mirror.url("/v2/library/alpine/tags/list")).await;
    assert_eq!((all.status, all.json()["tags"].clone()), (200, serde_json::json!(["edge", "latest"])));
    let rest = get(&mirror.url("/v2/library/alpine/tags/list?last=edge")).await;
    assert_eq!((rest.status, rest.json()["tags"].clone()), (200, serde_json::json!(["latest"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_by_tag_and_digest() {
    let (_hub, image, mirror) = registry().await;
    for reference in ["latest", &image.digest] {
        let heads = manifest(&mirror, Method::HEAD, reference).await;
        assert_eq!((heads.status, heads.body.len()), (200, 0));
        assert_eq!(heads.header("docker-content-digest"), image.digest);
        let whole = manifest(&mirror, Method::GET, reference).await;
        assert_eq!((whole.status, whole.digest(), &whole.body), (200, image.digest.clone(), &image.manifest));
        assert_eq!(whole.header("docker-content-digest"), image.digest);
        assert_eq!(heads.header("content-length"), whole.body.len().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs() {
    let (_hub, image, mirror) = registry().await;
    for digest in image.layers.iter().chain([&image.config]) {
        let url = mirror.url(&format!("/v2/library/alpine/blobs/{digest}"));
        let heads = head(&url).await;
        assert_eq!(
            (heads.status, heads.body.len(), heads.header("docker-content-digest")),
            (200, 0, digest.as_str())
        );
        let whole = get(&url).await;
        assert_eq!((whole.status, &whole.digest()), (200, digest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_of_an_unknown_subject() {
    let (_hub, _, mirror) = registry().await;
    let answer = get(&mirror.url(&format!("/v2/library/alpine/referrers/{NOWHERE}"))).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, OCI.index));
    assert_eq!(
        (answer.json()["schemaVersion"].clone(), answer.json()["manifests"].clone()),
        (2.into(), serde_json::json!([]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_of_the_upstream() {
    let (hub, image, mirror) = registry().await;
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI.index, "manifests": [{ "digest": NOWHERE }] });
    hub.referrers("library/alpine", &image.digest, index.to_string());
    let answer = get(&mirror.url(&format!("/v2/library/alpine/referrers/{}", image.digest))).await;
    assert_eq!((answer.status, answer.json()), (200, index));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing() {
    let (_hub, _, mirror) = registry().await;
    for reference in [NOWHERE, "no-such-tag"] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(manifest(&mirror, method, reference).await.status, 404, "{reference}");
        }
    }
    let blob = get(&mirror.url(&format!("/v2/library/alpine/blobs/{NOWHERE}"))).await;
    assert_eq!((blob.status, blob.code().as_str()), (404, "BLOB_UNKNOWN"));
    for place in ["manifests", "blobs"] {
        let bad = get(&mirror.url(&format!("/v2/library/alpine/{place}/sha256:baddigeststring"))).await;
        assert!(matches!(bad.status, 400 | 404), "{place}: {}", bad.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_unsupported() {
    let (hub, image, mirror) = registry().await;
    let in_repository = |rest: &str| mirror.url(&format!("/v2/library/alpine/{rest}"));
    for (method, url) in [
        (Method::PUT, in_repository("manifests/new")),
        (Method::DELETE, in_repository(&format!("manifests/{}", image.digest))),
        (Method::DELETE, in_repository(&format!("blobs/{}", image.config))),
        (Method::POST, in_repository("blobs/uploads/")),
    ] {
        let answer = ask(method.clone(), &url, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "UNSUPPORTED"), "{method} {url}");
    }
    assert_eq!(hub.count(|seen| seen.path.contains("alpine")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_are_none() {
    let (_hub, _, mirror) = registry().await;
    let root = get(&mirror.url("/")).await;
    assert_eq!((root.status, root.header("cache-control"), root.body.len()), (200, "no-cache", 0));
    let moved = get(&mirror.url("/v2")).await;
    assert_eq!((moved.status, moved.header("location")), (301, "/v2/"));
    let nowhere = get(&mirror.url("/v2/library/alpine/nonsense")).await;
    assert_eq!((nowhere.status, nowhere.body.as_ref()), (404, b"404 page not found\n".as_ref()));
    let options = ask(Method::OPTIONS, &mirror.url("/v2/library/alpine/tags/list"), &[]).await;
    assert_eq!((options.status, options.header("allow")), (200, "GET"));
    let smuggled = ask(Method::GET, &mirror.url("/v2/"), &[("content-length", "0")]).await;
    assert_eq!(smuggled.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_and_headers_of_ones_own() {
    let hub = Hub::start().await;
    image::publish(&hub, "library/alpine", Some("latest"), OCI, &[]);
    let setup = Setup::of(&hub.url()).with("REGISTRY_HTTP_PREFIX", "/mirror/");
    let mirror = setup.with("REGISTRY_HTTP_HEADERS_X-Content-Type-Options", "[nosniff]").start();
    assert_eq!(get(&mirror.url("/v2/")).await.status, 404);
    assert_eq!(get(&mirror.url("/mirror/")).await.status, 200);
    let answer = get(&mirror.url("/mirror/v2/library/alpine/manifests/latest")).await;
    assert_eq!((answer.status, answer.header("x-content-type-options")), (200, "nosniff"));
    let page = get(&mirror.url("/mirror/v2/_catalog?n=0")).await;
    assert_eq!((page.status, page.header("x-content-type-options")), (200, "nosniff"));
}
