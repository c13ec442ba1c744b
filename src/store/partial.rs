//! A blob in the making: bytes that nothing may be served from as a blob.
//!
//! Several transfers write into it at once, each at its own place. What lies at the front without a gap is hashed as it
//! grows, from memory where the bytes just came, else from the file. A large one keeps a [`map`] beside it and survives
//! the process: the next fill of the same blob checks block by block what is still right, and goes on from there.

mod extents;
pub(crate) mod map;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::registry::digest::{Digest, Hasher};
use crate::registry::{Algorithm, ByteRange};
use crate::sys::files;
use crate::sys::sync::lock;
pub use extents::Extents;
pub use map::Record;
use map::{Map, Sums};

/// From this length on, room is reserved before the first byte. Of smaller ones nothing goes out before all is written,
/// so a full disk need not show earlier.
const RESERVED_FROM_BYTES: u64 = 16 * 1024;

/// From this length on a partial survives the process. A shorter one is fetched again faster than it is checked.
pub const KEPT_FROM_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that are read back and hashed at a time.
const STEP_BYTES: u64 = 1024 * 1024;

/// A file that is filled from several places. Removed when dropped, unless it was published or a later fill, of this
/// process or the next, can go on with it.
#[derive(Debug)]
pub struct Partial {
    file: Arc<File>,
    path: PathBuf,
    map: Option<Map>,
    total: Option<u64>,
    filled: Mutex<Filled>,
    hashed: Mutex<Hashed>,
    /// Whether the file has a name of its own that is to be removed.
    named: AtomicBool,
    _living: Option<Living>,
}

#[derive(Debug, Default)]
struct Filled {
    extents: Extents,
    sums: Sums,
    /// Bytes that an earlier process left and nobody has checked yet.
    left_bytes: u64,
}

#[derive(Debug)]
struct Hashed {
    hasher: Hasher,
    end: u64,
}

/// Where a partial is to be, and what it is of.
#[derive(Debug)]
pub(super) struct Place {
    /// The file; its map has the same name and `.map`.
    pub path: PathBuf,
    /// Of what.
    pub digest: Digest,
    /// The length of the blob, if it is known.
    pub total: Option<u64>,
}

impl Partial {
    /// Makes an empty one. With a known length room is reserved: a full disk shows here.
    pub(super) fn create(place: &Place, living: Option<Living>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o644).open(&place.path)?;
        let partial = Self::new(file, place, living);
        partial.reserve()?;
        Ok(partial)
    }

    /// An empty one that can be found by the next process; or what an earlier one left, with the blocks that it may
    /// still have: [`Self::take_back`] checks each.
    pub(super) fn create_kept(place: &Place, total: u64, living: Living) -> io::Result<(Self, Vec<Record>)> {
        let map_path = map_of(&place.path);
        if let Some(file) = open_left(&place.path)?
            && let Some((map, records)) = Map::open(&map_path, &place.digest, total)?
        {
            let mut partial = Self::new(file, place, Some(living));
            partial.map = Some(map);
            lock(&partial.filled).left_bytes = records.iter().map(|record| record.range.length()).sum();
            partial.reserve()?;
            return Ok((partial, records));
        }
        remove(&place.path)?;
        let mut partial = Self::create(place, Some(living))?;
        partial.map = Some(Map::create(&map_path, &place.digest, total)?);
        Ok((partial, Vec::new()))
    }

    fn new(file: File, place: &Place, living: Option<Living>) -> Self {
        Self {
            file: Arc::new(file),
            path: place.path.clone(),
            map: None,
            total: place.total,
            filled: Mutex::default(),
            hashed: Mutex::new(Hashed { hasher: Hasher::new(place.digest.algorithm()), end: 0 }),
            named: AtomicBool::new(true),
            _living: living,
        }
    }

    fn reserve(&self) -> io::Result<()> {
        self.total
            .filter(|total| *total >= RESERVED_FROM_BYTES)
            .map_or(Ok(()), |total| files::reserve(&self.file, total))
    }

    /// Writes pieces that lie one after the other from a place on, and hashes what is whole from the front. Nobody else
    /// may write the same bytes.
    pub fn write(&self, at: u64, pieces: &[Bytes]) -> io::Result<()> {
        let end = files::write_all_at(&self.file, at, pieces)?;
        let whole = {
            let mut filled = lock(&self.filled);
            filled.extents.insert(ByteRange { first: at, end });
            self.map.is_some().then(|| filled.sums.add_all(at, pieces, self.total.unwrap_or(u64::MAX)))
        };
        for record in whole.unwrap_or_default() {
            self.map.as_ref().map_or(Ok(()), |map| map.note(&record))?;
        }
        let mut hashed = lock(&self.hashed);
        if hashed.end == at {
            pieces.iter().for_each(|piece| hashed.hasher.update(piece));
            hashed.end = end;
        }
        self.catch_up(&mut hashed)
    }

    /// Checks a block that an earlier process received; whether its bytes are still the same and count.
    pub fn take_back(&self, record: &Record) -> io::Result<bool> {
        let length = usize::try_from(record.range.length()).unwrap_or(usize::MAX);
        let block = files::read_at(&self.file, record.range.first, length)?;
        self.note_checked(record);
        if block.len() != length || crc32fast::hash(&block) != record.checksum {
            self.map.as_ref().map_or(Ok(()), |map| map.forget(record))?;
            return Ok(false);
        }
        lock(&self.filled).extents.insert(record.range);
        let mut hashed = lock(&self.hashed);
        if hashed.end == record.range.first {
            hashed.hasher.update(&block);
            hashed.end = record.range.end;
        }
        self.catch_up(&mut hashed)?;
        Ok(true)
    }

    fn note_checked(&self, record: &Record) {
        let mut filled = lock(&self.filled);
        filled.left_bytes = filled.left_bytes.saturating_sub(record.range.length());
    }

    /// Hashes what others have written behind the front.
    fn catch_up(&self, hashed: &mut Hashed) -> io::Result<()> {
        loop {
            let end =
                lock(&self.filled).extents.end_from(hashed.end).min(hashed.end.saturating_add(STEP_BYTES));
            if end <= hashed.end {
                return Ok(());
            }
            let length = usize::try_from(end - hashed.end).unwrap_or(usize::MAX);
            let bytes = files::read_at(&self.file, hashed.end, length)?;
            if bytes.len() != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hashed.hasher.update(&bytes);
            hashed.end = end;
        }
    }

    /// The file, for readers that follow it.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Which bytes are there.
    pub fn extents(&self) -> Extents {
        lock(&self.filled).extents.clone()
    }

    /// How many bytes from the front are there and hashed.
    pub fn hashed(&self) -> u64 {
        lock(&self.hashed).end
    }

    /// The digest of what is hashed so far.
    pub fn digest(&self) -> Digest {
        lock(&self.hashed).hasher.clone().finish()
    }

    /// Takes its name away: its bytes are wrong, or there is no room for it in the tree. It lives as long as somebody has
    /// it open, and can't be published.
    pub fn discard(&self) -> io::Result<()> {
        self.named.store(false, Ordering::Release);
        remove(&self.path)
    }

    /// Whether a later fill can go on with it.
    fn is_worth_keeping(&self) -> bool {
        let filled = lock(&self.filled);
        self.map.is_some() && filled.extents.bytes().saturating_add(filled.left_bytes) >= KEPT_FROM_BYTES
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives it another name; its map is of no use any more.
    pub(super) fn rename(&self, target: &Path) -> io::Result<()> {
        if !self.named.load(Ordering::Acquire) {
            return Err(io::ErrorKind::NotFound.into());
        }
        fs::rename(&self.path, target)?;
        self.named.store(false, Ordering::Release);
        if self.map.is_some() {
            // One that stays is removed at the next start.
            let _ = fs::remove_file(map_of(&self.path));
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.named.load(Ordering::Acquire)
            && !self.is_worth_keeping()
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove an unfinished download");
        }
    }
}

