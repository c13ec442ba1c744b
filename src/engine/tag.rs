//! Tags: names that move. One HEAD at the upstream for all who ask at once, then the manifest by digest, so that the
//! digest in an answer is always that of its body.
//!
//! A tag that moved to a manifest that can't be had just now still leads to the one that it pointed at before: Docker Hub
//! goes on answering HEADs while it limits GETs, and a client is better off with yesterday's image than with none.

use std::sync::Arc;
use std::time::Duration;

use super::freshness::{CONFIRMATION_WAIT, Plan, plan};
use super::manifest::{Held, ManifestAnswer};
use super::outcome::{Outcome, Stale};
use super::{Denial, Engine, Repository, Want, Wanted, blocking, fault, in_time};
use crate::index::{Batch, Before, MemberRow, TagRow};
use crate::registry::media_type::Accept;
use crate::registry::{Manifest, Reference, Tag};
use crate::sys::{clock, collapse::Ticket};
use crate::upstream::{Class, FetchError, ManifestHead};

/// Where a tag points, as the upstream just said.
pub type Found = Result<TagRow, Arc<FetchError>>;

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
        let found = async {
            let answer = self.resolve_tag(repository, tag, want).await?;
            match accept.wants_single_image() {
                true => Ok(self.single_image(repository, answer, want).await),
                false => Ok(answer),
            }
        };
        let answered = in_time(found, fault::late_manifest).await;
        answered.inspect(|answer| self.index.touch(&answer.digest))
    }

    async fn resolve_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let known = self.known_tag(repository, tag).await;
        let verdict = || self.gate.verdict(clock::monotonic());
        // One from the future (the clock was set back) says nothing: it is just not fresh any more.
        let age = |row: &TagRow| since(row.validated_ms).unwrap_or(self.rules.fresh);
        match (plan(known.as_ref().map(age), &self.rules, verdict), known) {
            (Plan::Serve(outcome), Some(row)) => self.tag_answer(repository, tag, &row, outcome, want).await,
            (Plan::ServeAndProbe(outcome), Some(row)) => {
                self.ask_head(repository, tag, Some(&row));
                self.tag_answer(repository, tag, &row, outcome, want).await
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
        let mut ticket = self.ask_head(repository, tag, Some(&row));
        let found = tokio::time::timeout(CONFIRMATION_WAIT, ticket.wait()).await;
        let (why, error) = match found {
            Ok(Some(Ok(found))) => {
                return self.tag_answer(repository, tag, &found, Outcome::Revalidated, want).await;
            }
            Ok(Some(Err(error))) => (fault::staleness(&error), Some(error)),
            Ok(None) => (Stale::Down, None),
            Err(_) => {
                self.close_gate(Stale::Slow);
                (Stale::Slow, None)
            }
        };
        if self.rules.allow_stale(why, age(&row)) {
            let outcome = Outcome::Stale(why, age(&row));
            return self.tag_answer(repository, tag, &row, outcome, want).await;
        }
        match error {
            Some(error) => Err(self.deny_manifest(repository, &Reference::Tag(tag.clone()), &error)),
            None => Err(fault::late_manifest()),
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
        let mut ticket = self.ask_head(repository, tag, None);
        let outcome = if ticket.joined { Outcome::Collapsed } else { Outcome::Miss };
        match ticket.wait().await {
            Some(Ok(found)) => self.tag_answer(repository, tag, &found, outcome, want).await,
            Some(Err(error)) => Err(self.deny_manifest(repository, &reference, &error)),
            None => Err(fault::manifest_busy("the question failed", "the task of the question is gone")),
        }
    }

    /// The answer for a tag that points at a manifest; if that can't be had now, for what it pointed at before.
    async fn tag_answer(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        row: &TagRow,
        outcome: Outcome,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        if let Some(held) = self.held_manifest(repository, &row.digest).await {
            return Ok(held.manifest.answer(outcome.of_held()));
        }
        let before = self.held_before(repository, row).await;
        let withheld = self.withheld.find(&(repository.key, row.digest), clock::monotonic());
        match (before, withheld.or(outcome.staleness())) {
            (Some((before, age)), Some(why)) => Ok(before.answer(Outcome::Stale(why, age))),
            (before, _) => match (want, &row.media_type, row.size) {
                (Want::Head, Some(media_type), Some(size)) => {
                    let (digest, media_type) = (row.digest, media_type.clone());
                    Ok(ManifestAnswer { outcome, digest, media_type, size, bytes: None })
                }
                _ => self.fetch_for_tag(repository, tag, row, before).await,
            },
        }
    }

    /// Fetches what a tag points at. While something else is at hand, nobody waits for it long.
    async fn fetch_for_tag(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        row: &TagRow,
        before: Option<(Held, Duration)>,
    ) -> Result<ManifestAnswer, Denial> {
        let fetch = self.fetch_manifest(repository, &row.digest);
        let Some((before, age)) = before else {
            return fetch.await.map_err(|denial| retold(denial, tag));
        };
        let key = (repository.key, row.digest);
        let why = match tokio::time::timeout(CONFIRMATION_WAIT, fetch).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(_)) => self.withheld.find(&key, clock::monotonic()).unwrap_or(Stale::Down),
            Err(_) => {
                self.withheld.add(key, Stale::Slow, clock::monotonic());
                Stale::Slow
            }
        };
        Ok(before.answer(Outcome::Stale(why, age)))
    }

    /// The manifest that a tag pointed at before it moved, if it is held and young enough to serve.
    async fn held_before(
        self: &Arc<Self>,
        repository: &Repository,
        row: &TagRow,
    ) -> Option<(Held, Duration)> {
        let before = row.before?;
        let age = since(before.validated_ms).unwrap_or_default();
        if !self.rules.allow_stale(Stale::Down, age) {
            return None;
        }
        Some((self.held_manifest(repository, &before.digest).await?.manifest, age))
    }

    /// Asks the upstream where a tag points, together with all who ask now. `known` is where it pointed so far.
    fn ask_head(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        known: Option<&TagRow>,
    ) -> Ticket<Found> {
        let (engine, target, wanted, known) =
            (Arc::clone(self), repository.clone(), tag.clone(), known.cloned());
        self.heads.join((repository.key, tag.clone()), || async move {
            match engine.head_of(&target, &wanted).await {
                Ok(head) => Ok(engine.learned(&target, &wanted, head, known)),
                Err(error) => {
                    engine.failed(&error);
                    Err(Arc::new(error))
                }
            }
        })
    }

    /// What the upstream's HEAD says; the row has no past yet.
    async fn head_of(self: &Arc<Self>, repository: &Repository, tag: &Tag) -> Result<TagRow, FetchError> {
        let reference = Reference::Tag(tag.clone());
        let validated_ms = clock::unix_ms();
        match self.upstream.manifest_head(&repository.name, &reference).await? {
            ManifestHead { digest: Some(digest), media_type, size } => {
                Ok(TagRow { digest, media_type, size, validated_ms, before: None })
            }
            _ => self.get_by_tag(repository, &reference, validated_ms).await,
        }
    }

    /// For an upstream whose HEAD tells no digest: the GET that tells it brings the manifest along.
    async fn get_by_tag(
        self: &Arc<Self>,
        repository: &Repository,
        reference: &Reference,
        validated_ms: u64,
    ) -> Result<TagRow, FetchError> {
        let fetched = self.upstream.manifest(&repository.name, reference).await?;
        let host = self.upstream.host().to_owned();
        let held = self.keep_manifest(repository, fetched);
        let held = held.map_err(|_| FetchError::Malformed { host, what: "a manifest that is none" })?;
        let size = u64::try_from(held.bytes.len()).ok();
        let media_type = Some(held.media_type);
        Ok(TagRow { digest: held.digest, media_type, size, validated_ms, before: None })
    }

    /// The upstream spoke: the row is new, the gate is open, and a tag that moved to what is held gets its link.
    fn learned(
        self: &Arc<Self>,
        repository: &Repository,
        tag: &Tag,
        head: TagRow,
        known: Option<TagRow>,
    ) -> TagRow {
        self.gate.open();
        let last = self.index.tag(&repository.key, tag).or(known);
        let moved = last.as_ref().is_none_or(|last| last.digest != head.digest);
        let held = self.is_held_manifest(&head.digest);
        // One in memory alone is gone after a restart: until it is in the tree the past is of use.
        let stored = self.is_stored_manifest(&head.digest);
        let before = last.filter(|_| !stored).and_then(|last| self.before(&last, &head));
        let row = TagRow { before, ..head };
        let member = MemberRow { size: row.size, seen_ms: row.validated_ms };
        let batch = Batch::new()
            .put_repository(self.naming.upstream(), &repository.name)
            .put_tag(repository.key, tag, row.clone())
            .put_member(repository.key, row.digest, member);
        self.index.apply(batch);
        if moved && held {
            self.link_manifest(repository, &row.digest);
        }
        row
    }

    /// Where a tag pointed before: the newest manifest of its past that is in the tree, or if none is, in memory.
    fn before(&self, last: &TagRow, head: &TagRow) -> Option<Before> {
        let stored = self.is_stored_manifest(&last.digest);
        let held = stored || last.before.is_none() && self.is_held_manifest(&last.digest);
        if last.digest != head.digest && held {
            return Some(Before { digest: last.digest, validated_ms: last.validated_ms });
        }
        last.before
    }

    /// The upstream failed. What it says of one thing alone, be it nonsense, says nothing about the others.
    fn failed(&self, error: &FetchError) {
        let class = error.class();
        if !matches!(class, Class::Absent | Class::Garbage) {
            self.close_gate(fault::staleness(error));
        }
    }

    fn close_gate(&self, why: Stale) {
        if self.gate.close(why, clock::monotonic()) {
            let (host, why) = (self.upstream.host(), Outcome::Stale(why, Duration::ZERO).label());
            tracing::error!(host, why, "for an hour no tag could be confirmed: what is served grows old");
        }
    }

    /// How long the upstream has failed to confirm any tag.
    pub fn unconfirmed_for(&self) -> Duration {
        self.gate.closed_for(clock::monotonic())
    }

    /// The tag as the index has it, or as `registry` left it in the volume: then it counts as never confirmed.
    async fn known_tag(self: &Arc<Self>, repository: &Repository, tag: &Tag) -> Option<TagRow> {
        if let Some(row) = self.index.tag(&repository.key, tag) {
            return self.is_servable(repository, &row).await.then_some(row);
        }
        let (store, name, asked) = (Arc::clone(&self.store), repository.name.clone(), tag.clone());
        let digest = blocking(move || store.read_tag(&name, &asked)).await.ok().flatten()?;
        self.held_manifest(repository, &digest).await?;
        Some(TagRow { digest, media_type: None, size: None, validated_ms: 0, before: None })
    }

    /// Whether a HEAD at least can be answered from the row: a tag that was only ever asked by HEAD is known without
    /// its manifest.
    async fn is_servable(self: &Arc<Self>, repository: &Repository, row: &TagRow) -> bool {
        let head_alone = row.media_type.is_some() && row.size.is_some();
        head_alone || row.before.is_some() || self.held_manifest(repository, &row.digest).await.is_some()
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
        match self.find_manifest(repository, &child, want).await {
            Ok(image) if image.outcome == Outcome::Hit => ManifestAnswer { outcome: answer.outcome, ..image },
            Ok(image) => image,
            Err(_) => answer,
        }
    }
}

/// How long ago the upstream confirmed a tag.
fn age(row: &TagRow) -> Duration {
    since(row.validated_ms).unwrap_or_default()
}

/// The time since a stamp, unless it lies in the future.
fn since(stamp_ms: u64) -> Option<Duration> {
    clock::unix_ms().checked_sub(stamp_ms).map(Duration::from_millis)
}

/// The client asked for a tag, so an absence names the tag and not the digest behind it.
fn retold(mut denial: Denial, tag: &Tag) -> Denial {
    if denial.fault.code == crate::registry::Code::ManifestUnknown {
        let fault = denial.fault.with_detail(serde_json::json!({ "Tag": tag.as_str() }));
        denial.fault = Box::new(fault);
    }
    denial
}
