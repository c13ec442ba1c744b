//! Floods of frames (RFC 9113).

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{Scene, many};
use crate::support::{soon, tls};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a GET, by the static table (RFC 7541 appendix A).
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    assert!(length < 127);
    [&[0x82, 0x87, 0x01, 1, b'x', 0x04, length], path.as_bytes()].concat()
}

async fn open(scene: &Scene, settings: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = tls::connect(&scene.pair, &scene.mirror.address, &[b"h2"]).await;
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(SETTINGS, 0, 0, settings).as_slice()].concat();
    stream.write_all(&preface).await.unwrap();
    stream
}

/// Sends what `frames` gives for each number until there is no more, or the mirror closes; whether it closed.
async fn flood(scene: &Scene, count: usize, frames: impl Fn(u32) -> Vec<u8>) -> bool {
    let stream = open(scene, &[]).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let mut closed = false;
    for number in 0..u32::try_from(count).unwrap() {
        if soon("a frame", writer.write_all(&frames(number))).await.is_err() {
            closed = true;
            break;
        }
        if number % 5_000 == 0 {
            scene.hit().await;
        }
    }
    let _ = writer.flush().await;
    closed |= reading.is_finished();
    scene.hit().await;
    reading.abort();
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_take_little_and_end_the_connection() {
    let scene = Scene::start().await;
    // Cold names, so that each would be a question to the upstream.
    let closed = flood(&scene, many(20_000, 1_000_000), |number| {
        let stream = number * 2 + 1;
        let head = get(&format!("/v2/library/app{}/manifests/1", number % 10));
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head), reset].concat()
    })
    .await;
    assert!(closed, "20,000 resets are taken on one connection");
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_an_end_ends_the_connection() {
    let scene = Scene::start().await;
    let piece = vec![0x82; 16_000];
    let closed = flood(&scene, 10_000, |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &get("/v2/")),
        _ => frame(CONTINUATION, 0, 1, &piece),
    })
    .await;
    assert!(closed, "160 MB of head are taken");
    let closed = flood(&scene, many(20_000, 200_000), |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &get("/v2/")),
        _ => frame(CONTINUATION, 0, 1, &[]),
    })
    .await;
    assert!(closed, "empty pieces of a head are taken without an end");
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_floods_of_frames_take_little() {
    let scene = Scene::start().await;
    let count = many(20_000, 500_000);
    flood(&scene, count, |_| frame(PING, 0, 0, &[7; 8])).await;
    flood(&scene, count, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])).await;
    flood(&scene, count, |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await;
    flood(&scene, count, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &get("/v2/")),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await;
    // Streams that the mirror itself has to reset: a head that is none.
    let closed = flood(&scene, count, |number| {
        let stream = number * 2 + 1;
        let nothing = frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &get("/v2/")), nothing].concat()
    })
    .await;
    assert!(closed, "a client may make the mirror reset without an end");
    scene.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_the_windows_shut_is_cut_after_a_minute() {
    let scene = Scene::start().await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0: not a byte of a body may be sent.
    let mut stream = open(&scene, &[0, 4, 0, 0, 0, 0]).await;
    let head = get(&scene.layer());
    let requests: Vec<u8> =
        (0..20).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &head)).collect();
    stream.write_all(&requests).await.unwrap();
    let began = Instant::now();
    let mut pings = 0;
    let mut head = [0; 9];
    // It answers every ping meanwhile: nobody can say that it is gone.
    while tokio::time::timeout(std::time::Duration::from_secs(100), stream.read_exact(&mut head))
        .await
        .expect("it is not cut")
        .is_ok()
    {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == PING && head[4] & ACK == 0 {
            pings += 1;
            let _ = stream.write_all(&frame(PING, ACK, 0, &payload)).await;
        }
    }
    assert!(pings >= 2, "{pings} pings");
    assert!((55..90).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    scene.is_as_before().await;
}
