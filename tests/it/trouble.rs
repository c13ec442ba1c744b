//! An upstream in trouble: what clients get for what is not held, and for what is.

use std::time::Instant;

use crate::support::hub::{ABUSE_LIMIT, ACCOUNT, Fault, Host, Hub, PULL_LIMIT, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{get, head};

/// The longest that a client may wait for a word, in seconds.
const WORD: u64 = 10;

struct Scene {
    hub: Hub,
    held: Image,
    missing: Image,
    mirror: Mirror,
}

/// One image is held, another is not.
async fn scene() -> Scene {
    let hub = Hub::start().await;
    let held = image::publish(&hub, "library/held", Some("1"), OCI, &[image::layer(1, 50_000)]);
    let missing = image::publish(&hub, "library/missing", Some("1"), OCI, &[image::layer(2, 50_000)]);
    let setup = Setup::of(&hub.url()).with("REGISTRY_LOG_LEVEL", "debug");
    let mirror =
        setup.with("REGISTRY_PROXY_USERNAME", ACCOUNT.0).with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    for url in [
        mirror.url("/v2/library/held/manifests/1"),
        mirror.url(&format!("/v2/library/held/blobs/{}", held.layers[0])),
    ] {
        assert_eq!(get(&url).await.status, 200);
    }
    Scene { hub, held, missing, mirror }
}

/// What is not held: status and code of a tag, of a digest, of a blob; and why the held tag is stale.
struct Expected {
    manifest: (u16, &'static str),
    blob: (u16, &'static str),
    held: &'static str,
}

const ABSENT: Expected =
    Expected { manifest: (404, "MANIFEST_UNKNOWN"), blob: (404, "BLOB_UNKNOWN"), held: "stale-gone" };
const DENIED: Expected = Expected { held: "stale-refused", ..ABSENT };
const DOWN: Expected =
    Expected { manifest: (503, "UNAVAILABLE"), blob: (429, "TOOMANYREQUESTS"), held: "stale-down" };
const LIMITED: Expected = Expected { held: "stale-limited", ..DOWN };
const SLOW: Expected = Expected { held: "stale-slow", ..DOWN };

impl Scene {
    async fn check(&self, expected: &Expected) {
        let began = Instant::now();
        let tag = get(&self.mirror.url("/v2/library/held/manifests/1")).await;
        assert_eq!((tag.status, tag.digest()), (200, self.held.digest.clone()));
        let status = tag.header("cache-status").to_owned();
        assert!(status.ends_with(&format!("; detail={}", expected.held)), "{status}");
        assert!(began.elapsed().as_secs() < WORD);
        let layer = get(&self.mirror.url(&format!("/v2/library/held/blobs/{}", self.held.layers[0]))).await;
        assert_eq!((layer.status, layer.digest()), (200, self.held.layers[0].clone()));
        for reference in ["1", &self.missing.digest] {
            self.refused(&format!("manifests/{reference}"), expected.manifest).await;
        }
        self.refused(&format!("blobs/{}", self.missing.layers[0]), expected.blob).await;
        self.nothing_wrong_is_stored();
        self.no_secret_in_the_log();
    }

    async fn refused(&self, rest: &str, expected: (u16, &str)) {
        let began = Instant::now();
        let answer = get(&self.mirror.url(&format!("/v2/library/missing/{rest}"))).await;
        assert_eq!((answer.status, answer.code().as_str()), expected, "{rest}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("www-authenticate"), "");
        assert_eq!(answer.header("retry-after").is_empty(), expected.0 == 404, "{rest}");
        assert!(began.elapsed().as_secs() < WORD, "{rest}: {:?}", began.elapsed());
    }

    /// What is held and its links, which may come after the answer; nothing else.
    fn nothing_wrong_is_stored(&self) {
        let held = [&self.held.digest, &self.held.layers[0]].map(|digest| digest.replace("sha256:", ""));
        for file in self.mirror.files() {
            let path = file.display().to_string();
            let hex = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let known =
                path.split('/').filter(|name| hex(name)).all(|name| held.iter().any(|hex| hex == name));
            assert!(known && !path.contains("library/missing"), "{path} was stored");
        }
    }

    fn no_secret_in_the_log(&self) {
        let all = [self.mirror.log(), self.mirror.access_log()].concat().join("\n");
        for secret in [ACCOUNT.1, "scripted-token-", "secret-signature", "Ym90"] {
            assert!(!all.contains(secret), "{secret} in\n{all}");
        }
    }
}

const NOT_FOUND: &str = r#"{"errors":[{"code":"NOT_FOUND"}]}"#;
const JSON: &str = "content-type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down() {
    let scene = scene().await;
    scene.hub.stop();
    scene.check(&DOWN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs() {
    let scene = scene().await;
    let hang = scene.hub.fault(Host::Registry, "/v2/", Fault::Hang);
    scene.check(&SLOW).await;
    assert!(hang.applied() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_answers_garbage() {
    let scene = scene().await;
    let garbage =
        scene.hub.fault(Host::Registry, "GET", Fault::Answer(200, "", "<html>Welcome to the hotel</html>"));
    let heads = scene.hub.fault(
        Host::Registry,
        "HEAD",
        Fault::Answer(200, "docker-content-digest: nonsense\r\n", ""),
    );
    scene.check(&DOWN).await;
    assert!(garbage.applied() >= 1 && heads.applied() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_401_403_or_404() {
    for (status, expected) in [(401, DENIED), (403, DENIED), (404, ABSENT)] {
        let scene = scene().await;
        let order = scene.hub.fault(Host::Registry, "/v2/library/", Fault::Answer(status, JSON, NOT_FOUND));
        scene.check(&expected).await;
        assert!(order.applied() >= 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_limits() {
    for limit in [PULL_LIMIT, ABUSE_LIMIT] {
        let scene = scene().await;
        let order = scene.hub.fault(Host::Registry, "/v2/library/", limit);
        scene.check(&LIMITED).await;
        assert!(order.applied() >= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails() {
    let scene = scene().await;
    let order = scene.hub.fault(Host::Registry, "/v2/library/", Fault::Answer(500, "", "oops"));
    scene.check(&DOWN).await;
    assert!(order.applied() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_closes_without_a_word() {
    let scene = scene().await;
    let order = scene.hub.fault(Host::Registry, "/v2/library/", Fault::Close);
    scene.check(&DOWN).await;
    assert!(order.applied() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cdn_that_refuses_or_is_cut() {
    let scene = scene().await;
    let refused = scene.hub.fault(Host::Cdn, "GET", Fault::Answer(403, "", "<Error>expired</Error>"));
    scene.refused(&format!("blobs/{}", scene.missing.layers[0]), DOWN.blob).await;
    assert!(refused.applied() >= 1);
    scene.hub.behave();
    let cut = scene.hub.fault(Host::Cdn, "GET", Fault::Cut(20_000));
    let healed =
        get(&scene.mirror.url(&format!("/v2/library/missing/blobs/{}", scene.missing.layers[0]))).await;
    assert_eq!((healed.whole, healed.digest()), (true, scene.missing.layers[0].clone()));
    assert!(cut.applied() >= 2);
    scene.no_secret_in_the_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_goes_on_anonymously() {
    let scene = scene().await;
    scene.hub.refuse_login(true);
    scene.hub.revoke_tokens();
    scene.hub.make_private("library/held");
    let public = get(&scene.mirror.url("/v2/library/missing/manifests/1")).await;
    assert_eq!((public.status, public.digest()), (200, scene.missing.digest.clone()));
    scene.mirror.logged("the upstream refused the account of this mirror");
    let private = get(&scene.mirror.url("/v2/library/held/manifests/1")).await;
    assert!(
        private.header("cache-status").ends_with("detail=stale-refused"),
        "{}",
        private.header("cache-status")
    );
    let unheld = get(&scene.mirror.url("/v2/library/held/manifests/2")).await;
    assert_eq!((unheld.status, unheld.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(unheld.json()["errors"][0]["detail"]["reason"].as_str().unwrap().contains("refused the account"));
    scene.no_secret_in_the_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_pulled_as_the_account() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "corp/app", Some("1"), OCI, &[]);
    hub.make_private("corp/app");
    let anonymous = Setup::of(&hub.url()).start();
    assert_eq!(get(&anonymous.url("/v2/corp/app/manifests/1")).await.code(), "MANIFEST_UNKNOWN");
    let setup = Setup::of(&hub.url()).with("REGISTRY_PROXY_USERNAME", ACCOUNT.0);
    let known = setup.with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    assert_eq!(get(&known.url("/v2/corp/app/manifests/1")).await.digest(), image.digest);
    known.logged("the private images of this account are open to everybody");
    let basic = hub.count(|seen| {
        seen.host != Host::Token
            && seen.authorization.as_deref().is_some_and(|given| given.starts_with("Basic"))
    });
    assert_eq!(basic, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_withdrawn_is_replaced_once() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[]);
    let mirror = Setup::of(&hub.url()).start();
    assert_eq!(head(&mirror.url("/v2/library/app/manifests/1")).await.status, 200);
    hub.revoke_tokens();
    hub.forget();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    assert_eq!(hub.count(|seen| seen.host == Host::Token), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_token_server_gets_nothing() {
    let hub = Hub::start().await;
    image::publish(&hub, "library/app", Some("1"), OCI, &[]);
    let evil = Hub::start().await;
    let challenge = format!(
        "www-authenticate: Bearer realm=\"http://localhost:{}/token\"\r\n",
        evil.addresses()[1].port()
    );
    hub.fault(Host::Registry, "/v2/", Fault::Answer(401, Box::leak(challenge.into_boxed_str()), ""));
    let setup = Setup::of(&hub.url()).with("REGISTRY_PROXY_USERNAME", ACCOUNT.0);
    let mirror = setup.with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.status, 503);
    assert_eq!(evil.seen().len(), 0);
    mirror.logged("tidegate.proxy.realms");
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_may_not_be_asked_for() {
    let hub = Hub::start().await;
    for name in ["library/app", "corp/app", "corp/secret"] {
        image::publish(&hub, name, Some("1"), OCI, &[]);
    }
    let setup = Setup::of(&hub.url()).with("TIDEGATE_PROXY_ALLOW", "[library/*, corp/*]");
    let mirror = setup.with("TIDEGATE_PROXY_DENY", "corp/secret").start();
    for (name, status) in [("library/app", 200), ("corp/app", 200), ("corp/secret", 404), ("other/app", 404)]
    {
        assert_eq!(get(&mirror.url(&format!("/v2/{name}/manifests/1"))).await.status, status, "{name}");
    }
    assert_eq!(hub.count(|seen| seen.path.contains("secret") || seen.path.contains("other")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_upstream_costs_known_tags_little() {
    let hub = Hub::start().await;
    for number in 0..5 {
        image::publish(&hub, "library/app", Some(&number.to_string()), OCI, &[image::layer(number, 100)]);
    }
    let mirror = Setup::of(&hub.url()).start();
    let url = |number: usize| mirror.url(&format!("/v2/library/app/manifests/{}", number % 5));
    for number in 0..5 {
        assert_eq!(get(&url(number)).await.status, 200);
    }
    let hang = hub.fault(Host::Registry, "/v2/", Fault::Hang);
    let mut waits = Vec::new();
    for number in 0..100 {
        let began = Instant::now();
        assert_eq!(get(&url(number)).await.status, 200);
        waits.push(began.elapsed());
    }
    // Promises about time, with room for a busy machine: the first pays the whole wait, the probes of the gate too.
    assert!(waits.iter().all(|wait| wait.as_millis() <= 2500), "{waits:?}");
    assert!(waits[1..].iter().filter(|wait| wait.as_millis() > 100).count() <= 1, "{waits:?}");
    assert!(hang.applied() >= 1 && hub.count(Seen::is_counted) == 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_refuses_one_repository_does_not_refuse_the_account() {
    for status in [401, 403] {
        let scene = scene().await;
        let (scope, order) = ("library%2Fsecret", Fault::Answer(status, JSON, "{}"));
        let refused = scene.hub.fault_on_query(Host::Token, scope, order);
        let secret = get(&scene.mirror.url("/v2/library/secret/manifests/1")).await;
        assert_eq!((secret.status, secret.code().as_str()), (404, "MANIFEST_UNKNOWN"), "{status}");
        assert!(refused.applied() >= 1);
        // The account is still good for what it may see.
        scene.hub.make_private("library/missing");
        let other = get(&scene.mirror.url("/v2/library/missing/manifests/1")).await;
        assert_eq!((other.status, other.digest()), (200, scene.missing.digest.clone()), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cdn_asks_for_it_does_not_get() {
    let scene = scene().await;
    let asks = Fault::Answer(401, "www-authenticate: Basic realm=\"cdn\"\r\n", "");
    let order = scene.hub.fault(Host::Cdn, "GET", asks);
    scene.refused(&format!("blobs/{}", scene.missing.layers[0]), DOWN.blob).await;
    assert!(order.applied() >= 1);
    scene.hub.behave();
    let blob = scene.mirror.url(&format!("/v2/library/missing/blobs/{}", scene.missing.layers[0]));
    assert_eq!(get(&blob).await.digest(), scene.missing.layers[0]);
    let password = |seen: &Seen| {
        seen.host != Host::Token
            && seen.authorization.as_deref().is_some_and(|given| given.starts_with("Basic"))
    };
    assert_eq!(scene.hub.count(password), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_moves_its_token_server_is_followed() {
    let scene = scene().await;
    // The old one is gone; every token that it gave is worthless.
    let gone = scene.hub.fault(Host::Token, "/token", Fault::Close);
    scene.hub.revoke_tokens();
    assert_eq!(get(&scene.mirror.url("/v2/library/missing/manifests/1")).await.status, 503);
    assert!(gone.applied() >= 1);
    scene.hub.behave();
    scene.hub.move_token_server();
    let found = get(&scene.mirror.url("/v2/library/missing/manifests/1")).await;
    assert_eq!((found.status, found.digest()), (200, scene.missing.digest.clone()));
    assert!(scene.hub.seen().iter().any(|seen| seen.path == "/moved-token"));
}
