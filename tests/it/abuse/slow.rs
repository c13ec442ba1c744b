//! Slowly, or not at all.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Scene, many};
use crate::support::raw::told;
use crate::support::soon;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_never_shakes_hands_is_closed_after_10_s() {
    let scene = Scene::start().await;
    let began = Instant::now();
    let mut crowd = Vec::new();
    for number in 0..many(500, 5_000) {
        let mut stream = TcpStream::connect(&scene.mirror.address).await.unwrap();
        // Half of them begin, and go no further.
        if number % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02").await.unwrap();
        }
        crowd.push(stream);
    }
    scene.hit().await;
    for mut stream in crowd {
        let _ = soon("the close", stream.read(&mut [0])).await;
    }
    assert!((9..30).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_is_given_up() {
    let scene = Scene::start().await;
    let began = Instant::now();
    let mut crowd = Vec::new();
    for _ in 0..many(100, 1_000) {
        let mut stream = TcpStream::connect(&scene.plain).await.unwrap();
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        crowd.push(stream);
    }
    // A byte each second, as slowloris does.
    while !crowd.is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.hit().await;
        let mut left = Vec::new();
        for mut stream in crowd {
            let closed =
                tokio::time::timeout(Duration::from_micros(200), stream.read(&mut [0])).await.is_ok();
            if !closed && stream.write_all(b"x").await.is_ok() {
                left.push(stream);
            }
        }
        crowd = left;
        assert!(began.elapsed().as_secs() < 60, "{} go on trickling", crowd.len());
    }
    assert!(began.elapsed().as_secs() >= 28, "{:?}", began.elapsed());
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_refused_at_once() {
    let scene = Scene::start().await;
    for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"] {
        let began = Instant::now();
        let stream = TcpStream::connect(&scene.plain).await.unwrap();
        let request = format!(
            "{method} /v2/library/app/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"
        );
        let answer = told(stream, request).await;
        let status = if matches!(method, "GET" | "HEAD") { "400" } else { "405" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{method}: {:?}", began.elapsed());
    }
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_cut_after_a_minute() {
    let scene = Scene::start().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", scene.layer());
    let mut crowd = Vec::new();
    for _ in 0..many(50, 500) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(scene.plain.parse().unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    let began = Instant::now();
    while scene.mirror.descriptors() < scene.descriptors + crowd.len() {
        scene.hit().await;
    }
    let memory = scene.mirror.anonymous_memory().saturating_sub(scene.memory) / crowd.len() as u64;
    assert!(memory <= 512 * 1024, "{memory} bytes for each that does not read");
    while scene.mirror.descriptors() > scene.descriptors + super::SLACK_DESCRIPTORS {
        assert!(began.elapsed().as_secs() < 180, "{} descriptors", scene.mirror.descriptors());
        scene.hit().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(began.elapsed().as_secs() >= 30, "{:?}", began.elapsed());
    scene.is_as_before().await;
}