/// The partials of this process by digest: two of one never share a file.
#[derive(Debug, Default, Clone)]
pub(super) struct Alive(Arc<Mutex<HashSet<Digest>>>);

/// A digest has its partial; until it is dropped.
#[derive(Debug)]
pub(super) struct Living(Alive, Digest);

impl Alive {
    /// Claims the partial of a digest; `None` if it is in use.
    pub(super) fn claim(&self, digest: &Digest) -> Option<Living> {
        lock(&self.0).insert(*digest).then(|| Living(self.clone(), *digest))
    }

    /// Whether the partial of a digest is in use.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        lock(&self.0).contains(digest)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        lock(&self.0.0).remove(&self.1);
    }
}

/// What the map beside a partial says.
pub(super) fn left_behind(path: &Path, digest: &Digest) -> Extents {
    let mut extents = Extents::default();
    if let Ok(Some(records)) = map::peek(&map_of(path), digest) {
        records.iter().for_each(|record| extents.insert(record.range));
    }
    extents
}

/// Whether a file in the folder of partials belongs to one that a fill can go on with: data and map are there.
pub(super) fn is_kept(path: &Path) -> bool {
    let data = data_of(path);
    digest_of(path).is_some() && data.is_file() && Map::is_one(&map_of(&data))
}

/// The digest that a partial or its map is of, by its name.
pub(super) fn digest_of(path: &Path) -> Option<Digest> {
    let data = data_of(path);
    let name = data.file_name()?.to_str()?;
    let algorithm = match name.len() {
        64 => Algorithm::Sha256,
        128 => Algorithm::Sha512,
        _ => return None,
    };
    format!("{}:{name}", algorithm.as_str()).parse().ok()
}

fn data_of(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension == "map" => path.with_extension(""),
        _ => path.to_owned(),
    }
}

/// Where the map of a partial is.
fn map_of(path: &Path) -> PathBuf {
    path.with_extension("map")
}

fn open_left(path: &Path) -> io::Result<Option<File>> {
    if files::open_regular(path)?.is_none() {
        return Ok(None);
    }
    File::options().read(true).write(true).open(path).map(Some)
}

/// Removes a partial and its map, whichever of them there are.
fn remove(path: &Path) -> io::Result<()> {
    for file in [path, &map_of(path)] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "partial/tests.rs"]
mod tests;
