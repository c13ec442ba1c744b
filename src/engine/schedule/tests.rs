use super::*;
use crate::config::Cache;
use crate::engine::fill::blob_row;
use crate::engine::fixture;
use crate::index::Index;
use crate::registry::RepositoryName;
use crate::store::{LinkKind, Owner, PushVolume, Store};
use bytes::Bytes;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn engine(folder: &tempfile::TempDir) -> Arc<Engine> {
    let store = Store::open(folder.path(), PushVolume::Allow, &Owner::new("docker.io", None)).unwrap();
    fixture::engine(store, Index::in_memory("a test".into()), Cache::default())
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// A blob in the tree, which the index knows nothing of.
fn put(engine: &Engine, content: &[u8]) -> Digest {
    let digest = Digest::sha256(content);
    let partial = engine.store.begin(&digest, None).unwrap().partial;
    partial.write(0, &[Bytes::copy_from_slice(content)]).unwrap();
    engine.store.publish(&partial, &digest).unwrap();
    digest
}

/// The same with a row, used at some time, and linked to a repository.
fn hold(engine: &Engine, content: &[u8], adopted: bool, used: heat::Seconds, repository: &str) -> Digest {
    let digest = put(engine, content);
    let row = blob_row(engine.store.identity_of(&digest).unwrap().unwrap(), adopted);
    let row = BlobRow { created_ms: 1_000, ..row };
    engine.index.apply(Batch::new().put_blob(digest, row).put_holder(&digest, &name(repository)));
    engine.index.heat().touch(&digest, used);
    engine.store.link_layer(&name(repository), &digest).unwrap();
    digest
}

fn expiry(repository: &str, digest: Digest, at_ms: u64) -> Expiry {
    Expiry { name: name(repository), digest, kind: LinkKind::Layer, at_ms }
}

fn note(engine: &Engine, expiries: &[Expiry]) {
    let mut draft = engine.store.draft_schedule().unwrap();
    expiries.iter().for_each(|expiry| assert!(draft.add(expiry).unwrap()));
    draft.finish().unwrap();
}

fn noted(engine: &Engine) -> Vec<(String, Digest, u64)> {
    let mut found: Vec<_> = engine
        .store
        .schedule()
        .unwrap()
        .into_iter()
        .map(|e| (e.name.to_string(), e.digest, e.at_ms))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn what_we_hold_expires_a_while_after_its_last_use() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    engine.take_over_schedule().await;
    let layer = hold(&engine, b"layer", false, 5_000, "a/app");
    engine.store.link_layer(&name("b/app"), &layer).unwrap();
    // One link is known and not there, one is there and not known: `registry` finds what is there by its entries alone.
    engine.index.apply(Batch::new().put_holder(&layer, &name("c/gone")));
    engine.write_schedule().await;
    assert_eq!(noted(&engine), [("a/app".into(), layer, 5_000_000 + 7 * DAY_MS)]);
}

#[tokio::test]
async fn what_was_found_and_had_no_entry_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    let kept = hold(&engine, b"kept for ever", true, 5_000, "a/app");
    let expiring = hold(&engine, b"expiring", true, 6_000, "a/app");
    note(&engine, &[expiry("a/app", expiring, 1)]);
    engine.take_over_schedule().await;
    engine.write_schedule().await;
    assert_eq!(noted(&engine), [("a/app".into(), expiring, 6_000_000 + 7 * DAY_MS)], "not {kept}");
    // And so it stays.
    engine.write_schedule().await;
    assert_eq!(noted(&engine).len(), 1);
}

#[tokio::test]
async fn entries_tell_when_what_is_not_known_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    let fetched_by_registry = put(&engine, b"fetched by registry");
    for repository in ["a/app", "b/app"] {
        engine.store.link_layer(&name(repository), &fetched_by_registry).unwrap();
    }
    let used_since = hold(&engine, b"used since", false, 9_000, "a/app");
    let gone = Digest::sha256(b"gone");
    let at = |seconds: u64| seconds * 1000 + 7 * DAY_MS;
    note(
        &engine,
        &[
            expiry("a/app", fetched_by_registry, at(3_000)),
            expiry("b/app", fetched_by_registry, at(4_000)),
            expiry("a/app", used_since, at(1_000)),
            expiry("a/app", gone, at(2_000)),
        ],
    );
    engine.take_over_schedule().await;
    let row = engine.index.blob(&fetched_by_registry).unwrap();
    assert!(row.adopted && row.verified_ms.is_none());
    let used =
        |digest: &Digest| engine.index.last_use(digest, engine.index.blob(digest).as_ref(), heat::now());
    assert_eq!((used(&fetched_by_registry), used(&used_since)), (4_000, 9_000));
    assert_eq!(engine.index.holders(&fetched_by_registry, 9), [name("a/app"), name("b/app")]);
    assert!(engine.index.blob(&gone).is_none() && engine.index.holders(&gone, 9).is_empty());
    engine.write_schedule().await;
    let mut expected = [
        ("a/app".to_owned(), fetched_by_registry, at(4_000)),
        ("a/app".to_owned(), used_since, at(9_000)),
        ("b/app".to_owned(), fetched_by_registry, at(4_000)),
    ];
    expected.sort();
    assert_eq!(noted(&engine), expected);
}

#[tokio::test]
async fn an_expiry_in_the_far_future_is_a_use_just_now() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    let digest = put(&engine, b"x");
    engine.store.link_layer(&name("a"), &digest).unwrap();
    note(&engine, &[expiry("a", digest, 4_000_000_000_000)]);
    let before = heat::now();
    engine.take_over_schedule().await;
    let used = engine.index.heat().last_use(&digest, heat::now());
    assert!(used >= Some(before) && used <= Some(heat::now()));
}

#[tokio::test]
async fn a_damaged_file_is_as_good_as_none_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    let digest = hold(&engine, b"x", false, 5_000, "a");
    let file = folder.path().join("scheduler-state.json");
    std::fs::write(&file, "{\"a@").unwrap();
    engine.take_over_schedule().await;
    engine.write_schedule().await;
    assert_eq!(noted(&engine), [("a".into(), digest, 5_000_000 + 7 * DAY_MS)]);
}

#[tokio::test]
async fn what_was_not_taken_over_yet_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    note(&engine, &[expiry("a", Digest::sha256(b"x"), 1)]);
    engine.write_schedule().await;
    assert_eq!(noted(&engine).len(), 1);
}

#[tokio::test]
async fn one_that_is_given_up_ends_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    engine.take_over_schedule().await;
    hold(&engine, b"x", false, 5_000, "a");
    // As if another one had begun, or the time at the stop were over.
    let turn = engine.schedule_turn.fetch_add(1, Ordering::AcqRel);
    assert_eq!(engine.try_write_schedule(turn).unwrap_err().kind(), std::io::ErrorKind::Interrupted);
    assert_eq!(noted(&engine), []);
    assert_eq!(std::fs::read_dir(folder.path().join("tidegate/partial")).unwrap().count(), 0);
    engine.write_last_schedule(Duration::from_secs(60)).await;
    assert_eq!(noted(&engine).len(), 1);
}

#[tokio::test]
async fn it_is_written_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&folder);
    engine.take_over_schedule().await;
    for content in [b"first", b"other"] {
        hold(&engine, content, false, 5_000, "a");
        let written = async {
            while noted(&engine).len() != engine.index.blobs(None, 9).rows.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = engine.write_schedule_every(Duration::from_millis(1)) => unreachable!(),
            () = written => {}
        }
    }
}
