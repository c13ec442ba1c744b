use super::*;
use crate::registry::MediaType;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn digest(seed: u32) -> Digest {
    Digest::sha256(&seed.to_le_bytes())
}

fn repository(name: &str) -> RepoKey {
    RepoKey::new("docker.io", "", &name.parse().unwrap())
}

fn member(size: u64) -> MemberRow {
    MemberRow { size: Some(size), seen_ms: 7 }
}

fn blob_row(size: u64) -> BlobRow {
    BlobRow {
        size,
        identity: Some(Identity { device: 1, inode: 2, size, ctime_ns: -3 }),
        kind: BlobKind::Manifest,
        media_type: Some(crate::registry::MediaType::known("application/vnd.oci.image.index.v1+json")),
        created_ms: 4,
        verified_ms: Some(5),
        adopted: true,
    }
}

fn tag_row(seed: u32) -> TagRow {
    TagRow {
        digest: digest(seed),
        media_type: None,
        size: None,
        validated_ms: u64::from(seed),
        before: Some(Before { digest: digest(seed + 1), validated_ms: 1 }),
    }
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

async fn filled(folder: &Path) {
    let index = Index::open(folder);
    index.apply(Batch::new().put_blob(digest(1), blob_row(10)).put_tag(
        repository("a/b"),
        &tag("latest"),
        tag_row(1),
    ));
    index.committed().await;
}

fn holds_the_fill(index: &Index) -> bool {
    index.blob(&digest(1)) == Some(blob_row(10))
        && index.tag(&repository("a/b"), &tag("latest")) == Some(tag_row(1))
}

#[tokio::test]
async fn rows_are_readable_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path());
    assert_eq!(*index.backend(), Backend::Mapped);
    index.apply(Batch::new().put_member(repository("a"), digest(1), member(9)));
    assert_eq!(index.member(&repository("a"), &digest(1)), Some(member(9)));
    assert_eq!(index.member(&repository("b"), &digest(1)), None);
    index.committed().await;
    assert_eq!(index.member(&repository("a"), &digest(1)), Some(member(9)));
    drop(index);
    let index = Index::open(folder.path());
    assert_eq!(index.member(&repository("a"), &digest(1)), Some(member(9)));
}

#[tokio::test]
async fn a_stop_commits_what_is_pending() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path());
    index.apply(Batch::new().put_blob(digest(1), blob_row(1)));
    drop(index);
    assert_eq!(Index::open(folder.path()).blob(&digest(1)), Some(blob_row(1)));
}

#[tokio::test]
async fn lists_are_sorted_and_merge_what_is_pending() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path());
    let names = ["library/b", "library/d", "library/a"];
    let batch = names
        .iter()
        .fold(Batch::new(), |batch, name| batch.put_repository("docker.io", &name.parse().unwrap()));
    index.apply(batch.put_repository("quay.io", &"x".parse().unwrap()));
    index.committed().await;
    index.apply(Batch::new().put_repository("docker.io", &"library/c".parse().unwrap()));
    let list = |after, limit| -> Vec<String> {
        index.repositories("docker.io", after, limit).iter().map(ToString::to_string).collect()
    };
    assert_eq!(list(None, 10), ["library/a", "library/b", "library/c", "library/d"]);
    assert_eq!(list(Some("library/b"), 1), ["library/c"]);
    assert_eq!(list(Some("library/bb"), 10), ["library/c", "library/d"]);
    let repo = repository("library/a");
    index.apply(Batch::new().put_tag(repo, &tag("v2"), tag_row(2)).put_tag(repo, &tag("v1"), tag_row(1)));
    assert_eq!(index.tags(&repo, None, 10), [tag("v1"), tag("v2")]);
    assert_eq!(index.tags(&repo, Some(&tag("v1")), 10), [tag("v2")]);
}

#[tokio::test]
async fn a_removed_row_is_gone_at_once_and_for_good() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let index = Index::open(folder.path());
    index.apply(Batch::new().remove_blob(digest(1)));
    assert_eq!(index.blob(&digest(1)), None);
    drop(index);
    assert_eq!(Index::open(folder.path()).blob(&digest(1)), None);
}

