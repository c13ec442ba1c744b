//! SIGHUP: what can change while it runs does, under load, and what can't is named.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::hub::{ACCOUNT, Hub};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::process::Signal;
use crate::support::pull::{client, finish, get};
use crate::support::raw::{connect_from, request, told};
use crate::support::{PATIENCE, soon, tls};

const MANIFEST: &str = "/v2/library/app/manifests/1";

/// A mirror whose configuration is rewritten while clients pull from it.
struct Scene {
    _hub: Hub,
    image: Image,
    mirror: Mirror,
    config: PathBuf,
}

impl Scene {
    async fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        let hub = Hub::start().await;
        let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 300_000)]);
        let mirror = setup(Setup::of(&hub.url())).start();
        let config = mirror.setup.config();
        assert_eq!(get(&mirror.url(MANIFEST)).await.digest(), image.digest);
        Self { _hub: hub, image, mirror, config }
    }

    fn signals(&self) -> usize {
        self.mirror.log().iter().filter(|line| line.contains("SIGHUP: ")).count()
    }

    /// Writes another configuration and says so; gives all lines about it.
    async fn reload(&self, text: &str) -> String {
        let before = self.signals();
        let lines = self.mirror.log().len();
        std::fs::write(&self.config, format!("version: 0.1\n{text}")).unwrap();
        self.mirror.signal(Signal::HUP);
        let deadline = Instant::now() + PATIENCE;
        while self.signals() == before {
            assert!(Instant::now() < deadline, "SIGHUP is not heard");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.mirror.log()[lines..].join("\n")
    }

    /// Pulls from 127.0.0.1 without a pause while `story` runs; every pull must be whole.
    async fn under_load(&self, story: impl Future<Output = ()>) {
        let (over, pulls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let url = self.mirror.url(&format!("/v2/library/app/blobs/{}", self.image.layers[0]));
        let digest = self.image.layers[0].clone();
        let puller = tokio::spawn({
            let (over, pulls, client) = (Arc::clone(&over), Arc::clone(&pulls), client());
            async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = finish(client.get(&url).send().await.expect("a pull is refused")).await;
                    assert!(answer.whole && answer.digest() == digest, "{}", answer.status);
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let pulled = async |at_least: u64| {
            let target = pulls.load(Ordering::Relaxed) + at_least;
            while pulls.load(Ordering::Relaxed) < target && !puller.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        pulled(3).await;
        story.await;
        pulled(3).await;
        over.store(true, Ordering::Relaxed);
        puller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_the_log_changes_while_it_runs() {
    let scene = Scene::start(|setup| setup).await;
    let ask = async || get(&scene.mirror.url("/v2/library/app/blobs/sha256:nonsense")).await.status;
    let told = || scene.mirror.log().iter().filter(|line| line.contains("level=debug")).count();
    scene
        .under_load(async {
            ask().await;
            assert_eq!(told(), 0);
            let lines = scene.reload("log: {level: debug}").await;
            assert!(lines.contains("SIGHUP: changed: log.level"), "{lines}");
            ask().await;
            scene.mirror.logged("level=debug");
            let lines = scene.reload("log: {level: info}").await;
            assert!(lines.contains("SIGHUP: changed: log.level"), "{lines}");
            let before = told();
            ask().await;
            assert_eq!(told(), before);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_come_in_changes_while_it_runs() {
    let scene = Scene::start(|setup| setup).await;
    let from =
        async |source: &str| told(connect_from(source, &scene.mirror.address).await, request("/v2/")).await;
    scene
        .under_load(async {
            assert!(from("127.0.0.2").await.starts_with("HTTP/1.1 200 "));
            let mut open = connect_from("127.0.0.2", &scene.mirror.address).await;
            open.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            soon("an answer", open.read(&mut [0; 1024])).await.unwrap();
            let lines = scene.reload("tidegate: {edge: {allow: 127.0.0.1}}").await;
            assert!(lines.contains("changed: tidegate.edge.allow"), "{lines}");
            assert!(from("127.0.0.2").await.starts_with("HTTP/1.1 403 "));
            // A connection that is open goes by the rules that it found.
            assert!(told(open, request("/v2/")).await.starts_with("HTTP/1.1 200 "));
            let lines = scene.reload("tidegate: {edge: {proxyprotocol: 127.0.0.3, perclient: 5}}").await;
            assert!(
                lines.contains("tidegate.edge.allow, tidegate.edge.perclient, tidegate.edge.proxyprotocol"),
                "{lines}"
            );
            assert!(from("127.0.0.2").await.starts_with("HTTP/1.1 200 "));
            assert_eq!(from("127.0.0.3").await, "");
            let mut held = Vec::new();
            for _ in 0..5 {
                let mut stream = connect_from("127.0.0.4", &scene.mirror.address).await;
                stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                soon("an answer", stream.read(&mut [0; 1024])).await.unwrap();
                held.push(stream);
            }
            assert_eq!(from("127.0.0.4").await, "");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_connections_and_hsts_change_while_it_runs() {
    let pair = tls::pair();
    let scene = Scene::start(|setup| setup).await;
    let logins = scene.config.with_file_name("logins");
    std::fs::write(&logins, format!("alice:{}\n", bcrypt::hash("x", 4).unwrap())).unwrap();
    let asks = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}", logins.display());
    assert!(scene.reload(&asks).await.contains("changed: auth.htpasswd.path, auth.htpasswd.realm"));
    assert_eq!(get(&scene.mirror.url("/v2/")).await.status, 401);
    // Logins that can't be read are no reason to ask for none.
    let broken = asks.replace("logins", "nowhere");
    assert!(scene.reload(&broken).await.contains("stays as it was"));
    assert_eq!(get(&scene.mirror.url("/v2/")).await.status, 401);
    assert!(scene.reload("").await.contains("changed: auth.htpasswd.path"));
    scene
        .under_load(async {
            let lines = scene.reload("tidegate: {edge: {connections: 200}}").await;
            assert!(lines.contains("changed: tidegate.edge.connections"), "{lines}");
        })
        .await;
    scene.reload("tidegate: {edge: {connections: 2}}").await;
    let mut held = Vec::new();
    loop {
        let mut stream = connect_from("127.0.0.2", &scene.mirror.address).await;
        let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
        match soon("an answer or a close", stream.read(&mut [0; 1024])).await {
            Ok(read) if read > 0 => held.push(stream),
            _ => break,
        }
        assert!(held.len() <= 2, "{} connections", held.len());
    }
    scene.mirror.logged("tidegate.edge.connections");
    let secure = scene.mirror.kill().secured(&pair).start();
    let shaken = async || {
        let stream = tls::connect(&pair, &secure.address, &[b"http/1.1"]).await;
        told(stream, request("/v2/")).await.to_lowercase()
    };
    assert!(!shaken().await.contains("strict-transport-security"));
    std::fs::write(&scene.config, "version: 0.1\ntidegate: {edge: {hsts: 1h}}").unwrap();
    secure.signal(Signal::HUP);
    secure.logged("tidegate.edge.hsts");
    assert!(shaken().await.contains("strict-transport-security: max-age=3600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_counts_without_a_restart() {
    let folder = tempfile::TempDir::new().unwrap();
    let secret = folder.path().join("password");
    std::fs::write(&secret, "wrong").unwrap();
    let file = secret.to_str().unwrap().to_owned();
    let scene = Scene::start(|setup| {
        setup.with("REGISTRY_PROXY_USERNAME", ACCOUNT.0).with("REGISTRY_PROXY_PASSWORD_FILE", &file)
    })
    .await;
    scene.mirror.logged("refused the account of this mirror");
    scene
        .under_load(async {
            std::fs::write(&secret, ACCOUNT.1).unwrap();
            let lines = scene.reload("").await;
            assert!(lines.contains("changed: proxy.password") && !lines.contains(ACCOUNT.1), "{lines}");
            scene.mirror.logged("takes the account of this mirror");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_patterns_of_the_mirror_change_while_it_runs() {
    let scene = Scene::start(|setup| {
        let setup = setup.with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
        setup.with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true")
    })
    .await;
    scene
        .under_load(async {
            let text = "proxy: {ttl: 1h}\ntidegate: {cache: {maxsize: 300MiB, minfree: 1MiB, hold: 1s, evictadopted: yes}, proxy: {deny: 'library/old*'}}";
            let lines = scene.reload(text).await;
            let changed = "proxy.ttl, tidegate.cache.evictadopted, tidegate.cache.hold, tidegate.cache.maxsize, tidegate.cache.minfree, tidegate.proxy.deny";
            // The upstream comes from a variable, so that a section of the file adds to it.
            assert!(lines.contains(changed), "{lines}");
            let deadline = Instant::now() + PATIENCE;
            while !scene.mirror.metrics().await.contains("tidegate_cache_bytes_max 314572800") {
                assert!(Instant::now() < deadline, "the limit of the cache stays as it was");
            }
            let denied = get(&scene.mirror.url("/v2/library/old1/manifests/1")).await;
            assert!(denied.header("cache-status").contains("refused"), "{}", denied.status);
            let lines = scene.reload("tidegate: {proxy: {allow: 'library/a*'}}").await;
            assert!(lines.contains("tidegate.proxy.allow, tidegate.proxy.deny"), "{lines}");
            let denied = get(&scene.mirror.url("/v2/library/old1/manifests/1")).await;
            assert!(denied.header("cache-status").contains("refused"), "{}", denied.status);
            assert_eq!(get(&scene.mirror.url(MANIFEST)).await.status, 200);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_changes_nothing_and_all_that_is_wrong_is_told() {
    let scene = Scene::start(|setup| setup).await;
    scene
        .under_load(async {
            let wrong = "log: {level: loud}\ntidegate: {edge: {allow: [10.0.0.0/8, here], connections: 0}, nonsense: 1}";
            let lines = scene.reload(wrong).await;
            for key in ["log.level", "tidegate.edge.allow", "tidegate.edge.connections", "tidegate.nonsense"] {
                assert!(lines.contains(key), "no {key} in\n{lines}");
            }
            assert!(lines.contains("the configuration stays as it was"), "{lines}");
        })
        .await;
    let text = "http: {addr: ':81', draintimeout: 1s, headers: {X-A: [b]}}\ntidegate: {tags: {fresh: 1m}}";
    let lines = scene.reload(text).await;
    assert!(lines.contains("SIGHUP: changed: http.draintimeout"), "{lines}");
    // The address comes from a variable, which counts before the file.
    assert!(lines.contains("only at the next start: http.headers.x-a, tidegate.tags.fresh"), "{lines}");
    let lines = scene.reload("").await;
    assert!(lines.contains("changed: http.draintimeout") && !lines.contains("next start"), "{lines}");
    assert!(scene.reload("").await.contains("nothing changes"));
    let (_, status) = scene.mirror.stop();
    assert!(status.success());
}
