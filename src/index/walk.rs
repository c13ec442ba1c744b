//! Walks over all blobs, in steps: nobody holds a transaction for long, and rows may change between two steps.

use super::rows::BlobRow;
use super::{Index, schema};
use crate::registry::Digest;

impl Index {
    /// Blobs in the order of their digests, from the first one after a given one: at most `limit`, fewer only at the end.
    /// Damaged rows are left out, as everywhere.
    pub fn blobs(&self, after: Option<&Digest>, limit: usize) -> Vec<(Digest, BlobRow)> {
        let mut found = Vec::new();
        let mut after = after.map(schema::blob);
        while found.len() < limit {
            let start = after.clone().unwrap_or_else(schema::blobs);
            let keys = self.keys(&start, &schema::blobs(), limit.saturating_add(1));
            let fresh: Vec<_> = keys.into_iter().filter(|key| after.as_ref() != Some(key)).collect();
            let Some(last) = fresh.last() else { break };
            after = Some(last.clone());
            let digests = fresh.iter().filter_map(|key| schema::digest_of(key));
            found.extend(digests.filter_map(|digest| Some((digest, self.blob(&digest)?))));
        }
        found.truncate(limit);
        found
    }

    /// Whether every blob of the tree had its row at some time. An index that starts empty over a tree is not whole, nor is
    /// one whose building was broken off.
    pub fn is_whole(&self) -> bool {
        self.read(&schema::whole(), |_| Some(())).is_some()
    }
}
