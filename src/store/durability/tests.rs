use super::super::{Owner, PushVolume};
use super::*;
use crate::registry::Digest;
use bytes::Bytes;

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), PushVolume::Allow, &Owner::new("docker.io", None)).unwrap()
}

fn put(store: &Store, content: &'static [u8]) -> files::Identity {
    let digest = Digest::sha256(content);
    let partial = store.begin(&digest, None).unwrap().partial;
    partial.write(0, &[Bytes::from_static(content)]).unwrap();
    store.publish(&partial, &digest).unwrap()
}

#[test]
fn what_was_synced_is_never_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let before = put(&store(&folder), b"x");
    assert!(!store(&folder).is_doubtful(&before));
}

#[test]
fn what_was_not_synced_is_in_doubt_after_a_crash_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let before = put(&store(&folder), b"before");
    let relaxed = store(&folder);
    relaxed.relax();
    let file = put(&relaxed, b"x");
    assert!(!relaxed.is_doubtful(&file), "it is in the page cache");
    drop(relaxed);
    // A crash; and another one before anything was done about it.
    for _ in 0..2 {
        drop(store(&folder));
    }
    let next = store(&folder);
    assert!(next.is_doubtful(&file));
    // The clock of file times is a few milliseconds behind, so this one may be in doubt too, and is only verified again.
    let older = files::Identity { ctime_ns: before.ctime_ns - 1_000_000_000, ..before };
    assert!(!next.is_doubtful(&older));
    next.end_doubt(true).unwrap();
    assert!(!next.is_doubtful(&file));
    drop(next);
    assert!(!store(&folder).is_doubtful(&file));
}

#[test]
fn a_stop_syncs_everything_and_leaves_no_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let relaxed = store(&folder);
    relaxed.relax();
    let file = put(&relaxed, b"x");
    relaxed.stop_relaxing().unwrap();
    assert_eq!(*relaxed.durability(), Durability::Full);
    drop(relaxed);
    assert!(!store(&folder).is_doubtful(&file));
}

#[test]
fn a_stop_before_the_doubt_is_ended_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let relaxed = store(&folder);
    relaxed.relax();
    let file = put(&relaxed, b"x");
    drop(relaxed);
    let next = store(&folder);
    next.relax();
    next.stop_relaxing().unwrap();
    drop(next);
    assert!(store(&folder).is_doubtful(&file));
}

#[test]
fn a_doubt_that_ended_in_memory_alone_is_there_again_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let relaxed = store(&folder);
    relaxed.relax();
    let file = put(&relaxed, b"x");
    drop(relaxed);
    let next = store(&folder);
    next.relax();
    next.end_doubt(false).unwrap();
    assert!(!next.is_doubtful(&file), "no row of before is believed here");
    next.stop_relaxing().unwrap();
    drop(next);
    assert!(store(&folder).is_doubtful(&file));
}

#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let relaxed = store(&folder);
    relaxed.relax();
    // As if the start had been in the future.
    relaxed.mark(i64::MAX - 1).unwrap();
    let file = put(&relaxed, b"x");
    drop(relaxed);
    assert!(store(&folder).is_doubtful(&file));
}

#[test]
fn a_note_that_says_nothing_puts_everything_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(&store(&folder), b"x");
    for damage in [&b""[..], b"soon", &[b'9'; 100]] {
        fs::write(folder.path().join("tidegate/unsynced"), damage).unwrap();
        assert!(store(&folder).is_doubtful(&file), "{damage:?}");
    }
}
