//! A look at the pages of the map before LMDB sees them.
//!
//! LMDB follows the page numbers and offsets that it finds. A bit that flipped in one of them leads it out of the file, and
//! the process dies by a signal. So the tree is walked here first, by reading the file, with every number compared to its
//! bounds. What passes may still hold wrong rows, which their checksums find.
//!
//! The form is that of LMDB 0.9 on 64-bit little-endian machines: `MDB_meta`, `MDB_page` and `MDB_node`.

use std::fs::File;
use std::io;

use crate::sys::{files, map};

const PAGE_HEADER_BYTES: usize = 16;
const NODE_HEADER_BYTES: usize = 8;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
/// A value that lies on pages of its own.
const BIG: u16 = 0x01;
/// Keys that are numbers: those of the table of free pages.
const INTEGER_KEYS: u16 = 0x08;
/// The root of a table without rows.
const NO_PAGE: u64 = u64::MAX;

/// Deepest tree that LMDB can walk.
const DEPTH_MAX: u16 = 32;
/// Longest key that LMDB takes.
const KEY_BYTES_MAX: usize = 511;
/// Largest row of ours with room to spare: a value on pages of its own is a list of free pages, or damage.
const VALUE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where the map is not what LMDB expects.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("page {0} is damaged: {1}")]
    Page(u64, &'static str),
}

/// A table as a meta page describes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    /// The page size in the table of free pages, else 0.
    pub(super) pad: u32,
    pub(super) flags: u16,
    pub(super) depth: u16,
    pub(super) branch_pages: u64,
    pub(super) leaf_pages: u64,
    pub(super) overflow_pages: u64,
    pub(super) entries: u64,
    pub(super) root: u64,
}

/// What a meta page says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(super) version: u32,
    pub(super) address: u64,
    pub(super) free: Table,
    pub(super) main: Table,
    pub(super) last_page: u64,
    pub(super) transaction: u64,
}

impl Meta {
    pub(super) const BYTES: usize = 152;
    const MAGIC: u32 = 0xBEEF_C0DE;

    /// Reads the meta page at a place; `None` if it is none.
    pub(crate) fn read(file: &File, at: u64) -> io::Result<Option<Self>> {
        let page = files::read_at(file, at, Self::BYTES)?;
        Ok(Self::parse(Fields(&page)))
    }

    fn parse(page: Fields<'_>) -> Option<Self> {
        let free = Table::parse(page, 40)?;
        let sound = (512..=65_536).contains(&free.pad) && free.pad.is_power_of_two();
        (page.u32(16)? == Self::MAGIC && sound).then_some(())?;
        Some(Self {
            version: page.u32(20)?,
            address: page.u64(24)?,
            free,
            main: Table::parse(page, 88)?,
            last_page: page.u64(136)?,
            transaction: page.u64(144)?,
        })
    }

    pub(super) fn page_bytes(&self) -> u64 {
        self.free.pad.into()
    }

    /// Bytes of the file that it speaks of; `None` if no map is as long.
    pub(crate) fn claimed_bytes(&self) -> Option<u64> {
        let claimed = self.last_page.checked_add(1)?.checked_mul(self.page_bytes())?;
        (claimed <= map::MAP_BYTES as u64).then_some(claimed)
    }
}

impl Table {
    fn parse(page: Fields<'_>, at: usize) -> Option<Self> {
        Some(Self {
            pad: page.u32(at)?,
            flags: page.u16(at + 4)?,
            depth: page.u16(at + 6)?,
            branch_pages: page.u64(at + 8)?,
            leaf_pages: page.u64(at + 16)?,
            overflow_pages: page.u64(at + 24)?,
            entries: page.u64(at + 32)?,
            root: page.u64(at + 40)?,
        })
    }
}

/// Walks all pages that a meta page leads to, which are within a map.
pub(crate) fn inspect(file: &File, meta: &Meta) -> Result<(), Flaw> {
    let sound =
        meta.version == 1 && meta.address == 0 && meta.free.flags == INTEGER_KEYS && meta.main.flags == 0;
    if !sound || meta.main.pad != 0 || meta.last_page < 1 {
        return Err(Flaw::Page(0, "its fields"));
    }
    let mut walk = Walk::new(file, meta);
    walk.table(&meta.main, false)?;
    walk.table(&meta.free, true)
}

/// Little-endian fields at places that may not exist.
#[derive(Debug, Clone, Copy)]
struct Fields<'p>(&'p [u8]);

impl<'p> Fields<'p> {
    fn bytes(self, at: usize, length: usize) -> Option<&'p [u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(at, 2)?.try_into().ok()?))
    }

    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(at, 4)?.try_into().ok()?))
    }

    fn u64(self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(at, 8)?.try_into().ok()?))
    }
}

