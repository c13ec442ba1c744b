//! Manifests: opaque bytes that hash to their name.

use bytes::Bytes;
use http::{HeaderMap, Method, header};

use super::client::Ask;
use super::transport::{read, shown};
use super::{FetchError, Upstream};
use crate::registry::manifest::MANIFEST_BYTES_MAX;
use crate::registry::{Digest, MediaType, Reference, RepositoryName, media_type};

/// A manifest, checked against its digest.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    /// Exactly as they came.
    pub bytes: Bytes,
    /// What the upstream says they are.
    pub media_type: Option<MediaType>,
    /// What they hash to: the digest that was asked for, or that the upstream named, else SHA-256.
    pub digest: Digest,
}

/// What the upstream says of a manifest without giving it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest; absent from an upstream that names none, or has no HEAD.
    pub digest: Option<Digest>,
    /// What it is.
    pub media_type: Option<MediaType>,
    /// Its length in bytes.
    pub size: Option<u64>,
}

impl Upstream {
    /// Asks what a reference leads to. At Docker Hub this is not counted.
    pub async fn manifest_head(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, FetchError> {
        match self.client.ask(&ask(Method::HEAD, name, reference)).await {
            Ok(answer) => Ok(ManifestHead {
                digest: named_digest(answer.headers()),
                media_type: named_type(answer.headers()),
                size: length(answer.headers()),
            }),
            Err(FetchError::Status { status: 405, .. }) => {
                Ok(ManifestHead { digest: None, media_type: None, size: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches a manifest.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<FetchedManifest, FetchError> {
        let answer = self.client.ask(&ask(Method::GET, name, reference)).await?;
        let host = shown(answer.url());
        let (media_type, named) = (named_type(answer.headers()), named_digest(answer.headers()));
        let bytes = Bytes::from(read(answer, MANIFEST_BYTES_MAX).await?);
        for asked in reference.digest().copied().iter().chain(&named) {
            let got = Digest::of(asked.algorithm(), &bytes);
            if got != *asked {
                return Err(FetchError::WrongDigest { host, asked: Box::new(*asked), got: Box::new(got) });
            }
        }
        let digest = reference.digest().copied().or(named).unwrap_or_else(|| Digest::sha256(&bytes));
        Ok(FetchedManifest { bytes, media_type, digest })
    }
}

fn ask(method: Method, name: &RepositoryName, reference: &Reference) -> Ask {
    let accept = media_type::MODERN.join(", ");
    Ask::new(method, format!("/v2/{name}/manifests/{reference}"), Some(name.clone()))
        .with(header::ACCEPT, &accept)
}

fn named_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn named_type(headers: &HeaderMap) -> Option<MediaType> {
    MediaType::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
}

/// `Content-Length`, read from the header: of an answer to HEAD the client sees no body.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
