//! Scrub, rebuild and comparison over a real tree, without an upstream.

use super::*;
use crate::engine::compare::Comparison;
use crate::engine::deliver::{Body, Cut};
use crate::engine::rebuild::Rebuilt;
use crate::engine::{FillRules, Parts, Want, freshness, repository};
use crate::index::{BlobKind, Index, MemberRow};
use crate::observe::metrics::{Metrics, Snapshot};
use crate::registry::{ByteRange, Manifest, RepositoryName, Tag};
use crate::store::{Owner, PushVolume, Store};
use crate::upstream::{Setup, Upstream};
use bytes::Bytes;
use futures_util::StreamExt;
use std::path::PathBuf;

/// Faster than any test needs.
const FAST: u64 = 1 << 40;

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), PushVolume::Allow, &Owner::new("docker.io", None)).unwrap()
}

fn engine(folder: &tempfile::TempDir) -> Arc<Engine> {
    let upstream = Upstream::new(&Setup {
        url: "http://127.0.0.1:1".parse().unwrap(),
        account: None,
        anonymous_fallback: true,
        cafile: None,
        realms: vec![],
        redirects: vec![],
        stall: Duration::from_secs(30),
        proxy_hosts: vec![],
    });
    let naming = repository::Naming::new(repository::Setup {
        name: "docker.io",
        name_configured: false,
        host: "127.0.0.1:1",
        account: None,
        allow: vec![],
        deny: vec![],
    });
    let store = store(folder);
    Engine::new(Parts {
        upstream: upstream.unwrap(),
        index: Index::open(&store.index_folder()),
        store,
        naming,
        rules: freshness::Rules { fresh: Duration::ZERO, stale_for: None, serve_gone: true },
        fill: FillRules { segments: 1, lazy: false },
        transfers_max: 1,
        cache: crate::config::Cache::default(),
        scrub: Rules { period: Duration::ZERO, bytes_per_second: FAST },
        negative: Duration::ZERO,
        tags_max: 10,
        metrics: Arc::new(Metrics::default()),
    })
}

fn put(store: &Store, content: &[u8]) -> Digest {
    let digest = Digest::sha256(content);
    let partial = store.begin(&digest, None).unwrap().partial;
    partial.write(0, &[Bytes::copy_from_slice(content)]).unwrap();
    store.publish(&partial, &digest).unwrap();
    digest
}

fn data(folder: &tempfile::TempDir, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    folder.path().join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex).join("data")
}

/// Changes a byte, and makes the row say that this file was verified: what rot behind the file system's back looks like.
fn rot(engine: &Engine, folder: &tempfile::TempDir, digest: &Digest) {
    let mut content = std::fs::read(data(folder, digest)).unwrap();
    content[0] ^= 1;
    std::fs::write(data(folder, digest), content).unwrap();
    let identity = engine.store.identity_of(digest).unwrap();
    let row = engine.index.blob(digest).unwrap();
    engine.index.apply(Batch::new().put_blob(*digest, BlobRow { identity, ..row }));
}

/// Three blobs, an image that names the first two, its links, and a tag.
fn image(store: &Store) -> (RepositoryName, Digest, [Digest; 3]) {
    let blobs = [put(store, b"config"), put(store, b"layer"), put(store, b"stray")];
    let entry = |digest: &Digest| serde_json::json!({ "mediaType": "application/x", "digest": digest.to_string(), "size": 6 });
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": entry(&blobs[0]),
        "layers": [entry(&blobs[1])],
    });
    let document = document.to_string();
    assert!(Manifest::parse(document.as_bytes(), None).is_ok());
    let manifest = put(store, document.as_bytes());
    let name: RepositoryName = "library/app".parse().unwrap();
    store.link_revision(&name, &manifest).unwrap();
    store.link_tag(&name, &"1".parse().unwrap(), &manifest).unwrap();
    (name, manifest, blobs)
}

