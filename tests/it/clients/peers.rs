//! Debian's `docker-registry` as an upstream, filled with images made here.

use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tidegate::registry::Digest;

use crate::support::image::{self, DOCKER, Family, OCI};
use crate::support::pull::{ask, client};
use crate::support::until;

/// What the image of `registry` 2 has at its default path, in the words of its documentation.
pub const IMAGE_CONFIG: &str = "version: 0.1
log: {fields: {service: registry}}
storage: {cache: {blobdescriptor: inmemory}, filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ':5000', headers: {X-Content-Type-Options: [nosniff]}}
health: {storagedriver: {enabled: true, interval: 10s, threshold: 3}}
";

pub struct Upstream {
    process: Option<Child>,
    pub url: String,
    folder: TempDir,
}

impl Upstream {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With variables besides those that its place needs.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.path().join("config.yml");
        std::fs::write(&config, IMAGE_CONFIG).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", folder.path().join("registry"));
        command.env("REGISTRY_HTTP_ADDR", format!("127.0.0.1:{port}"));
        command.envs(variables.iter().copied());
        let process =
            command.spawn().expect("docker-registry is needed by the tests (tests/run installs it)");
        let upstream = Self { process: Some(process), url: format!("http://127.0.0.1:{port}"), folder };
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        until("docker-registry listens", listens).await;
        upstream
    }

    /// Where its images are.
    pub fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("registry")
    }

    pub fn stop(mut self) -> Self {
        self.end();
        self
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

/// The test images: repository and the digest that tag `1` leads to.
pub struct Shelf {
    pub images: Vec<(&'static str, String)>,
}

/// What the runnable image prints.
pub const LINE: &str = "pulled and run";

impl Shelf {
    /// Pushes an OCI image, a Docker one with a large layer and a shared one, an index, and one that can be run.
    pub async fn fill(url: &str) -> Self {
        let busybox = std::fs::read("/bin/busybox")
            .expect("busybox-static is needed by the tests (tests/run installs it)");
        let shared = image::layer(7, 300_000);
        let plain = json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/sh"] } });
        let run = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Entrypoint": ["/bin/busybox"], "Cmd": ["echo", LINE], "Env": ["PATH=/bin"] },
        });
        let shell = image::tar(&[("bin/busybox", 0o755, &busybox), ("bin/sh", 0o755, &busybox)]);
        let other = json!({ "architecture": "arm64", "os": "linux", "config": {} });
        let images = vec![
            (
                "library/oci",
                push(url, "library/oci", Some("1"), OCI, &[image::layer(1, 100_000), shared.clone()], &plain)
                    .await,
            ),
            (
                "library/docker",
                push(
                    url,
                    "library/docker",
                    Some("1"),
                    DOCKER,
                    &[image::layer(2, 20_000_000), shared],
                    &plain,
                )
                .await,
            ),
            ("library/run", push(url, "library/run", Some("1"), DOCKER, &[shell], &run).await),
        ];
        let mut entries = Vec::new();
        for (number, config) in [(3, &plain), (4, &other)] {
            let digest = push(url, "library/multi", None, OCI, &[image::layer(number, 50_000)], config).await;
            let answer = ask(
                Method::HEAD,
                &format!("{url}/v2/library/multi/manifests/{digest}"),
                &[("accept", OCI.manifest)],
            )
            .await;
            let size: u64 = answer.header("content-length").parse().unwrap();
            let platform = json!({ "os": "linux", "architecture": config["architecture"] });
            entries.push(
                json!({ "mediaType": OCI.manifest, "digest": digest, "size": size, "platform": platform }),
            );
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI.index, "manifests": entries }).to_string();
        put_manifest(url, "library/multi", "1", OCI.index, Bytes::from(index.clone())).await;
        let index = ("library/multi", Digest::sha256(index.as_bytes()).to_string());
        Self { images: images.into_iter().chain([index]).collect() }
    }
}

async fn push(
    url: &str,
    name: &str,
    tag: Option<&str>,
    family: Family,
    layers: &[Bytes],
    config: &serde_json::Value,
) -> String {
    let (config, manifest) = image::documents(family, layers, config);
    for blob in layers.iter().chain([&config]) {
        let begun = client().post(format!("{url}/v2/{name}/blobs/uploads/")).send().await.unwrap();
        let place = begun.headers()["location"].to_str().unwrap().to_owned();
        let joint = if place.contains('?') { '&' } else { '?' };
        let put = client().put(format!("{place}{joint}digest={}", Digest::sha256(blob))).body(blob.clone());
        assert_eq!(put.send().await.unwrap().status(), 201);
    }
    let digest = Digest::sha256(&manifest).to_string();
    put_manifest(url, name, tag.unwrap_or(&digest), family.manifest, manifest).await;
    digest
}

async fn put_manifest(url: &str, name: &str, reference: &str, media_type: &str, bytes: Bytes) {
    let put = client()
        .put(format!("{url}/v2/{name}/manifests/{reference}"))
        .header("content-type", media_type)
        .body(bytes);
    assert_eq!(put.send().await.unwrap().status(), 201);
}
