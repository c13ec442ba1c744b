//! HTTP/1.1 by hand, so that every byte and every close is ours to decide.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Blob, Fault, Host, State};

/// A connection, with or without TLS.
trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// One parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Blob,
    /// The part of the body that is sent.
    pub range: (u64, u64),
}

impl Reply {
    pub fn new(status: u16, headers: Vec<(&'static str, String)>, body: impl Into<Bytes>) -> Self {
        Self::of(status, headers, Blob::Bytes(body.into()))
    }

    pub fn of(status: u16, headers: Vec<(&'static str, String)>, body: Blob) -> Self {
        let range = (0, body.size());
        Self { status, headers, body, range }
    }
}

pub async fn bind(address: Option<SocketAddr>) -> TcpListener {
    TcpListener::bind(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).await.unwrap()
}

pub async fn serve(listener: TcpListener, state: Arc<State>, host: Host) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        let mut stopped = state.stopped.subscribe();
        tokio::spawn(async move {
            let conversation = async {
                match &state.tls {
                    None => converse(stream, &state, host).await,
                    Some(tls) => converse(tls.accept(stream).await.ok()?, &state, host).await,
                }
            };
            tokio::select! {
                _ = conversation => {}
                _ = stopped.changed() => {}
            }
        });
    }
}

/// Answers one request after the other; ends with the peer or with a fault.
async fn converse(mut stream: impl Wire, state: &State, host: Host) -> Option<()> {
    loop {
        let request = read(&mut stream).await?;
        state.note(host, &request);
        let fault = state.fault_for(host, &request);
        let reply = state.answer(host, &request);
        let reply = match &fault {
            Some(Fault::Answer(status, headers, body)) => {
                write_head(&mut stream, *status, headers, body.len() as u64).await?;
                if request.method != "HEAD" {
                    stream.write_all(body.as_bytes()).await.ok()?;
                }
                continue;
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Hold) => {
                wait_for_release(state).await?;
                reply
            }
            Some(Fault::Close) => return None,
            _ => reply,
        };
        let range = if matches!(fault, Some(Fault::NoRange)) { (0, reply.body.size()) } else { reply.range };
        let status = if matches!(fault, Some(Fault::NoRange)) { 200 } else { reply.status };
        let dropped = match fault {
            Some(Fault::NoDigest) => "docker-content-digest",
            Some(Fault::NoRange) => "content-range",
            _ => "",
        };
        let kept = reply.headers.iter().filter(|(name, _)| *name != dropped);
        let headers: String = kept.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        if let Some(Fault::Chunks(cut)) = fault {
            write_chunks(&mut stream, status, &headers, &reply, cut).await?;
            continue;
        }
        let endless = matches!(fault, Some(Fault::NoLength | Fault::Longer(_)));
        match endless {
            false => write_head(&mut stream, status, &headers, range.1 - range.0).await?,
            true => write_head_without_length(&mut stream, status, &headers).await?,
        }
        if request.method != "HEAD" {
            let surplus = if let Some(Fault::Longer(surplus)) = fault { surplus } else { 0 };
            write_body(&mut stream, state, host, &reply.body, range, fault).await?;
            stream.write_all(&vec![0; surplus]).await.ok()?;
        }
        if endless {
            let _ = stream.shutdown().await;
            return None;
        }
    }
}

async fn wait_for_release(state: &State) -> Option<()> {
    let mut released = state.released.subscribe();
    released.wait_for(|released| *released).await.ok().map(drop)
}

async fn read(stream: &mut impl Wire) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers: headers.collect() })
}

async fn write_head(stream: &mut impl Wire, status: u16, headers: &str, length: u64) -> Option<()> {
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.ok()
}

async fn write_head_without_length(stream: &mut impl Wire, status: u16, headers: &str) -> Option<()> {
    let head = format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.ok()
}

/// In chunks of a step, to the end or to where it is cut.
async fn write_chunks(
    stream: &mut impl Wire,
    status: u16,
    headers: &str,
    reply: &Reply,
    cut: Option<u64>,
) -> Option<()> {
    let head = format!("HTTP/1.1 {status} Scripted\r\ntransfer-encoding: chunked\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let (mut at, all) = reply.range;
    let end = cut.map_or(all, |after| all.min(at + after));
    while at < end {
        let step = reply.body.step(at, end);
        stream.write_all(format!("{:x}\r\n", step.len()).as_bytes()).await.ok()?;
        stream.write_all(&[&step[..], b"\r\n"].concat()).await.ok()?;
        at += step.len() as u64;
    }
    match cut {
        Some(_) => None,
        None => stream.write_all(b"0\r\n\r\n").await.ok(),
    }
}

async fn write_body(
    stream: &mut impl Wire,
    state: &State,
    host: Host,
    body: &Blob,
    range: (u64, u64),
    fault: Option<Fault>,
) -> Option<()> {
    let (mut at, end) = range;
    if let Some(Fault::Slow(rate)) = fault {
        while at < end {
            let next = end.min(at + rate.div_ceil(50));
            at = write_part(stream, state, host, body, (at, next)).await?;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        return Some(());
    }
    let stop = match &fault {
        Some(Fault::Cut(after) | Fault::Gate(after)) => end.min(at + after),
        Some(Fault::Wrong) => end - 1,
        _ => end,
    };
    at = write_part(stream, state, host, body, (at, stop)).await?;
    match fault {
        Some(Fault::Cut(_)) => return None,
        Some(Fault::Gate(_)) => wait_for_release(state).await?,
        Some(Fault::Wrong) => {
            let right = body.step(at, end);
            stream.write_all(&[!right[0]]).await.ok()?;
            at += 1;
        }
        _ => {}
    }
    write_part(stream, state, host, body, (at, end)).await.map(drop)
}

async fn write_part(
    stream: &mut impl Wire,
    state: &State,
    host: Host,
    body: &Blob,
    range: (u64, u64),
) -> Option<u64> {
    let (mut at, end) = range;
    while at < end {
        let step = body.step(at, end);
        // Before it is sent: whoever has received it finds it counted.
        state.sent[host as usize].fetch_add(step.len() as u64, Ordering::SeqCst);
        stream.write_all(&step).await.ok()?;
        at += step.len() as u64;
    }
    Some(at)
}
