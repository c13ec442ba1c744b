//! Who reads which file. A blob that is evicted under its readers gives its room back only when the last of them is done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::sys::files::Identity;
use crate::sys::sync::lock;

/// A file that is read: device and inode. The inode of an open file is given to no other one.
type Key = (u64, u64);

/// All files that are read now.
#[derive(Debug, Default)]
pub struct Readers {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<Key, Open>,
    lingering: u64,
}

#[derive(Debug, Default)]
struct Open {
    readers: usize,
    /// Bytes of the file, once it is not in the tree any more.
    evicted: u64,
}

/// One reader; it counts as long as this lives.
#[derive(Debug)]
pub struct Reader {
    readers: Arc<Readers>,
    key: Key,
}

impl Readers {
    /// Somebody reads a file.
    pub fn enter(self: &Arc<Self>, file: &Identity) -> Reader {
        let key = (file.device, file.inode);
        lock(&self.table).open.entry(key).or_default().readers += 1;
        Reader { readers: Arc::clone(self), key }
    }

    /// A file left the tree: whoever reads it still has it.
    pub fn evicted(&self, file: &Identity, bytes: u64) {
        let mut table = lock(&self.table);
        let Some(open) = table.open.get_mut(&(file.device, file.inode)) else { return };
        let before = std::mem::replace(&mut open.evicted, bytes);
        table.lingering = table.lingering.saturating_sub(before).saturating_add(bytes);
    }

    /// Bytes of files that are read and not in the tree.
    pub fn lingering(&self) -> u64 {
        lock(&self.table).lingering
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut table = lock(&self.readers.table);
        let Some(open) = table.open.get_mut(&self.key) else { return };
        open.readers = open.readers.saturating_sub(1);
        if open.readers == 0 {
            let evicted = open.evicted;
            table.lingering = table.lingering.saturating_sub(evicted);
            table.open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_file_counts_until_its_last_reader_is_done() {
        let readers = Arc::new(Readers::default());
        let file = |inode| Identity { device: 1, inode, size: 100, ctime_ns: 0 };
        let (first, second) = (readers.enter(&file(1)), readers.enter(&file(1)));
        let other = readers.enter(&file(2));
        readers.evicted(&file(3), 100);
        assert_eq!(readers.lingering(), 0);
        readers.evicted(&file(1), 100);
        readers.evicted(&file(1), 100);
        drop(first);
        assert_eq!(readers.lingering(), 100);
        drop(other);
        assert_eq!(readers.lingering(), 100);
        drop(second);
        assert_eq!((readers.lingering(), lock(&readers.table).open.len()), (0, 0));
    }
}
