//! The two documented command lines of `registry` as a mirror, with our binary in the container's place: same
//! environment, same answers.

use reqwest::Method;

use super::peers::{Shelf, Upstream};
use crate::support::mirror::Setup;
use crate::support::pull::{Answer, MODERN, ask};
use crate::support::tls;

const HEADERS: [&str; 4] =
    ["content-type", "content-length", "docker-content-digest", "docker-distribution-api-version"];

async fn answers(base: &str, shelf: &Shelf) -> Vec<(String, u16, Vec<String>, bytes::Bytes)> {
    let (name, digest) = &shelf.images[1];
    let manifest = ask(Method::GET, &format!("{base}/v2/{name}/manifests/1"), &[MODERN]).await;
    let layer = manifest.json()["layers"][1]["digest"].as_str().unwrap().to_owned();
    let mut found = Vec::new();
    for path in [
        "/".to_owned(),
        "/v2".to_owned(),
        "/v2/".to_owned(),
        format!("/v2/{name}/manifests/1"),
        format!("/v2/{name}/manifests/{digest}"),
        format!("/v2/{name}/manifests/none"),
        format!("/v2/{name}/blobs/{layer}"),
        format!("/v2/{name}/blobs/{}", digest.replace(['a', 'b', 'c'], "d")),
        format!("/v2/{name}/tags/list"),
        "/v2/none/none/none/none".to_owned(),
    ] {
        for method in [Method::GET, Method::DELETE] {
            let url = format!("{base}{path}");
            // Once to warm: a miss of registry has other headers than its hit.
            ask(method.clone(), &url, &[MODERN]).await;
            let answer = ask(method.clone(), &url, &[MODERN]).await;
            found.push((format!("{method} {path}"), answer.status, shown(&answer), body(answer)));
        }
    }
    found
}

/// The headers that clients read. `registry` 2 and 3 differ in the charset of JSON; ours is that of 3.
fn shown(answer: &Answer) -> Vec<String> {
    let json = answer.header("content-type").starts_with("application/json");
    let names = HEADERS.iter().filter(|name| !(json && ["content-length", "content-type"].contains(name)));
    names.map(|name| answer.header(name).to_owned()).collect()
}

/// JSON as a value: the order of members and the last newline are nobody's business.
fn body(answer: Answer) -> bytes::Bytes {
    match serde_json::from_slice::<serde_json::Value>(&answer.body) {
        Ok(value) if answer.header("docker-content-digest").is_empty() => value.to_string().into(),
        _ => answer.body,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_http_mirror() {
    let upstream = Upstream::start().await;
    let shelf = Shelf::fill(&upstream.url).await;
    let theirs = Upstream::with(&format!("proxy: {{remoteurl: \"{}\"}}\n", upstream.url)).await;
    let setup =
        Setup::of(&upstream.url).with("REGISTRY_PROXY_USERNAME", "").with("REGISTRY_PROXY_PASSWORD", "");
    let ours = setup.start();
    let (theirs, ours) = (answers(&theirs.url, &shelf).await, answers(&ours.url(""), &shelf).await);
    for (their, our) in theirs.into_iter().zip(ours) {
        assert_eq!(their, our);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_https_mirror() {
    let upstream = Upstream::start().await;
    let shelf = Shelf::fill(&upstream.url).await;
    let pair = tls::pair();
    let mirror = Setup::of(&upstream.url)
        .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
        .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap())
        .start();
    let authority = reqwest::Certificate::from_pem(&std::fs::read(&pair.authority).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap();
    for (name, digest) in &shelf.images {
        let url = format!("https://{}/v2/{name}/manifests/1", mirror.address);
        let answer = client.get(url).header(MODERN.0, MODERN.1).send().await.unwrap();
        assert_eq!(answer.headers()["docker-content-digest"].to_str().unwrap(), digest);
    }
}
