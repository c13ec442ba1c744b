//! Who waits for whom when more is asked for than may be fetched at once.

use std::net::IpAddr;

use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{self, Answer};
use crate::support::{soon, until};

/// Asks for all of something from an address of loopback.
async fn get_from(address: &str, url: String) -> Answer {
    let address: IpAddr = address.parse().unwrap();
    let client = reqwest::Client::builder().local_address(address).no_proxy().build().unwrap();
    pull::finish(soon(&url, client.get(&url).send()).await.unwrap()).await
}

async fn waits(mirror: &Mirror, number: usize) {
    let line = format!("tidegate_fills_waiting {number}");
    until(&line, async || mirror.metrics().await.lines().any(|found| found == line)).await;
}

/// One client asks for twenty blobs, and another for one, where one may be fetched at a time.
#[tokio::test]
async fn a_client_that_asks_for_much_lets_the_others_pass() {
    let hub = Hub::start().await;
    let blobs: Vec<_> = (0..20u8).map(|seed| hub.blob("library/app", vec![seed; 100_000])).collect();
    let wanted = hub.blob("library/app", &b"what the other one wants"[..]);
    let setup = Setup::of(&hub.url()).with("TIDEGATE_FILL_CONCURRENT", "1");
    let setup = setup.with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
    let mirror = setup.with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true").start();
    let url = |digest: &str| mirror.url(&format!("/v2/library/app/blobs/{digest}"));
    let held = hub.fault(Host::Cdn, "GET", Fault::Hold);
    held.times(1);

    let first = tokio::spawn(get_from("127.0.0.2", url(&blobs[0])));
    hub.arrived(1, Seen::is_blob_transfer).await;
    let greedy: Vec<_> =
        blobs[1..].iter().map(|blob| tokio::spawn(get_from("127.0.0.2", url(blob)))).collect();
    waits(&mirror, greedy.len()).await;
    let modest = tokio::spawn(get_from("127.0.0.3", url(&wanted)));
    waits(&mirror, greedy.len() + 1).await;
    assert!(held.applied() > 0);
    hub.release();

    assert_eq!(modest.await.unwrap().digest(), wanted);
    for (answer, blob) in std::iter::once(first).chain(greedy).zip(&blobs) {
        assert_eq!(answer.await.unwrap().digest(), *blob);
    }
    let asked = hub.seen().into_iter().filter(|seen| seen.host == Host::Registry && seen.method == "GET");
    let mut order: Vec<_> = asked.map(|seen| seen.path).filter(|path| path.contains("/blobs/")).collect();
    // The first is asked for twice if there was no token yet.
    order.dedup();
    let before = order.iter().position(|path| path.ends_with(&wanted)).unwrap();
    // The one that was under way, and one that was in front when the other came.
    assert!(before <= 2, "{before} blobs came before");
    assert_eq!(order.len(), blobs.len() + 1);
}
