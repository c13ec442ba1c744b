//! Who may come in: logins, addresses, balancers, and how many.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::command::run;
use crate::support::hub::Hub;
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{Answer, ask, get};
use crate::support::raw::{connect_from, request, told};
use crate::support::{PATIENCE, soon, tls};

const MANIFEST: &str = "/v2/library/app/manifests/1";

async fn hub() -> (Hub, Image) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1000)]);
    (hub, image)
}

/// A file in which alice has a password, and a setup that goes by it.
fn with_logins(setup: Setup, folder: &TempDir, password: &str) -> (Setup, PathBuf) {
    let path = folder.path().join("htpasswd");
    write_login(&path, password);
    let setup = setup.with("REGISTRY_AUTH_HTPASSWD_PATH", path.to_str().unwrap());
    (setup.with("REGISTRY_AUTH_HTPASSWD_REALM", "our mirror").with("REGISTRY_AUTH", "htpasswd"), path)
}

fn write_login(path: &std::path::Path, password: &str) {
    std::fs::write(path, run("htpasswd", &["-Bbn", "-C", "5", "alice", password])).unwrap();
}

async fn as_alice(mirror: &Mirror, path: &str, password: &str) -> Answer {
    let login = format!("Basic {}", BASE64_STANDARD.encode(format!("alice:{password}")));
    ask(Method::GET, &mirror.url(path), &[("authorization", &login)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_log_in_gets_nothing() {
    let (hub, image) = hub().await;
    let folder = TempDir::new().unwrap();
    let (setup, _) = with_logins(Setup::of(&hub.url()), &folder, "open sesame");
    let mirror = setup.start();
    for path in ["/v2/", MANIFEST, "/v2/_catalog", "/v2/library/app/tags/list"] {
        for answer in [get(&mirror.url(path)).await, as_alice(&mirror, path, "guess").await] {
            assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{path}");
            assert_eq!(answer.header("www-authenticate"), "Basic realm=\"our mirror\"");
            assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        }
    }
    let put = ask(Method::PUT, &mirror.url(MANIFEST), &[]).await;
    assert_eq!(put.status, 401);
    assert_eq!(hub.count(|seen| seen.path.contains("library/app")), 0, "the upstream is asked for nobody");
    assert_eq!(get(&mirror.url("/")).await.status, 200);
    assert_eq!(as_alice(&mirror, "/v2/", "open sesame").await.status, 200);
    assert_eq!(as_alice(&mirror, MANIFEST, "open sesame").await.digest(), image.digest);
    let source = format!("docker://{}/library/app:1", mirror.address);
    let target = format!("dir:{}", folder.path().join("pulled").display());
    let copy =
        ["copy", "--quiet", "--src-tls-verify=false", "--src-creds=alice:open sesame", &source, &target];
    run("skopeo", &copy);
    assert!(!mirror.log().join("\n").contains("sesame"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_logins_nobody_is_asked_for_one() {
    let mirror = Setup::of("http://127.0.0.1:1").start();
    for answer in [get(&mirror.url("/v2/")).await, as_alice(&mirror, "/v2/", "anything").await] {
        assert_eq!((answer.status, answer.header("www-authenticate")), (200, ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_slowed_down_and_known_clients_are_not() {
    let folder = TempDir::new().unwrap();
    let (setup, _) = with_logins(Setup::of("http://127.0.0.1:1"), &folder, "right");
    let setup = setup.with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
    let mirror = setup.with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true").start();
    assert_eq!(as_alice(&mirror, "/v2/", "right").await.status, 200);
    let mut guesses = 0;
    let limited = loop {
        let answer = as_alice(&mirror, "/v2/", &format!("guess {guesses}")).await;
        if answer.status != 401 {
            break answer;
        }
        guesses += 1;
        assert!(guesses <= 40, "guesses are not slowed down");
    };
    assert!(guesses >= 20, "{guesses}");
    assert_eq!((limited.status, limited.code().as_str()), (429, "TOOMANYREQUESTS"));
    assert_eq!(limited.header("retry-after"), "6");
    // Who was right before is still let in, and so is somebody else.
    assert_eq!(as_alice(&mirror, "/v2/", "right").await.status, 200);
    let login = BASE64_STANDARD.encode("alice:right");
    let other =
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\r\n");
    assert!(told(connect_from("127.0.0.9", &mirror.address).await, other).await.starts_with("HTTP/1.1 200"));
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("tidegate_denied_total{reason=\"guesses\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_logins_counts_at_once() {
    let folder = TempDir::new().unwrap();
    let (setup, path) = with_logins(Setup::of("http://127.0.0.1:1"), &folder, "old");
    let mirror = setup.start();
    assert_eq!(as_alice(&mirror, "/v2/", "old").await.status, 200);
    write_login(&path, "new and longer");
    let deadline = Instant::now() + PATIENCE;
    while as_alice(&mirror, "/v2/", "old").await.status == 200 {
        assert!(Instant::now() < deadline, "the old password still counts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(as_alice(&mirror, "/v2/", "new and longer").await.status, 200);
    // What is no such file changes nothing.
    std::fs::write(&path, "garbage").unwrap();
    while !mirror.log().iter().any(|line| line.contains("stay as they were")) {
        assert_eq!(as_alice(&mirror, "/v2/", "new and longer").await.status, 200);
    }
    let missing = mirror.kill().with("REGISTRY_AUTH_HTPASSWD_PATH", "/nonexistent/logins").try_start();
    let missing = missing.err().expect("it starts without its logins");
    assert!(missing.log.join("\n").contains("htpasswd -Bbn"), "{:?}", missing.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_in_the_list_gets_nothing_but_challenges() {
    let (hub, _) = hub().await;
    let setup = Setup::of(&hub.url()).with("TIDEGATE_EDGE_ALLOW", "127.0.0.2, 2001:db8::/32");
    let plain = setup.start();
    let from = async |source: &str, path: &str| {
        told(connect_from(source, &plain.address).await, request(path)).await
    };
    let denied = from("127.0.0.1", MANIFEST).await;
    assert!(denied.starts_with("HTTP/1.1 403 ") && denied.contains("DENIED"), "{denied}");
    assert!(from("127.0.0.1", "/v2/").await.starts_with("HTTP/1.1 403 "));
    assert!(from("127.0.0.1", "/.well-known/acme-challenge/token").await.starts_with("HTTP/1.1 404 "));
    assert!(from("127.0.0.2", MANIFEST).await.starts_with("HTTP/1.1 200 "));
    plain.logged("tidegate.edge.allow");

    let pair = tls::pair();
    let setup = Setup::of(&hub.url()).with("TIDEGATE_EDGE_ALLOW", "127.0.0.2").secured(&pair);
    let secure = setup.with("REGISTRY_LOG_LEVEL", "debug").start();
    let shake = async |source: &str, protocol: &[u8]| {
        let stream = connect_from(source, &secure.address).await;
        tls::secure(&pair, stream, &[protocol]).await.map_err(|error| error.to_string())
    };
    // That of a CA is let in, and fails for want of a challenge; nobody is turned away.
    assert!(shake("127.0.0.1", b"acme-tls/1").await.is_err());
    secure.logged("TLS handshake failed");
    assert!(!secure.log().iter().any(|line| line.contains("turned away")));
    let refused = shake("127.0.0.1", b"http/1.1").await.unwrap_err();
    assert!(refused.to_lowercase().contains("accessdenied"), "{refused}");
    secure.logged("turned away");
    let let_in = shake("127.0.0.2", b"http/1.1").await.unwrap();
    assert!(told(let_in, request(MANIFEST)).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_whose_connection_it_is_or_is_closed() {
    let pair = tls::pair();
    let rules = |setup: Setup| {
        setup.with("TIDEGATE_EDGE_PROXYPROTOCOL", "127.0.0.2").with("TIDEGATE_EDGE_ALLOW", "192.0.2.0/24")
    };
    let mirror = rules(Setup::of("http://127.0.0.1:1")).start();
    let from = async |source: &str, header: &str| {
        told(connect_from(source, &mirror.address).await, format!("{header}{}", request("/v2/"))).await
    };
    assert!(from("127.0.0.2", "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n").await.starts_with("HTTP/1.1 200 "));
    mirror.accessed("192.0.2.7 - - ");
    assert!(from("127.0.0.2", "PROXY TCP4 198.18.0.7 192.0.2.1 1 2\r\n").await.starts_with("HTTP/1.1 403 "));
    assert!(
        from("127.0.0.2", "PROXY UNKNOWN\r\n").await.starts_with("HTTP/1.1 403 "),
        "it is the balancer itself"
    );
    assert_eq!(from("127.0.0.2", "").await, "", "no header, no word");
    assert_eq!(from("127.0.0.2", "PROXY TCP4 192.0.2.7\r\n").await, "");
    // Who is no balancer can't say that he is somebody else.
    let forged = from("127.0.0.1", "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n").await;
    assert!(forged.starts_with("HTTP/1.1 400 "), "{forged}");
    let began = Instant::now();
    assert_eq!(told(connect_from("127.0.0.2", &mirror.address).await, "PROXY TCP4").await, "");
    assert!((4..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let secure = rules(Setup::of("http://127.0.0.1:1")).secured(&pair).start();
    let mut stream = connect_from("127.0.0.2", &secure.address).await;
    let header =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[192, 0, 2, 8, 192, 0, 2, 1, 0, 1, 0, 2]];
    stream.write_all(&header.concat()).await.unwrap();
    let stream = tls::secure(&pair, stream, &[b"http/1.1"]).await.unwrap();
    assert!(told(stream, request("/v2/")).await.starts_with("HTTP/1.1 200 "));
    secure.accessed("192.0.2.8 - - ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_port_beside_tls_serves_the_same() {
    let (hub, image) = hub().await;
    let pair = tls::pair();
    let setup = Setup::of(&hub.url()).secured(&pair).with("TIDEGATE_EDGE_PLAIN", "127.0.0.1:0");
    let mirror = setup.with("TIDEGATE_EDGE_HSTS", "24h").with("TIDEGATE_EDGE_ALPN", "http/1.1").start();
    let line = mirror.logged("listening besides on ");
    let plain = line.split("besides on ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let answer = get(&format!("http://{plain}{MANIFEST}")).await;
    assert_eq!((answer.digest(), answer.header("strict-transport-security")), (image.digest.clone(), ""));
    let stream = tls::connect(&pair, &mirror.address, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    let secure = told(stream, request(MANIFEST)).await.to_lowercase();
    assert!(secure.contains("\r\nstrict-transport-security: max-age=86400\r\n"), "{secure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_so_many_connections_and_others_have_theirs() {
    let mirror = Setup::of("http://127.0.0.1:1").with("TIDEGATE_EDGE_PERCLIENT", "2").start();
    let open = async |source: &str| {
        let mut stream = connect_from(source, &mirror.address).await;
        let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut first = [0];
        matches!(soon("an answer or a close", stream.read(&mut first)).await, Ok(1)).then_some(stream)
    };
    let held = (open("127.0.0.2").await.unwrap(), open("127.0.0.2").await.unwrap());
    assert!(open("127.0.0.2").await.is_none());
    mirror.logged("tidegate.edge.perclient");
    assert!(open("127.0.0.3").await.is_some());
    drop(held);
    while open("127.0.0.2").await.is_none() {
        tokio::task::yield_now().await;
    }
}
