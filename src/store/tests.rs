use super::quarantine::QUARANTINED_MAX;
use super::*;
use crate::registry::{RepositoryName, Tag};
use bytes::Bytes;
use std::os::unix::fs::symlink;

const CONTENT: &[u8] = b"some content";

fn owner() -> Owner {
    Owner::new("docker.io", None)
}

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), PushVolume::Refuse, &owner()).unwrap()
}

fn put(store: &Store, content: &'static [u8]) -> Digest {
    let digest = Digest::sha256(content);
    let partial = store.begin(&digest, Some(content.len() as u64)).unwrap().partial;
    partial.write(0, &[Bytes::from_static(content)]).unwrap();
    store.publish(&partial, &digest).unwrap();
    digest
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(current) = open.pop() {
        for entry in fs::read_dir(current).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_tree_is_the_one_of_registry() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = put(&store, CONTENT);
    let (repository, tag): (_, Tag) = (name("library/app"), "latest".parse().unwrap());
    store.link_layer(&repository, &digest).unwrap();
    store.link_revision(&repository, &digest).unwrap();
    store.link_tag(&repository, &tag, &digest).unwrap();
    let hex = digest.hex();
    let under = "repositories/library/app";
    assert_eq!(
        files_below(&folder.path().join("docker/registry/v2")),
        [
            format!("blobs/sha256/{}/{hex}/data", &hex[..2]),
            format!("{under}/_layers/sha256/{hex}/link"),
            format!("{under}/_manifests/revisions/sha256/{hex}/link"),
            format!("{under}/_manifests/tags/latest/current/link"),
            format!("{under}/_manifests/tags/latest/index/sha256/{hex}/link"),
        ]
    );
    let link = fs::read(
        folder.path().join("docker/registry/v2").join(under).join("_manifests/tags/latest/current/link"),
    );
    assert_eq!(link.unwrap(), digest.to_string().into_bytes());
    assert_eq!(digest.to_string().len(), 71);
    assert_eq!(store.read_tag(&repository, &tag), Some(digest));
    assert!(store.has_layer(&repository, &digest) && store.has_revision(&repository, &digest));
    assert_eq!(store.repositories(10), [repository]);
}

#[test]
fn a_published_blob_survives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    let digest = put(&first, CONTENT);
    let identity = first.open_blob(&digest).unwrap().unwrap().identity;
    drop(first);
    let open = store(&folder).open_blob(&digest).unwrap().unwrap();
    assert_eq!(open.identity, identity);
    assert_eq!(files::read_at(&open.file, 0, 100).unwrap(), CONTENT);
}

#[test]
fn wrong_bytes_never_become_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = Digest::sha256(CONTENT);
    let partial = store.begin(&digest, None).unwrap().partial;
    partial.write(0, &[Bytes::from_static(b"other content")]).unwrap();
    assert_eq!(store.publish(&partial, &digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(partial);
    assert!(store.open_blob(&digest).unwrap().is_none());
    assert!(files_below(&store.layout.partials()).is_empty());
}

#[test]
fn what_is_no_regular_file_is_no_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = put(&store, CONTENT);
    let path = store.layout.blob(&digest);
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    symlink(folder.path().join("elsewhere"), &path).unwrap();
    assert!(store.open_blob(&digest).unwrap().is_none());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(store.open_blob(&digest).unwrap().is_none());
}

#[test]
fn a_damaged_link_is_absent_and_mended_by_the_next_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let (repository, digest) = (name("library/app"), Digest::sha256(CONTENT));
    for damage in ["", "garbage", &format!("{digest}\n"), &"x".repeat(10_000)] {
        store.link_layer(&repository, &digest).unwrap();
        let path = store.layout.layer_link(&repository, &digest);
        fs::write(&path, damage).unwrap();
        assert!(!store.has_layer(&repository, &digest), "{damage:.20}");
        store.link_layer(&repository, &digest).unwrap();
        assert!(store.has_layer(&repository, &digest));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn a_link_is_exactly_one_digest(content in "[ -~\n]{0,80}|sha256:[0-9a-f]{63,65}\n?") {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let (repository, tag): (_, Tag) = (name("library/app"), "latest".parse().unwrap());
        let path = store.layout.tag_link(&repository, &tag);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &content).unwrap();
        proptest::prop_assert_eq!(store.read_tag(&repository, &tag), content.parse::<Digest>().ok());
    }
}

