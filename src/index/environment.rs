//! Opening the map, after a look at whether it may be opened at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, WithoutTls};

use super::inspect::{self, Flaw, Meta};
use super::{Map, rows, schema};
use crate::sys::{clock, files, map};

/// Why the index can't live in its folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{path} can't be created: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("a new index can't be created: {0}")]
    Create(heed::Error),
    #[error("there is no room in memory to map it: {0}")]
    Memory(heed::Error),
}

/// Why a map is not used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("it can't be opened: {0}")]
    Lmdb(#[from] heed::Error),
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is cut short")]
    Short,
    #[error("it has another version")]
    Version,
    #[error("{0}")]
    Flaw(#[from] Flaw),
}

/// Opens the map under a folder, or sets it aside and starts an empty one.
pub(super) fn open(folder: &Path) -> Result<Map, OpenError> {
    let path = folder.join("v1");
    let opened = create(&path).map_err(Damage::Io).and_then(|()| try_open(&path));
    match opened {
        Ok(map) => Ok(map),
        // Too little address space says nothing of the file: it is as good as it was at the next start.
        Err(Damage::Lmdb(heed::Error::Io(error))) if error.kind() == io::ErrorKind::OutOfMemory => {
            Err(OpenError::Memory(heed::Error::Io(error)))
        }
        Err(damage) => {
            let aside = folder.join(format!("v1.bad-{}", clock::unix_ms()));
            tracing::warn!(aside = %aside.display(), %damage, "the index is set aside; everything is found again in the tree");
            fs::rename(&path, &aside).map_err(|source| OpenError::Folder { path: aside, source })?;
            forget_older(folder);
            create(&path).map_err(|source| OpenError::Folder { path: path.clone(), source })?;
            try_open(&path).map_err(|damage| match damage {
                Damage::Lmdb(error) => OpenError::Create(error),
                other => OpenError::Create(heed::Error::Io(io::Error::other(other.to_string()))),
            })
        }
    }
}

fn create(path: &Path) -> io::Result<()> {
    // Says so if there is something that is no folder.
    fs::create_dir_all(path)?;
    fs::read_dir(path).map(drop)
}

/// Most indexes that are kept aside. They are evidence, and may have gigabytes.
const ASIDE_MAX: usize = 2;

/// Removes all that was set aside but the newest.
fn forget_older(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_aside = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("v1.bad-"))
    };
    // The time in the names has as many digits for some centuries.
    let mut aside: Vec<_> = entries.filter(is_aside).collect();
    aside.sort_unstable();
    let surplus = aside.len().saturating_sub(ASIDE_MAX);
    for path in aside.iter().take(surplus) {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "could not remove an old index");
        }
    }
}

fn try_open(path: &Path) -> Result<Map, Damage> {
    let cut = look_at(path)?;
    let environment = map::open_lmdb(path)?;
    environment.clear_stale_readers()?;
    let rows = open_rows(&environment)?;
    let map = Map { environment, rows };
    check_version(&map)?;
    if cut {
        read_all(&map)?;
    }
    Ok(map)
}

fn open_rows(environment: &Env<WithoutTls>) -> Result<Database<'static, Bytes, Bytes>, heed::Error> {
    let transaction = environment.write_txn()?;
    let created = environment.create_databases_and_commit(transaction, |opener, transaction| {
        opener.create_database::<Bytes, Bytes>(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
    })?;
    Ok(created.unwrap_commit())
}

fn check_version(map: &Map) -> Result<(), Damage> {
    let key = schema::version();
    let expected = rows::seal(&key, &schema::VERSION.to_le_bytes());
    let mut transaction = map.environment.write_txn()?;
    match map.rows.get(&transaction, &key)? {
        Some(found) if found == expected => Ok(()),
        None if map.rows.is_empty(&transaction)? => {
            map.rows.put(&mut transaction, &key, &expected)?;
            Ok(transaction.commit()?)
        }
        _ => Err(Damage::Version),
    }
}

/// Reads every row once, to meet damage now and not in a request.
fn read_all(map: &Map) -> Result<(), Damage> {
    let transaction = map.environment.read_txn()?;
    map.rows.iter(&transaction)?.try_for_each(|row| row.map(|_| ()))?;
    Ok(())
}

/// Looks at the map before it is opened. It is as long as its newest meta page says, since reading a map behind the end of
/// its file kills the process; and its pages are sound, unless it is the very file that was left in order at the last
/// stop. Pages at the end that were never used may be missing rightly, so a short file is made longer with zeros. Whether
/// that was done.
fn look_at(path: &Path) -> Result<bool, Damage> {
    let data = path.join("data.mdb");
    let file = match fs::File::options().read(true).write(true).open(&data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let left_in_order = Mark(path.to_owned()).take(&file);
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(false);
    }
    let first = Meta::read(&file, 0)?.ok_or(Damage::Short)?;
    let second = Meta::read(&file, first.page_bytes())?.ok_or(Damage::Short)?;
    let newest = if second.transaction > first.transaction { &second } else { &first };
    let claimed = newest.claimed_bytes().ok_or(Damage::Short)?;
    if first.page_bytes() != second.page_bytes() {
        return Err(Damage::Short);
    }
    let cut = length < claimed;
    if cut {
        file.set_len(claimed)?;
    }
    if !left_in_order {
        inspect::inspect(&file, newest)?;
    }
    Ok(cut)
}

/// The note that a map was left in order at a stop: which file it was then. Whoever changed that file since changed its
/// ctime too, and it is looked at page by page. So it is after a crash, where there is no note.
#[derive(Debug)]
pub(super) struct Mark(PathBuf);

/// Longest note that is read; a real one has four numbers.
const MARK_BYTES_MAX: usize = 128;

impl Mark {
    /// The note of the map under a folder.
    pub(super) fn of(folder: &Path) -> Self {
        Self(folder.join("v1"))
    }

    fn path(&self) -> PathBuf {
        self.0.join("in-order")
    }

    fn text(file: &fs::File) -> io::Result<String> {
        let identity = files::identity(file)?;
        Ok(format!("{} {} {} {}\n", identity.device, identity.inode, identity.size, identity.ctime_ns))
    }

    /// Whether the note is there and names this file. It counts once: the map is about to be written.
    fn take(&self, file: &fs::File) -> bool {
        let found = files::read_small(&self.path(), MARK_BYTES_MAX).ok().flatten();
        let removed = fs::remove_file(self.path());
        removed.is_ok() && found.is_some() && found == Self::text(file).ok().map(String::into_bytes)
    }

    /// Leaves the note; without it the next start just takes a little longer.
    pub(super) fn leave(&self) {
        let left = fs::File::open(self.0.join("data.mdb"))
            .and_then(|file| fs::write(self.path(), Self::text(&file)?));
        if let Err(error) = left {
            tracing::debug!(%error, "the index is looked at page by page at the next start");
        }
    }
}