/// One entry of a page.
struct Node<'p> {
    key: &'p [u8],
    /// Of a branch: the page below.
    page: u64,
    flags: u16,
    value_bytes: u32,
    /// Of a leaf: the value, or the number of the page where it is.
    value: &'p [u8],
    /// Bytes that it takes on the page.
    length: usize,
}

impl<'p> Node<'p> {
    fn parse(page: Fields<'p>, at: usize, leaf: bool) -> Option<Self> {
        let value_bytes = page.u32(at)?;
        let flags = page.u16(at + 4)?;
        let key_bytes = usize::from(page.u16(at + 6)?);
        let below = u64::from(value_bytes) | u64::from(flags) << 32;
        let kept = match (leaf, flags) {
            (false, _) => 0,
            (true, BIG) => 8,
            (true, 0) => usize::try_from(value_bytes).ok()?,
            (true, _) => return None,
        };
        let key = page.bytes(at + NODE_HEADER_BYTES, key_bytes).filter(|key| key.len() <= KEY_BYTES_MAX)?;
        let value = page.bytes(at + NODE_HEADER_BYTES + key_bytes, kept)?;
        let length = (NODE_HEADER_BYTES + key_bytes + kept).next_multiple_of(2);
        Some(Self { key, page: below, flags, value_bytes, value, length })
    }
}

struct Walk<'f> {
    file: &'f File,
    page_bytes: u64,
    last_page: u64,
    /// One bit for each page: used by somebody.
    used: Vec<u64>,
}

/// What was counted below a root, and the last key seen.
#[derive(Default)]
struct Found {
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    entries: u64,
    last_key: Option<Vec<u8>>,
    /// What a branch says of the keys that come next: none is less.
    least_key: Option<Vec<u8>>,
}

impl Found {
    /// A branch says that all keys so far are less than this one, and none is that comes.
    fn divide(&mut self, key: Vec<u8>) -> Option<()> {
        self.last_key.as_ref().is_none_or(|last| *last < key).then_some(())?;
        self.least_key = Some(key);
        Some(())
    }

    /// A row; keys only grow.
    fn row(&mut self, key: Vec<u8>) -> Option<()> {
        let grows = self.last_key.as_ref().is_none_or(|last| *last < key);
        let is_here = self.least_key.as_ref().is_none_or(|least| *least <= key);
        (grows && is_here).then_some(())?;
        self.last_key = Some(key);
        self.entries += 1;
        Some(())
    }
}

impl<'f> Walk<'f> {
    fn new(file: &'f File, meta: &Meta) -> Self {
        let words = usize::try_from(meta.last_page / 64 + 1).unwrap_or(usize::MAX);
        Self { file, page_bytes: meta.page_bytes(), last_page: meta.last_page, used: vec![0; words] }
    }

    fn table(&mut self, table: &Table, free: bool) -> Result<(), Flaw> {
        let mut found = Found::default();
        match (table.root, table.depth) {
            (NO_PAGE, 0) => {}
            (root, 1..=DEPTH_MAX) => self.page(root, table.depth, free, &mut found)?,
            (root, _) => return Err(Flaw::Page(root, "its depth")),
        }
        let agrees = (found.branch_pages, found.leaf_pages, found.overflow_pages, found.entries)
            == (table.branch_pages, table.leaf_pages, table.overflow_pages, table.entries);
        if agrees { Ok(()) } else { Err(Flaw::Page(table.root, "the numbers of its pages and rows")) }
    }

    /// Takes pages into use; each has one user.
    fn take(&mut self, first: u64, count: u64) -> Result<(), Flaw> {
        let end = first.checked_add(count).filter(|end| first >= 2 && *end <= self.last_page + 1);
        for page in first..end.ok_or(Flaw::Page(first, "it is outside of the file"))? {
            let word = usize::try_from(page / 64).ok().and_then(|at| self.used.get_mut(at));
            let word = word.ok_or(Flaw::Page(page, "it is outside of the file"))?;
            if *word >> (page % 64) & 1 == 1 {
                return Err(Flaw::Page(page, "it is used twice"));
            }
            *word |= 1 << (page % 64);
        }
        Ok(())
    }

    fn read(&self, page: u64, length: u64) -> Result<bytes::Bytes, Flaw> {
        let length = usize::try_from(length).map_err(|_| Flaw::Page(page, "its length"))?;
        let content = files::read_at(self.file, page.saturating_mul(self.page_bytes), length)?;
        if content.len() == length && Fields(&content).u64(0) == Some(page) {
            Ok(content)
        } else {
            Err(Flaw::Page(page, "its number"))
        }
    }

