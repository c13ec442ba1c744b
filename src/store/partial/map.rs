//! The map beside a partial: which blocks of it arrived, and a checksum of each as it was received.
//!
//! ```text
//! 0    magic "tgpart01", u64 length of the blob, u8 algorithm, 64 bytes digest (zeros at the end of a shorter one),
//!      u32 CRC-32 of all that
//! 96   one record of 8 bytes for each block of 1 MiB: u32 CRC-32 of its bytes, u32 its length; zeros: not there
//! ```
//!
//! Nothing of it is synced. After a crash a record may be there without its block, or the other way round: a block counts
//! only if its bytes in the file have the checksum of its record, and everything is hashed in the end all the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use crate::registry::{Algorithm, ByteRange, Digest};
use crate::sys::files;

/// Bytes of a block.
pub(in crate::store) const BLOCK_BYTES: u64 = 1024 * 1024;

const MAGIC: &[u8; 8] = b"tgpart01";
const HEADER_BYTES: usize = 96;
const RECORD_BYTES: usize = 8;

/// Most bytes of a map that are read back: of a blob of 64 GiB. Of a longer one the rest is fetched again.
const READ_BYTES_MAX: u64 = 512 * 1024;

/// An open map.
#[derive(Debug)]
pub(super) struct Map(File);

/// A block of which a map says that it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it lies.
    pub range: ByteRange,
    /// The CRC-32 of its bytes as they were received.
    pub checksum: u32,
}

impl Record {
    /// Where it stands in its map.
    fn place(&self) -> u64 {
        HEADER_BYTES as u64 + self.range.first / BLOCK_BYTES * RECORD_BYTES as u64
    }
}

impl Map {
    pub(super) fn create(path: &Path, digest: &Digest, total: u64) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all_at(&header(digest, total), 0)?;
        Ok(Self(file))
    }

    /// Opens a map of a digest and a length, with its records; `None` if it is of another one, or none at all.
    pub(super) fn open(path: &Path, digest: &Digest, total: u64) -> io::Result<Option<(Self, Vec<Record>)>> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if files::read_at(&file, 0, HEADER_BYTES)? != header(digest, total) {
            return Ok(None);
        }
        let length = file.metadata()?.len().saturating_sub(HEADER_BYTES as u64).min(READ_BYTES_MAX);
        let records = files::read_at(&file, HEADER_BYTES as u64, usize::try_from(length).unwrap_or(0))?;
        Ok(Some((Self(file), parse(&records, total))))
    }

    /// Whether a file is a map.
    pub(super) fn is_one(path: &Path) -> bool {
        let read = || {
            Some(files::read_at(&files::open_regular(path).ok()??, 0, MAGIC.len()).ok()? == MAGIC.as_slice())
        };
        read().unwrap_or(false)
    }

    pub(super) fn note(&self, record: &Record) -> io::Result<()> {
        let length = u32::try_from(record.range.length()).unwrap_or(0);
        let bytes = [record.checksum.to_le_bytes(), length.to_le_bytes()].concat();
        self.0.write_all_at(&bytes, record.place())
    }

    /// The block is not there after all.
    pub(super) fn forget(&self, record: &Record) -> io::Result<()> {
        self.0.write_all_at(&[0; RECORD_BYTES], record.place())
    }
}

/// The records of a map of a digest, whatever length it is for; `None` if there is none.
pub(super) fn peek(path: &Path, digest: &Digest) -> io::Result<Option<Vec<Record>>> {
    let Some(file) = files::open_regular(path)? else { return Ok(None) };
    let start = files::read_at(&file, MAGIC.len() as u64, size_of::<u64>())?;
    let Ok(total) = start.as_ref().try_into().map(u64::from_le_bytes) else { return Ok(None) };
    Ok(Map::open(path, digest, total)?.map(|(_, records)| records))
}

fn header(digest: &Digest, total: u64) -> Vec<u8> {
    let mut header = [MAGIC.as_slice(), &total.to_le_bytes()].concat();
    header.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    header.extend(digest.bytes().iter().copied().chain(std::iter::repeat(0)).take(64));
    header.extend(crc32fast::hash(&header).to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    header
}

/// The records of whole blocks of a blob of so many bytes.
pub(crate) fn parse(records: &[u8], total: u64) -> Vec<Record> {
    let blocks = records.chunks_exact(RECORD_BYTES).zip(0u64..);
    let read = blocks.filter_map(|(bytes, index)| {
        let (checksum, length) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        let range = block(index, total)?;
        let record = Record { range, checksum: u32::from_le_bytes(*checksum) };
        (u64::from(length) == range.length()).then_some(record)
    });
    read.collect()
}

/// Where a block lies in a blob of so many bytes.
fn block(index: u64, total: u64) -> Option<ByteRange> {
    let first = index.checked_mul(BLOCK_BYTES)?;
    let end = first.checked_add(BLOCK_BYTES)?.min(total);
    (first < end).then_some(ByteRange { first, end })
}

/// Checksums of blocks of which only parts are there, in whatever order the parts arrive.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// By the place where a part begins; no part crosses the border of a block.
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    end: u64,
    sum: crc32fast::Hasher,
}

