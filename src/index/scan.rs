//! Reading tables from one end to the other: page by page, each in a short transaction of its own, so that a scan of
//! millions of rows neither holds memory nor keeps the database from using its free pages again.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::overlay::Pending;
use super::{BlobRow, Index, rows, schema};
use crate::registry::{Digest, RepositoryName};

/// Where a scan goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

/// Some rows of a table, and where the next ones are. A page may be empty and not the last: rows that are damaged are
/// left out.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows, in order of their keys.
    pub rows: Vec<T>,
    /// Where to go on; `None` after the last page.
    pub next: Option<Cursor>,
}

/// Keys and values as they are stored.
type Raw = (Vec<u8>, Vec<u8>);

impl Index {
    /// Blobs in order of their digests.
    pub fn blobs(&self, from: Option<&Cursor>, limit: usize) -> Page<(Digest, BlobRow)> {
        let prefix = schema::blobs();
        self.page(&prefix, from, limit).map(|(key, value)| {
            let (digest, _) = schema::take_digest(key.get(prefix.len()..)?)?;
            Some((digest, BlobRow::decode(rows::unseal(&key, &value)?)?))
        })
    }

    /// What is named by which manifest, in order of what is named: pairs of child and parent.
    pub fn parents(&self, from: Option<&Cursor>, limit: usize) -> Page<(Digest, Digest)> {
        self.pairs(&schema::parents(), from, limit)
    }

    /// The manifests that name a digest.
    pub fn parents_of(&self, child: &Digest, from: Option<&Cursor>, limit: usize) -> Page<Digest> {
        let pairs = self.pairs(&schema::parents_of(child), from, limit);
        Page { rows: pairs.rows.into_iter().map(|(_, parent)| parent).collect(), next: pairs.next }
    }

    /// The repositories that have a link to a digest.
    pub fn holders(&self, digest: &Digest, limit: usize) -> Vec<RepositoryName> {
        self.scan(&schema::holders(digest), None, limit)
    }

    /// Whether a repository is known to have a link to a digest.
    pub fn has_holder(&self, digest: &Digest, name: &RepositoryName) -> bool {
        self.read(&schema::holder(digest, name), |_| Some(())).is_some()
    }

    /// The pins as they were written.
    pub fn pins(&self, limit: usize) -> Vec<String> {
        self.scan(&schema::pins(), None, limit)
    }

    /// Whether every blob of the tree had its row at some time. An index that starts empty over a tree is not whole, nor is
    /// one whose building was broken off.
    pub fn is_whole(&self) -> bool {
        self.read(&schema::whole(), |_| Some(())).is_some()
    }

    /// Whether every link in the tree to a manifest is among the holders.
    pub fn knows_all_holders(&self) -> bool {
        self.read(&schema::all_holders(), |_| Some(())).is_some()
    }

    fn pairs(&self, prefix: &[u8], from: Option<&Cursor>, limit: usize) -> Page<(Digest, Digest)> {
        self.page(prefix, from, limit).map(|(key, value)| {
            rows::unseal(&key, &value)?;
            let (child, rest) = schema::take_digest(key.get(1..)?)?;
            Some((child, schema::take_digest(rest)?.0))
        })
    }

    /// Up to `limit` rows under a prefix, map and overlay together.
    fn page(&self, prefix: &[u8], from: Option<&Cursor>, limit: usize) -> Page<Raw> {
        let start = from.map_or_else(|| prefix.to_vec(), |cursor| cursor.0.clone());
        let pending = self.overlay.from(&start, prefix, limit);
        let mapped = self.mapped_rows(&start, prefix, limit);
        // Behind the last row of a list that is full there may be more: the other one must not run ahead.
        let rows_pending = pending.iter().filter(|(_, row)| matches!(row, Pending::Row(_))).count();
        let ends = [
            pending.last().filter(|_| rows_pending >= limit).map(|(key, _)| key),
            mapped.last().filter(|_| mapped.len() >= limit).map(|(key, _)| key),
        ];
        let end = ends.into_iter().flatten().min().cloned();
        let mut rows: BTreeMap<_, _> = mapped.into_iter().collect();
        for (key, row) in pending {
            match row {
                Pending::Row(value) => rows.insert(key, value.to_vec()),
                Pending::Removed => rows.remove(&key),
            };
        }
        let within = |key: &Vec<u8>| end.as_ref().is_none_or(|end| key <= end);
        let rows = rows.into_iter().filter(|(key, _)| within(key)).collect();
        // The first key behind another one is that one with a zero at its end.
        Page { rows, next: end.map(|end| Cursor([end.as_slice(), &[0]].concat())) }
    }

    fn mapped_rows(&self, start: &[u8], prefix: &[u8], limit: usize) -> Vec<Raw> {
        let Some(map) = &self.map else { return Vec::new() };
        let Ok(transaction) = map.environment.read_txn() else { return Vec::new() };
        let range = (Bound::Included(start), Bound::Unbounded);
        let Ok(rows) = map.rows.range(&transaction, &range) else { return Vec::new() };
        let under = rows.map_while(Result::ok).take_while(|(key, _)| key.starts_with(prefix));
        under.take(limit).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }
}

impl<T> Default for Page<T> {
    /// The last page, and an empty one.
    fn default() -> Self {
        Self { rows: Vec::new(), next: None }
    }
}

impl<T> Page<T> {
    fn map<U>(self, decode: impl Fn(T) -> Option<U>) -> Page<U> {
        Page { rows: self.rows.into_iter().filter_map(decode).collect(), next: self.next }
    }
}

impl Cursor {
    /// All rows that the pages have, for what is short.
    pub fn all<T>(mut page: impl FnMut(Option<&Self>) -> Page<T>) -> Vec<T> {
        let mut found = page(None);
        let mut rows = found.rows;
        while let Some(next) = found.next {
            found = page(Some(&next));
            rows.append(&mut found.rows);
        }
        rows
    }
}
