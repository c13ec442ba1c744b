//! Requests that are none, and bytes that come in pieces.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Scene;
use crate::support::mirror::Setup;
use crate::support::raw::{request, told};
use crate::support::{soon, tls};

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Heads that two servers may read in two ways.
const AMBIGUOUS: [&str; 13] = [
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0x4\r\n\r\nabcd",
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 5\r\n\r\nabcd",
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\nabcd",
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n",
    "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Folded: a\r\n b\r\n\r\n",
    "GET /v2/ HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
    "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Nul: a\0b\r\n\r\n",
    "GET /v2/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_heads_are_refused_and_the_connection_closed() {
    let scene = Scene::start().await;
    for head in AMBIGUOUS {
        let answer = told(connect(&scene.plain).await, format!("{head}{}", request("/v2/_catalog"))).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_hidden_in_a_body_is_never_run() {
    let scene = Scene::start().await;
    let hidden = request("/v2/_catalog");
    for method in ["GET", "HEAD"] {
        let head = format!("{method} /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", hidden.len());
        let answer = told(connect(&scene.plain).await, format!("{head}{hidden}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
        let head = format!("{method} /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        let answer = told(connect(&scene.plain).await, format!("{head}{chunk}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert!(!scene.mirror.access_log().iter().any(|line| line.contains("_catalog")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_passes_on_one_request_for_one() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Setup::before(&format!("http://{}", backend.local_addr().unwrap())).start();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = backend.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") {
            assert!(soon("a request", stream.read_buf(&mut seen)).await.unwrap() > 0);
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    // Two lengths: the chunks count, and the backend hears of them alone.
    let both = "POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\n\r\n";
    let answer = told(connect(&sidecar.address).await, both).await;
    // Refused at once is as good.
    if answer.starts_with("HTTP/1.1 400 ") {
        return seen.abort();
    }
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let seen = seen.await.unwrap().to_lowercase();
    assert!(seen.contains("transfer-encoding: chunked") && !seen.contains("content-length"), "{seen}");
    for head in AMBIGUOUS {
        let answer = told(connect(&sidecar.address).await, head).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_sent_ahead_are_answered_in_order() {
    let scene = Scene::start().await;
    let mut ahead: String = (0..50)
        .map(|n| {
            format!("GET /v2/?{n} HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere{n} HTTP/1.1\r\nHost: x\r\n\r\n")
        })
        .collect();
    ahead.push_str(&request("/v2/"));
    let answer = told(connect(&scene.plain).await, ahead).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(statuses.len(), 101);
    assert!(
        statuses.chunks(2).all(|pair| pair[0] == "200" && pair.get(1).is_none_or(|s| *s == "404")),
        "{statuses:?}"
    );
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_targets_and_methods_are_refused() {
    let scene = Scene::start().await;
    for (line, statuses) in [
        ("CONNECT hub.example:443 HTTP/1.1", ["404", "405", "400"].as_slice()),
        ("TRACE /v2/library/app/manifests/1 HTTP/1.1", &["405"]),
        ("PRI * HTTP/2.0", &["400", ""]),
        ("GET http://other.example/v2/ HTTP/1.1", &["200"]),
        ("OPTIONS * HTTP/1.1", &["404", "405", "200", "400"]),
        ("GET /v2/ HTTP/3.0", &["400", ""]),
        ("GET /v2/library/app/blobs/sha256:../../etc/passwd HTTP/1.1", &["404"]),
        ("GET /v2/library/../app/manifests/1 HTTP/1.1", &["404", "400", "301"]),
        ("GET /v2/library%2fapp/manifests/1 HTTP/1.1", &["404", "400"]),
    ] {
        let answer =
            told(connect(&scene.plain).await, format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n"))
                .await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(statuses.contains(&status), "{line}: {answer}");
    }
    let upgraded = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert!(told(connect(&scene.plain).await, upgraded).await.starts_with("HTTP/1.1 200 "));
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_a_log_is_forged_from_outside() {
    let scene = Scene::start().await;
    let escape =
        "GET /v2/?escape HTTP/1.1\r\nHost: x\r\nUser-Agent: \x1b[31mred\r\nConnection: close\r\n\r\n";
    assert!(told(connect(&scene.plain).await, escape).await.starts_with("HTTP/1.1 400 "));
    let agent = format!("tab\t\"quoted\" {}", "x".repeat(20_000));
    let line =
        format!("GET /v2/?forged HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n");
    told(connect(&scene.plain).await, line).await;
    let logged = scene.mirror.accessed("?forged");
    assert!(!logged.contains(['\x1b', '\t']) && logged.len() < 30_000, "{logged}");
    assert!(logged.contains("\\\"quoted"), "{}", &logged[..200]);
    scene.is_as_before().await;
}

/// What a client sends first.
async fn client_hello(scene: &Scene) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = connect(&listener.local_addr().unwrap().to_string()).await;
    let (mut taken, _) = listener.accept().await.unwrap();
    let mut hello = Vec::new();
    let shaking = tls::secure(&scene.pair, stream, &[b"http/1.1"]);
    let reading = async {
        while hello.len() < 5 || hello.len() < 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])) {
            assert!(taken.read_buf(&mut hello).await.unwrap() > 0);
        }
    };
    tokio::select! {
        _ = shaking => panic!("nobody answers"),
        () = reading => {}
    }
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_in_pieces_is_one() {
    let scene = Scene::start().await;
    let hello = client_hello(&scene).await;
    // Byte by byte, and in records of one byte each (RFC 8446 section 5.1 allows it).
    let records: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    for bytes in [hello, records] {
        let mut stream = connect(&scene.mirror.address).await;
        stream.set_nodelay(true).unwrap();
        for piece in bytes.chunks(1) {
            stream.write_all(piece).await.unwrap();
        }
        let mut first = [0; 6];
        soon("the server hello", stream.read_exact(&mut first)).await.unwrap();
        assert_eq!((first[0], first[5]), (22, 2), "no server hello: {first:?}");
    }
    scene.is_as_before().await;
}
