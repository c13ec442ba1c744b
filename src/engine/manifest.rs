//! Manifests: bytes that are stored and given out as they came, with the type that the upstream gave them.

use std::sync::Arc;

use bytes::Bytes;

use super::budget::{Reservation, is_over_budget};
use super::outcome::Outcome;
use super::{Denial, Engine, Repository, Want, Wanted, blocking, fault, in_time};
use crate::index::{Batch, BlobKind, BlobRow, MemberRow};
use crate::registry::manifest::MANIFEST_BYTES_MAX;
use crate::registry::{Digest, Manifest, MediaType, Reference};
use crate::store::Store;
use crate::sys::{clock, files};
use crate::upstream::{Class, FetchError, FetchedManifest};

/// A manifest for a client.
#[derive(Debug, Clone)]
pub struct ManifestAnswer {
    /// Why it is what it is.
    pub outcome: Outcome,
    /// Its digest.
    pub digest: Digest,
    /// Its type, as the upstream called it.
    pub media_type: MediaType,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes; absent where only the head was wanted and the bytes are not held.
    pub bytes: Option<Bytes>,
}

/// A manifest that is held, checked against its digest just now.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its digest.
    pub digest: Digest,
    /// Its type.
    pub media_type: MediaType,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A manifest that is held, and whether the repository that asked may have it without more ado.
#[derive(Debug, Clone)]
pub struct Present {
    /// The manifest.
    pub manifest: Held,
    /// Whether it is known to belong to the repository.
    pub member: bool,
}

/// The result of a fetch that several may wait for.
pub type Fetched = Result<Held, Arc<FetchError>>;

impl Held {
    /// The answer for a client.
    pub fn answer(self, outcome: Outcome) -> ManifestAnswer {
        let size = self.bytes.len() as u64;
        ManifestAnswer {
            outcome,
            digest: self.digest,
            media_type: self.media_type,
            size,
            bytes: Some(self.bytes),
        }
    }
}