#[test]
fn two_processes_never_share_a_volume() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    assert!(matches!(
        Store::open(folder.path(), PushVolume::Allow, &owner()),
        Err(StoreError::Locked { .. })
    ));
    drop(first);
    store(&folder);
}

#[test]
fn the_volume_of_a_push_registry_is_refused_until_an_upstream_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("docker/registry/v2/repositories/app/_manifests")).unwrap();
    let refused = Store::open(folder.path(), PushVolume::Refuse, &owner());
    assert!(matches!(refused, Err(StoreError::PushRegistry { .. })));
    assert!(!folder.path().join("tidegate").exists(), "a refused volume is left as it was");
    drop(Store::open(folder.path(), PushVolume::Allow, &owner()).unwrap());
    store(&folder);
}

#[test]
fn an_unwritable_root_says_whose_it_is() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(&file.path().join("root"), PushVolume::Refuse, &owner()).unwrap_err().to_string();
    assert!(error.contains(&file.path().display().to_string()) && error.contains("mode 0600"), "{error}");
}

#[test]
fn unfinished_downloads_are_swept_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    drop(store(&folder));
    fs::write(folder.path().join("tidegate/partial/abc.def"), b"half").unwrap();
    assert!(files_below(&store(&folder).layout.partials()).is_empty());
}

#[test]
fn a_damaged_blob_leaves_the_tree_and_few_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = put(&store, CONTENT);
    let identity = store.open_blob(&digest).unwrap().unwrap().identity;
    let other = Identity { inode: identity.inode + 1, ..identity };
    store.quarantine(&digest, other).unwrap();
    assert!(store.open_blob(&digest).unwrap().is_some(), "another file under the digest stays");
    store.quarantine(&digest, identity).unwrap();
    store.quarantine(&digest, identity).unwrap();
    assert!(store.open_blob(&digest).unwrap().is_none());
    for n in 0..QUARANTINED_MAX + 5 {
        fs::write(store.layout.quarantine().join(n.to_string()), b"").unwrap();
    }
    put(&store, CONTENT);
    let again = store.open_blob(&digest).unwrap().unwrap().identity;
    store.quarantine(&digest, again).unwrap();
    assert_eq!(files_below(&store.layout.quarantine()).len(), QUARANTINED_MAX);
}

#[test]
fn a_partial_with_wrong_bytes_is_set_aside_and_never_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = Digest::sha256(CONTENT);
    let partial = store.begin(&digest, Some(5)).unwrap().partial;
    partial.write(0, &[Bytes::from_static(b"wrong")]).unwrap();
    store.quarantine_partial(&partial, &digest).unwrap();
    assert!(store.publish(&partial, &digest).is_err() && store.open_blob(&digest).unwrap().is_none());
    drop(partial);
    let kept = files_below(&store.layout.quarantine());
    assert_eq!(fs::read(store.layout.quarantine().join(&kept[0])).unwrap(), b"wrong");
    assert!(kept.len() == 1 && kept[0].starts_with(&digest.hex()));
    assert_eq!(files_below(&store.layout.partials()), Vec::<String>::new());
}

#[test]
fn the_quarantine_has_a_limit_of_bytes_and_ends_when_room_is_short() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let at = |n: u8| store.layout.quarantine().join(n.to_string());
    (0..3).for_each(|n| fs::write(at(n), [1; 40_000]).unwrap());
    assert!(store.own_bytes().other >= 120_000);
    // One that is too large alone takes no other's place.
    fs::write(at(3), [1; 100_000]).unwrap();
    store.thin_quarantine(QUARANTINED_MAX, 90_000);
    assert_eq!(files_below(&store.layout.quarantine()).len(), 2);
    fs::write(at(0), [1; 40_000]).unwrap();
    store.thin_quarantine(QUARANTINED_MAX, 90_000);
    assert_eq!(files_below(&store.layout.quarantine()).len(), 2);
    store.sweep(clock::now(), Unfinished::Old);
    assert_eq!(files_below(&store.layout.quarantine()).len(), 2);
    store.sweep(clock::now(), Unfinished::Unused);
    assert_eq!(files_below(&store.layout.quarantine()), Vec::<String>::new());
}

