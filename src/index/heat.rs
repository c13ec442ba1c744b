//! When each blob was last used: a mapped array of seconds, so that a hit never writes to the database.
//!
//! The slot of a blob is computed from its digest; no slot is ever given or taken back. Two blobs that meet in one slot
//! share their last use, so one of them may look younger than it is, never older. There are eight slots for each blob
//! at least, which keeps that rare.
//!
//! Nothing here is ever an error: a file that is damaged, foreign or missing starts anew, and where there is no room for
//! it, or maps are not safe, the array lives in memory. A blob without a last use counts from when it came.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use crate::registry::Digest;
use crate::sys::map::{WORD_BYTES, Words};
use crate::sys::sync::{read, write};
use crate::sys::{clock, files};

/// Bytes before the first number: one page.
const HEADER_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"tideheat";
const VERSION: u32 = 1;

/// Least slots: 256 KiB, enough for 8,192 blobs.
const SLOTS_MIN: usize = 65_536;

/// Most slots: 512 MiB, enough for 16 million blobs; more of them share slots more often.
const SLOTS_MAX: usize = 128 * 1024 * 1024;

/// Slots for each blob: one in eight shares its slot with another one then.
const SLOTS_PER_BLOB: u64 = 8;

/// A clock that runs ahead by so much was set back since; what it wrote says nothing.
const AHEAD_SECONDS_MAX: u32 = 60;

/// Seconds since 1970. They last until the year 2106.
pub type Seconds = u32;

/// The present, for last uses.
pub fn now() -> Seconds {
    Seconds::try_from(clock::unix_ms() / 1000).unwrap_or(Seconds::MAX)
}

/// The last uses.
#[derive(Debug)]
pub struct Heat {
    path: Option<PathBuf>,
    slots: RwLock<Arc<Slots>>,
    /// When the array was last empty: before that nothing is known.
    born: Seconds,
}

#[derive(Debug)]
enum Slots {
    Mapped(Words),
    Memory(Box<[AtomicU32]>),
}

impl Slots {
    fn in_memory(count: usize) -> Self {
        Self::Memory(std::iter::repeat_with(AtomicU32::default).take(count).collect())
    }

    fn len(&self) -> usize {
        match self {
            Self::Mapped(words) => words.len(),
            Self::Memory(numbers) => numbers.len(),
        }
    }

    fn at(&self, index: usize) -> Option<&AtomicU32> {
        match self {
            Self::Mapped(words) => words.at(index),
            Self::Memory(numbers) => numbers.get(index),
        }
    }

    /// The slot of a digest; the number of slots is a power of two.
    fn of(&self, digest: &Digest) -> Option<&AtomicU32> {
        let first = digest.bytes().first_chunk().copied().map_or(0, u64::from_le_bytes);
        let mask = (self.len() as u64).wrapping_sub(1);
        self.at(usize::try_from(first & mask).ok()?)
    }

    /// The numbers from a slot on, as bytes of the file.
    fn bytes(&self, from: usize, count: usize) -> Vec<u8> {
        let numbers = (from..from + count).filter_map(|index| self.at(index));
        numbers.flat_map(|number| number.load(Ordering::Relaxed).to_ne_bytes()).collect()
    }
}

