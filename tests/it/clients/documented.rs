//! The two documented command lines of `registry` as a mirror, with our binary in the container's place: same
//! environment, same file, same answers.

use std::time::Instant;

use reqwest::{Client, Method};

use super::peers::{IMAGE_CONFIG, Upstream};
use crate::support::hub::{ACCOUNT, Hub};
use crate::support::image::{self, DOCKER, Image};
use crate::support::mirror::Setup;
use crate::support::pull::{Answer, MODERN, client, finish};
use crate::support::{PATIENCE, soon, tls};

const HEADERS: [&str; 11] = [
    "accept-ranges",
    "allow",
    "cache-control",
    "content-length",
    "content-range",
    "content-type",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "location",
    "x-content-type-options",
];

/// Everything that clients of a mirror ask for, and some that they should not.
fn questions(image: &Image) -> Vec<(Method, String, &'static str)> {
    let name = "library/app";
    let places = [
        "/".to_owned(),
        "/v2".to_owned(),
        "/v2/".to_owned(),
        "/v2/nowhere".to_owned(),
        format!("/v2/{name}/manifests/1"),
        format!("/v2/{name}/manifests/{}", image.digest),
        format!("/v2/{name}/manifests/none"),
        format!("/v2/{name}/blobs/{}", image.layers[0]),
        format!("/v2/{name}/blobs/{}", image.config),
        format!("/v2/{name}/blobs/sha256:{}", "0".repeat(64)),
        format!("/v2/{name}/blobs/sha256:nonsense"),
        format!("/v2/{name}/tags/list"),
        format!("/v2/{name}/blobs/uploads/"),
        format!("/v2/{name}/blobs/uploads/5bd3d2a4-3e86-4c8e-9d2b-6f9e2c7f1a00"),
        "/v2/_catalog".to_owned(),
        "/v2/none/none/none/none".to_owned(),
    ];
    let methods = [Method::GET, Method::HEAD, Method::DELETE, Method::POST];
    let mut all: Vec<_> = places
        .iter()
        .flat_map(|place| methods.iter().map(|method| (method.clone(), place.clone(), "")))
        .collect();
    for range in ["bytes=0-9", "bytes=-5", "bytes=5-", "bytes=99999999-"] {
        all.push((Method::GET, format!("/v2/{name}/blobs/{}", image.layers[0]), range));
    }
    all
}

async fn answers(client: &Client, base: &str, image: &Image) -> Vec<(String, u16, Vec<String>, String)> {
    let mut found = Vec::new();
    for (method, place, range) in questions(image) {
        let ask = async || {
            let mut request =
                client.request(method.clone(), format!("{base}{place}")).header(MODERN.0, MODERN.1);
            if !range.is_empty() {
                request = request.header("range", range);
            }
            finish(soon(&place, request.send()).await.unwrap()).await
        };
        // First to warm: a miss of registry has other headers than its hit, and it stores a blob behind its answer.
        let deadline = Instant::now() + PATIENCE;
        let mut answer = ask().await;
        while answer.status == 200
            && !answer.header("etag").is_empty()
            && !answer.header("etag").starts_with('"')
        {
            assert!(Instant::now() < deadline, "{place} stays cold");
            answer = ask().await;
        }
        let answer = ask().await;
        found.push((format!("{method} {place} {range}"), answer.status, shown(&answer), body(&answer)));
    }
    found
}

/// The headers that clients read. `registry` 2 and 3 differ in the charset of JSON; ours is that of 3. The length that
/// 2.8 gives with a 416 is that of the blob, which breaks the connection.
fn shown(answer: &Answer) -> Vec<String> {
    let json = answer.header("content-type").starts_with("application/json");
    let names = HEADERS.iter().filter(|name| match **name {
        "content-type" => !json,
        "content-length" => !json && answer.status != 416,
        _ => true,
    });
    names.map(|name| format!("{name}: {}", answer.header(name))).collect()
}

/// Content by its digest; other JSON as a value, since the order of members and the last newline are nobody's business.
fn body(answer: &Answer) -> String {
    match serde_json::from_slice::<serde_json::Value>(&answer.body) {
        _ if answer.status < 300 && !answer.header("docker-content-digest").is_empty() => answer.digest(),
        Ok(value) => value.to_string(),
        Err(_) => String::from_utf8_lossy(&answer.body).into_owned(),
    }
}

/// Both with the same variables before the same Hub, whose image only the account may see.
async fn compare(scheme: &str, client: &Client, variables: &[(&str, &str)]) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), DOCKER, &[image::layer(1, 40_000)]);
    hub.make_private("library/app");
    let url = hub.url();
    let documented = [
        ("REGISTRY_PROXY_REMOTEURL", url.as_str()),
        ("REGISTRY_PROXY_USERNAME", ACCOUNT.0),
        ("REGISTRY_PROXY_PASSWORD", ACCOUNT.1),
    ];
    let variables = [&documented[..], variables].concat();
    let registry = Upstream::with(&variables).await;
    let setup = variables.iter().fold(Setup::of(&url), |setup, (name, value)| setup.with(name, value));
    std::fs::write(setup.config(), IMAGE_CONFIG).unwrap();
    let mirror = setup.start();
    let theirs = registry.url.replace("http://", &format!("{scheme}://"));
    let ours = format!("{scheme}://{}", mirror.address);
    let (theirs, ours) = (answers(client, &theirs, &image).await, answers(client, &ours, &image).await);
    assert!(theirs.iter().any(|(question, status, ..)| question.contains("/manifests/1") && *status == 200));
    let differences: Vec<_> = theirs.iter().zip(&ours).filter(|(their, our)| their != our).collect();
    assert!(differences.is_empty(), "registry's answers, and ours: {differences:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_http_mirror() {
    compare("http", &client(), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_https_mirror() {
    let pair = tls::pair();
    let authority = reqwest::Certificate::from_pem(&std::fs::read(&pair.authority).unwrap()).unwrap();
    let client = Client::builder().tls_certs_only([authority]).no_proxy().http1_only();
    let client = client.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let files = [
        ("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap()),
        ("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap()),
    ];
    compare("https", &client, &files).await;
}
