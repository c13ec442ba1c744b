//! Upstreams that answer oddly.

use serde_json::json;
use tidegate::registry::Digest;

use super::Cold;
use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::{Setup, files};
use crate::support::pull::{get, head};

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_longer_than_its_manifest_says_is_cut_and_not_kept() {
    let cold = Cold::new().await;
    assert_eq!(get(&cold.url("manifests/1")).await.digest(), cold.image.digest);
    let longer = cold.hub.fault(Host::Cdn, "GET", Fault::Longer(10));
    let answer = get(&cold.layer()).await;
    assert!(answer.status != 200 || !answer.whole, "{}", answer.status);
    assert!(longer.applied() >= 1);
    cold.has_no_layer();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_set_aside_and_never_in_the_tree() {
    let cold = Cold::new().await;
    let wrong = cold.hub.fault(Host::Cdn, "GET", Fault::Wrong);
    let answer = get(&cold.layer()).await;
    assert!(answer.status != 200 || !answer.whole, "{}", answer.status);
    assert!(wrong.applied() >= 1);
    cold.has_no_layer();
    cold.mirror.logged("they are set aside");
    let aside = files(&cold.mirror.setup.root().join("tidegate/quarantine"));
    let name = aside[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(aside.len() == 1 && name.starts_with(&cold.image.layers[0][7..]), "{aside:?}");
    let bytes = std::fs::read(&aside[0]).unwrap();
    assert!(bytes.len() >= 300_000 && Digest::sha256(&bytes).to_string() != cold.image.layers[0]);
    assert!(files(&cold.mirror.setup.root().join("tidegate/partial")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_in_chunks_is_taken_and_one_without_a_last_chunk_goes_on() {
    let cold = Cold::new().await;
    assert_eq!(get(&cold.url("manifests/1")).await.digest(), cold.image.digest);
    let cut = cold.hub.fault(Host::Cdn, "GET", Fault::Chunks(Some(100_000)));
    cut.times(1);
    let chunks = cold.hub.fault(Host::Cdn, "GET", Fault::Chunks(None));
    cold.is_pulled().await;
    assert!(cut.applied() == 1 && chunks.applied() >= 1);
    assert!(cold.hub.seen().iter().any(|seen| seen.range.as_deref() == Some("bytes=100000-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_body_is_no_blob_and_no_manifest() {
    let cold = Cold::new().await;
    let encoded = Fault::Answer(200, "content-encoding: gzip\r\n", "\u{1f}\u{8b}");
    let orders = [Host::Registry, Host::Cdn].map(|host| cold.hub.fault(host, "GET", encoded.clone()));
    assert_eq!(get(&cold.url("manifests/1")).await.status, 503);
    cold.hub.behave();
    let order = cold.hub.fault(Host::Cdn, "GET", encoded);
    assert_eq!(get(&cold.layer()).await.status, 429);
    assert!(orders[0].applied() >= 1 && order.applied() >= 1);
    cold.has_no_layer();
    cold.hub.behave();
    cold.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_without_an_end_and_heads_without_one_are_given_up() {
    let cold = Cold::new().await;
    let body = leaked("x".repeat(5_000_000));
    let heads = leaked(format!("x-long: {}\r\n", "x".repeat(1_000_000)));
    let many = leaked((0..10_000).map(|n| format!("x-{n}: x\r\n")).collect());
    for fault in [Fault::Answer(500, "", body), Fault::Answer(200, heads, ""), Fault::Answer(200, many, "")] {
        let order = cold.hub.fault(Host::Registry, "/v2/library/", fault);
        let answer = get(&cold.url("manifests/1")).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"));
        assert!(order.applied() >= 1 && cold.mirror.anonymous_memory() < 100_000_000);
        cold.hub.behave();
    }
    cold.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_no_manifests_do_not_replace_what_a_tag_led_to() {
    let cold = Cold::new().await;
    cold.is_pulled().await;
    let descriptor = json!({ "mediaType": OCI.config, "digest": cold.image.config, "size": 2 });
    let both = json!({ "schemaVersion": 2, "config": descriptor, "layers": [], "manifests": [] });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI.index, "manifests": [] });
    let documents = [
        (OCI.manifest, String::new()),
        (OCI.manifest, "<html>".to_owned()),
        (OCI.manifest, "\u{0}\u{1}\u{2}".to_owned()),
        (OCI.manifest, format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000))),
        (OCI.manifest, format!("{{\"layers\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000))),
        (OCI.manifest, both.to_string()),
        (OCI.manifest, index.to_string()),
    ];
    for (number, (media_type, document)) in documents.into_iter().enumerate() {
        let digest = cold.hub.manifest("library/app", Some("1"), media_type, document);
        let answer = get(&cold.url("manifests/1")).await;
        assert_eq!((answer.status, answer.digest()), (200, cold.image.digest.clone()), "{number}");
        let unheld = get(&cold.url(&format!("manifests/{digest}"))).await;
        assert_eq!((unheld.status, unheld.code().as_str()), (503, "UNAVAILABLE"), "{number}");
    }
    assert!(cold.hub.count(|seen| seen.is_counted()) >= 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_does_not_hash_to_its_header_is_not_taken() {
    let cold = Cold::new().await;
    let headers = leaked(format!("content-type: {}\r\n", OCI.manifest));
    let other = Fault::Answer(200, headers, "{\"schemaVersion\":2,\"layers\":[]}");
    let order = cold.hub.fault(Host::Registry, "GET /v2/library/app/manifests/", other);
    let answer = get(&cold.url("manifests/1")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"));
    assert!(order.applied() >= 1);
    cold.hub.behave();
    cold.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_passes_is_not_seen() {
    for fault in [Fault::Answer(500, "", ""), Fault::Answer(502, "", ""), Fault::Close] {
        let cold = Cold::new().await;
        // A warm connection, so that the close is that of one that lay idle.
        assert_eq!(head(&cold.url("manifests/1")).await.status, 200);
        let orders: Vec<_> = [Host::Registry, Host::Cdn, Host::Token]
            .into_iter()
            .map(|host| cold.hub.fault(host, "GET", fault.clone()))
            .collect();
        orders.iter().for_each(|order| order.times(1));
        cold.is_pulled().await;
        assert!(orders[0].applied() == 1 && orders[1].applied() == 1, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_fails_leaves_what_is_held() {
    for fault in [Fault::Answer(500, "", ""), Fault::Close, Fault::Answer(200, "", "{\"expires_in\":-1}")] {
        let cold = Cold::new().await;
        cold.is_pulled().await;
        cold.hub.revoke_tokens();
        let order = cold.hub.fault(Host::Token, "", fault.clone());
        cold.is_pulled().await;
        image::publish(&cold.hub, "library/other", Some("1"), OCI, &[]);
        let unheld = get(&cold.mirror.url("/v2/library/other/manifests/1")).await;
        assert_eq!((unheld.status, unheld.code().as_str()), (503, "UNAVAILABLE"), "{fault:?}");
        assert!(!unheld.header("retry-after").is_empty() && order.applied() >= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_expired_in_mid_blob_is_asked_for_anew() {
    let cold = Cold::new().await;
    let cut = cold.hub.fault(Host::Cdn, "GET", Fault::Cut(100_000));
    cut.times(1);
    let expired = cold.hub.fault(Host::Cdn, "GET", Fault::Answer(403, "", "<Error>expired</Error>"));
    expired.times(1);
    let answer = get(&cold.layer()).await;
    assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, &cold.image.layers[0]));
    assert_eq!((cut.applied(), expired.applied()), (1, 1));
    let asked = |seen: &Seen| seen.host == Host::Registry && seen.path.contains("/blobs/");
    assert!(cold.hub.count(asked) >= 3, "each try begins at the registry");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_off_at_one_place_for_ever_is_given_up() {
    let cold = Cold::new().await;
    let order = cold.hub.fault(Host::Cdn, "GET", Fault::Cut(0));
    let answer = get(&cold.layer()).await;
    assert!(answer.status == 429 || !answer.whole, "{}", answer.status);
    assert!(order.applied() >= 3);
    cold.has_no_layer();
    cold.hub.behave();
    cold.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drip_below_the_least_rate_is_left_for_another_transfer() {
    let cold = Cold::new().await;
    // The least is 16 KiB in the time of a stall: here as in half a minute, a thirtieth of it.
    let (setup, _) = cold.mirror.stop();
    let cold = Cold { mirror: setup.with("TIDEGATE_FILL_STALL", "1s").start(), ..cold };
    let drip = cold.hub.fault(Host::Cdn, "GET", Fault::Slow(4_000));
    drip.times(1);
    cold.is_pulled().await;
    assert_eq!(drip.applied(), 1);
    // Layer and config, and the one that dripped.
    assert_eq!(cold.hub.count(Seen::is_blob_transfer), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_transfer_above_the_least_rate_is_borne() {
    let cold = Cold::new().await;
    let (setup, _) = cold.mirror.stop();
    let cold = Cold { mirror: setup.with("TIDEGATE_FILL_STALL", "1s").start(), ..cold };
    assert_eq!(get(&cold.url("manifests/1")).await.digest(), cold.image.digest);
    cold.hub.forget();
    let slow = cold.hub.fault(Host::Cdn, "GET", Fault::Slow(80_000));
    let answer = get(&cold.layer()).await;
    assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, &cold.image.layers[0]));
    assert_eq!((slow.applied(), cold.hub.count(Seen::is_blob_transfer)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_ends_with_a_manifest_that_names_it() {
    let cold = Cold::new().await;
    cold.hub.hide("library/app", true);
    let manifest = cold.url(&format!("manifests/{}", cold.image.digest));
    assert_eq!((get(&manifest).await.status, get(&cold.layer()).await.status), (404, 404));
    cold.hub.hide("library/app", false);
    // The tag was not asked for, so nothing is remembered of it.
    cold.is_pulled().await;
    assert_eq!(get(&manifest).await.digest(), cold.image.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_absent_names_takes_little() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[]);
    let mirror = Setup::of(&hub.url()).start();
    let client = crate::support::pull::client();
    let mut questions = tokio::task::JoinSet::new();
    for worker in 0..20 {
        let (client, address) = (client.clone(), mirror.address.clone());
        questions.spawn(async move {
            for number in 0..20 {
                let name = format!("absent/name-{worker}-{number}");
                let answer =
                    client.get(format!("http://{address}/v2/{name}/manifests/1")).send().await.unwrap();
                assert_eq!(answer.status(), 404);
            }
        });
    }
    while let Some(done) = questions.join_next().await {
        done.unwrap();
    }
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    assert!(mirror.anonymous_memory() < 100_000_000 && mirror.files().len() < 20);
}