#[test]
fn a_temporary_store_leaves_nothing_behind() {
    let store = Store::temporary(&owner()).unwrap();
    let root = store.root().to_owned();
    put(&store, CONTENT);
    drop(store);
    assert!(!root.exists());
}

#[test]
fn links_count_only_for_the_upstream_and_account_that_all_of_them_were_written_for() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::sha256(CONTENT);
    let counts = |owner: Owner| {
        let store = Store::open(folder.path(), PushVolume::Allow, &owner).unwrap();
        put(&store, CONTENT);
        store.link_layer(&name("a/b"), &digest).unwrap();
        store.link_revision(&name("a/b"), &digest).unwrap();
        store.link_tag(&name("a/b"), &"latest".parse().unwrap(), &digest).unwrap();
        let all = [
            store.has_layer(&name("a/b"), &digest),
            store.has_revision(&name("a/b"), &digest),
            store.read_tag(&name("a/b"), &"latest".parse().unwrap()).is_some(),
        ];
        assert!(all.iter().all(|one| *one == all[0]));
        all[0]
    };
    assert!(counts(Owner::new("docker.io", Some("bot"))) && counts(Owner::new("docker.io", Some("bot"))));
    assert!(!counts(Owner::new("docker.io", None)));
    // What the account saw is among them for good.
    assert!(!counts(Owner::new("docker.io", None)) && !counts(Owner::new("docker.io", Some("bot"))));
    assert_ne!(Owner::new("a", Some("b\nc")), Owner::new("a", Some("b")));
}

#[test]
fn whatever_is_in_the_place_of_a_blob_makes_way() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = put(&store, CONTENT);
    let (data, own) = (store.layout.blob(&digest), store.layout.blob_folder(&digest));
    let make: [&dyn Fn(); 4] = [
        &|| fs::create_dir_all(data.join("with/more")).unwrap(),
        &|| symlink("/dev/zero", &data).unwrap(),
        &|| rustix::fs::mkfifoat(rustix::fs::CWD, &data, rustix::fs::Mode::RUSR).unwrap(),
        &|| {
            fs::remove_dir(&own).unwrap();
            fs::write(&own, b"no folder").unwrap();
        },
    ];
    for (number, make) in make.iter().enumerate() {
        fs::remove_file(&data).unwrap();
        make();
        assert!(store.open_blob(&digest).unwrap().is_none(), "{number}");
        assert_eq!(store.identity_of(&digest).unwrap(), None, "{number}");
        put(&store, CONTENT);
        let open = store.open_blob(&digest).unwrap().unwrap();
        assert_eq!(store.identity_of(&digest).unwrap(), Some(open.identity), "{number}");
    }
}

#[test]
fn our_folders_may_hold_anything() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(&folder);
    let digest = put(&first, CONTENT);
    let ours = |name: &str| folder.path().join("tidegate").join(name);
    for junk in ["partial", "quarantine"] {
        fs::create_dir_all(ours(junk).join("folder/in/folder")).unwrap();
        (0..30).for_each(|number| fs::write(ours(junk).join(format!("junk-{number}")), b"x").unwrap());
        symlink("/nowhere", ours(junk).join("link")).unwrap();
    }
    let which = first.open_blob(&digest).unwrap().unwrap().identity;
    assert!(first.quarantine(&digest, which).unwrap());
    assert!(fs::read_dir(ours("quarantine")).unwrap().count() <= QUARANTINED_MAX);
    drop(first);
    drop(store(&folder));
    assert_eq!(fs::read_dir(ours("partial")).unwrap().count(), 0);
    for name in ["partial", "quarantine", "index"] {
        fs::remove_dir_all(ours(name)).unwrap();
        fs::write(ours(name), b"no folder").unwrap();
    }
    drop(store(&folder));
    assert!(["partial", "quarantine", "index"].iter().all(|name| ours(name).is_dir()));
}

