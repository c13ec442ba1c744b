//! Which repositories have a link to which manifest. Every link that we write is noted before it is written; those of a
//! volume that was filled by others, or whose index was lost, are read from the tree once.

use std::io;
use std::sync::Arc;

use crate::engine::{Engine, blocking};
use crate::index::Batch;

/// Most repositories of a volume. One with more of them is not evicted from: a link that nobody knows of would be left
/// behind.
const REPOSITORIES_MAX: usize = 1_000_000;

/// Rows that are written together, before the next ones are read: a slow disk must not fill the memory.
const ROWS: usize = 4_096;

impl Engine {
    /// Sees to it that every link to a manifest is known.
    pub(super) async fn find_holders(self: &Arc<Self>) -> io::Result<()> {
        if self.index.knows_all_holders() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let mut names = blocking(move || store.repositories(REPOSITORIES_MAX)).await?;
        if names.len() >= REPOSITORIES_MAX {
            return Err(io::Error::other("there are too many repositories"));
        }
        while !names.is_empty() {
            let engine = Arc::clone(self);
            names = blocking(move || {
                let (mut rows, mut batch) = (0, Batch::new());
                while rows < ROWS
                    && let Some(name) = names.pop()
                {
                    for digest in engine.store.linked_revisions(&name) {
                        batch = batch.put_holder(&digest, &name);
                        rows += 1;
                    }
                }
                engine.index.apply(batch);
                names
            })
            .await?;
            self.index.committed().await;
        }
        self.index.apply(Batch::new().put_all_holders());
        Ok(())
    }
}