impl Engine {
    /// A manifest by digest.
    pub async fn manifest_by_digest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let answered = in_time(self.find_manifest(repository, digest, want), fault::late_manifest).await;
        answered.inspect(|answer| self.index.touch(&answer.digest))
    }

    /// The same, with no limit of time but those of the questions to the upstream.
    pub(super) async fn find_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Denial> {
        let reference = Reference::Digest(*digest);
        if self.negatives.holds(&(repository.key, Wanted::Manifest(*digest)), clock::monotonic()) {
            return Err(fault::manifest_absent(&reference));
        }
        if let Some(held) = self.held_manifest(repository, digest).await {
            if held.member {
                return Ok(held.manifest.answer(Outcome::Hit));
            }
            return self.confirm_manifest(repository, held.manifest).await;
        }
        match want {
            Want::Head => self.manifest_head(repository, digest).await,
            Want::Body => self.fetch_manifest(repository, digest).await,
        }
    }

    /// Fetches a manifest by digest, together with all who want it for the same repository.
    pub(super) async fn fetch_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ManifestAnswer, Denial> {
        let (engine, target, wanted) = (Arc::clone(self), repository.clone(), *digest);
        let mut ticket = self.fetches.join((repository.key, *digest), || async move {
            // An earlier fetch may have ended after we had looked for what it brought.
            if let Some(Present { manifest, member: true }) = engine.held_manifest(&target, &wanted).await {
                return Ok(manifest);
            }
            let fetched = engine.upstream.manifest(&target.name, &Reference::Digest(wanted)).await;
            engine.keep_manifest(&target, fetched.map_err(Arc::new)?)
        });
        let outcome = if ticket.joined { Outcome::Collapsed } else { Outcome::Miss };
        match ticket.wait().await {
            Some(Ok(held)) => Ok(held.answer(outcome)),
            Some(Err(error)) => Err(self.deny_manifest(repository, &Reference::Digest(*digest), &error)),
            None => Err(fault::manifest_busy("the fetch failed", "the task of the fetch is gone")),
        }
    }

    /// The head of a manifest that is not held, by a HEAD at the upstream: never a GET, which Docker Hub counts, unless
    /// the upstream's HEAD tells too little.
    async fn manifest_head(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ManifestAnswer, Denial> {
        let reference = Reference::Digest(*digest);
        let head = self.upstream.manifest_head(&repository.name, &reference).await;
        let head = head.map_err(|error| self.deny_manifest(repository, &reference, &Arc::new(error)))?;
        match (head.digest == Some(*digest), head.media_type, head.size) {
            (true, Some(media_type), Some(size)) => {
                let member = MemberRow { size: Some(size), seen_ms: clock::unix_ms() };
                self.index.apply(Batch::new().put_member(repository.key, *digest, member));
                Ok(ManifestAnswer { outcome: Outcome::Miss, digest: *digest, media_type, size, bytes: None })
            }
            _ => self.fetch_manifest(repository, digest).await,
        }
    }

    /// The denial for a failed fetch; that it failed is remembered for a while.
    pub(super) fn deny_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        error: &Arc<FetchError>,
    ) -> Denial {
        let (class, now) = (error.class(), clock::monotonic());
        let wanted = match reference {
            Reference::Tag(tag) => Wanted::Tag(tag.clone()),
            Reference::Digest(digest) => {
                if class != Class::Absent {
                    self.withheld.add((repository.key, *digest), fault::staleness(error), now);
                }
                Wanted::Manifest(*digest)
            }
        };
        if class == Class::Absent {
            self.negatives.add((repository.key, wanted), (), now);
        }
        fault::manifest(reference, error)
    }

    /// Takes in what the upstream gave: checks what it is, makes it readable at once, and publishes it behind our back.
    pub(super) fn keep_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        fetched: FetchedManifest,
    ) -> Fetched {
        let digest = fetched.digest;
        let manifest = Manifest::parse(&fetched.bytes, fetched.media_type.as_ref()).map_err(|error| {
            tracing::warn!(%digest, repository = %repository.name, %error, "the upstream's manifest is not taken");
            Arc::new(FetchError::Malformed { host: self.upstream.host().to_owned(), what: "a manifest that is none" })
        })?;
        self.metrics.pulled_manifest(fetched.bytes.len() as u64);
        let held = Held { digest, media_type: manifest.media_type.clone(), bytes: fetched.bytes };
        self.withheld.remove(&(repository.key, digest));
        self.end_absences(repository, digest, &manifest);
        self.index.apply(self.membership(repository, digest, held.bytes.len() as u64, &manifest));
        if self.unpublished.add(&held, repository) {
            self.publish_manifest(held.clone(), manifest);
        }
        Ok(held)
    }

    /// A manifest is here, and what it names is said to be: that some of it was absent seconds ago does not count any more.
    fn end_absences(&self, repository: &Repository, digest: Digest, manifest: &Manifest) {
        self.negatives.remove(&(repository.key, Wanted::Manifest(digest)));
        for named in manifest.descriptors.iter().filter(|named| named.role.is_vouched_for()) {
            self.negatives.remove(&(repository.key, Wanted::Blob(named.digest)));
            self.negatives.remove(&(repository.key, Wanted::Manifest(named.digest)));
        }
    }

    /// The rows that a manifest of a repository gives: itself and everything that it names may be asked for there.
    pub(super) fn membership(
        &self,
        repository: &Repository,
        digest: Digest,
        size: u64,
        manifest: &Manifest,
    ) -> Batch {
        let seen_ms = clock::unix_ms();
        let own = Batch::new().put_repository(self.naming.upstream(), &repository.name).put_member(
            repository.key,
            digest,
            MemberRow { size: Some(size), seen_ms },
        );
        manifest.descriptors.iter().filter(|named| named.role.is_vouched_for()).fold(own, |batch, named| {
            let member = MemberRow { size: named.size, seen_ms };
            batch.put_member(repository.key, named.digest, member).put_parent(&named.digest, &digest)
        })
    }

    fn publish_manifest(self: &Arc<Self>, held: Held, manifest: Manifest) {
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            let _permit = engine.publications.acquire().await;
            let digest = held.digest;
            match engine.store_manifest(&held).await {
                Ok((identity, room)) => {
                    engine.index.touch(&digest);
                    for repository in engine.unpublished.repositories(&digest) {
                        engine.write_manifest_links(&repository, &digest).await;
                        engine.adopt_children(&repository, &manifest).await;
                    }
                    engine.index.apply(Batch::new().put_blob(digest, row(&held, identity)));
                    room.keep(identity.size);
                    engine.unpublished.published(&digest);
                }
                Err(error) => {
                    engine.unpublished.refused(&digest, clock::monotonic());
                    match is_over_budget(&error) {
                        true => tracing::info!(%digest, %error, "a manifest is kept in memory for now"),
                        false => {
                            tracing::error!(%digest, %error, "could not store a manifest; it is kept in memory for now")
                        }
                    }
                }
            }
        });
    }

    /// Writes a manifest into the tree, making room for it if need be. Its room is kept once its row is there.
    async fn store_manifest(
        self: &Arc<Self>,
        held: &Held,
    ) -> std::io::Result<(files::Identity, Reservation)> {
        let room = self.reserve(held.bytes.len() as u64).await?;
        let mut written = self.try_store_manifest(held).await;
        if let Err(error) = &written
            && self.relieve(error, held.bytes.len() as u64).await
        {
            written = self.try_store_manifest(held).await;
        }
        written.map(|identity| (identity, room))
    }

    async fn try_store_manifest(&self, held: &Held) -> std::io::Result<files::Identity> {
        let (store, digest, bytes) = (Arc::clone(&self.store), held.digest, held.bytes.clone());
        blocking(move || write(&store, &digest, &bytes)).await?
    }

    /// A manifest that the disk refused a while ago is tried once more.
    fn publish_again(self: &Arc<Self>, repository: &Repository, held: &Held) {
        if self.unpublished.is_due(&held.digest, clock::monotonic())
            && let Ok(manifest) = Manifest::parse(&held.bytes, Some(&held.media_type))
            && self.unpublished.add(held, repository)
        {
            self.publish_manifest(held.clone(), manifest);
        }
    }

    /// The manifest as held, hashed again: it costs microseconds, and no rot ever reaches a client.
    ///
    /// A file of the tree counts as a manifest only if it came as one: the index says so, or in a volume that we did not
    /// fill a revision link of the repository. Else a config, which is JSON too, could be had as a manifest.
    pub(super) async fn held_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<Present> {
        let indexed = self.index.member(&repository.key, digest).is_some();
        if let Some(manifest) = self.unpublished.find(digest) {
            self.publish_again(repository, &manifest);
            return Some(Present { manifest, member: indexed });
        }
        let row = self.index.blob(digest).filter(|row| row.kind == BlobKind::Manifest);
        let came_as_manifest = row.is_some();
        let (store, name, digest) = (Arc::clone(&self.store), repository.name.clone(), *digest);
        let (bytes, identity, linked) = blocking(move || {
            let linked = !(indexed && came_as_manifest) && store.has_revision(&name, &digest);
            if !came_as_manifest && !linked {
                return None;
            }
            let (bytes, identity) = read(&store, &digest).ok().flatten()?;
            Some((bytes, identity, linked))
        })
        .await
        .ok()
        .flatten()?;
        let media_type = match row.and_then(|row| row.media_type) {
            Some(media_type) => media_type,
            None => Manifest::parse(&bytes, None).ok()?.media_type,
        };
        let manifest = Held { digest, media_type, bytes };
        if linked {
            self.adopt_manifest(repository, &manifest, identity).await;
        }
        Some(Present { manifest, member: indexed || linked })
    }

    /// Whether a manifest is at hand, by what is known without looking at the disk.
    pub(super) fn is_held_manifest(&self, digest: &Digest) -> bool {
        self.unpublished.find(digest).is_some() || self.is_stored_manifest(digest)
    }

    /// Whether a manifest is in the tree, by what is known without looking at the disk.
    pub(super) fn is_stored_manifest(&self, digest: &Digest) -> bool {
        self.index.blob(digest).is_some_and(|row| row.kind == BlobKind::Manifest)
    }

    /// A manifest that we hold, for a repository of which only the upstream knows whether it belongs there too. Its HEAD
    /// says so; one that says nothing (or that it has no HEAD) is followed by a GET.
    async fn confirm_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        held: Held,
    ) -> Result<ManifestAnswer, Denial> {
        let reference = Reference::Digest(held.digest);
        let head = self.upstream.manifest_head(&repository.name, &reference).await;
        let head = head.map_err(|error| self.deny_manifest(repository, &reference, &Arc::new(error)))?;
        if head.digest.is_none_or(|digest| digest != held.digest) {
            return self.fetch_manifest(repository, &held.digest).await;
        }
        let member = MemberRow { size: Some(held.bytes.len() as u64), seen_ms: clock::unix_ms() };
        self.index.apply(Batch::new().put_member(repository.key, held.digest, member));
        self.link_manifest(repository, &held.digest);
        Ok(held.answer(Outcome::Revalidated))
    }
}

