//! What refers to a manifest: signatures, attestations.
//!
//! dockerd asks for them at nearly every pull, and turns to Docker Hub when it is told 404. So there is always an index:
//! the upstream's, which is remembered for a minute, or an empty one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::freshness::CONFIRMATION_WAIT;
use super::outcome::Outcome;
use super::{Engine, Repository};
use crate::index::RepoKey;
use crate::registry::{Digest, media_type};
use crate::sys::clock;
use crate::upstream::FetchError;

/// How long an answer is remembered: the jobs of one wave ask the same.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// How long an upstream that failed to answer is not asked for any.
pub const FAILED_FOR: Duration = Duration::from_secs(5);

/// Most answers remembered at once; with the limit below, 16 MiB.
pub const REMEMBERED_MAX: usize = 256;

/// Longest answer that is remembered, in bytes; usual ones have less than 2 KiB.
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

/// A question: what refers to a manifest of a repository, perhaps of one type only.
pub type Question = (RepoKey, Digest, Option<String>);

/// An answer: always an OCI index.
#[derive(Debug, Clone)]
pub struct ReferrersAnswer {
    /// The document.
    pub body: Bytes,
    /// Whether the upstream filtered by artifact type.
    pub filtered: bool,
    /// Why it is what it is.
    pub outcome: Outcome,
}

impl Engine {
    /// What refers to a manifest. An upstream that has no such list, can't be asked, or takes long has none for now.
    pub async fn referrers(
        self: &Arc<Self>,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> ReferrersAnswer {
        let question = (repository.key, *subject, artifact_type.map(str::to_owned));
        if let Some(known) = self.referrers.find(&question, clock::monotonic()) {
            return ReferrersAnswer { outcome: Outcome::Hit, ..known };
        }
        if self.no_referrers.holds(&(), clock::monotonic()) {
            return ReferrersAnswer { outcome: Outcome::Negative, ..nothing() };
        }
        let (engine, target) = (Arc::clone(self), repository.clone());
        let asked = question.clone();
        let mut ticket = self
            .referrer_questions
            .join(question, || async move { engine.ask_referrers(&target, asked).await });
        let answer = tokio::time::timeout(CONFIRMATION_WAIT, ticket.wait()).await;
        answer.ok().flatten().unwrap_or_else(nothing)
    }

    async fn ask_referrers(&self, repository: &Repository, question: Question) -> ReferrersAnswer {
        let (_, subject, artifact_type) = &question;
        match self.upstream.referrers(&repository.name, subject, artifact_type.as_deref()).await {
            Ok(found) => {
                let answer = found.map_or_else(nothing, |found| ReferrersAnswer {
                    body: found.bytes,
                    filtered: found.filtered,
                    outcome: Outcome::Bypass,
                });
                if answer.body.len() <= REMEMBERED_BYTES_MAX {
                    self.referrers.add(question, answer.clone(), clock::monotonic());
                }
                answer
            }
            Err(error) => self.without_referrers(repository, subject, &error),
        }
    }

    fn without_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        error: &FetchError,
    ) -> ReferrersAnswer {
        self.no_referrers.add((), (), clock::monotonic());
        tracing::debug!(%subject, repository = %repository.name, %error, "no referrers from the upstream");
        nothing()
    }
}

fn nothing() -> ReferrersAnswer {
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] });
    ReferrersAnswer { body: Bytes::from(index.to_string()), filtered: false, outcome: Outcome::Bypass }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_index_is_an_index() {
        let parsed: serde_json::Value = serde_json::from_slice(&nothing().body).unwrap();
        assert_eq!(
            (parsed["schemaVersion"].as_i64(), parsed["manifests"].as_array().map(Vec::len)),
            (Some(2), Some(0))
        );
    }
}