impl Heat {
    /// Opens the file, or starts anew, or in memory.
    pub fn open(path: &Path) -> Self {
        match Self::try_open(path) {
            Ok(heat) => heat,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "last uses can't be kept on disk; after a start blobs count from when they came");
                Self::in_memory()
            }
        }
    }

    /// Last uses that end with the process.
    pub fn in_memory() -> Self {
        Self { path: None, slots: RwLock::new(Arc::new(Slots::in_memory(SLOTS_MIN))), born: now() }
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(path);
        if files::unmappable(folder)?.is_some() || !files::writes_in_place(folder)? {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "maps are not safe on this file system"));
        }
        if let Some((words, born)) = open_known(path) {
            let slots = RwLock::new(Arc::new(Slots::Mapped(words)));
            return Ok(Self { path: Some(path.to_owned()), slots, born });
        }
        let (empty, born) = (Slots::in_memory(0), now());
        let words = create(path, &empty, SLOTS_MIN, born)?;
        let slots = RwLock::new(Arc::new(Slots::Mapped(words)));
        Ok(Self { path: Some(path.to_owned()), slots, born })
    }

    /// Notes a use. A load, and a store if the second is another one.
    pub fn touch(&self, digest: &Digest, now: Seconds) {
        let slots = read(&self.slots);
        let Some(slot) = slots.of(digest) else { return };
        if slot.load(Ordering::Relaxed) != now {
            slot.store(now, Ordering::Relaxed);
        }
    }

    /// The last use; `None` if none is known, or if it would be in the future.
    pub fn last_use(&self, digest: &Digest, now: Seconds) -> Option<Seconds> {
        let slots = read(&self.slots);
        let found = slots.of(digest)?.load(Ordering::Relaxed);
        (found != 0 && found <= now.saturating_add(AHEAD_SECONDS_MAX)).then_some(found)
    }

    /// Since when uses have been noted: what was not used since may have been used before.
    pub fn born(&self) -> Seconds {
        self.born
    }

    /// Grows until there are slots enough for so many blobs. May wait for the disk; what is noted meanwhile is kept.
    pub fn make_room_for(&self, blobs: u64) {
        while (self.slots() as u64) < blobs.saturating_mul(SLOTS_PER_BLOB) && self.slots() < SLOTS_MAX {
            if let Err(error) = self.double() {
                tracing::warn!(%error, "the file of last uses can't grow: more blobs share their last use");
                return;
            }
        }
    }

    fn slots(&self) -> usize {
        read(&self.slots).len()
    }

    /// Since the slot is the low bits of a digest, the array written twice is right for one bit more.
    fn double(&self) -> io::Result<()> {
        let old = Arc::clone(&read(&self.slots));
        let count = old.len().saturating_mul(2);
        let grown = match &self.path {
            Some(path) => Slots::Mapped(create(path, &old, count, self.born)?),
            None => Slots::in_memory(count),
        };
        let grown = Arc::new(grown);
        *write(&self.slots) = Arc::clone(&grown);
        // Once more, for what was noted while it was written.
        for index in 0..count {
            if let (Some(from), Some(to)) = (old.at(index % old.len()), grown.at(index)) {
                to.fetch_max(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// The file as it is, if it is one of ours and as long as it says.
fn open_known(path: &Path) -> Option<(Words, Seconds)> {
    let file = File::options().read(true).write(true).open(path).ok()?;
    let header = files::read_at(&file, 0, HEADER_BYTES).ok()?;
    let number = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + WORD_BYTES)?.try_into().ok()?));
    let count = usize::try_from(number(12)?).ok()?;
    let known = header.starts_with(&MAGIC) && number(8)? == VERSION && count.is_power_of_two();
    if !known || !(SLOTS_MIN..=SLOTS_MAX).contains(&count) || file.metadata().ok()?.len() != length(count) {
        return None;
    }
    // A copy of the file may have holes.
    files::allocate(&file, length(count)).ok()?;
    Some((Words::map(&file, HEADER_BYTES as u64, count).ok()?, number(16)?))
}

/// Writes a file with `count` slots: `old` as often as it takes, or zeros. In place of another one only when it is whole.
fn create(path: &Path, old: &Slots, count: usize, born: Seconds) -> io::Result<Words> {
    let aside = path.with_extension("new");
    let made = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&aside);
    let filled = made.and_then(|mut file| {
        files::allocate(&file, length(count))?;
        file.write_all(&header(count, born))?;
        for from in (0..count).step_by(SLOTS_MIN).filter(|_| old.len() > 0) {
            file.write_all(&old.bytes(from % old.len(), SLOTS_MIN))?;
        }
        fs::rename(&aside, path)?;
        Words::map(&file, HEADER_BYTES as u64, count)
    });
    filled.inspect_err(|_| drop(fs::remove_file(&aside)))
}

fn header(count: usize, born: Seconds) -> Vec<u8> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let mut header = MAGIC.to_vec();
    for number in [VERSION, count, born] {
        header.extend(number.to_ne_bytes());
    }
    header.resize(HEADER_BYTES, 0);
    header
}

fn length(count: usize) -> u64 {
    (HEADER_BYTES + count * WORD_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(seed: u32) -> Digest {
        Digest::sha256(&seed.to_le_bytes())
    }

    #[test]
    fn a_use_is_known_after_a_restart_and_after_growth() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heat");
        let (heat, now) = (Heat::open(&path), now());
        for seed in 0..1000 {
            heat.touch(&digest(seed), now - seed % 7);
        }
        let before: Vec<_> = (0..2000).map(|seed| heat.last_use(&digest(seed), now)).collect();
        drop(heat);
        let heat = Heat::open(&path);
        heat.make_room_for(20_000);
        assert!(heat.path.is_some() && heat.slots() == 262_144);
        let after: Vec<_> = (0..1000).map(|seed| heat.last_use(&digest(seed), now)).collect();
        assert_eq!(before[..1000], after);
        drop(heat);
        let heat = Heat::open(&path);
        assert_eq!(heat.slots(), 262_144);
        assert_eq!(after, (0..1000).map(|seed| heat.last_use(&digest(seed), now)).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_damaged_foreign_or_cut_short_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heat");
        let whole = {
            Heat::open(&path).touch(&digest(1), 7);
            std::fs::read(&path).unwrap()
        };
        let mut foreign = whole.clone();
        foreign[8] = 2;
        for bytes in [&whole[..1000], &whole[..whole.len() - 1], &foreign, &vec![0; whole.len()], &[]] {
            std::fs::write(&path, bytes).unwrap();
            let heat = Heat::open(&path);
            assert!(heat.path.is_some() && heat.last_use(&digest(1), 7).is_none());
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Heat::open(&path).last_use(&digest(1), 7), Some(7));
    }

    #[test]
    fn without_a_place_it_lives_in_memory_and_grows_there() {
        let heat = Heat::open(Path::new("/nowhere/heat"));
        heat.touch(&digest(1), 9);
        heat.make_room_for(10_000);
        assert_eq!((heat.last_use(&digest(1), 9), heat.slots()), (Some(9), 131_072));
    }

    #[test]
    fn the_future_says_nothing() {
        let heat = Heat::in_memory();
        heat.touch(&digest(1), 10_000);
        assert_eq!(heat.last_use(&digest(1), 10_000 - AHEAD_SECONDS_MAX), Some(10_000));
        assert_eq!(heat.last_use(&digest(1), 9_000), None);
    }
}
