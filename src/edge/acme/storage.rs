//! What is kept on disk, in `<root>/tidegate/acme`: certificates with their keys, accounts, orders that are under way, and
//! ledgers. Folders are 0700, files 0600.
//!
//! A file is written beside its place, synced and renamed, so that there is the old one or the new one, whenever the power
//! goes. Key and chain are one file: they can't be torn apart. Calls wait for the disk, so they belong on the blocking pool.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::schedule::{Ledger, Orders, Stamp};
use crate::config::DnsName;
use crate::sys::{entropy, files};

/// Longest file that is read: a chain of ten certificates has a tenth of it.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// What the probe writes: more than a session stores.
const PROBE_BYTES: usize = 64 * 1024;

/// The folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    folder: PathBuf,
}

/// What a session may do with the folder; nobody else's session runs as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// One CA in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelf(String);

impl Shelf {
    /// Of a directory's URL: its host, and what tells two directories of a host apart.
    pub fn of(directory: &url::Url) -> Self {
        let hash = digest(&SHA256, directory.as_str().as_bytes());
        let hash: String = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let host = directory.host_str().unwrap_or_default();
        // An address of IPv6 comes in brackets.
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).collect();
        Self(format!("ca-{host}-{hash}"))
    }
}

/// An order that is under way: enough to take it up again in another process.
#[derive(Clone, Serialize, Deserialize)]
pub struct Begun {
    /// Where the CA has it.
    pub url: String,
    /// The private key of the certificate, PEM.
    pub key: String,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Storage {
    /// Makes the folder if it is missing.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let storage = Self { folder: folder.to_owned() };
        storage.make(folder)?;
        Ok(storage)
    }

    /// Takes the folder for a session; nothing if another process has it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.folder.join("lock"))?;
        Ok(files::lock_exclusively(&file)?.then_some(Lock { _file: file }))
    }

    /// Whether what a session stores can be stored: found out before the CA is asked for anything.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe");
        let content = vec![0x5a; PROBE_BYTES];
        let tried = self.write(&path, &content).and_then(|()| {
            let read = files::read_small(&path, PROBE_BYTES)?;
            if read.as_ref() == Some(&content) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        let removed = remove(&path);
        tried.and(removed)
    }

    /// The certificate of a name and its key, PEM.
    pub fn pair(&self, name: &DnsName) -> io::Result<Option<String>> {
        text(&self.pair_path(name))
    }

    /// Keeps a certificate with its key.
    pub fn keep_pair(&self, name: &DnsName, pem: &str) -> io::Result<()> {
        self.write(&self.pair_path(name), pem.as_bytes())
    }

    /// Where a pair is.
    pub fn pair_path(&self, name: &DnsName) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// The key of our account at a CA: PKCS #8, DER.
    pub fn account(&self, shelf: &Shelf) -> io::Result<Option<Vec<u8>>> {
        content(&self.shelved(shelf, "account.der"))
    }

    /// Keeps the key of our account.
    pub fn keep_account(&self, shelf: &Shelf, key: &[u8]) -> io::Result<()> {
        self.write(&self.shelved(shelf, "account.der"), key)
    }

    /// The order for a name that is under way at a CA.
    pub fn order(&self, shelf: &Shelf, name: &DnsName) -> io::Result<Option<Begun>> {
        document(&self.shelved(shelf, &format!("{name}.order.json")))
    }

    /// Keeps an order, or forgets it.
    pub fn keep_order(&self, shelf: &Shelf, name: &DnsName, order: Option<&Begun>) -> io::Result<()> {
        let path = self.shelved(shelf, &format!("{name}.order.json"));
        match order {
            Some(order) => self.write_document(&path, order),
            None => remove(&path),
        }
    }

    /// The ledger of a name at a CA, taken up by a session that has the lock: nobody else's order is under way.
    pub fn ledger(&self, shelf: &Shelf, name: &DnsName, now: Stamp) -> io::Result<Ledger> {
        Ok(self.raw_ledger(shelf, name)?.taken_up(now))
    }

    /// The same as it was written.
    pub fn raw_ledger(&self, shelf: &Shelf, name: &DnsName) -> io::Result<Ledger> {
        Ok(document(&self.shelved(shelf, &format!("{name}.ledger.json")))?.unwrap_or_default())
    }

    /// Keeps a ledger.
    pub fn keep_ledger(&self, shelf: &Shelf, name: &DnsName, ledger: &Ledger) -> io::Result<()> {
        self.write_document(&self.shelved(shelf, &format!("{name}.ledger.json")), ledger)
    }

    /// The orders of all names at a CA.
    pub fn orders(&self, shelf: &Shelf) -> io::Result<Orders> {
        Ok(document(&self.shelved(shelf, "orders.json"))?.unwrap_or_default())
    }

    /// Keeps them.
    pub fn keep_orders(&self, shelf: &Shelf, orders: &Orders) -> io::Result<()> {
        self.write_document(&self.shelved(shelf, "orders.json"), orders)
    }

    fn shelved(&self, shelf: &Shelf, file: &str) -> PathBuf {
        self.folder.join(&shelf.0).join(file)
    }

    fn write_document(&self, path: &Path, document: &impl Serialize) -> io::Result<()> {
        self.write(path, &serde_json::to_vec(document)?)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        self.make(folder)?;
        let aside = folder.join(format!(".{}", entropy::hex()));
        let written = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&aside, path))
            .and_then(|()| files::sync_folder(folder));
        written.inspect_err(|_| drop(std::fs::remove_file(&aside)))
    }

    fn make(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A small file; links are not followed.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = files::open_regular(path)? else { return Ok(None) };
    Ok(Some(files::read_at(&file, 0, FILE_BYTES_MAX)?.to_vec()))
}

