//! What stands in a PEM file: certificates and keys, or what is wrong with it.

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Flaw;

/// Most PEM blocks of one file. Bundles of public CAs have 150; a chain has 4.
const BLOCKS_MAX: usize = 256;

/// Certificates and keys in the order of their file.
#[derive(Default)]
pub struct Content {
    /// All `CERTIFICATE` blocks.
    pub certificates: Vec<CertificateDer<'static>>,
    /// All private keys that are not encrypted.
    pub keys: Vec<PrivateKeyDer<'static>>,
    /// Whether there is an encrypted key.
    pub encrypted: bool,
}

impl Content {
    /// Reads PEM. Text around the blocks, CRLF and a byte order mark do no harm; a block without its end does, since more
    /// may be missing than that block.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut content = Self { encrypted: is_encrypted(bytes), ..Self::default() };
        let blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes);
        for (count, block) in blocks.enumerate() {
            if count >= BLOCKS_MAX {
                return Err(Flaw::TooMany);
            }
            // A key in PKCS#1 that is encrypted says so within its block, and is no base64.
            let (kind, der) = match block {
                Err(pem::Error::Base64Decode(_)) if content.encrypted => return Err(Flaw::Encrypted),
                block => block.map_err(|_| Flaw::Torn)?,
            };
            match kind {
                SectionKind::Certificate => content.certificates.push(CertificateDer::from(der)),
                SectionKind::PrivateKey => content.keys.push(PrivateKeyDer::Pkcs8(der.into())),
                SectionKind::RsaPrivateKey => content.keys.push(PrivateKeyDer::Pkcs1(der.into())),
                SectionKind::EcPrivateKey => content.keys.push(PrivateKeyDer::Sec1(der.into())),
                _ => {}
            }
        }
        // A DER file begins with a SEQUENCE that has a long length (X.690 8.1.3.5); no text does.
        if content.is_empty() && bytes.starts_with(&[0x30, 0x82]) {
            return Err(Flaw::Der);
        }
        Ok(content)
    }

    /// The first key.
    pub fn into_key(self) -> Result<PrivateKeyDer<'static>, Flaw> {
        let missing = if self.encrypted { Flaw::Encrypted } else { Flaw::NoKey };
        self.keys.into_iter().next().ok_or(missing)
    }

    /// Whether there is neither a certificate nor a key.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty() && !self.encrypted
    }
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let has = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// A block of PEM, as RFC 7468 wants it: 64 characters a line.
pub fn write(label: &str, der: &[u8], to: &mut String) {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    to.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        to.push_str(line);
        to.push('\n');
        rest = more;
    }
    to.push_str(&format!("-----END {label}-----\n"));
}