#[test]
fn a_walk_finds_what_is_there_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let (one, other) = (put(&store, CONTENT), put(&store, b"other content"));
    let shard = store.layout.blob_folder(&one).parent().unwrap().to_owned();
    fs::write(shard.join("junk"), b"x").unwrap();
    fs::create_dir(shard.join("ff".repeat(33))).unwrap();
    // In another shard than its own nobody would look for it.
    let astray = if one.hex().starts_with("00") { "01" } else { "00" };
    fs::create_dir_all(store.layout.shard(crate::registry::Algorithm::Sha256, astray).join(one.hex()))
        .unwrap();
    let mut found: Vec<_> = Shard::all().flat_map(|shard| store.digests_in(shard).unwrap()).collect();
    let mut expected = vec![one, other];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let (repository, tag): (_, Tag) = (name("library/app"), "1".parse().unwrap());
    assert_eq!((store.revisions(&repository).unwrap(), store.tags(&repository).unwrap()), (vec![], vec![]));
    store.link_revision(&repository, &one).unwrap();
    store.link_revision(&repository, &other).unwrap();
    store.link_tag(&repository, &tag, &one).unwrap();
    fs::write(store.layout.revision_link(&repository, &other), b"garbage").unwrap();
    fs::create_dir_all(store.layout.tags(&repository).join("-no-tag/current")).unwrap();
    assert_eq!(store.revisions(&repository).unwrap(), [one]);
    assert_eq!(store.tags(&repository).unwrap(), [(tag, one)]);
}

#[test]
fn what_is_removed_leaves_no_link_and_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let (old, new) = (put(&store, CONTENT), put(&store, b"other content"));
    let (repository, tag): (_, fn(&str) -> Tag) = (name("library/app"), |text| text.parse().unwrap());
    for digest in [&old, &new] {
        store.link_revision(&repository, digest).unwrap();
        store.link_layer(&repository, digest).unwrap();
        store.link_tag(&repository, &tag("moved"), digest).unwrap();
    }
    store.link_tag(&repository, &tag("stayed"), &old).unwrap();
    let mut revisions = store.linked_revisions(&repository);
    revisions.sort();
    let mut both = [old, new];
    both.sort();
    assert_eq!(revisions, both);
    let decided = clock::unix_ms() + 60_000;
    let reader = store.open_blob(&old).unwrap().unwrap();
    store.unlink_manifest(&repository, &old).unwrap();
    store.unlink_layer(&repository, &old).unwrap();
    assert_eq!(store.remove_blob(&old, decided).unwrap(), Some(reader.identity));
    assert_eq!(store.remove_blob(&old, decided).unwrap(), None);
    let left = files_below(&folder.path().join("docker"));
    assert!(left.iter().all(|path| !path.contains(&old.hex()) && !path.contains("stayed")), "{left:?}");
    assert_eq!(store.read_tag(&repository, &tag("moved")), Some(new));
    assert_eq!(files::read_at(&reader.file, 0, 100).unwrap(), CONTENT);
    store.unlink_manifest(&name("never/seen"), &old).unwrap();
}

#[test]
fn what_came_after_the_decision_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = put(&store, CONTENT);
    assert_eq!(store.remove_blob(&digest, clock::unix_ms() - 60_000).unwrap(), None);
    assert!(store.open_blob(&digest).unwrap().is_some());
}

#[test]
fn our_own_folder_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let before = store.own_bytes();
    let partial = store.begin(&Digest::sha256(CONTENT), None).unwrap().partial;
    partial.write(0, &[Bytes::from(vec![1; 100_000])]).unwrap();
    partial.sync().unwrap();
    fs::write(store.heat_file(), vec![1; 50_000]).unwrap();
    let after = store.own_bytes();
    assert!(after.partials >= before.partials + 100_000 && after.other >= before.other + 50_000, "{after:?}");
}

#[test]
fn nothing_is_written_where_the_disk_was_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let digest = put(&store, CONTENT);
    fs::remove_dir_all(folder.path()).unwrap();
    fs::create_dir(folder.path()).unwrap();
    assert!(store.begin(&digest, None).is_err());
    assert!(store.link_layer(&name("library/app"), &digest).is_err());
    assert!(store.open_blob(&digest).unwrap().is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
