//! What is known about the blob tree: a memory-mapped database (LMDB) that is read in the request path.
//!
//! The index is a cache of the tree and never the truth: lost or damaged, it is set aside and starts empty, and
//! everything is found again by looking at the tree. It holds what the tree cannot: media types, which repository may
//! have what, when a tag was last confirmed, and which very file was verified.
//!
//! Nobody waits for it. [`Index::apply`] puts rows into an overlay where the next read finds them; one writer thread
//! commits them in groups, durably. A disk that hangs or is full keeps rows in the overlay, up to a limit; what is over
//! the limit is forgotten, which costs a question to the tree or the upstream later on.
//!
//! On file systems where maps are not safe (network, user space, overlay) the overlay is all there is.

pub mod heat;
pub mod scan;

mod environment;
pub(crate) mod inspect;
mod overlay;
pub(crate) mod rows;
mod schema;
mod writer;

use std::path::Path;
use std::sync::Arc;

use heed::types::Bytes;
use heed::{Database, Env, WithoutTls};

pub use crate::sys::files::Identity;
pub use heat::Heat;
pub use rows::{Before, BlobKind, BlobRow, MemberRow, TagRow};
pub use schema::{Batch, PIN_BYTES_MAX, RepoKey};

use crate::registry::{Digest, RepositoryName, Tag};
use crate::sys::files;
use overlay::{Overlay, Pending};
use writer::Writer;

/// The environment and its only database: tables are told apart by the first byte of their keys.
#[derive(Debug, Clone)]
struct Map {
    environment: Env<WithoutTls>,
    rows: Database<'static, Bytes, Bytes>,
}

/// Where rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Memory-mapped, durable.
    Mapped,
    /// In memory alone, for this reason.
    Memory(String),
}

/// The index.
#[derive(Debug)]
pub struct Index {
    map: Option<Map>,
    overlay: Arc<Overlay>,
    writer: Option<Writer>,
    backend: Backend,
    /// Where it is noted that the map was left in order.
    mark: Option<environment::Mark>,
    heat: Heat,
}