#[tokio::test]
async fn an_index_cut_short_anywhere_is_used_or_set_aside_but_never_kills() {
    let whole = tempfile::tempdir().unwrap();
    filled(whole.path()).await;
    let bytes = std::fs::read(whole.path().join("v1/data.mdb")).unwrap();
    for length in (0..bytes.len()).step_by(1000).chain([1, 100, 4096, 4097, 8192, bytes.len() - 1]) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("v1")).unwrap();
        std::fs::write(folder.path().join("v1/data.mdb"), &bytes[..length]).unwrap();
        let index = Index::open(folder.path());
        assert_eq!(*index.backend(), Backend::Mapped, "{length}");
        assert!(holds_the_fill(&index) || index.blob(&digest(1)).is_none(), "{length}");
        index.apply(Batch::new().put_blob(digest(2), blob_row(2)));
        index.committed().await;
        assert_eq!(index.blob(&digest(2)), Some(blob_row(2)), "{length}");
    }
}

/// An index with enough rows for branches, removed ones for free pages, and of several commits.
async fn large(folder: &Path) -> Vec<u8> {
    let index = Index::open(folder);
    for round in 0..6 {
        let rows = (0..150).map(|number| digest(round * 100 + number));
        let batch = rows.fold(Batch::new(), |batch, digest| batch.put_blob(digest, blob_row(7)));
        index.apply((0..60).fold(batch, |batch, number| batch.remove_blob(digest(round * 100 + number))));
        index.committed().await;
    }
    drop(index);
    std::fs::read(folder.join("v1/data.mdb")).unwrap()
}

/// A folder in memory, where that can be had: what waits for its syncs hundreds of times does not wait for others' too.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens an index with this content, and uses all of it.
async fn survives(content: &[u8], what: &str) {
    let folder = in_memory();
    std::fs::create_dir(folder.path().join("v1")).unwrap();
    std::fs::write(folder.path().join("v1/data.mdb"), content).unwrap();
    let index = Index::open(folder.path());
    assert_eq!(*index.backend(), Backend::Mapped, "{what}");
    assert!(index.blobs(None, 10_000).rows.iter().all(|(_, row)| *row == blob_row(7)), "{what}");
    let batch = (0..700).fold(Batch::new(), |batch, number| batch.put_blob(digest(number), blob_row(7)));
    index.apply(batch);
    index.committed().await;
    assert_eq!(index.blobs(None, 10_000).rows.len(), 700, "{what}");
}

#[tokio::test]
async fn nothing_to_commit_is_not_waited_for() {
    let folder = in_memory();
    let index = Index::open(folder.path());
    index.apply(Batch::new().put_blob(digest(1), blob_row(7)));
    index.committed().await;
    index.apply(Batch::new());
    tokio::time::timeout(std::time::Duration::from_secs(10), index.committed()).await.unwrap();
}

#[tokio::test]
async fn a_large_index_is_sound_and_left_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = large(folder.path()).await;
    assert!(bytes.len() > 60_000, "{}", bytes.len());
    assert!(folder.path().join("v1/in-order").exists());
    survives(&bytes, "untouched").await;
    // Looked at page by page, it is used as it is.
    std::fs::remove_file(folder.path().join("v1/in-order")).unwrap();
    let index = Index::open(folder.path());
    let held = index.blobs(None, 10_000).rows;
    assert!(held.len() > 250 && held.is_sorted_by_key(|(digest, _)| *digest));
    let first = index.blobs(None, 100);
    let second = index.blobs(first.next.as_ref(), 100);
    assert_eq!([first.rows, second.rows].concat(), held[..200]);
    assert!(!folder.path().join("v1/in-order").exists(), "a note counts once");
}

#[tokio::test]
async fn flipped_bits_never_kill_and_never_lie() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = large(folder.path()).await;
    // All fields of the meta pages and of the head of each page, and many places elsewhere.
    let heads = (0..bytes.len()).step_by(4096).flat_map(|page| (page..page + 32).step_by(5));
    let metas = (0..160).chain(4096..4256);
    let others = (0..bytes.len()).step_by(2_027);
    for at in heads.chain(metas.step_by(5)).chain(others) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        survives(&flipped, &format!("a bit of byte {at}")).await;
    }
}

#[tokio::test]
async fn a_large_index_cut_short_anywhere_is_used_or_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = large(folder.path()).await;
    for length in (0..bytes.len()).step_by(4096).flat_map(|page| [page, page + 1, page + 4095]) {
        survives(&bytes[..length.min(bytes.len())], &format!("cut to {length}")).await;
    }
}

