//! Hears that something on the way to a file changed: the file, its folder, the folder of each link that leads there.
//!
//! What is heard is only a reason to look. Where nothing can be heard (NFS, some overlays, no descriptors left), looking
//! once in a while has to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::sys::sync::lock;

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
    watcher: Option<RecommendedWatcher>,
    trail: Arc<Mutex<Trail>>,
    /// Device and inode of what is watched under a path, to tell a folder from another one that took its place.
    armed: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watch {
    /// Wakes somebody whenever something changes on the trail, and perhaps more often.
    pub fn new(wake: Arc<Notify>) -> Self {
        let trail = Arc::new(Mutex::new(Trail::default()));
        let heard = Arc::clone(&trail);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| matters(&event, &lock(&heard))) {
                wake.notify_one();
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "changes of certificate files can't be heard; they are looked at every few seconds");
        });
        Self { watcher: watcher.ok(), trail, armed: BTreeMap::new() }
    }

    /// Watches this trail from now on. May wait for the disk.
    pub fn follow(&mut self, trail: Trail) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeMap::new();
        for folder in trail.0.keys().take(FOLDERS_MAX) {
            if let Ok(metadata) = fs::metadata(folder) {
                wanted.insert(folder.clone(), (metadata.dev(), metadata.ino()));
            }
        }
        *lock(&self.trail) = trail;
        for (folder, _) in self.armed.iter().filter(|(folder, which)| wanted.get(*folder) != Some(*which)) {
            // It may be gone with its folder.
            let _ = watcher.unwatch(folder);
        }
        self.armed.retain(|folder, which| wanted.get(folder) == Some(which));
        for (folder, which) in wanted {
            if !self.armed.contains_key(&folder)
                && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.armed.insert(folder, which);
            }
        }
    }
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
