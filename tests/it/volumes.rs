//! Volumes that go from `registry` to tidegate, and back.

mod schedule;

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::command::run;
use crate::support::hub::{Hub, Seen};
use crate::support::image::{self, DOCKER};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{self, Answer, MODERN, ask, get};
use crate::support::{tls, until};
use reqwest::Method;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures");

/// What the archives hold.
pub fn contents() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURES}/contents.json")).unwrap()).unwrap()
}

/// Everything that a manifest leads to and that the volume holds, fetched and hashed.
pub async fn pull(mirror: &Mirror, repository: &str, digest: &str, held: &Value) {
    if held.get(&digest[7..]).is_none() {
        return;
    }
    let url = mirror.url(&format!("/v2/{repository}/manifests/{digest}"));
    let manifest = ask(Method::GET, &url, &[MODERN]).await;
    assert_eq!((manifest.status, manifest.digest().as_str()), (200, digest), "{repository}");
    let document = manifest.json();
    for child in document["manifests"].as_array().unwrap_or(&vec![]) {
        Box::pin(pull(mirror, repository, child["digest"].as_str().unwrap(), held)).await;
    }
    for blob in document["layers"].as_array().unwrap_or(&vec![]).iter().chain(document.get("config")) {
        let digest = blob["digest"].as_str().unwrap();
        let answer = get(&mirror.url(&format!("/v2/{repository}/blobs/{digest}"))).await;
        assert_eq!((answer.status, answer.digest().as_str()), (200, digest), "{repository}");
        assert_eq!(answer.header("cache-status"), "tidegate; hit");
    }
}

async fn serve_volume(name: &str) {
    let hub = Hub::start().await;
    let setup = Setup::of(&hub.url());
    unpack(&setup, name);
    hub.stop();
    let mirror = setup.start();
    pull_all(&mirror).await;
    let catalog = get(&mirror.url("/v2/_catalog")).await;
    assert_eq!(catalog.json()["repositories"].as_array().unwrap().len(), 4);
    assert_eq!(hub.count(|seen: &Seen| seen.path.contains("/blobs/")), 0);
}

/// Puts the content of an archive where a mirror will look for it.
pub fn unpack(setup: &Setup, name: &str) {
    let root = setup.root();
    std::fs::create_dir_all(&root).unwrap();
    let archive = format!("{FIXTURES}/{name}.tar.gz");
    run("tar", &["-xzf", &archive, "-C", root.to_str().unwrap()]);
    // Some archives hold the root itself.
    let inner = root.join("registry");
    if inner.join("docker").is_dir() {
        run("sh", &["-c", &format!("mv {0}/registry/* {0}/ && rmdir {0}/registry", root.display())]);
    }
}

/// All tags, and all that they lead to, from what is held.
pub async fn pull_all(mirror: &Mirror) {
    let contents = contents();
    for (repository, digest) in contents["tags"].as_object().unwrap() {
        let tag =
            ask(Method::GET, &mirror.url(&format!("/v2/{repository}/manifests/latest")), &[MODERN]).await;
        assert_eq!((tag.status, tag.digest().as_str()), (200, digest.as_str().unwrap()), "{repository}");
        pull(mirror, repository, digest.as_str().unwrap(), &contents["blobs"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_15_a_volume_of_registry_2_8_2() {
    serve_volume("registry-2.8.2-volume").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_15_a_volume_of_registry_3_1_1() {
    serve_volume("registry-3.1.1-volume").await;
}

/// Debian's `docker-registry` in proxy mode over a volume.
pub struct Registry {
    process: Child,
    url: String,
    log: String,
}

impl Registry {
    async fn start(root: &str, upstream: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let process = Command::new("docker-registry")
            .args(["serve", &Self::config(root, port, upstream)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(Self::log_of(root)).unwrap())
            .spawn()
            .expect("docker-registry is needed by the tests (tests/run installs it)");
        let registry = Self { process, url, log: Self::log_of(root) };
        let listens = async || pull::client().get(format!("{}/v2/", registry.url)).send().await.is_ok();
        until("docker-registry listens", listens).await;
        registry
    }

    fn log_of(root: &str) -> String {
        format!("{root}.registry.log")
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn config(root: &str, port: u16, upstream: &str) -> String {
        let path = format!("{root}.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\nproxy: {{remoteurl: \"{upstream}\"}}\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_15_a_volume_of_ours_is_served_by_registry_2_8_2() {
    let hub = Hub::start().await;
    let mut images = Vec::new();
    for (number, repository) in ["library/app", "library/tool"].iter().enumerate() {
        let layers = [image::layer(number as u64, 40_000), image::layer(99, 10_000)];
        images.push((*repository, image::publish(&hub, repository, Some("latest"), DOCKER, &layers)));
    }
    let mirror = Setup::of(&hub.url()).start();
    for (repository, image) in &images {
        let mut urls = vec![format!("/v2/{repository}/manifests/latest")];
        urls.extend(
            image.layers.iter().chain([&image.config]).map(|blob| format!("/v2/{repository}/blobs/{blob}")),
        );
        for url in urls {
            assert_eq!(get(&mirror.url(&url)).await.status, 200);
        }
    }
    let (setup, _) = mirror.stop();
    let root = setup.root().display().to_string();
    hub.forget();
    let registry = Registry::start(&root, &hub.url()).await;
    for (repository, image) in &images {
        let manifest: Answer = ask(
            Method::GET,
            &format!("{}/v2/{repository}/manifests/{}", registry.url, image.digest),
            &[MODERN],
        )
        .await;
        assert_eq!((manifest.status, manifest.digest()), (200, image.digest.clone()));
        for blob in image.layers.iter().chain([&image.config]) {
            let answer = get(&format!("{}/v2/{repository}/blobs/{blob}", registry.url)).await;
            assert_eq!((answer.status, &answer.digest()), (200, blob));
        }
    }
    assert_eq!(hub.count(|seen| seen.path.contains("/blobs/")), 0);
    drop(registry);
    let dry =
        run("docker-registry", &["garbage-collect", "--dry-run", &Registry::config(&root, 1, &hub.url())]);
    assert!(dry.contains("0 blobs and 0 manifests eligible for deletion"), "{dry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_registry_is_not_taken_for_a_cache() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), DOCKER, &[]);
    let mirror = Setup::of(&hub.url()).start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    let (setup, _) = mirror.stop();
    std::fs::remove_dir_all(setup.root().join("tidegate")).unwrap();
    let refused = setup.without("REGISTRY_PROXY_REMOTEURL").output();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && text.contains("proxy.remoteurl"), "{text}");
}

#[test]
fn a_second_mirror_does_not_touch_a_volume_in_use() {
    let pair = tls::pair();
    let first = Setup::of("http://127.0.0.1:1").with("REGISTRY_HTTP_ADDR", "127.0.0.1:0").start();
    let second = first.setup.clone().output();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.code() == Some(1) && text.contains("is in use by another tidegate"), "{text}");
    drop(pair);
}