/// The row of a manifest that was checked just now.
pub(super) fn row(held: &Held, identity: files::Identity) -> BlobRow {
    let now = clock::unix_ms();
    BlobRow {
        size: identity.size,
        identity: Some(identity),
        kind: BlobKind::Manifest,
        media_type: Some(held.media_type.clone()),
        created_ms: now,
        verified_ms: Some(now),
        adopted: false,
    }
}

fn write(store: &Store, digest: &Digest, bytes: &Bytes) -> std::io::Result<files::Identity> {
    let partial = store.begin(digest, Some(bytes.len() as u64))?.partial;
    partial.write(0, std::slice::from_ref(bytes))?;
    store.publish(&partial, digest)
}

/// Reads a manifest from the tree; what is too large, unreadable or does not hash to its name is as good as absent.
pub(super) fn read(store: &Store, digest: &Digest) -> std::io::Result<Option<(Bytes, files::Identity)>> {
    let Some(open) = store.open_blob(digest)? else {
        return Ok(None);
    };
    let length = usize::try_from(open.identity.size).unwrap_or(usize::MAX);
    if length > MANIFEST_BYTES_MAX {
        return Ok(None);
    }
    let bytes = files::read_at(&open.file, 0, length)?;
    if Digest::of(digest.algorithm(), &bytes) != *digest {
        tracing::error!(%digest, "a stored manifest does not match its digest; it is set aside and fetched again");
        store.quarantine(digest, open.identity)?;
        return Ok(None);
    }
    Ok(Some((bytes, open.identity)))
}
