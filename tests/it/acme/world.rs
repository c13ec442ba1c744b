//! A CA with a counter in front, and a mirror that gets its certificates there.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::counter::Counter;
use crate::support::mirror::{Mirror, Setup};
use crate::support::pebble::{Pebble, Rules};
use crate::support::soon;

/// The name that everything is about.
pub const NAME: &str = "mirror.test";

/// A CA and what counts in front of it.
pub struct World {
    pub pebble: Pebble,
    pub authority: Counter,
}

impl World {
    pub async fn with(rules: Rules) -> Self {
        let pebble = Pebble::start(rules).await;
        let authority = Counter::before(&pebble).await;
        Self { pebble, authority }
    }

    pub async fn new() -> Self {
        Self::with(Rules::default()).await
    }

    /// A mirror that gets certificates here, on the ports where the CA looks.
    pub fn setup(&self) -> Setup {
        Setup::of("http://127.0.0.1:1")
            .with("REGISTRY_HTTP_ADDR", &self.pebble.tls())
            .with("REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS", &format!("[{NAME}]"))
            .with("REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL", "admin@mirror.test")
            .with("REGISTRY_HTTP_TLS_LETSENCRYPT_DIRECTORYURL", &self.authority.directory())
            .with("TIDEGATE_ACME_CAFILE", self.pebble.cafile().to_str().unwrap())
            .with("TIDEGATE_EDGE_HTTP", &self.pebble.http())
            .with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0")
            .with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true")
    }

    /// Whether a client that trusts the CA takes what the mirror serves.
    pub async fn is_trusted(&self, mirror: &Mirror) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pebble.root().await.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        connect(config, &mirror.address).await.is_ok()
    }
}

/// The leaf that is served, whoever signed it.
pub async fn leaf(mirror: &Mirror) -> Vec<u8> {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    connect(config, &mirror.address).await.unwrap()
}

async fn connect(config: ClientConfig, address: &str) -> Result<Vec<u8>, std::io::Error> {
    soon("a handshake", async {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let tls = connector.connect(ServerName::try_from(NAME).unwrap(), stream).await?;
        Ok(tls.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    })
    .await
}

/// Takes any certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
