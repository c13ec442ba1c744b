//! Tags: names that move. One HEAD at the upstream for all who ask at once, then the manifest by digest, so that the
//! digest in an answer is always that of its body.

use std::sync::Arc;
use std::time::Duration;

use super::flight::HEADERS_WAIT;
use super::freshness::{CONFIRMATION_WAIT, Plan, Verdict, plan};
use super::manifest::ManifestAnswer;
use super::outcome::{Outcome, Stale};
use super::{Denial, Engine, Repository, Want, Wanted, blocking, fault};
use crate::index::{Batch, MemberRow, TagRow};
use crate::registry::media_type::Accept;
use crate::registry::{Digest, Manifest, MediaType, Reference, Tag};
use crate::sys::clock;
use crate::upstream::{Class, FetchError, ManifestHead};

/// What the upstream says about a tag.
pub type Found = Result<Resolved, Arc<FetchError>>;

/// Where a tag points, as the upstream just said.
#[derive(Debug, Clone)]
pub struct Resolved {
    digest: Digest,
    media_type: Option<MediaType>,
    size: Option<u64>,
}

/// The platform whose image stands in for a list, for clients that predate lists (as `registry` chooses it).
const OLD_CLIENTS_PLATFORM: &str = "linux/amd64";

impl Engine {
    /// A manifest by tag.
    pub async fn manifest_by_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        accept: Accept,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let answer = self.resolve_tag(repository, tag, want).await?;
        if accept.wants_single_image() {
            return Ok(self.single_image(repository, answer, want).await);
        }
        Ok(answer)
    }

    async fn resolve_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let known = self.known_tag(repository, tag).await;
        let verdict = if known.is_some() { self.gate.verdict(clock::monotonic()) } else { Verdict::Open };
        match (plan(known.as_ref().map(age), &self.rules, verdict), known) {
            (Plan::Serve(outcome), Some(row)) => {
                self.tag_answer(repository, tag, &row.into(), outcome, want).await
            }
            (Plan::ServeAndProbe(outcome), Some(row)) => {
                self.ask_head(repository, tag);
                self.tag_answer(repository, tag, &row.into(), outcome, want).await
            }
            (_, Some(row)) => self.confirm_tag(repository, tag, row, want).await,
            (_, None) => self.ask_tag(repository, tag, want).await,
        }
    }

    /// A tag that is held: wait a little for the upstream's word, else serve what is held.
    async fn confirm_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        row: TagRow,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let mut ticket = self.ask_head(repository, tag);
        let found = tokio::time::timeout(CONFIRMATION_WAIT, ticket.wait()).await;
        let (why, error) = match found {
            Ok(Some(Ok(found))) => return self.confirmed_tag(repository, tag, row, &found, want).await,
            Ok(Some(Err(error))) => (fault::staleness(error.class()), Some(error)),
            Ok(None) => (Stale::Down, None),
            Err(_) => {
                self.gate.close(Stale::Slow, clock::monotonic());
                (Stale::Slow, None)
            }
        };
        if self.rules.allow_stale(why, age(&row)) {
            let outcome = Outcome::Stale(why, age(&row));
            return self.tag_answer(repository, tag, &row.into(), outcome, want).await;
        }
        match error {
            Some(error) => Err(self.deny_manifest(repository, &Reference::Tag(tag.clone()), &error)),
            None => Err(fault::manifest_busy(
                "the upstream did not answer in time",
                "the tag is too old to serve",
            )),
        }
    }

    /// The upstream confirmed a tag, or moved it. If the new manifest can't be had, the old one is better than none.
    async fn confirmed_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        row: TagRow,
        found: &Resolved,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let answer = self.tag_answer(repository, tag, found, Outcome::Revalidated, want).await;
        let age = age(&row);
        match answer {
            Err(denial) if row.digest != found.digest && self.rules.allow_stale(Stale::Down, age) => {
                let held = self.held_manifest(repository, &row.digest).await;
                let stale = held.map(|held| held.manifest.answer(Outcome::Stale(Stale::Down, age)));
                stale.ok_or(denial)
            }
            other => other,
        }
    }

    /// A tag that is not held: nothing to do but to wait.
    async fn ask_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let reference = Reference::Tag(tag.clone());
        if self.negatives.holds(&(repository.key, Wanted::Tag(tag.clone())), clock::monotonic()) {
            return Err(fault::manifest_absent(&reference));
        }
        let mut ticket = self.ask_head(repository, tag);
        let outcome = if ticket.joined { Outcome::Collapsed } else { Outcome::Miss };
        match tokio::time::timeout(HEADERS_WAIT, ticket.wait()).await {
            Ok(Some(Ok(found))) => self.tag_answer(repository, tag, &found, outcome, want).await,
            Ok(Some(Err(error))) => Err(self.deny_manifest(repository, &reference, &error)),
            Ok(None) => Err(fault::manifest_busy("the question failed", "the task of the question is gone")),
            Err(_) => {
                Err(fault::manifest_busy("the upstream did not answer in time", "no answer within the limit"))
            }
        }
    }

    /// The answer for a tag that is known to point at `found`.
    async fn tag_answer(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        found: &Resolved,
        outcome: Outcome,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        if let Some(held) = self.held_manifest(repository, &found.digest).await {
            return Ok(held.manifest.answer(outcome));
        }
        if let (Want::Head, Some(media_type), Some(size)) = (want, &found.media_type, found.size) {
            let media_type = media_type.clone();
            return Ok(ManifestAnswer { outcome, digest: found.digest, media_type, size, bytes: None });
        }
        let fetched = self.fetch_manifest(repository, &found.digest).await;
        fetched.map_err(|denial| retold(denial, tag))
    }

    /// Asks the upstream where a tag points, together with all who ask now.
    fn ask_head(self: &Arc<Self>, repository: &Repository, tag: &Tag) -> crate::sys::collapse::Ticket<Found> {
        let (engine, target, wanted) = (Arc::clone(self), repository.clone(), tag.clone());
        self.heads.join((repository.key, tag.clone()), || async move {
            let found = engine.head_of(&target, &wanted).await.map_err(Arc::new);
            match &found {
                Ok(resolved) => engine.learned(&target, &wanted, resolved).await,
                Err(error) => engine.failed(error),
            }
            found
        })
    }

    async fn head_of(self: &Arc<Self>, repository: &Repository, tag: &Tag) -> Result<Resolved, FetchError> {
        let reference = Reference::Tag(tag.clone());
        match self.upstream.manifest_head(&repository.name, &reference).await? {
            ManifestHead { digest: Some(digest), media_type, size } => {
                Ok(Resolved { digest, media_type, size })
            }
            _ => self.get_by_tag(repository, &reference).await,
        }
    }

    /// For an upstream whose HEAD tells no digest: the GET that tells it brings the manifest along.
    async fn get_by_tag(
        self: &Arc<Self>,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Resolved, FetchError> {
        let fetched = self.upstream.manifest(&repository.name, reference).await?;
        let host = self.upstream.host().to_owned();
        let held = self.keep_manifest(repository, fetched).await;
        let held = held.map_err(|_| FetchError::Malformed { host, what: "a manifest that is none" })?;
        let size = u64::try_from(held.bytes.len()).ok();
        Ok(Resolved { digest: held.digest, media_type: Some(held.media_type), size })
    }

    /// The upstream spoke: the row is new, the gate is open, and a tag that moved to what is held gets its link.
    async fn learned(&self, repository: &Repository, tag: &Tag, resolved: &Resolved) {
        self.gate.open();
        let before = self.index.tag(&repository.key, tag);
        let now = clock::unix_ms();
        let row = TagRow {
            digest: resolved.digest,
            media_type: resolved.media_type.clone(),
            size: resolved.size,
            fetched_ms: before
                .as_ref()
                .filter(|row| row.digest == resolved.digest)
                .map_or(now, |row| row.fetched_ms),
            validated_ms: now,
        };
        let member = MemberRow { size: resolved.size, seen_ms: now };
        let batch = Batch::new()
            .put_repository(self.naming.upstream(), &repository.name)
            .put_tag(repository.key, tag, row)
            .put_member(repository.key, resolved.digest, member);
        self.index.apply(batch);
        let moved = before.is_none_or(|row| row.digest != resolved.digest);
        if moved && self.index.blob(&resolved.digest).is_some() {
            self.link_manifest(repository, &resolved.digest).await;
        }
    }

    /// The upstream failed. An answer about this tag alone says nothing about the others.
    fn failed(&self, error: &FetchError) {
        if error.class() != Class::Absent {
            self.gate.close(fault::staleness(error.class()), clock::monotonic());
        }
    }

    /// The tag as the index has it, or as `registry` left it in the volume: then it counts as never confirmed.
    async fn known_tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRow> {
        if let Some(row) = self.index.tag(&repository.key, tag) {
            return self.is_servable(repository, &row).await.then_some(row);
        }
        let (store, name, asked) = (Arc::clone(&self.store), repository.name.clone(), tag.clone());
        let digest = blocking(move || store.read_tag(&name, &asked)).await.ok().flatten()?;
        self.held_manifest(repository, &digest).await?;
        Some(TagRow { digest, media_type: None, size: None, fetched_ms: 0, validated_ms: 0 })
    }

    /// Whether a HEAD at least can be answered from the row: a tag that was only ever asked by HEAD is known without
    /// its manifest.
    async fn is_servable(&self, repository: &Repository, row: &TagRow) -> bool {
        let head_alone = row.media_type.is_some() && row.size.is_some();
        head_alone || self.held_manifest(repository, &row.digest).await.is_some()
    }

    /// The linux/amd64 child for a client that knows no lists. Without one it gets the list: `Accept` never refuses.
    async fn single_image(
        self: &Arc<Self>,
        repository: &Repository,
        answer: ManifestAnswer,
        want: Want,
    ) -> ManifestAnswer {
        let Some(bytes) = &answer.bytes else { return answer };
        let parsed = Manifest::parse(bytes, Some(&answer.media_type)).ok().filter(Manifest::is_index);
        let Some(child) =
            parsed.and_then(|list| list.child_for(OLD_CLIENTS_PLATFORM).map(|child| child.digest))
        else {
            return answer;
        };
        match self.manifest_by_digest(repository, &child, want).await {
            Ok(image) => image,
            Err(_) => answer,
        }
    }
}

impl From<TagRow> for Resolved {
    fn from(row: TagRow) -> Self {
        Self { digest: row.digest, media_type: row.media_type, size: row.size }
    }
}

/// How long ago the upstream confirmed a tag. A stamp from the future (the clock was set back) counts as just now.
fn age(row: &TagRow) -> Duration {
    Duration::from_millis(clock::unix_ms().saturating_sub(row.validated_ms))
}

/// The client asked for a tag, so an absence names the tag and not the digest behind it.
fn retold(mut denial: Denial, tag: &Tag) -> Denial {
    if denial.fault.code == crate::registry::Code::ManifestUnknown {
        let fault = denial.fault.with_detail(serde_json::json!({ "Tag": tag.as_str() }));
        denial.fault = Box::new(fault);
    }
    denial
}
