use super::super::{Owner, PushVolume};
use super::*;
use proptest::prelude::*;

const HEX: &str = "10cd9b9617a9daa9d62fd8be61150b451a5b3a5b80f31c051089e89c644171de";

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), PushVolume::Refuse, &Owner::new("docker.io", None)).unwrap()
}

fn expiry(name: &str, kind: LinkKind, at_ms: u64) -> Expiry {
    Expiry { name: name.parse().unwrap(), digest: format!("sha256:{HEX}").parse().unwrap(), kind, at_ms }
}

fn entry(key: &str, at: &str, kind: u8) -> String {
    format!(r#"{{"{key}":{{"Key":"{key}","ExpiryData":"{at}","EntryType":{kind}}}}}"#)
}

#[test]
fn an_entry_of_registry_is_read() {
    let text = entry(&format!("library/app@sha256:{HEX}"), "2026-11-30T22:48:49.430390974Z", 1);
    let read = parse(text.as_bytes()).unwrap();
    assert_eq!(read, [expiry("library/app", LinkKind::Revision, 1_796_078_929_430)]);
}

#[test]
fn times_of_other_zones_and_of_no_time_are_read() {
    for (text, at_ms) in [
        ("2026-11-30T22:48:49.43+02:00", 1_796_071_729_430),
        ("1970-01-01T00:00:01Z", 1_000),
        ("0001-01-01T00:00:00Z", 0),
    ] {
        let read = parse(entry(&format!("a/b@sha256:{HEX}"), text, 0).as_bytes()).unwrap();
        assert_eq!(read, [expiry("a/b", LinkKind::Layer, at_ms)], "{text}");
    }
}

#[test]
fn entries_that_name_nothing_are_left_out() {
    for key in ["", "library/app", "library/app@", "@sha256:00", "../x@sha256:00", "a@b@c"] {
        assert_eq!(parse(entry(key, "2026-11-30T22:48:49Z", 0).as_bytes()).unwrap(), [], "{key}");
    }
    let no_time = entry(&format!("a@sha256:{HEX}"), "soon", 0);
    assert_eq!(parse(no_time.as_bytes()).unwrap(), []);
    assert_eq!(parse(&b"{}"[..]).unwrap(), []);
}

#[test]
fn a_damaged_file_is_an_error() {
    let whole = entry(&format!("a@sha256:{HEX}"), "2026-11-30T22:48:49Z", 0);
    for length in 0..whole.len() {
        assert!(parse(&whole.as_bytes()[..length]).is_err(), "{length}");
    }
    for text in ["[]", "null", r#"{"a":1}"#, "{}x", &"[".repeat(100_000)] {
        assert!(parse(text.as_bytes()).is_err());
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    assert_eq!(store.schedule().unwrap(), []);
    let mut written = [expiry("a", LinkKind::Layer, 1), expiry("b/c", LinkKind::Revision, 1_796_078_929_430)];
    let mut draft = store.draft_schedule().unwrap();
    for expiry in &written {
        assert!(draft.add(expiry).unwrap());
    }
    assert_eq!(draft.finish().unwrap(), 2);
    let mut read = store.schedule().unwrap();
    read.sort_by_key(|expiry| expiry.at_ms);
    written.sort_by_key(|expiry| expiry.at_ms);
    assert_eq!(read, written);
    let text = fs::read_to_string(folder.path().join("scheduler-state.json")).unwrap();
    let first = format!(
        r#"{{"a@sha256:{HEX}":{{"Key":"a@sha256:{HEX}","ExpiryData":"1970-01-01T00:00:00.001Z","EntryType":0}}"#
    );
    assert!(text.starts_with(&first), "{text}");
}

#[test]
fn one_that_is_not_finished_changes_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    assert_eq!(store.draft_schedule().unwrap().finish().unwrap(), 0);
    let mut draft = store.draft_schedule().unwrap();
    draft.add(&expiry("a", LinkKind::Layer, 1)).unwrap();
    drop(draft);
    assert_eq!(fs::read(folder.path().join("scheduler-state.json")).unwrap(), b"{}");
    assert_eq!(fs::read_dir(folder.path().join("tidegate/partial")).unwrap().count(), 0);
}

#[test]
fn there_is_a_limit_to_its_entries() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let mut draft = store.draft_schedule().unwrap();
    draft.count = ENTRIES_MAX;
    assert!(!draft.add(&expiry("a", LinkKind::Layer, 1)).unwrap());
    drop(draft);
    let entries = (0..=ENTRIES_MAX).map(|number| {
        let entry = entry(&format!("a{number}@sha256:{HEX}"), "2026-11-30T22:48:49Z", 0);
        entry[1..entry.len() - 1].to_owned()
    });
    let text = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let read = parse(text.as_bytes()).unwrap();
    assert_eq!(read.len(), ENTRIES_MAX);
}

#[test]
fn a_link_says_as_what_something_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let (name, digest) = ("a/b".parse().unwrap(), Digest::sha256(b"x"));
    assert_eq!(store.link_kind(&name, &digest), None);
    store.link_layer(&name, &digest).unwrap();
    assert_eq!(store.link_kind(&name, &digest), Some(LinkKind::Layer));
    store.link_revision(&name, &digest).unwrap();
    assert_eq!(store.link_kind(&name, &digest), Some(LinkKind::Revision));
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in ".{0,200}") {
        let _ = parse(text.as_bytes());
    }
}