    /// A page and all below it.
    fn page(&mut self, number: u64, depth: u16, free: bool, found: &mut Found) -> Result<(), Flaw> {
        self.take(number, 1)?;
        let content = self.read(number, self.page_bytes)?;
        let leaf = depth == 1;
        let nodes = nodes_of(Fields(&content), leaf).ok_or(Flaw::Page(number, "its entries"))?;
        if leaf {
            found.leaf_pages += 1;
            return nodes.iter().try_for_each(|node| self.row(number, node, free, found));
        }
        found.branch_pages += 1;
        for (at, node) in nodes.iter().enumerate() {
            // The first key of a branch is not read: all that is less than the second is below it.
            if at > 0 {
                found.divide(comparable(node.key, free)).ok_or(Flaw::Page(number, "its keys"))?;
            }
            self.page(node.page, depth - 1, free, found)?;
        }
        Ok(())
    }

    fn row(&mut self, page: u64, node: &Node<'_>, free: bool, found: &mut Found) -> Result<(), Flaw> {
        let key = comparable(node.key, free);
        if (free && key.len() != 8) || key.is_empty() {
            return Err(Flaw::Page(page, "the length of a key"));
        }
        found.row(key).ok_or(Flaw::Page(page, "the order of its keys"))?;
        let value = match node.flags {
            BIG => Some(self.big_value(node, found)?),
            _ => None,
        };
        if free { self.free_pages(page, value.as_deref().unwrap_or(node.value)) } else { Ok(()) }
    }

    /// A value on pages of its own.
    fn big_value(&mut self, node: &Node<'_>, found: &mut Found) -> Result<Vec<u8>, Flaw> {
        let first = Fields(node.value).u64(0).unwrap_or(0);
        let length = u64::from(node.value_bytes) + PAGE_HEADER_BYTES as u64;
        let flaw = Flaw::Page(first, "its length");
        if length > VALUE_BYTES_MAX || first > self.last_page {
            return Err(flaw);
        }
        let content = self.read(first, length)?;
        let (flags, pages) = (Fields(&content).u16(10), Fields(&content).u32(12));
        let pages = u64::from(pages.filter(|_| flags == Some(OVERFLOW)).unwrap_or(0));
        if pages < length.div_ceil(self.page_bytes) {
            return Err(flaw);
        }
        self.take(first, pages)?;
        found.overflow_pages += pages;
        Ok(content.get(PAGE_HEADER_BYTES..).unwrap_or_default().to_vec())
    }

    /// A list of free pages: their number, then theirs.
    fn free_pages(&mut self, page: u64, value: &[u8]) -> Result<(), Flaw> {
        let mut words =
            value.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        let count = words.next();
        let pages: Vec<_> = words.collect();
        let ordered = pages.is_sorted_by(|one, next| one > next);
        if count != Some(pages.len() as u64) || !value.len().is_multiple_of(8) || !ordered {
            return Err(Flaw::Page(page, "its list of free pages"));
        }
        pages.into_iter().try_for_each(|page| self.take(page, 1))
    }
}

/// A key whose bytes compare as LMDB compares it: numbers compare as numbers, so their bytes are turned round.
fn comparable(key: &[u8], is_number: bool) -> Vec<u8> {
    if is_number { key.iter().rev().copied().collect() } else { key.to_vec() }
}

/// The entries of a page, in order; `None` unless they fill its upper part exactly.
fn nodes_of(page: Fields<'_>, leaf: bool) -> Option<Vec<Node<'_>>> {
    let kind = if leaf { LEAF } else { BRANCH };
    let (lower, upper) = (usize::from(page.u16(12)?), usize::from(page.u16(14)?));
    let sound =
        page.u16(10)? == kind && lower >= PAGE_HEADER_BYTES && lower.is_multiple_of(2) && lower <= upper;
    let count = (lower.checked_sub(PAGE_HEADER_BYTES)?) / 2;
    // A branch with one page below is left behind by LMDB at times; one with none never.
    (sound && count > 0).then_some(())?;
    let places: Option<Vec<_>> =
        (0..count).map(|number| page.u16(PAGE_HEADER_BYTES + 2 * number).map(usize::from)).collect();
    let places = places?;
    let nodes: Option<Vec<_>> = places.iter().map(|at| Node::parse(page, *at, leaf)).collect();
    let nodes = nodes?;
    let mut extents: Vec<_> = places.iter().zip(&nodes).map(|(at, node)| (*at, node.length)).collect();
    extents.sort_unstable();
    let end = extents.iter().try_fold(upper, |end, (at, length)| (*at == end).then_some(end + length))?;
    (end == page.0.len()).then_some(nodes)
}
