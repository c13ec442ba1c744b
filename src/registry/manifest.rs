//! What a manifest names. Its bytes are never written again; they are only looked into.

use serde::Deserialize;

use super::digest::Digest;
use super::media_type::{DOCKER_SCHEMA1, Kind, MediaType, OCI_INDEX, OCI_MANIFEST};

/// Largest manifest that is taken from an upstream: the limit of clients and of the spec.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most descriptors read from one document; real indexes have about a hundred, and 4 MiB can hold 20,000.
const DESCRIPTORS_MAX: usize = 32_768;

/// A document that passed as a manifest, reduced to what a mirror has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The type to answer with.
    pub media_type: MediaType,
    /// Everything it names: config, layers, child manifests, subject.
    pub descriptors: Vec<Descriptor>,
    /// Whether `registry` 2.8 can read the document. One that it cannot read fails its whole garbage collection, so no
    /// link may lead there.
    pub read_by_registry_2: bool,
}

/// One thing that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its content.
    pub digest: Digest,
    /// Its length in bytes, if the document gives one.
    pub size: Option<u64>,
    /// What it is for.
    pub role: Role,
    /// `linux/amd64` and the like, of a child manifest.
    pub platform: Option<String>,
}

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A config or a layer that the registry keeps: asked at `/blobs/`.
    Blob,
    /// A layer that clients fetch elsewhere. Registries take its digest without having it, so it is nobody's right to it.
    ForeignLayer,
    /// A child of an index: asked at `/manifests/`.
    Child,
    /// The subject of a referrer. Registries take any digest here.
    Subject,
}

impl Role {
    /// Whether the registry that took the document made sure that the repository has what is named.
    pub fn is_vouched_for(self) -> bool {
        matches!(self, Self::Blob | Self::Child)
    }
}

/// Why a document is not taken as a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a JSON object, nested too deep, or with members of the wrong type.
    #[error("the document is no manifest: {0}")]
    NotJson(String),
    /// Both an index and an image (CVE-2021-41190): what it means would depend on who reads it.
    #[error("the document is a manifest and an index at once")]
    Ambiguous,
    /// The `mediaType` inside names another kind than the upstream's `Content-Type`.
    #[error("the document calls itself {inside}, the upstream called it {outside}")]
    Disagrees {
        /// What the document says.
        inside: MediaType,
        /// What the upstream's header said.
        outside: MediaType,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
    subject: Option<WireDescriptor>,
    fs_layers: Option<Vec<FsLayer>>,
}

#[derive(Deserialize)]
struct WireDescriptor {
    #[serde(default)]
    digest: String,
    size: Option<u64>,
    platform: Option<Platform>,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    #[serde(default)]
    blob_sum: String,
}

impl Manifest {
    /// Looks into a document. `outside` is the upstream's `Content-Type`, or nothing if that told nothing.
    pub fn parse(bytes: &[u8], outside: Option<&MediaType>) -> Result<Self, ManifestError> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::NotJson(error.to_string()))?;
        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let media_type = document.decide_type(outside)?;
        let read_by_registry_2 = document.read_by_registry_2();
        Ok(Self { media_type, descriptors: document.descriptors(), read_by_registry_2 })
    }

    /// The child of an index for a platform such as `linux/amd64`.
    pub fn child_for(&self, platform: &str) -> Option<&Descriptor> {
        self.descriptors.iter().find(|child| child.platform.as_deref() == Some(platform))
    }

    /// Whether the type is that of an index.
    pub fn is_index(&self) -> bool {
        self.media_type.kind() == Kind::Index
    }
}

impl Document {
    /// The header's type if it has one to believe, else the document's own, else what its members imply (as
    /// `registry` derives it, which stores no type).
    fn decide_type(&self, outside: Option<&MediaType>) -> Result<MediaType, ManifestError> {
        let inside = self.media_type.as_deref().and_then(MediaType::parse);
        let implied = || match (self.schema_version, &self.manifests) {
            (Some(1), _) => MediaType::known(DOCKER_SCHEMA1),
            (_, Some(_)) => MediaType::known(OCI_INDEX),
            (_, None) => MediaType::known(OCI_MANIFEST),
        };
        let Some(outside) = outside else {
            return Ok(inside.unwrap_or_else(implied));
        };
        let shape = inside.unwrap_or_else(implied);
        let contradicts =
            outside.kind() != Kind::Other && shape.kind() != Kind::Other && outside.kind() != shape.kind();
        if contradicts {
            return Err(ManifestError::Disagrees { inside: shape, outside: outside.clone() });
        }
        Ok(outside.clone())
    }

    fn read_by_registry_2(&self) -> bool {
        let image = self.config.is_some() && self.layers.is_some();
        let index = self.manifests.is_some();
        let known = match self.media_type.as_deref() {
            None | Some("") => image || index,
            Some(text) => match MediaType::parse(text).map(|media_type| media_type.kind()) {
                Some(Kind::Manifest) => image,
                Some(Kind::Index) => index,
                _ => false,
            },
        };
        self.schema_version == Some(2) && known
    }

    fn descriptors(self) -> Vec<Descriptor> {
        let config = self.config.into_iter().map(|wire| (wire, Role::Blob));
        let layers = self.layers.into_iter().flatten().map(|wire| {
            let role = if wire.is_foreign() { Role::ForeignLayer } else { Role::Blob };
            (wire, role)
        });
        let old = self.fs_layers.into_iter().flatten().map(|layer| (layer.into(), Role::Blob));
        let children = self.manifests.into_iter().flatten().map(|wire| (wire, Role::Child));
        let subject = self.subject.into_iter().map(|wire| (wire, Role::Subject));
        let named = config.chain(layers).chain(old).chain(children).chain(subject);
        named.take(DESCRIPTORS_MAX).filter_map(|(wire, role)| wire.read(role)).collect()
    }
}

impl From<FsLayer> for WireDescriptor {
    fn from(layer: FsLayer) -> Self {
        Self { digest: layer.blob_sum, size: None, platform: None, urls: None }
    }
}

impl WireDescriptor {
    fn is_foreign(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }

    /// A descriptor whose digest cannot be parsed can't be asked for either, so it is left out.
    fn read(self, role: Role) -> Option<Descriptor> {
        let platform = self.platform.map(|platform| format!("{}/{}", platform.os, platform.architecture));
        Some(Descriptor { digest: self.digest.parse().ok()?, size: self.size, role, platform })
    }
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;
