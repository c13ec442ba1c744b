//! A CA of the tests, and a pair that it signed.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::network::OUTSIDE;

/// Files of a CA and of a server for localhost, 127.0.0.1 and [`OUTSIDE`].
pub struct Pair {
    _folder: TempDir,
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Makes a CA, and with it a pair.
pub fn pair() -> Pair {
    let mut ours = CertificateParams::new(vec![]).unwrap();
    ours.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ours.distinguished_name.push(rcgen::DnType::CommonName, "tidegate test CA");
    let authority = CertifiedIssuer::self_signed(ours, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", OUTSIDE].map(str::to_owned);
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = write("fullchain.pem", format!("{}{}", leaf.pem(), authority.pem()));
    let (authority, key) = (write("ca.crt", authority.pem()), write("privkey.pem", key.serialize_pem()));
    Pair { _folder: folder, authority, certificate, key }
}

/// A TLS connection that offers these protocols.
pub async fn connect(pair: &Pair, address: &str, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    secure(pair, TcpStream::connect(address).await.unwrap(), protocols).await.unwrap()
}

/// The same over a stream that is there already; it may be refused.
pub async fn secure(
    pair: &Pair,
    stream: TcpStream,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&pair.authority).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}
