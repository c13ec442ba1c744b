//! TLS with a given certificate: who we are, which versions and suites, and what a plain client is told.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{Protocol, Tls};

/// Sessions of TLS 1.2 that may be resumed by identifier; TLS 1.3 uses tickets, which cost us nothing.
const SESSIONS_MAX: usize = 4096;

/// What plain HTTP on the TLS port gets, as Go's server gives it.
pub const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Ready to shake hands. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    /// The handshake.
    pub tls: TlsAcceptor,
    /// When the certificate ends, in seconds since 1970.
    pub expires: i64,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Loads certificate and key. The error names the file and what is wrong with it.
    pub fn load(setup: &Tls, alpn: &[Protocol]) -> Result<Self, String> {
        let chain = chain(&setup.certificate)?;
        let expires = expiry(&setup.certificate, chain.first())?;
        let key = PrivateKeyDer::from_pem_file(&setup.key)
            .map_err(|error| format!("http.tls.key: {}: {}", setup.key.display(), reason(&error)))?;
        let wrong = |error: rustls::Error| {
            let (certificate, key) = (setup.certificate.display(), setup.key.display());
            format!("http.tls: {certificate} and {key} do not go together: {error}")
        };
        let versions: &[&SupportedProtocolVersion] =
            if setup.only_1_3 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let builder = ServerConfig::builder_with_provider(Arc::new(provider(&setup.suites)));
        let builder =
            builder.with_protocol_versions(versions).map_err(|error| format!("http.tls: {error}"))?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(wrong)?;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("http.tls: {error}"))?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.name().as_bytes().to_vec()).collect();
        Ok(Self { tls: TlsAcceptor::from(Arc::new(config)), expires })
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |reason: String| format!("http.tls.certificate: {}: {reason}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(reason(&error)))?;
    let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| wrong(reason(&error)))?;
    if chain.is_empty() { Err(wrong("there is no PEM certificate in it".to_owned())) } else { Ok(chain) }
}

/// What the system or the PEM reader says; never a part of the file.
fn reason(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        rustls::pki_types::pem::Error::NoItemsFound => "there is no PEM block of that kind in it".to_owned(),
        _ => "it is no valid PEM".to_owned(),
    }
}

fn expiry(path: &Path, leaf: Option<&CertificateDer<'_>>) -> Result<i64, String> {
    let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let (_, certificate) =
        parsed.ok_or_else(|| format!("http.tls.certificate: {}: no X.509 certificate", path.display()))?;
    Ok(certificate.validity().not_after.timestamp())
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
    use std::path::PathBuf;

    struct Pair {
        _folder: tempfile::TempDir,
        setup: Tls,
    }

    fn pair() -> Pair {
        let made = rcgen::generate_simple_self_signed(["mirror.test".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = write("fullchain.pem", made.cert.pem());
        let key = write("privkey.pem", made.signing_key.serialize_pem());
        Pair { _folder: folder, setup: Tls { certificate, key, only_1_3: false, suites: vec![] } }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Tls), words: &[&str]) {
        let mut pair = pair();
        change(&mut pair.setup);
        let error = Acceptor::load(&pair.setup, &[Protocol::Http1]).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!error.contains("BEGIN"), "{error}");
    }

    #[test]
    fn a_pair_is_loaded_with_its_end() {
        let loaded = Acceptor::load(&pair().setup, &[Protocol::Http1]).unwrap();
        assert!(loaded.expires > 1_795_000_000);
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_named() {
        check(
            |setup| setup.certificate = "/nonexistent/a.pem".into(),
            &["http.tls.certificate", "/nonexistent/a.pem"],
        );
        check(|setup| setup.key = "/nonexistent/b.pem".into(), &["http.tls.key", "/nonexistent/b.pem"]);
        check(
            |setup| std::mem::swap(&mut setup.certificate, &mut setup.key),
            &["http.tls.certificate", "no PEM"],
        );
        let other = pair();
        check(|setup| setup.key = other.setup.key.clone(), &["do not go together"]);
    }

    #[test]
    fn suites_are_restricted_by_name() {
        let only = provider(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()]);
        let tls12 = only.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count();
        assert_eq!((tls12, only.cipher_suites.len() > 1), (1, true));
    }
}
