//! `scheduler-state.json`: what `registry` in proxy mode lets expire, and when.
//!
//! Read at the start, for what the volume's other owner knew of its content; written for the way back, since `registry`
//! keeps for ever what has no entry. It is `registry`'s file in `registry`'s form: valid JSON, never empty, since it panics
//! over anything else.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::links::read_link;
use super::{Store, files};
use crate::registry::{Digest, RepositoryName};
use crate::sys::entropy;

/// Most entries that are read or written: what 20,000 images take. `registry` keeps them all in memory and writes the file
/// anew every 5 s, so more do it no good; what is not in it stays for ever there.
pub const ENTRIES_MAX: usize = 262_144;

/// Longest file that is read: that many entries with the longest names.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// When `registry` lets something of a repository go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The repository that has a link to it.
    pub name: RepositoryName,
    /// What.
    pub digest: Digest,
    /// As what.
    pub kind: LinkKind,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What a repository has a link to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A config or a layer.
    Layer,
    /// A manifest.
    Revision,
}

/// An entry as it is written; its key is the same text as in front of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    key: String,
    expiry_data: String,
    #[serde(default)]
    entry_type: u8,
}

impl Store {
    /// What `registry`, or we for it, noted last; nothing if there is no such file. One that is damaged is an error, and as
    /// good as none.
    pub fn schedule(&self) -> io::Result<Vec<Expiry>> {
        match files::open_regular(&self.layout.schedule())? {
            Some(file) => parse(file.take(BYTES_MAX)),
            None => Ok(Vec::new()),
        }
    }

    /// Begins the file anew, aside.
    pub fn draft_schedule(&self) -> io::Result<Draft> {
        let aside = self.layout.partials().join(format!("schedule.{}", entropy::hex()));
        let out = BufWriter::new(File::create_new(&aside)?);
        let mut draft = Draft { out, aside, target: self.layout.schedule(), count: 0, done: false };
        draft.out.write_all(b"{")?;
        Ok(draft)
    }

    /// What link a repository has to a digest, whoever may have it.
    pub fn link_kind(&self, name: &RepositoryName, digest: &Digest) -> Option<LinkKind> {
        let leads = |path: PathBuf| read_link(&path) == Some(*digest);
        if leads(self.layout.revision_link(name, digest)) {
            return Some(LinkKind::Revision);
        }
        leads(self.layout.layer_link(name, digest)).then_some(LinkKind::Layer)
    }
}

/// The file in the making. Removed when dropped unless it was finished.
#[derive(Debug)]
pub struct Draft {
    out: BufWriter<File>,
    aside: PathBuf,
    target: PathBuf,
    count: usize,
    done: bool,
}

impl Draft {
    /// Adds an entry; whether there was room for it.
    pub fn add(&mut self, expiry: &Expiry) -> io::Result<bool> {
        if self.count >= ENTRIES_MAX {
            return Ok(false);
        }
        let at_ms = i64::try_from(expiry.at_ms).unwrap_or(i64::MAX);
        let at = Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::MAX);
        let key = format!("{}@{}", expiry.name, expiry.digest);
        let entry_type = match expiry.kind {
            LinkKind::Layer => 0,
            LinkKind::Revision => 1,
        };
        self.out.write_all(if self.count == 0 { b"" } else { b"," })?;
        serde_json::to_writer(&mut self.out, &key)?;
        self.out.write_all(b":")?;
        serde_json::to_writer(&mut self.out, &Entry { key, expiry_data: at.to_string(), entry_type })?;
        self.count += 1;
        Ok(true)
    }

    /// Puts it in the place of the one before; how many entries it has. After a crash there is one of both, whole.
    pub fn finish(mut self) -> io::Result<usize> {
        self.out.write_all(b"}")?;
        self.out.flush()?;
        self.out.get_ref().sync_data()?;
        fs::rename(&self.aside, &self.target)?;
        self.done = true;
        self.target.parent().map_or(Ok(()), files::sync_folder)?;
        Ok(self.count)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            // One that stays is removed at the next start.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

/// Bytes on the disk of the file.
pub(super) fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
}

/// Reads the entries one by one, at most [`ENTRIES_MAX`]. Those that name nothing that can be held are left out.
pub(crate) fn parse(input: impl Read) -> io::Result<Vec<Expiry>> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(input));
    let found = json.deserialize_map(Entries)?;
    json.end()?;
    Ok(found.into_values().collect())
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    /// The last entry of a key counts, as in `registry`.
    type Value = HashMap<String, Expiry>;

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("the entries of a scheduler")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut found = HashMap::new();
        while found.len() < ENTRIES_MAX
            && let Some((key, entry)) = entries.next_entry::<String, Entry>()?
        {
            if let Some(expiry) = read(&key, &entry) {
                found.insert(key, expiry);
            }
        }
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

fn read(key: &str, entry: &Entry) -> Option<Expiry> {
    let (name, digest) = key.split_once('@')?;
    let at: Timestamp = entry.expiry_data.parse().ok()?;
    Some(Expiry {
        name: name.parse().ok()?,
        digest: digest.parse().ok()?,
        kind: if entry.entry_type == 1 { LinkKind::Revision } else { LinkKind::Layer },
        at_ms: u64::try_from(at.as_millisecond()).unwrap_or(0),
    })
}

#[cfg(test)]
#[path = "schedule/tests.rs"]
mod tests;
