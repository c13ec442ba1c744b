//! The blob tree, in the layout of `registry`, and our own folder beside it.
//!
//! ```text
//! <root>/docker/registry/v2/blobs/sha256/ab/<hex>/data      what is held, under its digest
//! <root>/docker/registry/v2/repositories/<name>/…/link      what belongs to which repository
//! <root>/scheduler-state.json                               when `registry` lets what go
//! <root>/tidegate/{lock,partial,quarantine}                 ours, invisible to `registry`
//! ```
//!
//! Nothing outside this module makes a path to a blob, and nothing becomes a blob before its digest matched: a
//! [`Partial`] knows the hash of what was written into it, and [`Store::publish`] compares. What is found in the tree is
//! not trusted: a link that is not exactly a digest, and a blob that is not a regular file, are as good as absent.
//!
//! All calls here may wait for the disk, so the engine makes them on the blocking pool.

mod durability;
mod layout;
mod links;
pub(crate) mod partial;
mod quarantine;
mod remove;
pub(crate) mod schedule;
mod tree;
mod unfinished;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};

use crate::config::Durability;
use crate::registry::Digest;
use crate::sys::files::{self, Identity};
use crate::sys::{clock, entropy, sync};
use layout::Layout;
pub use partial::{Extents, Partial, Record};
pub use remove::OwnBytes;
pub use schedule::{Expiry, LinkKind};
pub use tree::Shard;
pub use unfinished::{Begun, Unfinished};

/// The blob tree under one root, held by this process alone.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    /// Whether a link of the tree shows that its repository may have what it names.
    links_count: bool,
    alive: partial::Alive,
    durability: RwLock<Durability>,
    doubtful_since: Mutex<Option<i64>>,
    marked_since: Mutex<Option<i64>>,
    doubt_outlasts: AtomicBool,
    /// Held for the moment in which a blob gets or loses its name.
    naming: Mutex<()>,
    /// The lock is held as long as the file is open.
    _lock: File,
    /// Removed with the store; for `storage.inmemory`.
    _temporary: Option<Temporary>,
}

/// A blob of the tree, open.
#[derive(Debug)]
pub struct OpenBlob {
    /// The file.
    pub file: Arc<File>,
    /// Which file it is.
    pub identity: Identity,
}

/// Whom the links of a volume belong to: what one account may see at one upstream says nothing about another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(String);

impl Owner {
    /// An upstream by its name, and the account, or nobody.
    pub fn new(upstream: &str, account: Option<&str>) -> Self {
        let account = account.map_or("anonymous".to_owned(), |account| format!("account {account:?}"));
        Self(format!("upstream {upstream}\n{account}\n"))
    }
}

/// What to do about a volume that holds a push registry's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushVolume {
    /// Refuse to start: no upstream was configured, so nothing says that it may be treated as a cache.
    Refuse,
    /// Adopt it.
    Allow,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The root, or something in it, can't be written.
    #[error("{path} can't be written: {source}; {owner}: give it to the user that runs tidegate (uid {uid}), or set storage.filesystem.rootdirectory (REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY) to a folder of its own", path = path.display())]
    Unwritable {
        /// What can't be written.
        path: PathBuf,
        /// The owner and mode of it, or of the nearest folder that exists.
        owner: String,
        /// Who we are.
        uid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the volume.
    #[error("{path} is in use by another tidegate: stop that one first, or give this one a root of its own", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The volume belongs to a registry that is pushed to.
    #[error("{path} holds images that a registry without proxy mode may be the only one to have, and a cache deletes what it does not need: to use it as a cache all the same, set proxy.remoteurl (REGISTRY_PROXY_REMOTEURL)", path = path.display())]
    PushRegistry {
        /// The root.
        path: PathBuf,
    },
}