#[tokio::test]
async fn an_empty_index_over_a_tree_is_filled_with_all_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (name, manifest, blobs) = image(&store(&folder));
    let engine = engine(&folder);
    assert!(!engine.index.is_whole());
    let found = engine.rebuild_index().await;
    let bytes = found.bytes;
    let expected =
        Rebuilt { repositories: 1, manifests: 1, tags: 1, blobs: 4, bytes, adopted: 3, ..Rebuilt::default() };
    assert_eq!(found, expected);
    let row = engine.index.blob(&blobs[1]).unwrap();
    assert!(row.adopted && row.verified_ms.is_none() && row.size == 5 && row.identity.is_some());
    let row = engine.index.blob(&manifest).unwrap();
    assert!(row.adopted && row.kind == BlobKind::Manifest && row.media_type.is_some());
    let key = engine.naming.known(name).key;
    assert!(engine.index.member(&key, &blobs[0]).is_some() && engine.index.member(&key, &manifest).is_some());
    assert!(engine.index.member(&key, &blobs[2]).is_none());
    let tag: Tag = "1".parse().unwrap();
    assert_eq!(engine.index.tag(&key, &tag).map(|row| (row.digest, row.validated_ms)), Some((manifest, 0)));
    assert!(engine.index.is_whole());
    // Once more: nothing is left to do, and what is known stays known.
    let again = engine.rebuild_index().await;
    assert_eq!((again.blobs, again.adopted, again.changed, again.manifests, again.tags), (4, 0, 0, 1, 0));
}

#[tokio::test]
async fn index_and_tree_are_compared_and_made_to_agree() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, blobs) = image(&store(&folder));
    let engine = engine(&folder);
    engine.rebuild_index().await;
    std::fs::remove_file(data(&folder, &blobs[0])).unwrap();
    std::fs::write(data(&folder, &blobs[1]), b"other").unwrap();
    let new = put(&engine.store, b"new");
    let junk = folder.path().join("docker/registry/v2/blobs/sha256/zz");
    std::fs::create_dir_all(&junk).unwrap();
    let found = engine.verify_index().await;
    let expected = Comparison {
        rows: 4,
        unverified: 3,
        without_file: 1,
        changed: 1,
        files: 4,
        bytes: found.bytes,
        without_row: 1,
        unreadable: 0,
    };
    assert_eq!(found, expected);
    assert_eq!(engine.verify_index().await, expected, "to compare changes nothing");
    let mended = engine.rebuild_index().await;
    assert_eq!((mended.adopted, mended.changed, mended.removed), (1, 1, 1));
    assert!(engine.index.blob(&blobs[0]).is_none() && engine.index.blob(&new).is_some());
    let found = engine.verify_index().await;
    assert_eq!((found.without_file, found.changed, found.without_row), (0, 0, 0));
}

#[tokio::test]
async fn a_scrub_verifies_what_is_right_and_sets_aside_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, blobs) = image(&store(&folder));
    let engine = engine(&folder);
    let found = engine.scrub_now(Some(FAST)).await.unwrap();
    assert_eq!((found.checked, found.adopted, found.damaged, found.missing), (4, 3, 0, 0));
    assert!(blobs.iter().all(|blob| engine.index.blob(blob).unwrap().verified_identity().is_some()));
    rot(&engine, &folder, &blobs[0]);
    std::fs::remove_file(data(&folder, &blobs[1])).unwrap();
    put(&engine.store, b"new");
    let found = engine.scrub_now(Some(FAST)).await.unwrap();
    assert_eq!((found.checked, found.adopted, found.damaged, found.missing), (3, 1, 1, 1));
    assert!(engine.index.blob(&blobs[0]).is_none() && engine.index.blob(&blobs[1]).is_none());
    assert!(!data(&folder, &blobs[0]).exists());
    let kept = std::fs::read_dir(folder.path().join("tidegate/quarantine")).unwrap().count();
    assert_eq!(kept, 1);
    let exposition = engine.metrics.expose(Snapshot::default());
    assert!(exposition.contains("tidegate_blobs_damaged_total 1"), "{exposition}");
    assert!(exposition.contains("tidegate_scrubbed_blobs_total 7"), "{exposition}");
}

