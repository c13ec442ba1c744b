//! Index and tree compared, for whoever wants to know whether one can be believed about the other.

use std::sync::Arc;

use serde::Serialize;

use super::Engine;
use super::rebuild::{STEP_BLOBS, rested};
use crate::index::scan::Cursor;
use crate::registry::Digest;
use crate::store::Shard;

/// What a comparison of index and tree found. It changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Rows of blobs.
    pub rows: usize,
    /// Rows that nobody verified yet.
    pub unverified: usize,
    /// Rows that lead to no file.
    pub without_file: usize,
    /// Rows whose file is another one than they say.
    pub changed: usize,
    /// Blobs in the tree.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs in the tree without a row.
    pub without_row: usize,
    /// Folders and files that could not be read.
    pub unreadable: usize,
}

impl Engine {
    /// Compares index and tree, and changes nothing. What is fetched or removed meanwhile may show as a difference.
    pub async fn verify_index(self: &Arc<Self>) -> Comparison {
        let mut found = Comparison::default();
        let mut after = None;
        while let Some(last) = self.compare_rows(after, &mut found).await {
            after = Some(last);
        }
        for shard in Shard::all() {
            let digests = self.digests_in(shard).await.unwrap_or_else(|| {
                found.unreadable += 1;
                Vec::new()
            });
            for step in digests.chunks(STEP_BLOBS) {
                self.compare_files(step.to_vec(), &mut found).await;
            }
        }
        found
    }

    /// Compares some rows with their files; tells where the next ones are.
    async fn compare_rows(self: &Arc<Self>, from: Option<Cursor>, found: &mut Comparison) -> Option<Cursor> {
        let engine = Arc::clone(self);
        let compared = rested(move || {
            let page = engine.index.blobs(from.as_ref(), STEP_BLOBS);
            let files: Vec<_> =
                page.rows.iter().map(|(digest, _)| engine.store.identity_of(digest)).collect();
            (page, files)
        });
        let (page, files) = compared.await;
        for ((_, row), file) in page.rows.iter().zip(files) {
            found.rows += 1;
            found.unverified += usize::from(row.verified_ms.is_none());
            match file {
                Ok(None) => found.without_file += 1,
                Ok(file) => found.changed += usize::from(file != row.identity),
                Err(_) => found.unreadable += 1,
            }
        }
        page.next
    }

    async fn compare_files(self: &Arc<Self>, digests: Vec<Digest>, found: &mut Comparison) {
        let engine = Arc::clone(self);
        let files = rested(move || {
            let files = digests.iter().filter_map(|digest| {
                let identity = engine.store.identity_of(digest).ok().flatten()?;
                Some((identity.size, engine.index.blob(digest).is_some()))
            });
            files.collect::<Vec<_>>()
        });
        for (size, known) in files.await {
            found.files += 1;
            found.bytes += size;
            found.without_row += usize::from(!known);
        }
    }
}
