//! A certificate with its chain and its key, validated.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::pem::{self, Content};

/// Most certificates of a chain, the leaf included. Public ones have four at most; each costs every handshake its bytes.
pub const CHAIN_MAX: usize = 10;

/// Most names of one certificate: public CAs sign 100.
const NAMES_MAX: usize = 1_000;

/// Why something is no pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There is no certificate.
    #[error("there is no PEM certificate in it")]
    NoCertificate,
    /// There is no key.
    #[error("there is no PEM private key in it")]
    NoKey,
    /// Keys are asked for by nobody: there is no one to type a password.
    #[error("the private key is encrypted; write it without a password (openssl pkey -in … -out …)")]
    Encrypted,
    /// DER where PEM is wanted.
    #[error("it is DER, not PEM (openssl x509 -inform der -in … -out …)")]
    Der,
    /// A PEM block is broken off, or no base64.
    #[error("a PEM block is not whole")]
    Torn,
    /// More blocks than anybody needs.
    #[error("it has too many PEM blocks")]
    TooMany,
    /// A certificate that can't be parsed.
    #[error("a certificate in it is no X.509 certificate")]
    NotX509,
    /// A key of a kind that TLS does not use, or a broken one.
    #[error("the private key can't be used: it is broken, or neither RSA, ECDSA nor Ed25519")]
    UnusableKey,
    /// None of the certificates belongs to the key.
    #[error("certificate and key do not go together: the certificate {certificate} has another key")]
    Mismatch {
        /// The fingerprint of the first certificate.
        certificate: String,
    },
}

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// Preferred: small and quick, and every client has it.
    Ecdsa,
    /// For old clients.
    Rsa,
    /// For those who want it; few clients have it.
    Ed25519,
}

impl KeyKind {
    /// As it is shown.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ecdsa => "ECDSA",
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
        }
    }
}

/// A certificate with its chain and its key, which go together. What it is good for is another question.
pub struct Pair {
    certified: Arc<CertifiedKey>,
    key: PrivateKeyDer<'static>,
    kind: KeyKind,
    facts: Facts,
    is_complete: bool,
    fingerprint: String,
    origin: String,
}

/// What a leaf says of itself.
pub(super) struct Facts {
    names: Vec<String>,
    has_address: bool,
    not_before: i64,
    not_after: i64,
    is_authority: bool,
    issuer: String,
    is_self_issued: bool,
}

impl Pair {
    /// Makes a pair of PEM texts; both may be the same one. The leaf is the certificate that belongs to the key; what else
    /// is in the text is its chain, brought in order. `origin` is where they come from, for people and for
    /// [`offer`](super::Certificates::offer).
    pub fn from_pem(certificate_pem: &[u8], key_pem: &[u8], origin: impl Into<String>) -> Result<Self, Flaw> {
        let key = Content::parse(key_pem)?.into_key()?;
        let certificates = Content::parse(certificate_pem)?.certificates;
        Self::of(&certificates, key, origin)
    }

    /// The same of parts: the leaf is whichever certificate belongs to the key, its chain is found among the others.
    pub fn of(
        certificates: &[CertificateDer<'static>],
        key: PrivateKeyDer<'static>,
        origin: impl Into<String>,
    ) -> Result<Self, Flaw> {
        let first = certificates.first().ok_or(Flaw::NoCertificate)?;
        let signing = any_supported_type(&key).map_err(|_| Flaw::UnusableKey)?;
        let kind = match signing.algorithm() {
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            SignatureAlgorithm::ECDSA => KeyKind::Ecdsa,
            SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
            _ => return Err(Flaw::UnusableKey),
        };
        let public = signing.public_key().ok_or(Flaw::UnusableKey)?;
        let mut leaf = None;
        for certificate in certificates {
            if public_key(certificate)? == public.as_ref() {
                leaf = Some(certificate);
                break;
            }
        }
        let leaf = leaf.ok_or_else(|| Flaw::Mismatch { certificate: fingerprint(first) })?;
        let facts = facts(leaf)?;
        let chain = chain(leaf, certificates);
        let certified = CertifiedKey::new(chain, signing);
        // Also compares the keys once more, by rustls' own means.
        certified.keys_match().map_err(|_| Flaw::Mismatch { certificate: fingerprint(leaf) })?;
        Ok(Self {
            is_complete: facts.is_self_issued || certified.cert.len() > 1,
            fingerprint: fingerprint(leaf),
            certified: Arc::new(certified),
            key,
            kind,
            facts,
            origin: origin.into(),
        })
    }

    /// What rustls serves.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The names it is for, in lower case: DNS names, with `*.` for one label, and IP addresses.
    pub fn names(&self) -> &[String] {
        &self.facts.names
    }

    /// From when it is valid, in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.facts.not_before
    }

