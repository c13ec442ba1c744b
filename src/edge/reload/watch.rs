//! Hears that something on the way to a file changed: the file, its folder, the folder of each link that leads there.
//!
//! What is heard is only a reason to look. Where nothing can be heard (NFS, some overlays, no descriptors left), looking
//! once in a while has to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Most links on the way to one file: the kernel's own limit.
const LINKS_MAX: usize = 40;

/// Most folders that are watched. A folder of certbot's links leads to one more for each name.
const FOLDERS_MAX: usize = 4_096;

/// Which names matter in which folders; without names, all do. The folders are real ones, without links.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Trail(BTreeMap<PathBuf, Option<BTreeSet<OsString>>>);

impl Trail {
    /// Adds all that leads to a path; gives the real one if it is there.
    pub fn to(&mut self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let mut ahead: VecDeque<OsString> = parts(&path);
        let (mut real, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let at = real.join(&name);
            match fs::read_link(&at) {
                Ok(target) => {
                    self.name(&real, &name);
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    let mut target = parts(&target);
                    target.append(&mut ahead);
                    ahead = target;
                }
                Err(_) if fs::symlink_metadata(&at).is_err() => {
                    // What is missing may come: here.
                    self.name(&real, &name);
                    return None;
                }
                Err(_) => {
                    if ahead.is_empty() {
                        self.name(&real, &name);
                    }
                    real = at;
                }
            }
        }
        Some(real)
    }

    /// Everything in a folder matters.
    pub fn all_in(&mut self, folder: PathBuf) {
        self.0.insert(folder, None);
    }

    fn name(&mut self, folder: &Path, name: &OsStr) {
        if let Some(names) = self.0.entry(folder.to_owned()).or_insert_with(|| Some(BTreeSet::new())) {
            names.insert(name.to_owned());
        }
    }

    fn concerns(&self, path: &Path) -> bool {
        if self.0.contains_key(path) {
            return true;
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
        self.0.get(folder).is_some_and(|names| names.as_ref().is_none_or(|names| names.contains(name)))
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Watches trails.
pub struct Watch {
    wake: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of each folder that is watched, to tell it from another one that took its place.
    armed: BTreeMap<PathBuf, (u64, u64)>,
    trail: Trail,
    /// Whether a folder went: another one in its place may have its very inode.
    is_stale: Arc<AtomicBool>,
    is_deaf: bool,
}

impl Watch {
    /// Wakes somebody whenever something changes on the trail, and perhaps more often.
    pub fn new(wake: Arc<Notify>) -> Self {
        let is_stale = Arc::new(AtomicBool::new(false));
        let (watcher, armed, trail) = (None, BTreeMap::new(), Trail::default());
        Self { wake, watcher, armed, trail, is_stale, is_deaf: false }
    }

    /// Watches this trail from now on. May wait for the disk.
    pub fn follow(&mut self, trail: Trail) {
        let mut wanted = BTreeMap::new();
        for folder in trail.0.keys().take(FOLDERS_MAX) {
            if let Ok(metadata) = fs::metadata(folder) {
                wanted.insert(folder.clone(), (metadata.dev(), metadata.ino()));
            }
        }
        let is_fresh = self.watcher.is_some() && !self.is_stale.load(Ordering::Acquire);
        if is_fresh && wanted == self.armed && trail == self.trail {
            return;
        }
        // A new one each time: the old one would take the end of a folder for that of another one in its place, and no
        // longer watch it.
        self.watcher = None;
        self.is_stale = Arc::new(AtomicBool::new(false));
        let (wake, heard, is_stale) = (Arc::clone(&self.wake), trail.clone(), Arc::clone(&self.is_stale));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if ends_folder(&event, &heard) {
                is_stale.store(true, Ordering::Release);
            }
            if matters(&event, &heard) {
                wake.notify_one();
            }
        });
        match watcher {
            Ok(mut watcher) => {
                // In order, so a folder is watched before those in it: whatever takes the place of one meanwhile is heard.
                wanted.retain(|folder, _| watcher.watch(folder, RecursiveMode::NonRecursive).is_ok());
                self.watcher = Some(watcher);
            }
            Err(error) if !std::mem::replace(&mut self.is_deaf, true) => tracing::warn!(
                %error,
                "changes of certificate files can't be heard; they are looked at every few seconds"
            ),
            Err(_) => {}
        }
        (self.armed, self.trail) = (wanted, trail);
    }
}

/// Whether a folder that is watched was removed or moved away, or events were lost.
fn ends_folder(event: &Event, trail: &Trail) -> bool {
    let goes = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
    event.need_rescan() || (goes && event.paths.iter().any(|path| trail.0.contains_key(path)))
}

/// Our own reading is no change; and where events were lost, anything may have changed.
fn matters(event: &Event, trail: &Trail) -> bool {
    let is_reading =
        matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    event.need_rescan() || (!is_reading && event.paths.iter().any(|path| trail.concerns(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_trail_has_each_link_and_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("live/archive")).unwrap();
        fs::write(root.join("live/archive/1.pem"), "").unwrap();
        symlink("live", root.join("now")).unwrap();
        symlink("archive/1.pem", root.join("live/a.pem")).unwrap();
        let mut trail = Trail::default();
        assert_eq!(trail.to(&root.join("now/a.pem")), Some(root.join("live/archive/1.pem")));
        for path in ["now", "live/a.pem", "live/archive/1.pem"] {
            assert!(trail.concerns(&root.join(path)), "{path}");
        }
        assert!(!trail.concerns(&root.join("other")) && !trail.concerns(&root.join("live/b.pem")));
        assert_eq!(trail.to(&root.join("missing/a.pem")), None);
        assert!(trail.concerns(&root.join("missing")));
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(trail.to(&root.join("loop")), None);
    }
}
