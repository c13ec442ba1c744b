//! Tags: confirmed, fresh, stale, gone.

use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::Setup;
use crate::support::pull::{get, head};

async fn tagged() -> (Hub, Image) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1000)]);
    (hub, image)
}

const TAG: &str = "/v2/library/app/manifests/1";

fn questions(hub: &Hub) -> usize {
    hub.count(|seen| seen.host == Host::Registry && seen.path.contains("/manifests/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_tag_costs_one_head() {
    let (hub, image) = tagged().await;
    let mirror = Setup::of(&hub.url()).start();
    get(&mirror.url(TAG)).await;
    hub.forget();
    let again = get(&mirror.url(TAG)).await;
    assert_eq!(
        (again.digest(), again.header("cache-status")),
        (image.digest, "tidegate; hit; detail=revalidated")
    );
    assert_eq!((questions(&hub), hub.count(Seen::is_counted)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_tag_costs_nothing() {
    let (hub, image) = tagged().await;
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_TAGS_FRESH", "1h").start();
    get(&mirror.url(TAG)).await;
    hub.forget();
    let again = get(&mirror.url(TAG)).await;
    assert_eq!(again.digest(), image.digest);
    assert!(
        again.header("cache-status").starts_with("tidegate; hit; ttl=3"),
        "{}",
        again.header("cache-status")
    );
    assert_eq!(questions(&hub), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_gone_is_served_unless_that_is_refused() {
    let (hub, image) = tagged().await;
    let mirror = Setup::of(&hub.url()).start();
    get(&mirror.url(TAG)).await;
    hub.remove_tag("library/app", "1");
    let gone = get(&mirror.url(TAG)).await;
    assert_eq!((gone.status, gone.digest()), (200, image.digest));
    assert!(gone.header("cache-status").ends_with("; detail=stale-gone"), "{}", gone.header("cache-status"));
    let (setup, _) = mirror.stop();
    let strict = setup.with("TIDEGATE_TAGS_GONE", "refuse").start();
    let refused = get(&strict.url(TAG)).await;
    assert_eq!((refused.status, refused.code().as_str()), (404, "MANIFEST_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_tag_has_an_age_if_one_is_set() {
    let (hub, _) = tagged().await;
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_TAGS_STALEFOR", "1ms").start();
    get(&mirror.url(TAG)).await;
    hub.stop();
    let refused = get(&mirror.url(TAG)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_heads_name_no_digest_is_asked_by_get() {
    for fault in [Fault::NoDigest, Fault::Answer(405, "", "")] {
        let (hub, image) = tagged().await;
        let mirror = Setup::of(&hub.url()).start();
        let order = hub.fault(Host::Registry, "HEAD /v2/library/app/manifests/", fault);
        for _ in 0..2 {
            assert_eq!(get(&mirror.url(TAG)).await.digest(), image.digest);
            assert_eq!(head(&mirror.url(TAG)).await.header("docker-content-digest"), image.digest);
        }
        assert!(order.applied() >= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_is_remembered_for_seconds() {
    let (hub, _) = tagged().await;
    let mirror = Setup::of(&hub.url()).start();
    let missing = mirror.url("/v2/library/app/manifests/none");
    assert_eq!(get(&missing).await.header("cache-status"), "tidegate; fwd=uri-miss");
    hub.forget();
    for _ in 0..10 {
        let answer = get(&missing).await;
        assert_eq!((answer.status, answer.header("cache-status")), (404, "tidegate; hit; detail=negative"));
    }
    assert_eq!(questions(&hub), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_ask_once() {
    let (hub, image) = tagged().await;
    let mirror = Setup::of(&hub.url()).start();
    let gate = hub.fault(Host::Registry, "GET /v2/library/app/manifests/", Fault::Gate(0));
    let pulls: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn({
                let url = mirror.url(TAG);
                async move { get(&url).await }
            })
        })
        .collect();
    hub.arrived(1, Seen::is_counted).await;
    hub.release();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().digest(), image.digest);
    }
    assert_eq!((gate.applied(), hub.count(Seen::is_counted)), (1, 1));
}