impl Sums {
    /// Takes in pieces that lie one after the other from a place on; gives the blocks that are whole now.
    pub(super) fn add_all(&mut self, mut at: u64, pieces: &[Bytes], total: u64) -> Vec<Record> {
        let mut whole = Vec::new();
        for piece in pieces {
            whole.extend(self.add(at, piece, total));
            at += piece.len() as u64;
        }
        whole
    }

    fn add(&mut self, mut at: u64, piece: &Bytes, total: u64) -> Vec<Record> {
        let mut whole = Vec::new();
        let mut rest = piece.as_ref();
        while !rest.is_empty() {
            let Some(range) = block(at / BLOCK_BYTES, total) else { break };
            let room = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let (bytes, behind) = rest.split_at(room.min(rest.len()));
            whole.extend(self.add_part(at, bytes, range));
            at += bytes.len() as u64;
            rest = behind;
        }
        whole
    }

    fn add_part(&mut self, at: u64, bytes: &[u8], block: ByteRange) -> Option<Record> {
        let mut part = Part { end: at + bytes.len() as u64, sum: crc32fast::Hasher::new() };
        let mut first = at;
        let before = self.parts.range(block.first..at).next_back().map(|(first, part)| (*first, part.end));
        if let Some((start, _)) = before.filter(|(_, end)| *end == at)
            && let Some(mut joined) = self.parts.remove(&start)
        {
            joined.sum.update(bytes);
            (part.sum, first) = (joined.sum, start);
        } else {
            part.sum.update(bytes);
        }
        // What begins at the end of the block is the next one's.
        if part.end < block.end
            && let Some(behind) = self.parts.remove(&part.end)
        {
            part.sum.combine(&behind.sum);
            part.end = behind.end;
        }
        if first == block.first && part.end == block.end {
            return Some(Record { range: block, checksum: part.sum.finalize() });
        }
        self.parts.insert(first, part);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(total: u64) -> Bytes {
        (0..total).map(|at| ((at * 2_654_435_761) >> 7).to_le_bytes()[0]).collect::<Vec<_>>().into()
    }

    fn slice(content: &Bytes, first: u64, end: u64) -> Bytes {
        content.slice(usize::try_from(first).unwrap()..usize::try_from(end).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_block_has_its_checksum_in_whatever_parts_it_comes(
            cuts in proptest::collection::btree_set(1u64..3_000_000, 0..12),
            order in any::<prop::sample::Index>(),
            tail in 1u64..2 * BLOCK_BYTES,
        ) {
            let total = BLOCK_BYTES + tail;
            let content = content(total);
            let borders: Vec<_> = [0].into_iter().chain(cuts.into_iter().filter(|cut| *cut < total)).chain([total]).collect();
            let mut parts: Vec<_> = borders.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let turn = order.index(parts.len());
            parts.rotate_left(turn);
            let mut sums = Sums::default();
            let mut records: Vec<_> = parts.into_iter().flat_map(|(first, end)| {
                sums.add(first, &slice(&content, first, end), total)
            }).collect();
            records.sort_by_key(|record| record.range.first);
            let expected: Vec<_> = (0..).map_while(|index| block(index, total)).map(|range| Record {
                range, checksum: crc32fast::hash(&slice(&content, range.first, range.end)),
            }).collect();
            prop_assert_eq!(records, expected);
            prop_assert!(sums.parts.is_empty());
        }

        #[test]
        fn a_map_of_any_bytes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), total in any::<u64>()) {
            for record in parse(&bytes, total) {
                prop_assert!(record.range.end <= total && record.range.length() <= BLOCK_BYTES);
            }
        }
    }

    #[test]
    fn a_map_is_found_again_for_its_blob_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.map");
        let (digest, total) = (Digest::sha256(b"x"), 5 * BLOCK_BYTES / 2);
        assert!(Map::open(&path, &digest, total).unwrap().is_none() && !Map::is_one(&path));
        let map = Map::create(&path, &digest, total).unwrap();
        let record = Record { range: block(2, total).unwrap(), checksum: 7 };
        map.note(&record).unwrap();
        assert!(Map::is_one(&path));
        let (map, records) = Map::open(&path, &digest, total).unwrap().unwrap();
        assert_eq!(records, [record]);
        map.forget(&record).unwrap();
        assert_eq!(Map::open(&path, &digest, total).unwrap().unwrap().1, []);
        assert!(Map::open(&path, &digest, total + 1).unwrap().is_none());
        assert!(Map::open(&path, &Digest::sha256(b"y"), total).unwrap().is_none());
        std::fs::write(&path, b"tgpart01 and nothing").unwrap();
        assert!(Map::open(&path, &digest, total).unwrap().is_none());
    }
}
