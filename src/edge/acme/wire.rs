//! TLS towards a CA, which does what rustls-acme leaves out. It reads every answer to its end, however long it is: here at most
//! so many bytes come through. It drops the headers of what went wrong: here `Retry-After` is kept.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite,
};

/// Bytes of one connection, and so of one answer: a chain of ten certificates has a thirtieth of it.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// What the last answer of this process's CA said in `Retry-After`, in seconds; 0 for nothing. One session runs at a time.
static ASKED_TO_WAIT: AtomicU64 = AtomicU64::new(0);

/// Takes how long the answers since the last time asked us to wait.
pub fn asked_to_wait() -> Option<Duration> {
    let seconds = ASKED_TO_WAIT.swap(0, Ordering::Relaxed);
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The provider, whose connections end after that many bytes. Only TLS 1.3: every CA has it.
static BOUNDED: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = provider.cipher_suites.into_iter().filter_map(bounded).collect();
    Arc::new(provider)
});

/// The same suite with a decrypter that counts. Made once for each suite, for the life of the process.
fn bounded(suite: SupportedCipherSuite) -> Option<SupportedCipherSuite> {
    let suite = suite.tls13()?;
    let aead_alg: &'static Bounded = Box::leak(Box::new(Bounded(suite.aead_alg)));
    let common = rustls::crypto::CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: suite.common.confidentiality_limit,
    };
    let counting = Tls13CipherSuite { common, hkdf_provider: suite.hkdf_provider, aead_alg, quic: None };
    Some(SupportedCipherSuite::Tls13(Box::leak(Box::new(counting))))
}

struct Bounded(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Bounded {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Counting { inner: self.0.decrypter(key, iv), left: ANSWER_BYTES_MAX })
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
}

struct Counting {
    inner: Box<dyn MessageDecrypter>,
    left: usize,
}

impl MessageDecrypter for Counting {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let plain = self.inner.decrypt(message, sequence)?;
        match self.left.checked_sub(plain.payload.len()) {
            Some(left) => self.left = left,
            None => return Err(Error::General(format!("the answer has more than {ANSWER_BYTES_MAX} bytes"))),
        }
        if plain.typ == ContentType::ApplicationData
            && let Some(seconds) = retry_after(plain.payload)
        {
            ASKED_TO_WAIT.store(seconds, Ordering::Relaxed);
        }
        Ok(plain)
    }
}

/// The seconds of `Retry-After`, if this is the beginning of an answer that has it.
fn retry_after(beginning: &[u8]) -> Option<u64> {
    if !beginning.starts_with(b"HTTP/1.1 ") {
        return None;
    }
    let head = beginning.split(|byte| *byte == b'\n').take_while(|line| line.len() > 1);
    let mut lines = head.filter_map(|line| str::from_utf8(line).ok()?.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    value.trim().parse().ok()
}

/// The CAs of a PEM file. The error names the file.
pub fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |reason: String| format!("tidegate.acme.cafile: {}: {reason}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("there is no certificate in it".to_owned())) } else { Ok(found) }
}

/// How a CA is spoken to: it must prove who it is to the system's CAs or to these.
pub fn client(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::clone(&BOUNDED);
    let verifier =
        rustls_platform_verifier::Verifier::new_with_extra_roots(authorities, Arc::clone(&provider));
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier.map_err(|error| {
        format!("no CA is trusted here ({error}): install the package ca-certificates, or set SSL_CERT_FILE")
    })?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_the_head_alone() {
        let head = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: x\r\nretry-after: 90\r\n\r\n{}";
        assert_eq!(retry_after(head), Some(90));
        for other in [
            &b"HTTP/1.1 429 Too Many Requests\r\n\r\nRetry-After: 90\r\n"[..],
            b"Retry-After: 90\r\n",
            b"HTTP/1.1 429 x\r\nRetry-After: soon\r\n\r\n",
            b"",
        ] {
            assert_eq!(retry_after(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