#[tokio::test]
async fn a_scrub_keeps_its_rate_and_runs_once() {
    let folder = tempfile::tempdir().unwrap();
    put(&store(&folder), &vec![7; 3 * 1024 * 1024]);
    let engine = engine(&folder);
    let other = Arc::clone(&engine);
    let began = clock::monotonic();
    let slow = tokio::spawn(async move { other.scrub_now(Some(8 * 1024 * 1024)).await });
    while engine.scrub_on_demand.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.scrub_now(None).await, None, "one pass at a time");
    assert_eq!(slow.await.unwrap().unwrap().checked, 1);
    assert!(began.elapsed() >= Duration::from_millis(375), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_was_read_within_the_period_is_not_due() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, blobs) = image(&store(&folder));
    let engine = engine(&folder);
    engine.scrub_now(None).await.unwrap();
    let mut found = Scrubbed::default();
    engine.scrub_due(FAST, Duration::from_secs(3600), &mut found).await;
    assert_eq!(found.checked, 0);
    // The clock was set back since: a time in the future says nothing.
    let row = engine.index.blob(&blobs[0]).unwrap();
    let future = Some(clock::unix_ms() + 1_000_000_000);
    engine.index.apply(Batch::new().put_blob(blobs[0], BlobRow { verified_ms: future, ..row }));
    engine.scrub_due(FAST, Duration::from_secs(3600), &mut found).await;
    assert_eq!(found.checked, 1);
    assert!(engine.index.blob(&blobs[0]).unwrap().verified_ms < future);
}

#[tokio::test]
async fn a_file_that_can_not_be_set_aside_is_not_looked_at_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, blobs) = image(&store(&folder));
    let engine = engine(&folder);
    engine.scrub_now(None).await.unwrap();
    rot(&engine, &folder, &blobs[0]);
    // A quarantine that takes nothing.
    let quarantine = folder.path().join("tidegate/quarantine");
    std::fs::remove_dir(&quarantine).unwrap();
    std::fs::write(&quarantine, b"in the way").unwrap();
    assert_eq!(engine.scrub_now(None).await.unwrap().damaged, 1);
    let which = engine.store.identity_of(&blobs[0]).unwrap().unwrap();
    assert!(engine.is_damaged(&blobs[0], &which), "it is still there, and known to be damaged");
    assert!(engine.index.blob(&blobs[0]).unwrap().verified_identity().is_none());
    let repository = engine.naming.known("library/app".parse().unwrap());
    let (held, _) = engine.look_up(&repository, &blobs[0], Want::Body).await;
    assert!(matches!(held, crate::engine::blob::Held::Absent), "a request fetches it");
}

#[tokio::test]
async fn who_got_rotten_bytes_is_cut_when_the_scrub_finds_them() {
    let folder = tempfile::tempdir().unwrap();
    let digest = put(&store(&folder), &vec![7; 400 * 1024]);
    let engine = engine(&folder);
    engine.scrub_now(None).await.unwrap();
    let repository = engine.naming.known("library/app".parse().unwrap());
    let member = MemberRow { size: None, seen_ms: 0 };
    engine.index.apply(Batch::new().put_member(repository.key, digest, member));
    rot(&engine, &folder, &digest);
    let answer =
        engine.blob(&repository, &digest, Want::Body, crate::registry::range::Asked::Whole).await.unwrap();
    let range = ByteRange { first: 0, end: answer.size };
    let Body::Pieces(mut pieces) = answer.source.unwrap().read(range, 128 * 1024) else {
        panic!("it is whole at once");
    };
    // Nobody knows yet.
    assert!(pieces.next().await.unwrap().is_ok());
    assert_eq!(engine.scrub_now(None).await.unwrap().damaged, 1);
    assert!(matches!(pieces.next().await, Some(Err(Cut::Wrong))));
}
