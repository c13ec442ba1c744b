//! TLS: which versions and suites are spoken, who clients must be, and which sessions may go on.
//!
//! Certificates come from the [table](super::certificates) at each handshake. What sessions rest on is another matter: a
//! resumed one is checked against nothing, so all of them end when a name loses its certificate and when the CAs of the
//! clients change. Then the keys of the tickets are thrown away.

mod clients;

use std::io;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{CHALLENGE_PROTOCOL, Certificates, is_challenge};
use crate::config::{ClientDemand, Protocol, Tls};
use crate::sys::sync::lock;

/// Sessions of TLS 1.2 that may be resumed by identifier; others have tickets, which cost us nothing.
const SESSIONS_MAX: usize = 4096;

/// For `minimumtls: tls1.3`.
static ONLY_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What plain HTTP on the TLS port gets, as Go's server gives it.
pub const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Ready to shake hands. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    certificates: Certificates,
    rules: Rules,
    /// What new handshakes get, without anything to resume; the lock orders those who change it.
    base: Mutex<ServerConfig>,
    serving: ArcSwap<Serving>,
    challenge: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Rules {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: Vec<Protocol>,
    demand: Option<ClientDemand>,
}

/// A configuration with tickets of its own, and the generation of certificates in which they were made.
#[derive(Debug)]
struct Serving {
    config: Arc<ServerConfig>,
    generation: u64,
}

/// How a handshake ended.
#[derive(Debug)]
pub enum Shaken<IO> {
    /// A client is here.
    Client(Box<TlsStream<IO>>),
    /// It was a CA that validated a name; there is nothing more to say.
    Challenge,
    /// It was somebody who may not come in, and was told so.
    Outsider,
}

/// A fatal alert, `access_denied` (RFC 8446 section 6): clients show it by that name.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

impl Acceptor {
    /// Sets it up. A clients' CA that is configured has to be [trusted](Self::trust) before anybody is let in.
    pub fn new(tls: &Tls, alpn: &[Protocol], certificates: Certificates) -> Result<Self, String> {
        let rules = Rules {
            provider: Arc::new(provider(&tls.suites)),
            versions: if tls.only_1_3 { ONLY_1_3 } else { rustls::DEFAULT_VERSIONS },
            alpn: alpn.to_vec(),
            demand: tls.clients.as_ref().map(|clients| clients.demand),
        };
        let verifier = match rules.demand {
            Some(_) => clients::nobody(&rules.provider),
            None => Arc::new(NoClientAuth),
        };
        let base = rules.config(verifier, &certificates)?;
        let mut challenge = rules.config(Arc::new(NoClientAuth), &certificates)?;
        challenge.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec()];
        challenge.session_storage = Arc::new(NoServerSessionStorage {});
        let serving = ArcSwap::from_pointee(Serving::of(&base, certificates.generation()));
        let (base, challenge) = (Mutex::new(base), Arc::new(challenge));
        Ok(Self(Arc::new(Parts { certificates, rules, base, serving, challenge })))
    }

    /// From now on clients must be known by these CAs, and nobody goes on by an older session.
    pub fn trust(&self, authorities: &[CertificateDer<'static>]) -> Result<(), String> {
        let Some(demand) = self.0.rules.demand else { return Ok(()) };
        let verifier = clients::verifier(demand, authorities, &self.0.rules.provider)?;
        let mut base = lock(&self.0.base);
        *base = self.0.rules.config(verifier, &self.0.certificates)?;
        self.0.serving.store(Arc::new(Serving::of(&base, self.0.certificates.generation())));
        Ok(())
    }

    /// Shakes hands; with an outsider only if it is a CA: those ask from addresses that nobody publishes.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: IO,
        outsider: bool,
    ) -> io::Result<Shaken<IO>> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        if is_challenge(&start.client_hello()) {
            let mut stream = start.into_stream(Arc::clone(&self.0.challenge)).await?;
            // The CA has seen the certificate; whether it waits for our goodbye is its business.
            let _ = stream.shutdown().await;
            return Ok(Shaken::Challenge);
        }
        if outsider {
            let mut socket = start.io;
            socket.write_all(&ACCESS_DENIED).await?;
            socket.shutdown().await?;
            return Ok(Shaken::Outsider);
        }
        let stream = start.into_stream(self.current()).await?;
        Ok(Shaken::Client(Box::new(stream)))
    }

    fn current(&self) -> Arc<ServerConfig> {
        let generation = self.0.certificates.generation();
        let serving = self.0.serving.load();
        if serving.generation == generation {
            return Arc::clone(&serving.config);
        }
        let base = lock(&self.0.base);
        // Somebody else may have been here before us.
        if self.0.serving.load().generation != generation {
            self.0.serving.store(Arc::new(Serving::of(&base, generation)));
        }
        Arc::clone(&self.0.serving.load().config)
    }
}

impl Rules {
    fn config(
        &self,
        verifier: Arc<dyn ClientCertVerifier>,
        certificates: &Certificates,
    ) -> Result<ServerConfig, String> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder =
            builder.with_protocol_versions(self.versions).map_err(|error| format!("http.tls: {error}"))?;
        let builder = builder.with_client_cert_verifier(verifier);
        let mut config = builder.with_cert_resolver(Arc::new(certificates.clone()));
        config.alpn_protocols =
            self.alpn.iter().map(|protocol| protocol.name().as_bytes().to_vec()).collect();
        Ok(config)
    }
}

impl Serving {
    fn of(base: &ServerConfig, generation: u64) -> Self {
        let mut config = base.clone();
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        // Its keys change by themselves every few hours. Without random bytes there are none, and nobody resumes.
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Self { config: Arc::new(config), generation }
    }
}

/// Version and kind of a handshake, as labels.
pub fn labels<IO>(stream: &TlsStream<IO>) -> (&'static str, bool) {
    let connection = stream.get_ref().1;
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "1.3",
    };
    (version, connection.handshake_kind() == Some(HandshakeKind::Resumed))
}

/// The one provider, with the suites that were asked for. Those of TLS 1.3 are always offered, as in `registry`.
fn provider(suites: &[String]) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if !suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let name = format!("{:?}", suite.suite());
            suite.tls13().is_some() || suites.contains(&name)
        });
    }
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_restricted_by_name() {
        let only = provider(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()]);
        let tls12 = only.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count();
        assert_eq!((tls12, only.cipher_suites.len() > 1), (1, true));
    }
}
