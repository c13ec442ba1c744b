//! Tags: confirmed, fresh, stale, gone.

use crate::support::hub::{Fault, Host, Hub, PULL_LIMIT, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
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

/// A tag that was pulled and has moved since.
async fn moved() -> (Hub, Image, Image, Mirror) {
    let (hub, first) = tagged().await;
    let mirror = Setup::of(&hub.url()).start();
    assert_eq!(get(&mirror.url(TAG)).await.digest(), first.digest);
    let second = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(2, 1000)]);
    (hub, first, second, mirror)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_whose_manifest_is_limited_leads_to_what_it_pointed_at_before() {
    let (hub, first, second, mirror) = moved().await;
    // As Docker Hub does it: HEADs are free, GETs are not.
    let limit = hub.fault(Host::Registry, "GET /v2/library/app/manifests/", PULL_LIMIT);
    for _ in 0..3 {
        let stale = get(&mirror.url(TAG)).await;
        assert_eq!((stale.status, stale.digest()), (200, first.digest.clone()));
        assert!(
            stale.header("cache-status").ends_with("; detail=stale-limited"),
            "{}",
            stale.header("cache-status")
        );
    }
    // A client that asks for the head first is not sent to what can't be had either.
    assert_eq!(head(&mirror.url(TAG)).await.header("docker-content-digest"), first.digest);
    assert_eq!(limit.applied(), 1, "a limited upstream is not asked again and again");
    hub.stop();
    let down = get(&mirror.url(TAG)).await;
    assert_eq!((down.status, down.digest()), (200, first.digest));
    let (setup, _) = mirror.stop();
    hub.behave();
    hub.restart().await;
    assert_eq!(get(&setup.start().url(TAG)).await.digest(), second.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_followed_at_the_next_request() {
    let (hub, _, second, mirror) = moved().await;
    let moved = get(&mirror.url(TAG)).await;
    assert_eq!((moved.digest(), moved.header("cache-status")), (second.digest, "tidegate; fwd=uri-miss"));
    assert_eq!(hub.count(Seen::is_counted), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_manifests_does_not_make_other_tags_stale() {
    let (hub, _) = tagged().await;
    image::publish(&hub, "library/cold", Some("1"), OCI, &[]);
    let mirror = Setup::of(&hub.url()).start();
    assert_eq!(get(&mirror.url(TAG)).await.status, 200);
    let limit = hub.fault(Host::Registry, "GET /v2/library/cold/manifests/", PULL_LIMIT);
    assert_eq!(get(&mirror.url("/v2/library/cold/manifests/1")).await.status, 503);
    assert_eq!(limit.applied(), 1);
    assert_eq!(get(&mirror.url(TAG)).await.header("cache-status"), "tidegate; hit; detail=revalidated");
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_tags_do_not_keep_the_upstream_from_being_found_again() {
    let (hub, _) = tagged().await;
    image::publish(&hub, "library/app", Some("2"), OCI, &[]);
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_TAGS_FRESH", "1h").start();
    assert_eq!(get(&mirror.url(TAG)).await.status, 200);
    let (setup, _) = mirror.stop();
    // The second tag is old in a mirror without a window.
    let mirror = setup.without("TIDEGATE_TAGS_FRESH").start();
    let second = mirror.url("/v2/library/app/manifests/2");
    assert_eq!(get(&second).await.status, 200);
    hub.stop();
    assert!(get(&second).await.header("cache-status").ends_with("stale-down"));
    hub.restart().await;
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !get(&second).await.header("cache-status").ends_with("revalidated") {
        assert!(std::time::Instant::now() < deadline, "the upstream is back, and nobody notices");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_remembered_and_never_hold_up_a_pull() {
    let (hub, image) = tagged().await;
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI.index, "manifests": [] });
    hub.referrers("library/app", &image.digest, index.to_string());
    let mirror = Setup::of(&hub.url()).start();
    let referrers = |digest: &str| mirror.url(&format!("/v2/library/app/referrers/{digest}"));
    // What the upstream wants to see is known from here on: no question is asked twice for want of a token.
    assert_eq!(get(&mirror.url(TAG)).await.status, 200);
    for outcome in ["tidegate; fwd=bypass", "tidegate; hit"] {
        let answer = get(&referrers(&image.digest)).await;
        assert_eq!((answer.json(), answer.header("cache-status")), (index.clone(), outcome));
    }
    let asked = |hub: &Hub| hub.count(|seen| seen.path.contains("/referrers/"));
    assert_eq!(asked(&hub), 1);
    assert_eq!(get(&mirror.url(TAG)).await.status, 200);
    let hang = hub.fault(Host::Registry, "/referrers/", Fault::Hang);
    let began = std::time::Instant::now();
    let other = get(&referrers(&image.layers[0])).await;
    assert_eq!((other.status, other.json()["manifests"].clone()), (200, serde_json::json!([])));
    assert!(began.elapsed().as_secs() < 5 && hang.applied() == 1, "{:?}", began.elapsed());
    assert_eq!(get(&mirror.url(TAG)).await.header("cache-status"), "tidegate; hit; detail=revalidated");
}
