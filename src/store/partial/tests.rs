use super::*;
use crate::store::{Owner, PushVolume, Store, Unfinished};
use crate::sys::clock;
use proptest::prelude::*;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

fn store(root: &Path) -> Store {
    Store::open(root, PushVolume::Allow, &Owner::new("docker.io", None)).unwrap()
}

fn content(length: u64) -> Bytes {
    (0..length).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 11).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

fn slice(content: &Bytes, first: u64, end: u64) -> [Bytes; 1] {
    [content.slice(size(first)..size(end))]
}

/// What an earlier process left of a blob: the first `written` bytes of it.
fn leave(root: &Path, content: &Bytes, written: u64) -> Digest {
    let digest = Digest::sha256(content);
    let store = store(root);
    let begun = store.begin(&digest, Some(content.len() as u64)).unwrap();
    begun.partial.write(0, &slice(content, 0, written)).unwrap();
    digest
}

fn partials(root: &Path) -> usize {
    fs::read_dir(root.join("tidegate/partial")).unwrap().count()
}

#[test]
fn a_large_one_is_gone_on_with_by_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    let content = content(8 * MIB + 5);
    let digest = leave(root.path(), &content, 5 * MIB + 17);
    let store = store(root.path());
    let begun = store.begin(&digest, Some(content.len() as u64)).unwrap();
    let left: Vec<_> = begun.left.iter().map(|record| record.range.first / MIB).collect();
    assert_eq!(left, [0, 1, 2, 3, 4], "the sixth block was not whole");
    assert!(begun.left.iter().all(|record| begun.partial.take_back(record).unwrap()));
    assert_eq!(begun.partial.hashed(), 5 * MIB);
    begun.partial.write(5 * MIB, &slice(&content, 5 * MIB, content.len() as u64)).unwrap();
    store.publish(&begun.partial, &digest).unwrap();
    drop(begun);
    assert_eq!(partials(root.path()), 0);
    assert_eq!(store.open_blob(&digest).unwrap().unwrap().identity.size, content.len() as u64);
}

#[test]
fn a_block_that_is_not_what_was_received_does_not_count() {
    let root = tempfile::tempdir().unwrap();
    let content = content(8 * MIB);
    let digest = leave(root.path(), &content, 8 * MIB);
    let path = root.path().join("tidegate/partial").join(digest.hex());
    let file = File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!content[size(3 * MIB)]], 3 * MIB).unwrap();
    file.set_len(7 * MIB + 1).unwrap();
    let store = store(root.path());
    let begun = store.begin(&digest, Some(8 * MIB)).unwrap();
    let right: Vec<_> = begun.left.iter().map(|record| begun.partial.take_back(record).unwrap()).collect();
    assert_eq!(right, [true, true, true, false, true, true, true, false]);
    assert_eq!(begun.partial.hashed(), 3 * MIB);
    assert_eq!(
        begun.partial.extents().gap_from(0, 8 * MIB),
        Some(ByteRange { first: 3 * MIB, end: 4 * MIB })
    );
    drop(begun);
    assert_eq!(store.begin(&digest, Some(8 * MIB)).unwrap().left.len(), 6, "what is wrong is forgotten");
}

#[test]
fn two_of_one_digest_never_share_a_file() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let content = content(5 * MIB);
    let digest = Digest::sha256(&content);
    let first = store.begin(&digest, Some(5 * MIB)).unwrap().partial;
    let second = store.begin(&digest, Some(5 * MIB)).unwrap().partial;
    first.write(0, &slice(&content, 0, 5 * MIB)).unwrap();
    second.write(0, &[Bytes::from(vec![0; size(5 * MIB)])]).unwrap();
    assert_eq!(first.digest(), digest);
    assert_ne!(second.digest(), digest);
    drop(second);
    assert!(store.publish(&first, &digest).is_ok());
}

#[test]
fn what_is_small_or_of_another_length_is_not_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let content = content(8 * MIB);
    let digest = leave(root.path(), &content, 3 * MIB);
    assert_eq!(partials(root.path()), 0);
    leave(root.path(), &content, 6 * MIB);
    assert_eq!(partials(root.path()), 2);
    let store = store(root.path());
    assert!(store.begin(&digest, Some(9 * MIB)).unwrap().left.is_empty());
}

#[test]
fn an_old_one_is_removed_and_so_is_what_nobody_knows() {
    let root = tempfile::tempdir().unwrap();
    let content = content(8 * MIB);
    let digest = leave(root.path(), &content, 6 * MIB);
    let folder = root.path().join("tidegate/partial");
    for stray in ["link.0123", "x.map", &format!("{}.0123456789abcdef", digest.hex())] {
        fs::write(folder.join(stray), b"x").unwrap();
    }
    let store = store(root.path());
    assert_eq!(partials(root.path()), 2);
    let begun = store.begin(&digest, Some(8 * MIB)).unwrap();
    let tomorrow = clock::now() + Duration::from_secs(25 * 3600);
    store.sweep(tomorrow, Unfinished::Old);
    store.sweep(tomorrow, Unfinished::Unused);
    assert_eq!(partials(root.path()), 2, "it is in use");
    drop(begun);
    store.sweep(clock::now(), Unfinished::Old);
    assert_eq!(partials(root.path()), 2, "it is young");
    store.sweep(tomorrow, Unfinished::Old);
    assert_eq!(partials(root.path()), 0);
    drop(store);
    leave(root.path(), &content, 6 * MIB);
    let store = self::store(root.path());
    store.sweep(clock::now(), Unfinished::Unused);
    assert_eq!(partials(root.path()), 0, "room is short");
}

#[test]
fn wrong_bytes_are_removed_however_many() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let content = content(8 * MIB);
    let begun = store.begin(&Digest::sha256(b"other"), Some(8 * MIB)).unwrap();
    begun.partial.write(0, &slice(&content, 0, 8 * MIB)).unwrap();
    begun.partial.discard().unwrap();
    assert_eq!(partials(root.path()), 0);
    assert!(store.publish(&begun.partial, &Digest::sha256(&content)).is_err(), "it has no name any more");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn it_hashes_right_in_whatever_order_it_is_filled(
        cuts in proptest::collection::btree_set(1u64..300_000, 0..10),
        seed in any::<u64>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let content = content(300_000);
        let borders: Vec<_> = [0].into_iter().chain(cuts).chain([300_000]).collect();
        let mut parts: Vec<_> = borders.windows(2).map(|pair| (pair[0], pair[1])).collect();
        parts.sort_by_key(|(first, _)| (first ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let digest = Digest::sha256(&content);
        let partial = store.begin(&digest, Some(300_000)).unwrap().partial;
        for (first, end) in parts {
            partial.write(first, &slice(&content, first, end)).unwrap();
        }
        prop_assert_eq!((partial.hashed(), partial.digest()), (300_000, digest));
    }
}
