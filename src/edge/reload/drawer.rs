//! Pairs put away as files: the last good ones for the next start, or those that are handed to another process.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::edge::certificates::{PAIRS_MAX, Pair, Source};
use crate::sys::files;
use crate::sys::sync::lock;

/// Longest file that is read back: a chain of ten and a key.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A folder with a file for each pair, key and chain in one, so that none is ever half of a pair.
#[derive(Debug, Clone)]
pub struct Drawer {
    folder: PathBuf,
    /// How our files begin; others are left alone.
    prefix: String,
    /// The first line of each file, by which those of another place are told apart.
    heading: String,
    handed_over: bool,
}

impl Drawer {
    /// The last good pairs of a place, for our own next start.
    pub fn kept(folder: &Path, source: Source, place: &Path) -> Self {
        let heading = format!("Kept by tidegate. Read from: {}", place.display());
        Self {
            folder: folder.to_owned(),
            prefix: format!("{}-", source.label()),
            heading,
            handed_over: false,
        }
    }

    /// The pairs for another process, which reads this folder.
    pub fn handed_over(folder: &Path) -> Self {
        let heading = "Handed over by tidegate cert feed.".to_owned();
        Self { folder: folder.to_owned(), prefix: "feed-".to_owned(), heading, handed_over: true }
    }

    /// Puts these pairs away, and nothing else: what was there of ours and is not among them goes.
    pub fn put(&self, pairs: &[Arc<Pair>]) -> io::Result<()> {
        let (mode, owner) = self.rights()?;
        let mut wanted = BTreeSet::new();
        for pair in pairs {
            let name = format!("{}{}.pem", self.prefix, pair.fingerprint());
            let path = self.folder.join(&name);
            let text = format!("{}\n{}", self.heading, pair.to_pem());
            let is_there = files::read_small(&path, FILE_BYTES_MAX)
                .is_ok_and(|there| there.as_deref() == Some(text.as_bytes()));
            if !is_there {
                files::write_whole(&path, text.as_bytes(), mode, owner, !self.handed_over)?;
            }
            wanted.insert(name);
        }
        for path in self.own()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !wanted.contains(&name) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// What was put away of this place, as far as it can be read. Nothing is not worth a word: there may be none.
    pub fn contents(&self) -> Vec<Arc<Pair>> {
        let mut pairs = Vec::new();
        for path in self.own().unwrap_or_default() {
            let Ok(Some(bytes)) = files::read_small(&path, FILE_BYTES_MAX) else { continue };
            if !bytes.starts_with(format!("{}\n", self.heading).as_bytes()) {
                continue;
            }
            let origin = path.display().to_string();
            pairs.extend(Pair::from_pem(&bytes, &bytes, origin).ok().map(Arc::new));
        }
        pairs
    }

    fn own(&self) -> io::Result<Vec<PathBuf>> {
        let mut own = Vec::new();
        for entry in fs::read_dir(&self.folder)?.take(PAIRS_MAX) {
            let entry = entry?;
            // With a dot: what a write left that did not come to its end.
            if entry.file_name().to_string_lossy().trim_start_matches('.').starts_with(&self.prefix) {
                own.push(entry.path());
            }
        }
        own.sort();
        Ok(own)
    }

    /// The rights of a file. One that is handed over belongs to whoever has the folder: its owner, or if that is root, its
    /// group.
    fn rights(&self) -> io::Result<(u32, Option<(u32, u32)>)> {
        if !self.handed_over {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            return Ok((0o600, None));
        }
        let folder = fs::metadata(&self.folder)?;
        let owner = files::is_root().then_some((folder.uid(), folder.gid()));
        Ok((if folder.uid() == files::uid() && folder.gid() != 0 { 0o640 } else { 0o600 }, owner))
    }
}

/// Puts pairs away whenever they changed. What is only kept is written behind everybody's back: a disk that takes seconds to
/// sync must not hold up the next look at the files.
pub struct Keeper {
    drawer: Drawer,
    is_current: bool,
    work: Arc<Mutex<Work>>,
}

#[derive(Default)]
struct Work {
    is_busy: bool,
    failed: Option<io::Error>,
}

impl Keeper {
    /// Nothing is put away yet.
    pub fn new(drawer: Drawer) -> Self {
        Self { drawer, is_current: false, work: Arc::default() }
    }

    /// What was put away at an earlier start.
    pub fn contents(&self) -> Vec<Arc<Pair>> {
        self.drawer.contents()
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        let work = lock(&self.work);
        self.is_current && !work.is_busy && work.failed.is_none()
    }

    /// Sees to it that these pairs are put away, if they changed or the last try failed; says why it did.
    pub fn keep(&mut self, pairs: Vec<Arc<Pair>>, changed: bool) -> Result<(), String> {
        self.is_current &= !changed;
        let mut work = lock(&self.work);
        let failed = work.failed.take();
        self.is_current &= failed.is_none();
        if !self.is_current && !work.is_busy && !pairs.is_empty() {
            self.is_current = true;
            if self.drawer.handed_over {
                work.failed = self.drawer.put(&pairs).err();
            } else {
                work.is_busy = true;
                let (drawer, done) = (self.drawer.clone(), Arc::clone(&self.work));
                tokio::task::spawn_blocking(move || {
                    let failed = drawer.put(&pairs).err();
                    *lock(&done) = Work { is_busy: false, failed };
                });
            }
        }
        let failed = failed.as_ref().or(work.failed.as_ref());
        failed.map_or(Ok(()), |error| Err(format!("the pairs can't be put away: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::certificates::stand_in;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_put_away_is_there_again_and_nobody_elses_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("tls");
        let drawer = Drawer::kept(&inner, Source::Folder, Path::new("/certs"));
        let (a, b) = (Arc::new(stand_in(&[]).unwrap()), Arc::new(stand_in(&[]).unwrap()));
        drawer.put(&[Arc::clone(&a), Arc::clone(&b)]).unwrap();
        fs::write(inner.join("other"), "").unwrap();
        let mut prints: Vec<_> = drawer.contents().iter().map(|pair| pair.fingerprint().to_owned()).collect();
        prints.sort();
        let mut expected = [a.fingerprint().to_owned(), b.fingerprint().to_owned()];
        expected.sort();
        assert_eq!(prints, expected);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert!(drawer.own().unwrap().iter().all(|path| mode(path) == 0o600));
        assert!(Drawer::kept(&inner, Source::Folder, Path::new("/other")).contents().is_empty());
        drawer.put(&[b]).unwrap();
        assert_eq!(drawer.contents().len(), 1);
        assert!(inner.join("other").exists());
    }
}
