//! Limits: each is met, and what happens then is what was meant to.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::hub::{Fault, Host, Hub, Seen};
use crate::support::image::{self, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{get, head};
use crate::support::{soon, tls};

fn plain() -> Mirror {
    Setup::of("http://127.0.0.1:1").start()
}

/// Sends bytes, and reads until the mirror closes; how long that took and what it said.
async fn told(mirror: &Mirror, bytes: &[u8]) -> (Duration, String) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(&mirror.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the close", stream.read_to_end(&mut answer)).await;
    (began.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_given_up_after_30_s() {
    let mirror = plain();
    let (took, _) = told(&mirror, b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
    assert!((29..40).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_after_30_s() {
    let mirror = plain();
    let (took, answer) = told(&mirror, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!((29..40).contains(&took.as_secs()) && answer.starts_with("HTTP/1.1 200 OK"), "{took:?} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_is_given_up_after_10_s() {
    let pair = tls::pair();
    let setup = Setup::of("http://127.0.0.1:1")
        .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
        .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap());
    let (took, _) = told(&setup.start(), &[22, 3, 1]).await;
    assert!((9..20).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_more_than_64_kib_is_refused() {
    let mirror = plain();
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(70_000));
    let (_, answer) = told(&mirror, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..1000).map(|n| format!("X-{n}: x\r\n")).collect();
    let (_, answer) = told(&mirror, format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(get(&mirror.url("/v2/")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_range_of_podman_is_answered() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    let mirror = Setup::of(&hub.url()).start();
    let ranges: Vec<_> =
        (0..1024_u64).map(|n| format!("{}-{}", n * 90_000_000, n * 90_000_000 + 5)).collect();
    let range = format!("bytes={}", ranges.join(","));
    let url = mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]));
    let answer = crate::support::pull::ask(reqwest::Method::GET, &url, &[("range", &range)]).await;
    assert_eq!((answer.status, answer.digest()), (200, image.layers[0].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_closed_at_once() {
    // 128 descriptors leave 96 connections.
    let mirror = Setup::of("http://127.0.0.1:1").under(&["prlimit", "--nofile=128:128"]).start();
    let mut held = Vec::new();
    let mut refused = None;
    while refused.is_none() {
        assert!(held.len() <= 96, "{} connections", held.len());
        let mut stream = TcpStream::connect(&mirror.address).await.unwrap();
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0];
        match soon("an answer or a close", stream.read(&mut first)).await {
            Ok(1) => held.push(stream),
            other => refused = Some(other),
        }
    }
    assert_eq!(held.len(), 96);
    mirror.logged("too many are open");
    held.clear();
    while crate::support::pull::client().get(mirror.url("/v2/")).send().await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_more_than_4_mib_is_not_taken() {
    let hub = Hub::start().await;
    let padding = " ".repeat(4 * 1024 * 1024);
    hub.manifest("library/app", Some("1"), OCI.index, format!("{{\"manifests\":[]{padding}}}"));
    let mirror = Setup::of(&hub.url()).start();
    let answer = get(&mirror.url("/v2/library/app/manifests/1")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"));
    assert_eq!(hub.count(Seen::is_counted), 1);
    assert_eq!(mirror.files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_document_without_an_end_is_not_read() {
    let hub = Hub::start().await;
    image::publish(&hub, "library/app", Some("1"), OCI, &[]);
    let document = Box::leak(format!("{{\"token\":\"{}\"}}", "x".repeat(100_000)).into_boxed_str());
    let order = hub.fault(Host::Token, "/token", Fault::Answer(200, "", document));
    let mirror = Setup::of(&hub.url()).start();
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.status, 503);
    assert!(order.applied() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_hangs_is_asked_again_later() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[]);
    let hang = hub.fault(Host::Token, "/token", Fault::Hang);
    let mirror = Setup::of(&hub.url()).start();
    let began = Instant::now();
    let url = mirror.url("/v2/library/app/manifests/1");
    assert_eq!(get(&url).await.status, 503);
    assert!(began.elapsed().as_secs() < 10 && hang.applied() >= 1);
    hub.behave();
    // The question that hangs is given up for all who wait for it, and the next one is a new one.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = get(&url).await;
        if answer.status == 200 {
            break assert_eq!(answer.digest(), image.digest);
        }
        assert!(Instant::now() < deadline, "the token server is not asked again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_takes_no_connection_is_given_up() {
    // A queue of one that is full: further connections hang.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(address).unwrap();
    let mirror = Setup::of(&format!("http://{address}")).start();
    let began = Instant::now();
    let answer = get(&mirror.url("/v2/library/app/manifests/1")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"));
    assert!((4..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_stalls_goes_on_by_a_new_one() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1_000_000)]);
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_FILL_STALL", "2s").start();
    let stall = hub.fault(Host::Cdn, "GET", Fault::Gate(300_000));
    stall.times(1);
    let began = Instant::now();
    let pulled = get(&mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]))).await;
    assert_eq!((pulled.whole, pulled.digest()), (true, image.layers[0].clone()));
    assert!(began.elapsed().as_secs() >= 1 && stall.applied() == 1);
    assert!(hub.seen().iter().any(|seen| seen.range.as_deref() == Some("bytes=300000-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_without_a_length_is_taken_if_the_manifest_tells_it() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    let mirror = Setup::of(&hub.url()).start();
    let blob = mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]));
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    let order = hub.fault(Host::Cdn, "", Fault::NoLength);
    let length = image::layer(1, 100_000).len().to_string();
    assert_eq!(head(&blob).await.header("content-length"), length);
    let pulled = get(&blob).await;
    assert_eq!((pulled.whole, pulled.digest()), (true, image.layers[0].clone()));
    assert_eq!(pulled.header("content-length"), length);
    assert!(order.applied() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_its_time_gets_its_last_bytes() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1_000_000)]);
    let whole = image::layer(1, 1_000_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // A Unix socket, whose buffer has a fixed size of about 200 KiB.
    let setup = Setup::of(&hub.url()).with("REGISTRY_HTTP_NET", "unix");
    let _mirror = setup.with("REGISTRY_HTTP_ADDR", path.to_str().unwrap()).start();
    let request = format!("GET /v2/library/app/blobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", image.layers[0]);
    // Each leaves another rest, so that some have it all in the buffer of the socket, and some half in the mirror's hands.
    let mut clients = Vec::new();
    for rest in (100..=320).step_by(20) {
        let mut slow = UnixStream::connect(&path).await.unwrap();
        slow.write_all(request.as_bytes()).await.unwrap();
        let mut taken = vec![0; whole.len() - rest * 1024];
        soon("most of the body", slow.read_exact(&mut taken)).await.unwrap();
        clients.push((rest, slow, taken));
    }
    // Meanwhile a connection without any use is given up, which takes 30 s.
    let mut idle = UnixStream::connect(&path).await.unwrap();
    let _ = soon("the close of an idle connection", idle.read(&mut [0])).await;
    for (rest, mut slow, mut taken) in clients {
        let head = taken.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let mut buffer = vec![0; 1024 * 1024];
        while taken.len() < head + whole.len() {
            let read = soon("the rest", slow.read(&mut buffer)).await.unwrap();
            assert!(read > 0, "of {rest} KiB, {} bytes were cut off", head + whole.len() - taken.len());
            taken.extend_from_slice(&buffer[..read]);
        }
        assert_eq!(&taken[head..], whole.as_ref());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_http_2_connection_is_closed() {
    let pair = tls::pair();
    let setup = Setup::of("http://127.0.0.1:1")
        .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
        .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap());
    let mirror = setup.start();
    let began = Instant::now();
    let mut silent = tls::connect(&pair, &mirror.address, &[b"h2"]).await;
    assert_eq!(silent.get_ref().1.alpn_protocol(), Some(b"h2".as_ref()));
    let mut said = Vec::new();
    let _ = soon("the close", silent.read_to_end(&mut said)).await;
    assert!((29..45).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
