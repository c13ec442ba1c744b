use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;

fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", name].iter().collect()
}

/// What a door is used to, from `fuzz/seeds`.
fn seeds(door: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder("seeds").join(door)).expect("every door has seeds");
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Something that was done to a seed.
#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<prop::sample::Index>;
        let byte = prop_oneof![
            any::<u8>(),
            prop::sample::select(b"\0\n\x1b\"'\\/:,;=*-.?&%@#{}[]<>0129aZ".to_vec())
        ];
        let few = prop::collection::vec(byte.clone(), 1..12);
        prop_oneof![
            (at(), byte).prop_map(|(at, byte)| Self::Set(at, byte)),
            (at(), few).prop_map(|(at, few)| Self::Insert(at, few)),
            (at(), 1usize..40).prop_map(|(at, length)| Self::Remove(at, length)),
            (at(), 1usize..60).prop_map(|(at, length)| Self::Repeat(at, length)),
        ]
    }

    fn apply(self, bytes: &mut Vec<u8>) {
        let place = |at: prop::sample::Index, bytes: &Vec<u8>| at.index(bytes.len() + 1);
        let behind = |at: usize, length: usize, bytes: &Vec<u8>| (at + length).min(bytes.len());
        match self {
            Self::Set(at, byte) => {
                let at = place(at, bytes);
                bytes.truncate(bytes.len().max(at));
                bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
            }
            Self::Insert(at, few) => {
                let at = place(at, bytes);
                bytes.splice(at..at, few);
            }
            Self::Remove(at, length) => {
                let at = place(at, bytes);
                bytes.drain(at..behind(at, length, bytes));
            }
            Self::Repeat(at, length) => {
                let at = place(at, bytes);
                let again = bytes[at..behind(at, length, bytes)].repeat(30);
                bytes.splice(at..at, again);
            }
        }
    }
}

/// Prints as what can be pasted into a test.
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

fn input(door: &str) -> impl Strategy<Value = Input> {
    let changed = (prop::sample::select(seeds(door)), prop::collection::vec(Change::any(), 0..6));
    let changed = changed.prop_map(|(mut bytes, changes)| {
        changes.into_iter().for_each(|change| change.apply(&mut bytes));
        bytes
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..300), 8 => changed].prop_map(Input)
}

#[test]
fn whatever_comes_through_a_door_keeps_its_promises() {
    let broken: Vec<_> = DOORS
        .iter()
        .filter_map(|(name, door)| {
            let mut runner = TestRunner::new(Cases { failure_persistence: None, ..Cases::default() });
            let found = runner.run(&input(name), |bytes| {
                door(&bytes.0);
                Ok(())
            });
            let broken = found.err()?;
            Some(format!("{name}: {broken}"))
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

/// `fuzz/` runs all of them.
#[test]
fn every_door_has_a_fuzz_target() {
    let names = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> =
            entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let doors: Vec<_> = DOORS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(folder("targets")), doors);
    assert_eq!(names(folder("seeds")), doors);
    let package = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    for (name, _) in DOORS {
        let target = format!("name = \"{name}\"\npath = \"targets/{name}.rs\"");
        assert!(package.contains(&target), "{name}");
        let source = std::fs::read_to_string(folder("targets").join(name).with_extension("rs")).unwrap();
        assert!(source.contains(&format!("tidegate::untrusted::{name}(bytes)")), "{name}");
    }
}
