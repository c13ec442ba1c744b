//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>` (OCI image spec, "Digests").

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as hash;

/// The hash functions that a digest may name. Both are registered by the OCI image spec; clients use the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn bytes_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A parsed digest: an algorithm and exactly as many bytes as it gives.
///
/// Paths of files are made from this type only, so no text of a client ever reaches the file system.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

/// Why a text is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon between algorithm and hex.
    #[error("a digest has the form algorithm:hex")]
    NoColon,
    /// Neither sha256 nor sha512.
    #[error("the digest algorithm is not supported, use sha256 or sha512")]
    UnknownAlgorithm,
    /// The hex part has the wrong length for its algorithm.
    #[error("the digest has the wrong length for its algorithm")]
    WrongLength,
    /// A character that is not lower-case hex.
    #[error("a digest is written in lower-case hex")]
    NotHex,
}

impl Digest {
    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// The SHA-256 digest of `content`.
    pub fn sha256(content: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, content)
    }

    /// A digest from its raw bytes; `None` if the length does not fit the algorithm.
    pub fn from_bytes(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        if raw.len() != algorithm.bytes_len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes.get_mut(..raw.len())?.copy_from_slice(raw);
        Some(Self { algorithm, bytes })
    }

    /// Which hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes: 32 or 64.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.algorithm.bytes_len()).unwrap_or_default()
    }

    /// The part behind the colon, lower-case.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(128);
        for byte in self.bytes() {
            text.push(hex_digit(byte >> 4));
            text.push(hex_digit(byte & 15));
        }
        text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoColon)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        if hex.len() != 2 * algorithm.bytes_len() {
            return Err(DigestError::WrongLength);
        }
        let mut bytes = [0; 64];
        for (target, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            for nibble in pair {
                *target = (*target << 4) | hex_value(*nibble).ok_or(DigestError::NotHex)?;
            }
        }
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex_digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap_or('0')
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A digest in the making: content goes in by pieces.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: hash::Context,
}

impl Hasher {
    /// Starts with no content.
    pub fn new(algorithm: Algorithm) -> Self {
        let function = match algorithm {
            Algorithm::Sha256 => &hash::SHA256,
            Algorithm::Sha512 => &hash::SHA512,
        };
        Self { algorithm, context: hash::Context::new(function) }
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.context.update(piece);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        for (target, byte) in bytes.iter_mut().zip(self.context.finish().as_ref()) {
            *target = *byte;
        }
        Digest { algorithm: self.algorithm, bytes }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, expected: Result<(), DigestError>) {
        assert_eq!(text.parse::<Digest>().map(|_| ()), expected, "{text}");
    }

    #[test]
    fn the_empty_content_has_its_well_known_digest() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>(), Ok(Digest::sha256(b"")));
    }

    #[test]
    fn malformed_digests_are_told_apart() {
        check("", Err(DigestError::NoColon));
        check("sha256", Err(DigestError::NoColon));
        check("md5:d41d8cd98f00b204e9800998ecf8427e", Err(DigestError::UnknownAlgorithm));
        check("sha256:baddigeststring", Err(DigestError::WrongLength));
        check(&EMPTY.to_uppercase().replace("SHA", "sha"), Err(DigestError::NotHex));
        check(&EMPTY.replace("e3b0", "../."), Err(DigestError::NotHex));
        check(&format!("{EMPTY}0"), Err(DigestError::WrongLength));
        check(&EMPTY.replace("e3b", "\u{664}3"), Err(DigestError::NotHex));
    }

    #[test]
    fn sha512_is_understood() {
        let digest = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.bytes().len(), 64);
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_a_panic(text in "\\PC{0,200}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn pieces_hash_like_the_whole(content in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
            let (head, tail) = content.split_at(cut.min(content.len()));
            let mut hasher = Hasher::new(Algorithm::Sha256);
            hasher.update(head);
            hasher.update(tail);
            prop_assert_eq!(hasher.finish(), Digest::sha256(&content));
        }
    }
}
