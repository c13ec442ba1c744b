//! Lists: tags and referrers.

use bytes::Bytes;
use http::{Method, header};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::client::Ask;
use super::transport::{read, shown};
use super::{FetchError, Upstream};
use crate::registry::manifest::MANIFEST_BYTES_MAX;
use crate::registry::{Digest, RepositoryName, media_type};

/// Longest list of tags, in bytes. Docker Hub's longest have some 100,000 tags.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A page of tags as the upstream gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagList {
    /// In the upstream's order.
    pub tags: Vec<String>,
    /// Whether it says that there are more.
    pub more: bool,
}

/// What refers to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrers {
    /// An OCI index.
    pub bytes: Bytes,
    /// Whether it was filtered by artifact type.
    pub filtered: bool,
}

impl Upstream {
    /// A page of the tags of a repository.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Result<TagList, FetchError> {
        let n = n.map(|n| n.to_string());
        let path = with_query(format!("/v2/{name}/tags/list"), &[("n", n.as_deref()), ("last", last)]);
        let answer = self.client.ask(&Ask::new(Method::GET, path, Some(name.clone()))).await?;
        let host = shown(answer.url());
        let link = answer.headers().get(header::LINK).and_then(|link| link.to_str().ok());
        let more = link.is_some_and(leads_on);
        let body = read(answer, LIST_BYTES_MAX).await?;
        let list: Tags = serde_json::from_slice(&body)
            .map_err(|_| FetchError::Malformed { host, what: "a list of tags that is none" })?;
        Ok(TagList { tags: list.tags.unwrap_or_default(), more })
    }

    /// The referrers of a manifest; `None` from an upstream without such lists.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Referrers>, FetchError> {
        let path = with_query(format!("/v2/{name}/referrers/{subject}"), &[("artifactType", artifact_type)]);
        let ask = Ask::new(Method::GET, path, Some(name.clone())).with(header::ACCEPT, media_type::OCI_INDEX);
        let answer = match self.client.ask(&ask).await {
            Ok(answer) => answer,
            Err(FetchError::NotFound { .. } | FetchError::Status { status: 400..=499, .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let host = shown(answer.url());
        let applied = answer.headers().get("oci-filters-applied").and_then(|value| value.to_str().ok());
        let filtered =
            applied.is_some_and(|value| value.split(',').any(|filter| filter.trim() == "artifactType"));
        let bytes = read(answer, MANIFEST_BYTES_MAX).await?;
        let index: Result<Index, _> = serde_json::from_slice(&bytes);
        index.map_err(|_| FetchError::Malformed { host, what: "a list of referrers that is none" })?;
        Ok(Some(Referrers { bytes: Bytes::from(bytes), filtered }))
    }
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "manifests")]
    _manifests: Vec<serde_json::Value>,
}

/// Whether a `Link` leads to a next page. Where that is, we know ourselves: an address of the upstream's is not followed.
pub(crate) fn leads_on(link: &str) -> bool {
    link.contains("rel=\"next\"") || link.contains("rel=next")
}

fn with_query(path: String, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| value.map(|value| (*name, value)));
    let query = Serializer::new(String::new()).extend_pairs(given).finish();
    if query.is_empty() { path } else { format!("{path}?{query}") }
}