fn text(path: &Path) -> io::Result<Option<String>> {
    let Some(content) = content(path)? else { return Ok(None) };
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: no text", path.display()));
    Ok(Some(String::from_utf8(content).map_err(no_text)?))
}

/// A document; one that can't be read is an error, since what it holds keeps limits.
fn document<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(text) = text(path)? else { return Ok(None) };
    let parsed = serde_json::from_str(&text);
    let wrong = |error: serde_json::Error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    Ok(Some(parsed.map_err(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn open() -> (tempfile::TempDir, Storage) {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&folder.path().join("acme")).unwrap();
        (folder, storage)
    }

    fn name() -> DnsName {
        "mirror.test".parse().unwrap()
    }

    fn shelf() -> Shelf {
        Shelf::of(&"https://ca.test:14000/dir".parse().unwrap())
    }

    #[test]
    fn what_is_kept_is_there_again_and_nobody_elses() {
        let (folder, storage) = open();
        storage.keep_pair(&name(), "pair").unwrap();
        storage.keep_account(&shelf(), b"account").unwrap();
        let order = Begun { url: "https://ca.test/o/1".into(), key: "secret".into() };
        storage.keep_order(&shelf(), &name(), Some(&order)).unwrap();
        let mut ledger = Ledger::default();
        ledger.failed(5, super::super::schedule::Class::Validation, "why");
        storage.keep_ledger(&shelf(), &name(), &ledger).unwrap();
        assert_eq!(storage.pair(&name()).unwrap().as_deref(), Some("pair"));
        assert_eq!(storage.account(&shelf()).unwrap().as_deref(), Some(&b"account"[..]));
        assert_eq!(storage.order(&shelf(), &name()).unwrap().unwrap().key, "secret");
        assert_eq!(storage.ledger(&shelf(), &name(), 9).unwrap(), ledger);
        storage.keep_order(&shelf(), &name(), None).unwrap();
        assert!(storage.order(&shelf(), &name()).unwrap().is_none());
        let mut seen = 0;
        let mut folders = vec![folder.path().join("acme")];
        while let Some(next) = folders.pop() {
            assert_eq!(std::fs::metadata(&next).unwrap().mode() & 0o777, 0o700, "{}", next.display());
            for entry in std::fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 3);
        assert!(!format!("{order:?}").contains("secret"));
    }

    #[test]
    fn two_directories_of_one_host_have_shelves_of_their_own() {
        let of = |url: &str| Shelf::of(&url.parse().unwrap());
        assert_ne!(of("https://ca.test/a"), of("https://ca.test/b"));
        assert_ne!(of("https://ca.test:1/a"), of("https://ca.test:2/a"));
        assert!(!of("https://[::1]:1/../..").0.contains(['/', '[']));
    }

    #[test]
    fn one_session_at_a_time_has_the_folder() {
        let (_folder, storage) = open();
        let first = storage.lock().unwrap();
        assert!(first.is_some());
        assert!(storage.lock().unwrap().is_none());
        drop(first);
        assert!(storage.lock().unwrap().is_some());
    }

    #[test]
    fn a_folder_that_takes_nothing_is_found_out_before() {
        let (folder, storage) = open();
        storage.probe().unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("acme")).unwrap().count(), 0);
        std::fs::remove_dir(folder.path().join("acme")).unwrap();
        std::fs::write(folder.path().join("acme"), "in the way").unwrap();
        assert!(storage.probe().is_err());
    }

    #[test]
    fn a_damaged_ledger_is_no_empty_one() {
        let (folder, storage) = open();
        storage.keep_ledger(&shelf(), &name(), &Ledger::default()).unwrap();
        let path = storage.shelved(&shelf(), "mirror.test.ledger.json");
        std::fs::write(&path, "{\"given\": [").unwrap();
        assert!(storage.ledger(&shelf(), &name(), 0).is_err());
        // A link leads nowhere.
        std::fs::remove_file(&path).unwrap();
        symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert_eq!(storage.ledger(&shelf(), &name(), 0).unwrap(), Ledger::default());
    }
}
