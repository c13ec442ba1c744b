//! Many at once.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::{Scene, many};
use crate::support::{soon, tls};

#[tokio::test(flavor = "multi_thread")]
async fn connect_and_close_leaves_nothing_behind() {
    let scene = Scene::start().await;
    for number in 0..many(10_000, 100_000) {
        let address = if number % 2 == 0 { &scene.plain } else { &scene.mirror.address };
        let mut stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        // Some say a little before they go.
        if number % 3 == 0 {
            let _ = stream.write_all(b"\x16\x03\x01GET").await;
        }
        if number % 1_000 == 0 {
            scene.hit().await;
        }
    }
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_tls_connections_take_at_most_40_kib_each() {
    let scene = Scene::start().await;
    let count = many(1_000, 10_000);
    let held = hold(&scene, count).await;
    let peak = scene.mirror.anonymous_memory();
    let each = peak.saturating_sub(scene.memory) / count as u64;
    eprintln!("{count} idle TLS connections: {each} bytes each");
    assert!(each <= 40 * 1024, "{each} bytes each");
    scene.hit().await;
    drop(held);
    scene.has_let_go().await;
    // What the allocator keeps of it is used again: another crowd takes no more.
    let held = hold(&scene, count).await;
    let again = scene.mirror.anonymous_memory();
    assert!(again < peak + super::SLACK_BYTES, "{} MiB, and {} the first time", again >> 20, peak >> 20);
    drop(held);
    scene.has_let_go().await;
}

/// So many connections, as clients leave them idle: some after an answer.
async fn hold(scene: &Scene, count: usize) -> Vec<TlsStream<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut idle = tls::connect(&scene.pair, &scene.mirror.address, &[b"http/1.1"]).await;
        if held.len() % 4 == 0 {
            idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert!(soon("an answer", idle.read(&mut [0; 1024])).await.unwrap() > 0);
        }
        held.push(idle);
    }
    assert!(scene.mirror.descriptors() >= scene.descriptors + count / 2, "they are not held");
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_in_mid_body_leave_nothing_behind() {
    let scene = Scene::start().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", scene.layer());
    for _ in 0..many(50, 500) {
        let mut leaving = JoinSet::new();
        for _ in 0..20 {
            let (address, request) = (scene.plain.clone(), request.clone());
            leaving.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                assert!(stream.read(&mut [0; 10_000]).await.unwrap() > 0);
            });
        }
        soon("all of them", leaving.join_all()).await;
    }
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_either_port_is_closed() {
    let scene = Scene::start().await;
    let noise: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0; 4096],
        &[0xff; 20_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    ];
    for noise in noise {
        for address in [&scene.plain, &scene.mirror.address] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(noise).await;
            let _ = stream.shutdown().await;
            let mut said = Vec::new();
            let _ = soon("the close", stream.read_to_end(&mut said)).await;
            assert!(!said.starts_with(b"HTTP/1.1 200"), "{said:?}");
        }
    }
    scene.is_as_before().await;
}
