//! Opening the map, after a look at whether it may be opened at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, WithTls};

use super::{Map, rows, schema};
use crate::sys::{clock, map};

/// Why the index can't live in its folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{path} can't be created: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("a new index can't be created: {0}")]
    Create(heed::Error),
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
}

/// Opens the map under a folder, or sets it aside and starts an empty one.
pub(super) fn open(folder: &Path) -> Result<Map, OpenError> {
    let path = folder.join("v1");
    create(&path)?;
    match try_open(&path) {
        Ok(map) => Ok(map),
        Err(damage) => {
            let aside = folder.join(format!("v1.bad-{}", clock::unix_ms()));
            tracing::warn!(aside = %aside.display(), %damage, "the index is set aside; everything is found again in the tree");
            fs::rename(&path, &aside).map_err(|source| OpenError::Folder { path: aside, source })?;
            create(&path)?;
            try_open(&path).map_err(|damage| match damage {
                Damage::Lmdb(error) => OpenError::Create(error),
                other => OpenError::Create(heed::Error::Io(io::Error::other(other.to_string()))),
            })
        }
    }
}

fn create(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).map_err(|source| OpenError::Folder { path: path.to_owned(), source })
}

fn try_open(path: &Path) -> Result<Map, Damage> {
    let cut = complete(&path.join("data.mdb"))?;
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

fn open_rows(environment: &Env<WithTls>) -> Result<Database<'static, Bytes, Bytes>, heed::Error> {
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

/// Bytes of the two meta pages that are looked at, and where in them things stand (`MDB_page` and `MDB_meta` of LMDB
/// 0.9 on 64-bit machines).
const META_BYTES: usize = 152;
const MAGIC: u32 = 0xBEEF_C0DE;

/// Makes sure that the file is as long as its newest meta page says, since reading a map behind the end of its file kills
/// the process. Pages at the end that were never used may be missing rightly, so a short file is made longer with
/// zeros, which LMDB reports as damage instead; the caller then reads all of it. Whether that was done.
fn complete(path: &Path) -> Result<bool, Damage> {
    let file = match fs::File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(false);
    }
    let first = Meta::read(&file, 0)?.ok_or(Damage::Short)?;
    let second = Meta::read(&file, first.page_bytes)?.ok_or(Damage::Short)?;
    let newest = if second.transaction > first.transaction { &second } else { &first };
    let claimed = newest.last_page.checked_add(1).and_then(|pages| pages.checked_mul(first.page_bytes));
    let claimed = claimed.filter(|claimed| *claimed <= map::MAP_BYTES as u64).ok_or(Damage::Short)?;
    if length >= claimed {
        return Ok(false);
    }
    file.set_len(claimed)?;
    Ok(true)
}

struct Meta {
    page_bytes: u64,
    last_page: u64,
    transaction: u64,
}

impl Meta {
    fn read(file: &fs::File, at: u64) -> io::Result<Option<Self>> {
        let page = crate::sys::files::read_at(file, at, META_BYTES)?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(page.get(at..at + 8)?.try_into().ok()?));
        let parse = || {
            let page_bytes =
                u32_at(40).filter(|size| (512..=65_536).contains(size) && size.is_power_of_two())?;
            let magic = u32_at(16).filter(|magic| *magic == MAGIC);
            magic.and(Some(Self {
                page_bytes: page_bytes.into(),
                last_page: u64_at(136)?,
                transaction: u64_at(144)?,
            }))
        };
        Ok(parse())
    }
}