    /// Until when.
    pub fn not_after(&self) -> i64 {
        self.facts.not_after
    }

    /// What its key signs with.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The SHA-256 of the leaf, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Where it comes from: a path.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it has the certificate of its issuer with it, or needs none.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Who signed it, by his own words.
    pub fn issuer(&self) -> &str {
        &self.facts.issuer
    }

    /// Whether the leaf is the certificate of a CA.
    pub fn is_authority(&self) -> bool {
        self.facts.is_authority
    }

    /// Whether it names an IP address: what clients without a server name mostly asked for.
    pub fn has_address(&self) -> bool {
        self.facts.has_address
    }

    /// Whether it is valid at a time, in seconds since 1970.
    pub fn is_valid(&self, now: i64) -> bool {
        self.facts.not_before <= now && now < self.facts.not_after
    }

    /// Whether less than a quarter of its life is left.
    pub fn is_old(&self, now: i64) -> bool {
        let life = self.facts.not_after.saturating_sub(self.facts.not_before);
        self.facts.not_after.saturating_sub(now) < life / 4
    }

    /// Key and chain as one PEM text, so that a file of it is never half of a pair. A secret.
    pub fn to_pem(&self) -> String {
        let label = match self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let mut text = String::new();
        pem::write(label, self.key.secret_der(), &mut text);
        for certificate in &self.certified.cert {
            pem::write("CERTIFICATE", certificate, &mut text);
        }
        text
    }
}

/// Without the key.
impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Pair");
        shown.field("names", &self.facts.names).field("origin", &self.origin);
        shown.field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// The SHA-256 of a certificate, in hex.
pub fn fingerprint(certificate: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The public key of a certificate, as it stands there.
pub fn public_key(certificate: &[u8]) -> Result<Vec<u8>, Flaw> {
    Ok(parse(certificate)?.public_key().raw.to_vec())
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Flaw> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| parsed).map_err(|_| Flaw::NotX509)
}

fn facts(leaf: &[u8]) -> Result<Facts, Flaw> {
    let leaf = parse(leaf)?;
    let mut names = Vec::new();
    let mut has_address = false;
    if let Ok(Some(alternatives)) = leaf.subject_alternative_name() {
        for name in alternatives.value.general_names.iter().take(NAMES_MAX) {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => {
                    has_address = true;
                    names.extend(address(bytes));
                }
                _ => {}
            }
        }
    }
    if names.is_empty() {
        // Old certificates have their name here alone; some clients still look for it.
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let like_a_name = |name: &&str| name.contains('.') && !name.contains(' ');
        names.extend(common.filter(like_a_name).take(1).map(str::to_ascii_lowercase));
    }
    let validity = leaf.validity();
    Ok(Facts {
        names,
        has_address,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
        is_authority: leaf.is_ca(),
        issuer: leaf.issuer().to_string(),
        is_self_issued: leaf.subject().as_raw() == leaf.issuer().as_raw(),
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).to_string());
    v4.or_else(|_| v6()).ok()
}

/// The leaf and, each after the one that it signed, those of the others that lead on from it.
fn chain(leaf: &CertificateDer<'static>, others: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let mut chain = vec![leaf.clone()];
    while chain.len() < CHAIN_MAX {
        let Some(issuer) = chain.last().and_then(|last| issuer(last, others, &chain)) else { break };
        chain.push(issuer);
    }
    chain
}

fn issuer(
    of: &[u8],
    others: &[CertificateDer<'static>],
    taken: &[CertificateDer<'static>],
) -> Option<CertificateDer<'static>> {
    let of = parse(of).ok()?;
    let wanted = of.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    let signs = |other: &&CertificateDer<'static>| {
        let Ok(other) = parse(other) else { return false };
        let own = other.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
        let same_key = match (wanted, own) {
            (Some(wanted), Some(own)) => wanted == own,
            _ => true,
        };
        other.subject().as_raw() == of.issuer().as_raw() && same_key
    };
    others.iter().filter(|other| !taken.contains(other)).find(signs).cloned()
}
