//! The edge alone, in front of a registry that is there already.

use reqwest::Method;
use tempfile::TempDir;
use tidegate::registry::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use crate::clients::peers::{Shelf, Upstream};
use crate::support::command::run;
use crate::support::mirror::Setup;
use crate::support::pull::{MODERN, ask, client, finish, get, open};
use crate::support::{soon, tls};

/// Answers one request with these words, and gives its head and its body.
async fn answered(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    body_bytes: usize,
    answer: &str,
) -> String {
    let mut seen = Vec::new();
    let head = loop {
        assert!(soon("a request", stream.read_buf(&mut seen)).await.unwrap() > 0, "{seen:?}");
        if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    while seen.len() < head + body_bytes {
        soon("the body", stream.read_buf(&mut seen)).await.unwrap();
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pushed_and_pulled_through_the_sidecar() {
    let pair = tls::pair();
    for secure in [false, true] {
        let backend = Upstream::start().await;
        let source = Upstream::start().await;
        let shelf = Shelf::fill(&source.url).await;
        let setup = Setup::before(&backend.url);
        let sidecar = if secure { setup.secured(&pair) } else { setup }.start();
        let folder = TempDir::new().unwrap();
        let certificates = pair.authority.parent().unwrap().to_str().unwrap();
        for (name, digest) in &shelf.images {
            let from = format!("docker://{}/{name}:1", source.url.trim_start_matches("http://"));
            let through = format!("docker://{}/{name}:1", sidecar.address);
            let target = folder.path().join(name.replace('/', "-"));
            let back = format!("dir:{}", target.display());
            let trust = |side: &str| match secure {
                true => format!("--{side}-cert-dir={certificates}"),
                false => format!("--{side}-tls-verify=false"),
            };
            let copy = ["copy", "--all", "--quiet", "--preserve-digests"];
            run(
                "skopeo",
                &[&copy[..], &["--src-tls-verify=false", &trust("dest"), &from, &through]].concat(),
            );
            run("skopeo", &[&copy[..], &[&trust("src"), &through, &back]].concat());
            let manifest = std::fs::read(target.join("manifest.json")).unwrap();
            assert_eq!(&Digest::sha256(&manifest).to_string(), digest, "{name}");
            // It is the backend that has it, and nobody else.
            let direct =
                ask(Method::GET, &format!("{}/v2/{name}/manifests/{digest}", backend.url), &[MODERN]).await;
            assert_eq!(&direct.digest(), digest);
        }
        assert!(!sidecar.setup.root().exists(), "a sidecar keeps nothing");
        assert!(sidecar.access_log().iter().any(|line| line.contains("\"PUT /v2/library/oci/")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_killed_in_mid_body_is_a_cut() {
    let backend = Upstream::start().await;
    let sidecar = Setup::before(&backend.url).start();
    let layer = vec![7; 64 * 1024 * 1024];
    let digest = Digest::sha256(&layer);
    let begun = client().post(sidecar.url("/v2/app/blobs/uploads/")).send().await.unwrap();
    let place = begun.headers()["location"].to_str().unwrap().to_owned();
    assert!(place.starts_with(&sidecar.url("/v2/app/")), "the backend knows how it is asked: {place}");
    let put = client().put(format!("{place}&digest={digest}")).body(layer.clone()).send().await.unwrap();
    assert_eq!(put.status(), 201);
    let url = sidecar.url(&format!("/v2/app/blobs/{digest}"));
    let whole = get(&url).await;
    assert_eq!((whole.whole, whole.digest()), (true, digest.to_string()));
    let response = open(&url).await;
    let backend = backend.stop();
    let cut = finish(response).await;
    assert!(!cut.whole && cut.status == 200 && cut.body.len() < layer.len(), "{}", cut.body.len());
    sidecar.logged("the backend broke off");
    let gone = get(&url).await;
    assert_eq!((gone.status, gone.code().as_str()), (502, "UNAVAILABLE"));
    drop(backend);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_the_backend_as_it_is_but_for_who_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Setup::before(&format!("http://{}", listener.local_addr().unwrap())).start();
    let backend = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer =
            "HTTP/1.1 207 Odd\r\nX-Own: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok";
        answered(stream, 5, answer).await
    });
    let headers = [
        ("host", "mirror.test"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("te", "x"),
    ];
    let mut request =
        client().request(Method::from_bytes(b"PROPFIND").unwrap(), sidecar.url("/a//b%2Fc?x=%20&y"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = finish(soon("an answer", request.body("hello").send()).await.unwrap()).await;
    assert_eq!((answer.status, answer.header("x-own"), answer.header("x-hop")), (207, "1", ""));
    assert_eq!(answer.body, "ok");
    let seen = backend.await.unwrap();
    assert!(
        seen.starts_with("PROPFIND /a//b%2Fc?x=%20&y HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nhello"),
        "{seen}"
    );
    let lower = seen.to_lowercase();
    for line in [
        "host: mirror.test",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: mirror.test",
    ] {
        assert!(lower.contains(&format!("\r\n{line}\r\n")), "no {line} in {seen}");
    }
    assert!(!lower.contains("10.0.0.1") && !lower.contains("\r\nte:"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_may_be_on_a_unix_socket() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let sidecar = Setup::before(&format!("unix:{}", path.display())).start();
    let backend = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answered(stream, 0, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await
    });
    let answer = ask(Method::HEAD, &sidecar.url("/v2/"), &[]).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, "9", 0));
    assert!(backend.await.unwrap().starts_with("HEAD /v2/ HTTP/1.1\r\n"));
}

#[test]
fn a_sidecar_is_no_mirror_besides() {
    let setup = Setup::of("http://127.0.0.1:1").with("TIDEGATE_EDGE_FORWARD", "http://127.0.0.1:5001");
    let output = setup.output();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for key in ["proxy", "storage"] {
        assert!(text.contains(&format!("\n{key}")) || text.starts_with(&format!("{key} ")), "{text}");
    }
    assert!(text.contains("tidegate.edge.forward"), "{text}");
}
