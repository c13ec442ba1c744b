//! Values: fixed little-endian fields, text with its length, and a checksum over key and value, since LMDB has none.

use crate::registry::{Algorithm, Digest, MediaType};
use crate::sys::files::Identity;

/// Bytes of the checksum: a truncated SHA-256, against rot and mix-ups, not against forgers.
const CHECKSUM_BYTES: usize = 4;

/// A blob that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// Length in bytes.
    pub size: u64,
    /// The file as it was verified; any other file under the digest is suspect.
    pub identity: Option<Identity>,
    /// How it came.
    pub kind: BlobKind,
    /// Of a manifest: the upstream's `Content-Type`.
    pub media_type: Option<MediaType>,
    /// When it came, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its bytes were last hashed.
    pub verified_ms: Option<u64>,
    /// Whether it was found in the volume, not fetched by us.
    pub adopted: bool,
}

/// How a blob came: at `/manifests/` or at `/blobs/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// As a manifest.
    Manifest,
    /// As a config, a layer or anything else.
    Other,
}

/// Where a tag points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// The manifest.
    pub digest: Digest,
    /// Its type, as the upstream's HEAD called it.
    pub media_type: Option<MediaType>,
    /// Its length, as the upstream's HEAD said.
    pub size: Option<u64>,
    /// When the upstream last said so, in milliseconds since 1970.
    pub validated_ms: u64,
    /// Where it pointed before, as long as the manifest that it points at now was not fetched.
    pub before: Option<Before>,
}

/// Where a tag pointed before it moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// The manifest.
    pub digest: Digest,
    /// When the upstream last said so, in milliseconds since 1970.
    pub validated_ms: u64,
}

/// A digest belongs to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRow {
    /// Its length, as the manifest or the upstream gave it.
    pub size: Option<u64>,
    /// When that became known, in milliseconds since 1970.
    pub seen_ms: u64,
}

/// Adds the checksum.
pub(crate) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = value.to_vec();
    sealed.extend(checksum(key, value));
    sealed
}

/// Takes the checksum off; `None` if it is wrong.
pub(crate) fn unseal<'v>(key: &[u8], sealed: &'v [u8]) -> Option<&'v [u8]> {
    let (value, found) = sealed.split_at_checked(sealed.len().checked_sub(CHECKSUM_BYTES)?)?;
    (found == checksum(key, value).as_slice()).then_some(value)
}

fn checksum(key: &[u8], value: &[u8]) -> Vec<u8> {
    let hash = Digest::sha256(&[key, value].concat());
    hash.bytes().iter().take(CHECKSUM_BYTES).copied().collect()
}

impl BlobRow {
    /// The file whose bytes were hashed; none if nobody did yet.
    pub fn verified_identity(&self) -> Option<Identity> {
        self.identity.filter(|_| self.verified_ms.is_some())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.size);
        out.u8(u8::from(self.kind == BlobKind::Manifest) | u8::from(self.adopted) << 1);
        out.u64(self.created_ms);
        out.option(self.verified_ms, Encoder::u64);
        out.option(self.identity, |out, identity| {
            out.u64(identity.device);
            out.u64(identity.inode);
            out.u64(identity.size);
            out.u64(identity.ctime_ns.cast_unsigned());
        });
        out.option(self.media_type.as_ref(), |out, media_type| out.text(media_type.as_str()));
        out.0
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut row = Decoder(value);
        let size = row.u64()?;
        let flags = row.u8()?;
        Some(Self {
            size,
            kind: if flags & 1 == 1 { BlobKind::Manifest } else { BlobKind::Other },
            adopted: flags & 2 == 2,
            created_ms: row.u64()?,
            verified_ms: row.option(Decoder::u64)?,
            identity: row.option(|row| {
                let (device, inode, size) = (row.u64()?, row.u64()?, row.u64()?);
                Some(Identity { device, inode, size, ctime_ns: row.u64()?.cast_signed() })
            })?,
            media_type: row.option(|row| MediaType::parse(row.text()?))?,
        })
    }
}

impl TagRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.digest(&self.digest);
        out.u64(self.validated_ms);
        out.option(self.size, Encoder::u64);
        out.option(self.media_type.as_ref(), |out, media_type| out.text(media_type.as_str()));
        out.option(self.before, |out, before| {
            out.digest(&before.digest);
            out.u64(before.validated_ms);
        });
        out.0
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut row = Decoder(value);
        Some(Self {
            digest: row.digest()?,
            validated_ms: row.u64()?,
            size: row.option(Decoder::u64)?,
            media_type: row.option(|row| MediaType::parse(row.text()?))?,
            before: row.option(|row| Some(Before { digest: row.digest()?, validated_ms: row.u64()? }))?,
        })
    }
}

impl MemberRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.seen_ms);
        out.option(self.size, Encoder::u64);
        out.0
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut row = Decoder(value);
        Some(Self { seen_ms: row.u64()?, size: row.option(Decoder::u64)? })
    }
}

#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// Texts here are media types, which have at most 255 characters.
    fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        self.u8(length);
        self.0.extend(bytes.iter().take(usize::from(length)));
    }

    fn digest(&mut self, digest: &Digest) {
        self.u8(match digest.algorithm() {
            Algorithm::Sha256 => 1,
            Algorithm::Sha512 => 2,
        });
        self.0.extend_from_slice(digest.bytes());
    }
}

struct Decoder<'v>(&'v [u8]);

impl<'v> Decoder<'v> {
    fn take(&mut self, length: usize) -> Option<&'v [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'v str> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }

    fn digest(&mut self) -> Option<Digest> {
        match self.u8()? {
            1 => Digest::from_bytes(Algorithm::Sha256, self.take(32)?),
            2 => Digest::from_bytes(Algorithm::Sha512, self.take(64)?),
            _ => None,
        }
    }
}
