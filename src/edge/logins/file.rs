//! The file: a line `name:hash` for each who may come in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::sys::files;

/// Longest file: 10,000 users.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Dearest hash that is computed: 16 takes some seconds of a processor, and each step more doubles it.
const COST_MAX: u32 = 16;

/// What a name without a line is compared with, if the file has no line at all: no password fits it.
const NOBODY: &str = "$2b$10$.....................................................";

/// Why a file gives no logins.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system does not give it.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a folder, or larger than any such file.
    #[error("{0}: no regular file of at most 1 MiB")]
    Odd(PathBuf),
    /// It is no text.
    #[error("{0}: it is not UTF-8")]
    NoText(PathBuf),
    /// A line that is none.
    #[error("{path}: line {line} is no `name:hash`")]
    NoLine {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// The file as it was last seen.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

/// Hashes by name. Its `Debug` shows none.
pub struct Passwords {
    hashes: HashMap<String, String>,
    decoy: String,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("users", &self.hashes.len()).finish_non_exhaustive()
    }
}

impl Source {
    /// Reads a file for the first time.
    pub fn read(path: PathBuf) -> Result<(Self, Passwords), FileError> {
        let seen = look(&path);
        let passwords = read(&path)?;
        tracing::info!(path = %path.display(), users = passwords.hashes.len(), "logins of clients are read");
        Ok((Self { path, seen }, passwords))
    }

    /// What it holds, if it is another one than before and can be read.
    pub fn changed(&mut self) -> Option<Passwords> {
        let seen = look(&self.path);
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        match read(&self.path) {
            Ok(passwords) => {
                let (path, users) = (self.path.display(), passwords.hashes.len());
                tracing::info!(%path, users, "logins of clients are read again");
                Some(passwords)
            }
            Err(error) => {
                tracing::error!(%error, "the logins of clients stay as they were");
                None
            }
        }
    }
}

fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<Passwords, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let bytes = files::read_small(path, FILE_BYTES_MAX).map_err(unreadable)?;
    let bytes = bytes.ok_or_else(|| FileError::Odd(path.to_owned()))?;
    let text = String::from_utf8(bytes).map_err(|_| FileError::NoText(path.to_owned()))?;
    Passwords::parse(&text).map_err(|line| FileError::NoLine { path: path.to_owned(), line })
}

impl Passwords {
    /// Reads lines; empty ones and those after `#` are none. The error is the number of a line that is wrong.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut hashes = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.split_once(':').ok_or(number + 1)?;
            match cost(hash) {
                Some(cost) if cost <= COST_MAX => {
                    hashes.insert(name.to_owned(), hash.to_owned());
                }
                Some(cost) => tracing::warn!(name, cost, "this user can't log in: the hash is too dear"),
                None => tracing::warn!(name, "this user can't log in: the hash is no bcrypt (htpasswd -B)"),
            }
        }
        let decoy = hashes.values().next().cloned().unwrap_or_else(|| NOBODY.to_owned());
        Ok(Self { hashes, decoy })
    }

    /// Hashes a password and compares; takes a tenth of a second, whether the name is there or not.
    pub fn is_right(&self, user: &str, password: &[u8]) -> bool {
        let hash = self.hashes.get(user);
        let fits = bcrypt::verify(password, hash.unwrap_or(&self.decoy)).unwrap_or(false);
        fits && hash.is_some()
    }
}

/// The cost in `$2y$10$…`, if it is such a hash.
fn cost(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().find_map(|start| hash.strip_prefix(start))?;
    let (cost, rest) = rest.split_once('$')?;
    let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
    (cost.len() == 2 && rest.len() == 53 && rest.bytes().all(sound)).then(|| cost.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decoy_is_a_hash_that_no_password_fits() {
        assert_eq!(cost(NOBODY), Some(10));
        assert!(!bcrypt::verify("", NOBODY).unwrap() && !bcrypt::verify("x", NOBODY).unwrap());
        assert!(!Passwords::parse("").unwrap().is_right("", b""));
    }

    #[test]
    fn what_is_no_bcrypt_has_no_cost() {
        let body = "x".repeat(53);
        for (hash, expected) in [
            (format!("$2y$05${body}"), Some(5)),
            (format!("$2a$31${body}"), Some(31)),
            (format!("$2z$05${body}"), None),
            (format!("$2y$5${body}"), None),
            (format!("$2y$05${body}x"), None),
            ("$apr1$x$y".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(cost(&hash), expected, "{hash}");
        }
        assert!(!Passwords::parse(&format!("a:$2y$17${body}")).unwrap().hashes.contains_key("a"));
        assert_eq!(Passwords::parse("# x\n\na:b\nc").err(), Some(4));
    }
}
