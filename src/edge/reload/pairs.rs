//! Pairs of files: the two that are named, or all of a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assemble::assemble;
use super::drawer::{Drawer, Keeper};
use super::trouble::Troubles;
use super::watch::Trail;
use super::{Looked, Subject};
use crate::config::TlsFiles;
use crate::edge::certificates::pem::Content;
use crate::edge::certificates::{self, Certificates, Flaw, Pair, Source, stand_in};
use crate::observe::metrics::{Metrics, Reloaded};
use crate::sys::clock;
use crate::sys::files::{self, Steady};

/// Longest file that is read: ten chains and their keys have 60 KiB.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most files of a folder that are read.
const FILES_MAX: usize = 4_096;

/// Where pairs are read from.
#[derive(Debug, Clone)]
pub enum Place {
    /// A certificate and its key.
    Files(TlsFiles),
    /// All pairs of a folder.
    Folder(PathBuf),
}

impl Place {
    /// As the table knows it.
    pub fn source(&self) -> Source {
        match self {
            Self::Files(_) => Source::Files,
            Self::Folder(_) => Source::Folder,
        }
    }

    /// As it was named.
    pub fn path(&self) -> &Path {
        match self {
            Self::Files(files) => &files.certificate,
            Self::Folder(folder) => folder,
        }
    }
}

/// Pairs that are read from files whenever these change.
pub struct Pairs {
    place: Place,
    certificates: Certificates,
    keeper: Option<Keeper>,
    troubles: Troubles,
    /// What the files were like when they were last read, if they could be looked at.
    seen: Option<Option<Vec<Mark>>>,
    /// Whether a stand-in is put up while there is nothing.
    stands_in: bool,
    /// Keys that everybody can read, as far as that was said.
    exposed: BTreeSet<PathBuf>,
    metrics: Arc<Metrics>,
}

/// What tells a file from itself after a change, and from another one under its name.
type Mark = (PathBuf, u64, u64, u64, (i64, i64), (i64, i64), u32);

/// What was read, and what is wrong.
#[derive(Default)]
struct Read {
    pairs: Vec<Arc<Pair>>,
    troubles: BTreeMap<String, String>,
}

impl Pairs {
    /// Nothing is read yet. `stands_in`: an empty folder gets a self-signed certificate.
    pub fn new(
        place: Place,
        certificates: Certificates,
        drawer: Option<Drawer>,
        stands_in: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let troubles = Troubles::new(place.source(), certificates.clone());
        let (seen, exposed) = (None, BTreeSet::new());
        let keeper = drawer.map(Keeper::new);
        Self { place, certificates, keeper, troubles, seen, stands_in, exposed, metrics }
    }

    /// Takes the pairs that were put away: what the files do not have will be served on.
    pub fn remember(&self) {
        let mut kept = self.keeper.as_ref().map(Keeper::contents).unwrap_or_default();
        kept.retain(|pair| pair.is_valid(certificates::now()));
        if !kept.is_empty() {
            self.certificates.renew(self.place.source(), kept);
        }
    }

    /// Whether something is wrong with the files.
    pub fn is_troubled(&self) -> bool {
        self.troubles.any()
    }

    /// What is wrong with the files now, in one line.
    pub fn complaint(&self) -> String {
        let listed = self.certificates.listing().into_iter();
        let own = listed.filter(|listed| listed.source == self.place.source().label());
        own.map(|listed| listed.trouble).find(|trouble| !trouble.is_empty()).unwrap_or_default()
    }

    fn read(&mut self) -> Read {
        match self.place.clone() {
            Place::Files(files) => self.read_files(&files),
            Place::Folder(folder) => self.read_folder(&folder),
        }
    }

    fn read_files(&mut self, named: &TlsFiles) -> Read {
        let mut read = Read::default();
        let origin = named.certificate.display().to_string();
        match self.named_pair(named, &origin) {
            Ok(pair) => read.pairs.push(Arc::new(pair)),
            Err(trouble) => drop(read.troubles.insert(origin, trouble)),
        }
        read
    }

    fn named_pair(&mut self, named: &TlsFiles, origin: &str) -> Result<Pair, String> {
        let (certificate, key) = (named.certificate.display(), named.key.display());
        let chain =
            content(&named.certificate).map_err(|why| format!("http.tls.certificate: {certificate}: {why}"));
        let secret = content(&named.key).map_err(|why| format!("http.tls.key: {key}: {why}"));
        let ((chain, _), (secret, mode)) = (chain?, secret?);
        self.warn_of_mode(&named.key, mode);
        let of_chain = |flaw: Flaw| format!("http.tls.certificate: {certificate}: {flaw}");
        let of_key = |flaw: Flaw| format!("http.tls.key: {key}: {flaw}");
        let chain = Content::parse(&chain).map_err(of_chain)?.certificates;
        let secret = Content::parse(&secret).map_err(of_key)?.into_key().map_err(of_key)?;
        Pair::of(&chain, secret, origin).map_err(|flaw| match flaw {
            Flaw::UnusableKey => of_key(flaw),
            Flaw::Mismatch { .. } => format!("http.tls: {certificate} and {key}: {flaw}"),
            _ => of_chain(flaw),
        })
    }

