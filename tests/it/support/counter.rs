//! What stands in front of a CA and counts what it sees: orders, challenges, failed validations. It can also be the CA's bad
//! day.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::pebble::Pebble;
use super::soon;

/// What happens to a call instead of an answer.
#[derive(Debug, Clone)]
pub enum Mishap {
    /// Nothing comes, for ever.
    Silence,
    /// The connection breaks.
    Reset,
    /// This answer: status line and headers, then the body.
    Answer(String, Vec<u8>),
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// What it was answered; 0 for nothing.
    pub status: u16,
    /// Whether the answer said that an authorization failed.
    pub failed: bool,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    /// What calls to a path meet, and how often.
    mishaps: Vec<(String, Mishap, usize)>,
}

/// A CA as its client sees it.
pub struct Counter {
    port: u16,
    state: Arc<Mutex<State>>,
    gone: Arc<AtomicBool>,
    grown: watch::Receiver<usize>,
}

impl Counter {
    /// Stands before a CA.
    pub async fn before(pebble: &Pebble) -> Self {
        let pair = pebble.pair();
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(&pair.certificate).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&pair.authority).unwrap()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (acceptor, connector) =
            (TlsAcceptor::from(Arc::new(config)), TlsConnector::from(Arc::new(client)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (grow, grown) = watch::channel(0);
        let (state, gone, address) =
            (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default(), pebble.address());
        let own = Self { port, state: Arc::clone(&state), gone: Arc::clone(&gone), grown };
        let grow = Arc::new(grow);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if gone.load(Ordering::SeqCst) {
                    continue;
                }
                let (acceptor, connector, address) = (acceptor.clone(), connector.clone(), address.clone());
                let (state, grow) = (Arc::clone(&state), Arc::clone(&grow));
                tokio::spawn(async move {
                    pass(socket, acceptor, connector, &address, &state).await;
                    grow.send_modify(|calls| *calls += 1);
                });
            }
        });
        own
    }

    /// Its directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// From now on every connection is closed, or no longer.
    pub fn be_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::SeqCst);
    }

    /// What the next calls to paths that begin so will meet.
    pub fn will(&self, path: &str, mishap: Mishap, times: usize) {
        self.state.lock().unwrap().mishaps.push((path.to_owned(), mishap, times));
    }

    /// No more mishaps.
    pub fn be_well(&self) {
        self.state.lock().unwrap().mishaps.clear();
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Orders that the CA made.
    pub fn orders(&self) -> usize {
        self.calls().iter().filter(|call| call.path == "/order-plz" && call.status == 201).count()
    }

    /// Certificates that were fetched.
    pub fn certificates(&self) -> usize {
        self.calls().iter().filter(|call| call.path.starts_with("/certZ/") && call.status == 200).count()
    }

    /// Validations that failed: authorizations that were seen to be invalid, each once.
    pub fn failures(&self) -> usize {
        let mut failed: Vec<String> =
            self.calls().into_iter().filter(|call| call.failed).map(|call| call.path).collect();
        failed.sort();
        failed.dedup();
        failed.len()
    }

    /// Waits until what was seen satisfies.
    pub async fn until(&self, what: &str, satisfied: impl Fn(&Self) -> bool) {
        let mut grown = self.grown.clone();
        soon(what, async {
            while !satisfied(self) {
                grown.changed().await.unwrap();
            }
        })
        .await;
    }
}

/// One connection, which has one call.
async fn pass(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    address: &str,
    state: &Mutex<State>,
) -> Option<()> {
    let mut client = acceptor.accept(socket).await.ok()?;
    let request = read(&mut client, false).await?;
    let line = String::from_utf8_lossy(request.split(|b| *b == b'\r').next()?).into_owned();
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let note = |status, failed| {
        let call = Call { method: method.clone(), path: path.clone(), status, failed };
        state.lock().unwrap().calls.push(call);
    };
    match mishap(state, &path) {
        None => {}
        Some(Mishap::Silence) => {
            note(0, false);
            // Until the client has enough.
            let _ = client.read(&mut [0; 1]).await;
            return None;
        }
        Some(Mishap::Reset) => {
            note(0, false);
            return None;
        }
        Some(Mishap::Answer(head, body)) => {
            note(head.split(' ').nth(1)?.parse().ok()?, false);
            let head = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            client.write_all(head.as_bytes()).await.ok()?;
            client.write_all(&body).await.ok()?;
            return client.shutdown().await.ok();
        }
    }
    let answer = async {
        let server = TcpStream::connect(address).await.ok()?;
        let mut server = connector.connect(ServerName::try_from("localhost").ok()?, server).await.ok()?;
        server.write_all(&request).await.ok()?;
        read(&mut server, method == "HEAD").await
    };
    let Some(answer) = answer.await else {
        note(0, false);
        return None;
    };
    let status = String::from_utf8_lossy(answer.get(9..12)?).parse().ok()?;
    let text = String::from_utf8_lossy(&answer);
    let failed = path.starts_with("/authZ/") && text.contains("\"status\": \"invalid\"");
    client.write_all(&answer).await.ok()?;
    // First what the client has seen, then what is told of it.
    note(status, failed);
    client.shutdown().await.ok()
}

fn mishap(state: &Mutex<State>, path: &str) -> Option<Mishap> {
    let mut state = state.lock().unwrap();
    let found =
        state.mishaps.iter_mut().find(|(begin, _, left)| path.starts_with(begin.as_str()) && *left > 0)?;
    found.2 -= 1;
    Some(found.1.clone())
}

/// One message of HTTP/1.1 with its body.
async fn read(stream: &mut (impl AsyncRead + Unpin), head_only: bool) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        if let Some(end) = message.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&message[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            let whole = if head.contains("transfer-encoding: chunked") {
                message.ends_with(b"\r\n0\r\n\r\n")
            } else {
                message.len() >= end + 4 + length
            };
            if head_only || whole {
                return Some(message);
            }
        }
        if stream.read_buf(&mut message).await.ok()? == 0 {
            return None;
        }
    }
}
