//! A CA of the tests that signs what a scenario needs, and clients that trust it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::soon;

/// A day.
pub const DAY: i64 = 24 * 3600;

/// Who signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A pair as texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    pub leaf: String,
    pub issuer: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut ours = CertificateParams::new(vec![]).unwrap();
        ours.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ours.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(ours, KeyPair::generate().unwrap()).unwrap())
    }

    /// Signs for names, valid from and until so many seconds from now.
    pub fn sign(&self, names: &[&str], from: i64, until: i64) -> Texts {
        let key = KeyPair::generate().unwrap();
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.not_before = at(from).into();
        leaf.not_after = at(until).into();
        let leaf = leaf.signed_by(&key, &self.0).unwrap();
        Texts { leaf: leaf.pem(), issuer: self.0.pem(), key: key.serialize_pem() }
    }

    /// A good pair for some names.
    pub fn good(&self, names: &[&str]) -> Texts {
        self.sign(names, -DAY, 90 * DAY)
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client that trusts nobody else, shakes hands anew each time, and shows a certificate of its own if it has one.
    pub fn client(&self, own: Option<&Texts>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.leaf.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.resumption = Resumption::disabled();
        Client(Arc::new(config))
    }
}

impl Texts {
    pub fn chain(&self) -> String {
        format!("{}{}", self.leaf, self.issuer)
    }

    pub fn leaf_der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.leaf.as_bytes()).unwrap()
    }
}

fn at(seconds: i64) -> SystemTime {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - offset } else { SystemTime::now() + offset }
}

/// A TLS client with its sessions.
#[derive(Clone)]
pub struct Client(pub Arc<ClientConfig>);

impl Client {
    /// The same, which goes on by its sessions where it may.
    pub fn resuming(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.resumption = Resumption::in_memory_sessions(16);
        Self(Arc::new(config))
    }

    /// Shakes hands, verified.
    pub async fn try_connect(&self, address: &str, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        soon("a handshake", connector.connect(name, stream)).await
    }

    /// Asks for `/v2/` on a connection of its own, and gives the certificate and the kind of the handshake. An error may be
    /// one of the handshake, or one that the server gave after it.
    pub async fn ask(&self, address: &str, name: &str) -> std::io::Result<Seen> {
        let mut stream = self.try_connect(address, name).await?;
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let connection = stream.get_ref().1;
        let leaf = connection.peer_certificates().unwrap()[0].clone().into_owned();
        Ok(Seen { leaf, resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed) })
    }
}

/// What a client saw of a server.
#[derive(Debug)]
pub struct Seen {
    pub leaf: CertificateDer<'static>,
    pub resumed: bool,
}