impl Index {
    /// Opens the index in a folder. Never fails: what can't be opened is set aside or done without, and a line in the
    /// log says so.
    pub fn open(folder: &Path) -> Self {
        if let Ok(Some(kind)) = files::unmappable(folder) {
            return Self::in_memory(format!("maps are not safe on {kind}"));
        }
        match environment::open(folder) {
            Ok(map) => Self::mapped(map, environment::Mark::of(folder)),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the index can't be used; this one lives in memory");
                Self::in_memory(error.to_string())
            }
        }
    }

    /// An index without a disk.
    pub fn in_memory(reason: String) -> Self {
        let overlay = Arc::new(Overlay::new(overlay::KEPT_ROWS_MAX));
        Self {
            map: None,
            overlay,
            writer: None,
            backend: Backend::Memory(reason),
            mark: None,
            heat: Heat::in_memory(),
        }
    }

    fn mapped(map: Map, mark: environment::Mark) -> Self {
        let overlay = Arc::new(Overlay::new(overlay::PENDING_ROWS_MAX));
        let writer = Writer::start(map.clone(), Arc::clone(&overlay));
        Self {
            map: Some(map),
            overlay,
            writer: Some(writer),
            backend: Backend::Mapped,
            mark: Some(mark),
            heat: Heat::in_memory(),
        }
    }

    /// The same index with last uses that are kept on disk.
    pub fn with_heat(mut self, heat: Heat) -> Self {
        self.heat = heat;
        self
    }

    /// The last uses of blobs.
    pub fn heat(&self) -> &Heat {
        &self.heat
    }

    /// Notes that a digest was named in an answer just now.
    pub fn touch(&self, digest: &Digest) {
        self.heat.touch(digest, heat::now());
    }

    /// When a blob alone was last used. One without a last use counts from when it came; 0 if that is not known either.
    pub fn last_use(&self, digest: &Digest, row: Option<&BlobRow>, now: heat::Seconds) -> heat::Seconds {
        let used = self.heat.last_use(digest, now).unwrap_or(0);
        let came = row.map_or(0, |row| heat::Seconds::try_from(row.created_ms / 1000).unwrap_or(0));
        // A clock that was set back: what came in the future says nothing.
        used.max(if came <= now { came } else { 0 })
    }

    /// Where rows are kept.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The blob under a digest.
    pub fn blob(&self, digest: &Digest) -> Option<BlobRow> {
        self.read(&schema::blob(digest), BlobRow::decode)
    }

    /// A tag of a repository.
    pub fn tag(&self, repository: &RepoKey, tag: &Tag) -> Option<TagRow> {
        self.read(&schema::tag(repository, tag), TagRow::decode)
    }

    /// Whether, and since when, a digest belongs to a repository.
    pub fn member(&self, repository: &RepoKey, digest: &Digest) -> Option<MemberRow> {
        self.read(&schema::member(repository, digest), MemberRow::decode)
    }

    /// The tags known of a repository, sorted, after a given one.
    pub fn tags(&self, repository: &RepoKey, after: Option<&Tag>, limit: usize) -> Vec<Tag> {
        let prefix = schema::tags(repository);
        self.scan(&prefix, after.map(Tag::as_str), limit)
    }

    /// The repositories known of an upstream, sorted, after a given one.
    pub fn repositories(&self, upstream: &str, after: Option<&str>, limit: usize) -> Vec<RepositoryName> {
        self.scan(&schema::repositories(upstream), after, limit)
    }

    /// Takes rows in. Never waits; the next read has them.
    pub fn apply(&self, batch: Batch) {
        self.overlay.put(batch.into_rows());
    }

    /// Waits until everything applied so far is durable. Returns at once where nothing ever is, and says so.
    pub async fn committed(&self) -> bool {
        match &self.writer {
            Some(writer) => writer.committed(self.overlay.generation()).await,
            None => false,
        }
    }

    /// A row, from the overlay or the map. One that does not decode was damaged on the disk and is as good as absent.
    fn read<T>(&self, key: &[u8], decode: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let open = |value: &[u8]| rows::unseal(key, value).and_then(&decode);
        match self.overlay.get(key) {
            Some(Pending::Row(value)) => return open(&value),
            Some(Pending::Removed) => return None,
            None => {}
        }
        let map = self.map.as_ref()?;
        let transaction = map.environment.read_txn().ok()?;
        let value = map.rows.get(&transaction, key).ok().flatten()?;
        open(value)
    }

    /// The ends of all keys under a prefix, map and overlay together.
    fn scan<T: std::str::FromStr>(&self, prefix: &[u8], after: Option<&str>, limit: usize) -> Vec<T> {
        let start = [prefix, after.unwrap_or_default().as_bytes()].concat();
        let keys = self.keys(&start, prefix, limit);
        let ends = keys.iter().filter(|key| after.is_none() || key.as_slice() != start.as_slice());
        let texts = ends.filter_map(|key| std::str::from_utf8(key.get(prefix.len()..)?).ok());
        texts.filter_map(|text| text.parse().ok()).take(limit).collect()
    }

    /// Keys under a prefix from `start` on, map and overlay together: `limit` of them at least, if there are so many.
    fn keys(&self, start: &[u8], prefix: &[u8], limit: usize) -> std::collections::BTreeSet<Vec<u8>> {
        // One more than wanted: the start itself is left out.
        let pending = self.overlay.from(start, prefix, limit.saturating_add(1));
        let mut keys = self.mapped_keys(start, prefix, limit.saturating_add(pending.len()).saturating_add(1));
        for (key, row) in pending {
            match row {
                Pending::Row(_) => keys.insert(key),
                Pending::Removed => keys.remove(&key),
            };
        }
        keys
    }

    fn mapped_keys(&self, start: &[u8], prefix: &[u8], limit: usize) -> std::collections::BTreeSet<Vec<u8>> {
        let Some(map) = &self.map else {
            return Default::default();
        };
        let Ok(transaction) = map.environment.read_txn() else {
            return Default::default();
        };
        let range = (std::ops::Bound::Included(start), std::ops::Bound::Unbounded);
        let Ok(rows) = map.rows.range(&transaction, &range) else {
            return Default::default();
        };
        let keys = rows.map_while(Result::ok).map(|(key, _)| key).take_while(|key| key.starts_with(prefix));
        keys.take(limit).map(<[u8]>::to_vec).collect()
    }
}

impl Drop for Index {
    /// Commits what is pending, if the disk takes it within a moment.
    fn drop(&mut self) {
        let ended = self.writer.take().is_some_and(Writer::stop);
        // From here on nobody writes any more.
        if let Some(mark) = self.mark.take().filter(|_| ended) {
            mark.leave();
        }
    }
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
