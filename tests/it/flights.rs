//! One transfer for everybody.

use crate::support::hub::{ACCOUNT, Fault, Host, Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
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

/// A blob that is in one repository and not in another, and the flight that somebody of each wants to board.
struct Contest {
    hub: Hub,
    mirror: Mirror,
    image: Image,
}

impl Contest {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 500_000)]);
        image::publish(&hub, "library/other", Some("1"), OCI, &[]);
        let mirror = Setup::of(&hub.url()).with("REGISTRY_LOG_LEVEL", "debug").start();
        assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
        Self { hub, mirror, image }
    }

    fn layer(&self, repository: &str) -> String {
        self.mirror.url(&format!("/v2/library/{repository}/blobs/{}", self.image.layers[0]))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flight_is_not_joined_without_a_right_to_the_blob() {
    let contest = Contest::new().await;
    let gate = contest.hub.fault(Host::Cdn, "GET", Fault::Gate(100_000));
    let mut entitled = open(&contest.layer("app")).await;
    let first = entitled.chunk().await.unwrap().unwrap();
    let foreign = get(&contest.layer("other")).await;
    assert_eq!((foreign.status, foreign.code().as_str()), (404, "BLOB_UNKNOWN"));
    contest.hub.release();
    let rest = pull::finish(entitled).await;
    let whole = [first, rest.body].concat();
    assert_eq!(tidegate::registry::Digest::sha256(&whole).to_string(), contest.image.layers[0]);
    assert_eq!((gate.applied(), contest.hub.count(Seen::is_blob_transfer)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flight_goes_on_under_the_next_repository_when_the_first_is_turned_away() {
    let contest = Contest::new().await;
    let hold = contest.hub.fault(Host::Registry, "GET /v2/library/other/blobs/", Fault::Hold);
    let (foreign, entitled) = (contest.layer("other"), contest.layer("app"));
    let foreign = tokio::spawn(async move { get(&foreign).await });
    contest.hub.arrived(1, |seen| seen.path.contains("other/blobs")).await;
    let entitled = tokio::spawn(async move { get(&entitled).await });
    contest.mirror.logged("joined a flight");
    contest.hub.release();
    assert_eq!(foreign.await.unwrap().status, 404);
    let entitled = entitled.await.unwrap();
    assert_eq!((entitled.status, entitled.digest()), (200, contest.image.layers[0].clone()));
    assert_eq!(entitled.header("cache-status"), "tidegate; fwd=uri-miss; collapsed");
    assert!(hold.applied() >= 1);
    // And the one that was turned away gains nothing from the blob being held now.
    assert_eq!(get(&contest.layer("other")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_says_of_a_length_condemns_nothing() {
    let contest = Contest::new().await;
    assert_eq!(get(&contest.layer("app")).await.status, 200);
    contest.hub.blob("library/liar", image::layer(1, 500_000));
    let claim = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI.manifest,
        "config": { "mediaType": OCI.config, "digest": contest.image.layers[0], "size": 1 },
        "layers": [],
    });
    contest.hub.manifest("library/liar", Some("1"), OCI.manifest, claim.to_string());
    let (setup, _) = contest.mirror.stop();
    // Every file looks as if another program had put it there.
    std::fs::remove_dir_all(setup.root().join("tidegate/index")).unwrap();
    let mirror = setup.start();
    assert_eq!(get(&mirror.url("/v2/library/liar/manifests/1")).await.status, 200);
    contest.hub.forget();
    let blob = |name: &str| mirror.url(&format!("/v2/library/{name}/blobs/{}", contest.image.layers[0]));
    for name in ["liar", "app"] {
        assert_eq!(get(&blob(name)).await.digest(), contest.image.layers[0], "{name}");
    }
    assert_eq!(contest.hub.count(Seen::is_blob_transfer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_subject_nor_a_foreign_layer_is_a_right_to_what_it_names() {
    let contest = Contest::new().await;
    assert_eq!(get(&contest.layer("app")).await.status, 200);
    let (secret, layer) = (&contest.image.digest, &contest.image.layers[0]);
    let claim = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI.manifest,
        "subject": { "mediaType": OCI.manifest, "digest": secret, "size": contest.image.manifest.len() },
        "layers": [{ "mediaType": OCI.layer, "digest": layer, "size": 1, "urls": ["https://elsewhere.test/x"] }],
    });
    contest.hub.manifest("library/other", Some("claim"), OCI.manifest, claim.to_string());
    assert_eq!(get(&contest.mirror.url("/v2/library/other/manifests/claim")).await.status, 200);
    let manifest = contest.mirror.url(&format!("/v2/library/other/manifests/{secret}"));
    assert_eq!(get(&manifest).await.status, 404);
    assert_eq!(get(&contest.layer("other")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_one_account_are_no_right_of_another() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "corp/app", Some("1"), OCI, &[image::layer(1, 50_000)]);
    hub.make_private("corp/app");
    let setup = Setup::of(&hub.url()).with("REGISTRY_PROXY_USERNAME", ACCOUNT.0);
    let mirror = setup.with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    let paths = |mirror: &Mirror| {
        let of = |rest: &str| mirror.url(&format!("/v2/corp/app/{rest}"));
        [
            of("manifests/1"),
            of(&format!("manifests/{}", image.digest)),
            of(&format!("blobs/{}", image.layers[0])),
        ]
    };
    for url in paths(&mirror) {
        assert_eq!(get(&url).await.status, 200);
    }
    let (setup, _) = mirror.stop();
    let account = setup.clone();
    let anonymous = setup.without("REGISTRY_PROXY_USERNAME").without("REGISTRY_PROXY_PASSWORD").start();
    for url in paths(&anonymous) {
        assert_eq!(get(&url).await.status, 404, "{url}");
    }
    anonymous.stop();
    // The account's own rows are still there.
    hub.forget();
    for url in paths(&account.start()) {
        assert_eq!(get(&url).await.status, 200, "{url}");
    }
    assert_eq!(hub.count(Seen::is_blob_transfer) + hub.count(Seen::is_counted), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_blob_in_flight_costs_no_question() {
    let contest = Contest::new().await;
    contest.hub.fault(Host::Cdn, "GET", Fault::Gate(100_000));
    let flying = open(&contest.layer("app")).await;
    contest.hub.forget();
    let heads = head(&contest.layer("app")).await;
    let length = image::layer(1, 500_000).len().to_string();
    assert_eq!((heads.status, heads.header("content-length")), (200, length.as_str()));
    assert_eq!(contest.hub.seen().len(), 0);
    contest.hub.release();
    assert!(pull::finish(flying).await.whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_blob_in_flight_costs_no_question_without_a_manifest_either() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 500_000)]);
    let mirror = Setup::of(&hub.url()).start();
    let gate = hub.fault(Host::Cdn, "GET", Fault::Gate(100_000));
    let layer = mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]));
    let flying = open(&layer).await;
    hub.forget();
    assert_eq!(head(&layer).await.status, 200);
    assert_eq!((hub.seen().len(), gate.applied()), (0, 1));
    // Another repository is asked for at the upstream, which does not have it there.
    image::publish(&hub, "library/other", Some("1"), OCI, &[]);
    assert_eq!(head(&layer.replace("library/app", "library/other")).await.status, 404);
    hub.release();
    assert!(pull::finish(flying).await.whole);
}