impl Store {
    /// Opens the tree under `root`, creating what is missing, and takes its lock.
    /// `owner` tells the upstream and the account: links that were written for others do not count.
    pub fn open(root: &Path, push_volume: PushVolume, owner: &Owner) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        if push_volume == PushVolume::Refuse && is_push_registry(&layout) {
            return Err(StoreError::PushRegistry { path: root.to_owned() });
        }
        create(&layout).map_err(|(path, source)| unwritable(path, source))?;
        let lock = lock(&layout)?;
        let alive = partial::Alive::default();
        let mut store = Self {
            layout,
            links_count: false,
            alive,
            durability: RwLock::new(Durability::Full),
            doubtful_since: Mutex::default(),
            marked_since: Mutex::default(),
            doubt_outlasts: AtomicBool::new(false),
            naming: Mutex::default(),
            _lock: lock,
            _temporary: None,
        };
        store.sweep(clock::now(), Unfinished::OfEarlierProcesses);
        store.find_doubt();
        store.links_count = links::belong_to(&store, &owner.0);
        if !store.links_count {
            tracing::warn!(
                "the links of this volume are those of another account or upstream too: what is held is confirmed anew"
            );
        }
        Ok(store)
    }

    /// A store in a temporary folder that goes away with it.
    pub fn temporary(owner: &Owner) -> Result<Self, StoreError> {
        let name = format!("tidegate-{}", entropy::hex());
        let temporary = Temporary(std::env::temp_dir().join(name));
        // Nobody else's business: what is below may be private images.
        let made = DirBuilder::new().mode(0o700).create(&temporary.0);
        made.map_err(|source| unwritable(temporary.0.clone(), source))?;
        let mut store = Self::open(&temporary.0, PushVolume::Allow, owner)?;
        store._temporary = Some(temporary);
        Ok(store)
    }

    /// The root.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// The folder of the index.
    pub fn index_folder(&self) -> PathBuf {
        self.layout.index()
    }

    /// The file of last uses.
    pub fn heat_file(&self) -> PathBuf {
        self.layout.heat()
    }

    /// The folder of the last good certificates.
    pub fn certificates_folder(&self) -> PathBuf {
        self.layout.certificates()
    }

    /// Opens the file under a digest; `None` if there is none, or something that is no regular file.
    pub fn open_blob(&self, digest: &Digest) -> io::Result<Option<OpenBlob>> {
        let Some(file) = files::open_regular(&self.layout.blob(digest))? else {
            return Ok(None);
        };
        let identity = files::identity(&file)?;
        Ok(Some(OpenBlob { file: Arc::new(file), identity }))
    }

    /// Makes a partial the blob of its digest. Data first, then the name, then the folders that hold the name: after a
    /// crash the blob is there whole, or not at all. Relaxed, after a power cut it may be there with wrong bytes.
    pub fn publish(&self, partial: &Partial, digest: &Digest) -> io::Result<Identity> {
        if partial.digest() != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the bytes do not hash to the digest"));
        }
        let durability = self.durability();
        if *durability == Durability::Full {
            partial.sync()?;
        }
        let before = files::state(&partial.file())?;
        let target = self.layout.blob(digest);
        let folder = self.layout.blob_folder(digest);
        self.name(partial, digest, &target, &folder)?;
        match *durability {
            Durability::Full => folder.ancestors().take(3).try_for_each(files::sync_folder)?,
            Durability::Relaxed => self.note_unsynced(&files::identity(&partial.file())?)?,
        }
        // Taken after the rename, which changes the ctime. Whoever wrote into it meanwhile changed its time of modification.
        let after = files::state(&partial.file())?;
        if (after.mtime_ns, after.identity.size) != (before.mtime_ns, before.identity.size) {
            return Err(io::Error::other("the file was changed while it was published"));
        }
        Ok(after.identity)
    }

    /// Puts a partial in its place, whatever is there.
    fn name(&self, partial: &Partial, digest: &Digest, target: &Path, folder: &Path) -> io::Result<()> {
        let _turn = sync::lock(&self.naming);
        if let Err(error) = folders(folder) {
            // Something that is no folder.
            if folder.is_dir() || !self.move_aside(folder, digest)? {
                return Err(error);
            }
            folders(folder)?;
        }
        if let Err(error) = partial.rename(target) {
            // Something that a file can't replace: a folder.
            if !self.move_aside(target, digest)? {
                return Err(error);
            }
            partial.rename(target)?;
        }
        Ok(())
    }
}

/// Removes a file, or a folder with all that is in it; links are not followed.
fn remove(path: &Path, what: &str) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "could not remove {what}");
    }
}

/// Content of a registry, none of ours.
fn is_push_registry(layout: &Layout) -> bool {
    let has_entries = |path: PathBuf| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    has_entries(layout.repositories()) && !layout.ours().exists()
}

/// Creates the folders: the tree as `registry` makes it, ours closed to others.
fn create(layout: &Layout) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: PathBuf, made: io::Result<()>| made.map_err(|error| (path, error));
    for path in [layout.blobs(), layout.repositories()] {
        at(path.clone(), folders(&path))?;
    }
    for path in [layout.ours(), layout.partials(), layout.quarantine(), layout.index()] {
        set_aside_what_is_no_folder(&path);
        at(path.clone(), DirBuilder::new().recursive(true).mode(0o700).create(&path))?;
    }
    Ok(())
}

/// Makes room for a folder of ours: a damaged volume must not stop the start. If that fails, its creation says why.
fn set_aside_what_is_no_folder(path: &Path) {
    let something_else = fs::symlink_metadata(path).is_ok() && !path.is_dir();
    let aside = path.with_extension(format!("bad-{}", clock::unix_ms()));
    if something_else && fs::rename(path, &aside).is_ok() {
        tracing::warn!(aside = %aside.display(), "what was no folder in the place of one is set aside");
    }
}

/// Creates a folder of the tree and those above it.
fn folders(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| unwritable(path.clone(), source))?;
    match files::lock_exclusively(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(StoreError::Locked { path }),
        Err(source) => Err(unwritable(path, source)),
    }
}

fn unwritable(path: PathBuf, source: io::Error) -> StoreError {
    let existing = path.ancestors().find_map(|folder| Some((folder, fs::metadata(folder).ok()?)));
    let owner = existing.map_or_else(String::new, |(folder, metadata)| {
        let mode = metadata.permissions().mode() & 0o7777;
        format!(
            "{} belongs to uid {} gid {} with mode {mode:04o}",
            folder.display(),
            metadata.uid(),
            metadata.gid()
        )
    });
    StoreError::Unwritable { path, owner, uid: files::uid(), source }
}

/// A folder that goes away with its value.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the temporary folder");
        }
    }
}

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;