    fn read_folder(&mut self, folder: &Path) -> Read {
        let mut troubles = BTreeMap::new();
        let mut contents = Vec::new();
        let mut modes = BTreeMap::new();
        let listed = names(folder);
        if let Err(error) = &listed {
            troubles.insert(folder.display().to_string(), error.to_string());
        }
        for path in listed.unwrap_or_default() {
            match content(&path) {
                Ok((bytes, mode)) => {
                    modes.insert(path.clone(), mode);
                    contents.push((path, bytes));
                }
                Err(why) => drop(troubles.insert(path.display().to_string(), why)),
            }
        }
        let mut found = assemble(contents);
        for (path, mode) in modes.into_iter().filter(|(path, _)| found.keys.contains(path)) {
            self.warn_of_mode(&path, mode);
        }
        if found.pairs.is_empty() && troubles.is_empty() && found.troubles.is_empty() {
            troubles
                .insert(folder.display().to_string(), "there is no certificate with a key in it".to_owned());
        }
        troubles.append(&mut found.troubles);
        Read { pairs: found.pairs, troubles }
    }

    fn warn_of_mode(&mut self, path: &Path, mode: u32) {
        if mode & 0o007 != 0 && self.exposed.insert(path.to_owned()) {
            tracing::warn!(path = %path.display(), "everybody on this machine can read this private key: chmod o= it");
        }
    }

    /// Offers what was read. Nothing at all is no offer: what was there is served on.
    fn offer(&mut self, read: &mut Read) -> bool {
        if read.pairs.is_empty() {
            return false;
        }
        let source = self.place.source();
        let change = self.certificates.renew(source, std::mem::take(&mut read.pairs));
        for (pair, refusal) in &change.refused {
            read.troubles.insert(pair.origin().to_owned(), refusal.to_string());
        }
        change.tell(source);
        change.is_change()
    }

    fn put_away(&mut self, troubles: &mut BTreeMap<String, String>, changed: bool) {
        let pairs = self.certificates.of(self.place.source());
        let Some(keeper) = &mut self.keeper else { return };
        if let Err(text) = keeper.keep(pairs, changed) {
            troubles.insert(self.place.path().display().to_string(), text);
        }
    }

    fn stand_in(&self) {
        let standing = self.certificates.of(Source::StandIn);
        if self.certificates.is_furnished() {
            for pair in standing {
                self.certificates.withdraw(Source::StandIn, pair.origin()).tell(Source::StandIn);
            }
        } else if self.stands_in && standing.is_empty() {
            match stand_in(&[]) {
                Ok(pair) => {
                    tracing::error!(
                        folder = %self.place.path().display(),
                        "there is no certificate: a self-signed one stands in, which clients refuse until the folder has one"
                    );
                    self.certificates.renew(Source::StandIn, vec![Arc::new(pair)]);
                }
                Err(error) => {
                    tracing::error!(%error, "there is no certificate, nor could a stand-in be made")
                }
            }
        }
    }

    /// What the files are like now.
    fn marks(&self) -> Option<Vec<Mark>> {
        let paths = match &self.place {
            Place::Files(files) => vec![files.certificate.clone(), files.key.clone()],
            Place::Folder(folder) => names(folder).ok()?,
        };
        Some(paths.into_iter().map(mark).collect())
    }
}

impl Subject for Pairs {
    fn trail(&self) -> Trail {
        let mut trail = Trail::default();
        match &self.place {
            Place::Files(files) => {
                trail.to(&files.certificate);
                trail.to(&files.key);
            }
            Place::Folder(folder) => {
                let real = trail.to(folder);
                for path in names(folder).unwrap_or_default() {
                    trail.to(&path);
                }
                if let Some(real) = real {
                    trail.all_in(real);
                }
            }
        }
        trail
    }

    fn look(&mut self, forced: bool) -> Looked {
        let marks = self.marks();
        let is_first = self.seen.is_none();
        let is_same = self.seen.as_ref() == Some(&marks);
        let is_kept = self.keeper.as_ref().is_none_or(Keeper::is_done);
        if is_same && !forced && !self.troubles.any() && is_kept {
            return Looked::Settled;
        }
        let mut read = self.read();
        let changed = self.offer(&mut read);
        self.put_away(&mut read.troubles, changed);
        self.stand_in();
        // What changed while it was read is read again.
        self.seen = Some(marks);
        self.troubles.are(read.troubles, clock::monotonic(), forced || is_first);
        let reloaded = match (self.troubles.any(), changed) {
            (_, true) => Reloaded::Changed,
            (true, false) => Reloaded::Failed,
            (false, false) => Reloaded::Same,
        };
        if !is_same || changed {
            self.metrics.reloaded(reloaded);
        }
        let is_kept = self.keeper.as_ref().is_none_or(Keeper::is_done);
        match (self.troubles.any() || !is_kept, is_same) {
            (false, _) => Looked::Settled,
            (true, false) => Looked::Unsettled,
            (true, true) => Looked::StillUnsettled,
        }
    }
}

/// The files of a folder, without hidden ones and folders.
fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)?.take(FILES_MAX) {
        let entry = entry?;
        let path = entry.path();
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        // A link that leads nowhere is listed: it will.
        if !is_hidden && fs::metadata(&path).map_or(true, |metadata| metadata.is_file()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn mark(path: PathBuf) -> Mark {
    match fs::metadata(&path) {
        Ok(found) => (
            path,
            found.dev(),
            found.ino(),
            found.size(),
            (found.mtime(), found.mtime_nsec()),
            (found.ctime(), found.ctime_nsec()),
            found.mode(),
        ),
        Err(_) => (path, 0, 0, 0, (0, 0), (0, 0), 0),
    }
}

/// A file's bytes and mode, or why there are none.
pub fn content(path: &Path) -> Result<(Vec<u8>, u32), String> {
    match files::read_steady(path, FILE_BYTES_MAX) {
        Ok(Steady::Whole(bytes, mode)) => Ok((bytes, mode)),
        Ok(Steady::TooLarge) => Err(format!("it has more than {FILE_BYTES_MAX} bytes")),
        Ok(Steady::Changing) => Err("it is being written".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