#[tokio::test]
async fn what_is_no_folder_is_set_aside_and_little_of_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..4_u64 {
        std::fs::write(folder.path().join("v1"), b"no folder").unwrap();
        let index = Index::open(folder.path());
        assert_eq!(*index.backend(), Backend::Mapped);
        assert!(!index.is_whole());
        index.apply(Batch::new().mark_whole());
        drop(index);
        assert!(Index::open(folder.path()).is_whole(), "{number}");
        std::fs::remove_dir_all(folder.path().join("v1")).unwrap();
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 2);
}

#[tokio::test]
async fn garbage_and_foreign_versions_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("v1")).unwrap();
    std::fs::write(folder.path().join("v1/data.mdb"), vec![0xAB; 20_000]).unwrap();
    filled(folder.path()).await;
    assert!(holds_the_fill(&Index::open(folder.path())));
    let aside =
        || std::fs::read_dir(folder.path()).unwrap().flatten().filter(|e| e.file_name() != "v1").count();
    assert_eq!(aside(), 1);
    {
        let map = environment::open(folder.path()).unwrap();
        let mut transaction = map.environment.write_txn().unwrap();
        map.rows.put(&mut transaction, &schema::version(), b"another").unwrap();
        transaction.commit().unwrap();
    }
    assert_eq!(Index::open(folder.path()).blob(&digest(1)), None);
    assert_eq!(aside(), 2);
}

#[tokio::test]
async fn a_row_with_a_flipped_bit_is_absent() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    {
        let map = environment::open(folder.path()).unwrap();
        let mut transaction = map.environment.write_txn().unwrap();
        let mut value = map.rows.get(&transaction, &schema::blob(&digest(1))).unwrap().unwrap().to_vec();
        value[0] ^= 1;
        map.rows.put(&mut transaction, &schema::blob(&digest(1)), &value).unwrap();
        transaction.commit().unwrap();
    }
    assert_eq!(Index::open(folder.path()).blob(&digest(1)), None);
}

#[test]
fn a_folder_that_is_none_leaves_an_index_in_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let index = Index::open(file.path());
    assert!(matches!(index.backend(), Backend::Memory(_)));
    index.apply(Batch::new().put_blob(digest(1), blob_row(1)));
    assert_eq!(index.blob(&digest(1)), Some(blob_row(1)));
}

#[test]
fn the_overlay_forgets_what_is_over_its_limit() {
    let overlay = Overlay::new(2);
    let row = |n: u8| (vec![n], Some(vec![n]));
    overlay.put(vec![row(1), row(2), row(3)]);
    assert!(overlay.get(&[2]).is_some() && overlay.get(&[3]).is_none());
    overlay.put(vec![(vec![2], None)]);
    assert_eq!(overlay.get(&[2]), Some(Pending::Removed));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u32, u64),
    Remove(u32),
    Commit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_u32, any::<u64>()).prop_map(|(key, size)| Step::Put(key, size)),
        4 => (0..6_u32).prop_map(Step::Remove),
        1 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_index_agrees_with_a_map(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = in_memory();
        let mut model = BTreeMap::new();
        let mut index = Index::open(folder.path());
        for step in steps {
            match step {
                Step::Put(key, size) => {
                    index.apply(Batch::new().put_blob(digest(key), blob_row(size)));
                    model.insert(key, size);
                }
                Step::Remove(key) => {
                    index.apply(Batch::new().remove_blob(digest(key)));
                    model.remove(&key);
                }
                Step::Commit => drop(runtime.block_on(index.committed())),
                Step::Reopen => {
                    drop(index);
                    index = Index::open(folder.path());
                }
            }
            for key in 0..6 {
                prop_assert_eq!(index.blob(&digest(key)).map(|row| row.size), model.get(&key).copied());
            }
        }
    }

    #[test]
    fn bytes_that_changed_anywhere_never_kill(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = WHOLE.get_or_init(|| runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            large(folder.path()).await
        }));
        let mut content = whole.clone();
        for (at, byte) in &changes {
            let at = at.index(content.len());
            content[at] = *byte;
        }
        runtime.block_on(survives(&content, &format!("{changes:?}")));
    }

    #[test]
    fn no_bytes_make_a_row_decode_into_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = BlobRow::decode(&bytes);
        let _ = TagRow::decode(&bytes);
        let _ = MemberRow::decode(&bytes);
        prop_assert!(rows::unseal(b"key", &bytes).is_none_or(|value| rows::seal(b"key", value) == bytes));
    }

    #[test]
    fn rows_survive_their_bytes(
        (numbers, seed) in (proptest::array::uniform4(any::<u64>()), any::<u32>()),
        (known, flags) in (any::<bool>(), proptest::array::uniform3(any::<bool>())),
        media_type in proptest::option::of("[a-z]{1,100}/[a-z.+]{1,100}"),
    ) {
        let media_type = media_type.and_then(|text| MediaType::parse(&text));
        let [first, second, third, fourth] = numbers;
        let identity = Identity { device: first, inode: second, size: third, ctime_ns: fourth.cast_signed() };
        let blob = BlobRow {
            size: first,
            identity: known.then_some(identity),
            kind: if flags[0] { BlobKind::Manifest } else { BlobKind::Other },
            media_type: media_type.clone(),
            created_ms: second,
            verified_ms: flags[1].then_some(third),
            adopted: flags[2],
        };
        let before = Before { digest: digest(seed), validated_ms: first };
        let tag = TagRow {
            digest: digest(seed / 2),
            media_type,
            size: flags[0].then_some(second),
            validated_ms: third,
            before: flags[1].then_some(before),
        };
        let member = MemberRow { size: flags[2].then_some(fourth), seen_ms: first };
        prop_assert_eq!(BlobRow::decode(&blob.encode()), Some(blob));
        prop_assert_eq!(TagRow::decode(&tag.encode()), Some(tag));
        prop_assert_eq!(MemberRow::decode(&member.encode()), Some(member));
    }
}

