use crate::sys::clock;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A sidecar of a backend, with little patience, and a connection to it.
async fn before(backend: &TcpListener, requests_max: usize) -> TcpStream {
    let authority = backend.local_addr().unwrap().to_string().parse().unwrap();
    let records = Records { metrics: Arc::default(), access: None };
    let parts = ForwardParts {
        backend: Backend::Tcp(authority),
        records,
        health: Health::default(),
        gate: Gate::open_to_all(1, Arc::default()),
        requests_max,
    };
    let mut forward = Arc::into_inner(Forward::new(parts)).unwrap();
    forward.silence_max = Duration::from_millis(200);
    let forward = Arc::new(forward);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let (forward, poison) = (Arc::clone(&forward), Poison::default());
            async move {
                let asker = Client::of("192.0.2.7", false);
                Ok::<_, std::convert::Infallible>(forward.answer(request, asker, poison).await)
            }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(server), service).await;
    });
    client
}

async fn told(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

const GET: &str = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_backend_that_gives_no_answer_is_not_waited_for() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answer = told(&mut before(&backend, 1).await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("UNAVAILABLE"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_stops_in_mid_body_is_a_cut() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = before(&backend, 1).await;
    let silent = tokio::spawn(async move {
        let (mut stream, _) = backend.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await
    });
    let answer = told(&mut client, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("3\r\nabc\r\n"), "{answer}");
    silent.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upload_that_goes_on_is_waited_for() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = before(&backend, 1).await;
    let began = clock::monotonic();
    client
        .write_all(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let (mut stream, _) = backend.accept().await.unwrap();
    let mut seen = Vec::new();
    for byte in 0..8_u8 {
        // Longer in all than the patience of the sidecar.
        tokio::time::sleep(Duration::from_millis(60)).await;
        client.write_all(&[byte]).await.unwrap();
        while seen.last() != Some(&byte) {
            stream.read_buf(&mut seen).await.unwrap();
        }
    }
    stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let answer = told(&mut client, "").await;
    assert!(answer.starts_with("HTTP/1.1 201 ") && began.elapsed() > Duration::from_millis(400), "{answer}");
}

#[tokio::test]
async fn more_requests_than_the_limit_are_refused() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = before(&backend, 0).await;
    let answer = told(&mut client, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many requests"), "{answer}");
}
