use super::*;
use crate::engine::budget::room::Need;
use crate::index::{Batch, BlobKind};

const MIB: u64 = 1 << 20;
const OLD: Seconds = 1_000;

fn digest(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

fn row(size: u64) -> BlobRow {
    BlobRow {
        size,
        identity: None,
        kind: BlobKind::Other,
        media_type: None,
        created_ms: u64::from(OLD) * 1000,
        verified_ms: None,
        adopted: false,
    }
}

#[derive(Debug)]
struct Nothing;

impl Spared for Nothing {
    fn spares(&self, _: &Digest, _: &BlobRow) -> bool {
        false
    }
}

/// Blobs of 1 MiB by name, each with what names it and its last use.
fn index(blobs: &[(&str, &[&str], Seconds)]) -> Index {
    let index = Index::in_memory("a test".to_owned());
    for (name, parents, used) in blobs {
        let batch = Batch::new().put_blob(digest(name), row(MIB));
        index.apply(
            parents.iter().fold(batch, |batch, parent| batch.put_parent(&digest(name), &digest(parent))),
        );
        if *used > 0 {
            index.heat().touch(&digest(name), *used);
        }
    }
    index
}

fn run(index: &Index, large: u64, pinned: &[&str]) -> (Found, Vec<Digest>) {
    let pinned = pinned.iter().map(|name| digest(name)).collect();
    let terms =
        Terms { need: Need { small: 0, large, blobs: 0 }, held_since: Seconds::MAX - 1, idle_since: None };
    let found = Survey::new(index, &pinned, &Nothing).run(terms);
    let victims = found.victims.iter().map(|victim| victim.digest).collect();
    (found, victims)
}

#[track_caller]
fn check(index: &Index, large: u64, pinned: &[&str], expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|name| digest(name)).collect();
    assert_eq!(run(index, large, pinned).1, expected);
}

#[test]
fn a_shared_layer_is_as_recent_as_the_newest_image() {
    let index = index(&[
        ("base", &["hot", "cold"], 2_000),
        ("own", &["cold"], 5_000),
        ("hot", &[], 9_000),
        ("cold", &[], 4_000),
    ]);
    check(&index, 2 * MIB, &[], &["cold", "own"]);
}

#[test]
fn what_an_index_leads_to_is_as_recent_as_the_index() {
    let index = index(&[
        ("layer", &["image"], 2_000),
        ("image", &["index"], 3_000),
        ("index", &[], 8_000),
        ("other", &[], 7_000),
    ]);
    check(&index, MIB, &[], &["other"]);
}

#[test]
fn pins_hold_what_they_lead_to() {
    let index = index(&[
        ("layer", &["image"], 2_000),
        ("image", &["index"], 5_000),
        ("index", &[], 4_000),
        ("other", &[], 7_000),
    ]);
    check(&index, 9 * MIB, &["index"], &["other"]);
    assert_eq!(run(&index, 0, &["index"]).0.pinned, 3 * MIB);
    check(&index, MIB, &["layer"], &["index"]);
}

#[test]
fn without_a_last_use_a_blob_counts_from_when_it_came() {
    let index = index(&[("never", &[], 0), ("before", &[], OLD - 1), ("after", &[], OLD + 1)]);
    let (found, victims) = run(&index, 9 * MIB, &[]);
    assert_eq!((found.blobs, found.large, found.small), (3, 3 * MIB, 0));
    assert_eq!(victims.last(), Some(&digest("after")));
}

#[test]
fn many_pages_are_read_to_their_end_and_what_is_not_held_does_not_count() {
    let index = Index::in_memory("a test".to_owned());
    let names: Vec<_> = (0..3_000).map(|number| format!("blob {number}")).collect();
    for name in &names {
        let batch = Batch::new().put_parent(&digest(name), &digest("parent"));
        index.apply(batch.put_parent(&digest(&format!("absent {name}")), &digest(name)));
        index.apply(Batch::new().put_blob(digest(name), row(MIB)));
    }
    index.heat().touch(&digest(&names[7]), 5_000);
    let (found, victims) = run(&index, 3_000 * MIB, &[]);
    assert_eq!((found.blobs, victims.len()), (3_000, 3_000));
    assert_eq!(victims.last(), Some(&digest(&names[7])));
}