fn all_blobs(index: &Index, limit: usize) -> Vec<Digest> {
    scan::Cursor::all(|from| index.blobs(from, limit)).into_iter().map(|(digest, _)| digest).collect()
}

#[tokio::test]
async fn a_scan_reads_every_row_once_whatever_is_pending() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path());
    let put = |seeds: std::ops::Range<u32>| {
        seeds.fold(Batch::new(), |batch, seed| batch.put_blob(digest(seed), blob_row(u64::from(seed))))
    };
    index.apply(put(0..100));
    index.committed().await;
    index.apply((20..60).fold(put(90..130), |batch, seed| batch.remove_blob(digest(seed))));
    let mut expected: Vec<_> = (0..20).chain(60..130).map(digest).collect();
    expected.sort();
    for limit in [1, 2, 7, 50, 1000] {
        assert_eq!(all_blobs(&index, limit), expected, "{limit}");
    }
    index.committed().await;
    assert_eq!(all_blobs(&index, 7), expected);
}

#[tokio::test]
async fn who_names_and_who_links_what_is_known_by_digest() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path());
    let name = |text: &str| -> RepositoryName { text.parse().unwrap() };
    let batch = Batch::new().put_parent(&digest(1), &digest(7)).put_parent(&digest(1), &digest(8));
    let batch = batch.put_parent(&digest(2), &digest(7)).put_holder(&digest(7), &name("b"));
    index.apply(batch.put_holder(&digest(7), &name("a/c")).put_holder(&digest(8), &name("d")));
    let parents = |child| {
        let mut found = scan::Cursor::all(|from| index.parents_of(&digest(child), from, 1));
        found.sort();
        found
    };
    let mut both = vec![digest(7), digest(8)];
    both.sort();
    assert_eq!((parents(1), parents(2), parents(3)), (both, vec![digest(7)], vec![]));
    assert_eq!(scan::Cursor::all(|from| index.parents(from, 2)).len(), 3);
    assert_eq!(index.holders(&digest(7), 9), [name("a/c"), name("b")]);
    index.committed().await;
    index.apply(Batch::new().remove_parent(&digest(1), &digest(8)).remove_holder(&digest(7), &name("b")));
    assert_eq!((parents(1), index.holders(&digest(7), 9)), (vec![digest(7)], vec![name("a/c")]));
    assert!(!index.knows_all_holders());
    index.apply(Batch::new().put_all_holders().put_pin("library/*").put_pin("a:1").remove_pin("x"));
    assert!(index.knows_all_holders());
    assert_eq!(index.pins(9), ["a:1", "library/*"]);
}
