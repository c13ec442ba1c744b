//! The stop: nothing that was begun is lost, and nobody waits for those who do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Certificate;
use tidegate::registry::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::hub::{Fault, Host, Hub};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::Setup;
use crate::support::process::Signal;
use crate::support::pull::finish;
use crate::support::{PATIENCE, soon, tls};

async fn hub() -> (Hub, Image) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 3_000_000)]);
    (hub, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_cuts_no_body_and_refuses_nobody_before_the_port_is_closed() {
    let pair = tls::pair();
    for secure in [false, true] {
        let (hub, image) = hub().await;
        let setup = Setup::of(&hub.url());
        let mut mirror = if secure { setup.secured(&pair) } else { setup }.start();
        let scheme = if secure { "https" } else { "http" };
        let port = mirror.address.rsplit(':').next().unwrap();
        let url = format!("{scheme}://127.0.0.1:{port}/v2/library/app/blobs/{}", image.layers[0]);
        let root = Certificate::from_pem(&std::fs::read(&pair.authority).unwrap()).unwrap();
        let builder = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().timeout(PATIENCE);
        let client = builder.tls_certs_only([root]).build().unwrap();
        let pulls = Arc::new(AtomicU64::new(0));
        let pullers: Vec<_> = (0..8)
            .map(|_| {
                let (client, url, digest) = (client.clone(), url.clone(), image.layers[0].clone());
                let pulls = Arc::clone(&pulls);
                tokio::spawn(async move {
                    loop {
                        let response = match client.get(&url).send().await {
                            Ok(response) => response,
                            Err(error) => return error,
                        };
                        let answer = finish(response).await;
                        assert!(answer.whole && answer.digest() == digest, "a body was cut");
                        pulls.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        while pulls.load(Ordering::Relaxed) < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        mirror.signal(Signal::TERM);
        for puller in pullers {
            let error = soon("the end of a puller", puller).await.unwrap();
            let text = format!("{error:?}");
            assert!(error.is_connect() && text.contains("ConnectionRefused"), "{text}");
        }
        assert!(mirror.ended().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_idle_connections_end_at_once_and_the_process_with_the_last_body() {
    let (hub, image) = hub().await;
    let mut mirror = Setup::of(&hub.url()).start();
    let gate = hub.fault(Host::Cdn, "GET", Fault::Gate(100_000));
    let mut idle = TcpStream::connect(&mirror.address).await.unwrap();
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    soon("an answer", idle.read(&mut [0; 4096])).await.unwrap();
    let mut busy = TcpStream::connect(&mirror.address).await.unwrap();
    let request = format!("GET /v2/library/app/blobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", image.layers[0]);
    busy.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 50_000];
    soon("a part of the body", busy.read_exact(&mut answer)).await.unwrap();
    let began = Instant::now();
    mirror.signal(Signal::TERM);
    assert_eq!(soon("the close", idle.read(&mut [0])).await.unwrap(), 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!mirror.has_ended() && gate.applied() == 1);
    hub.release();
    soon("the answer", busy.read_to_end(&mut answer)).await.unwrap();
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(Digest::sha256(&answer[head..]).to_string(), image.layers[0], "the body was cut");
    // With the last answer it ends; nothing waits for the drain time.
    assert!(mirror.ended().success() && began.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_http_2_is_told_goaway() {
    let pair = tls::pair();
    let mut mirror = Setup::of("http://127.0.0.1:1").secured(&pair).start();
    let mut idle = tls::connect(&pair, &mirror.address, &[b"h2"]).await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut said = vec![0; 9];
    soon("the settings", idle.read_exact(&mut said)).await.unwrap();
    let began = Instant::now();
    mirror.signal(Signal::TERM);
    let _ = soon("the close", idle.read_to_end(&mut said)).await;
    assert!(kinds(&said).contains(&7), "no GOAWAY: {said:?}");
    assert!(began.elapsed() < Duration::from_secs(4) && mirror.ended().success(), "{:?}", began.elapsed());
}

/// The types of the frames in a stream of HTTP/2 (RFC 9113 section 4.1).
fn kinds(mut frames: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *frames {
        kinds.push(kind);
        let length = 9 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
        frames = frames.get(length..).unwrap_or_default();
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_had_begun_before_the_stop_is_finished() {
    let pair = tls::pair();
    let mut mirror = Setup::of("http://127.0.0.1:1").secured(&pair).start();
    // Accepted by the system, and not a byte sent yet.
    let stream = TcpStream::connect(&mirror.address).await.unwrap();
    mirror.signal(Signal::TERM);
    mirror.logged("stopping server gracefully");
    let mut shaken = soon("the handshake", tls::secure(&pair, stream, &[b"http/1.1"])).await.unwrap();
    shaken.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the answer", shaken.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(mirror.ended().success());
}
