//! Pins: what is kept, whatever the budget.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::engine::{Engine, Repository};
use crate::index::{Batch, PIN_BYTES_MAX, TagRow};
use crate::registry::{Digest, Pattern, RepositoryName, Tag};

/// Most pins.
const PINS_MAX: usize = 1_000;

/// Most tags that one pin of a pattern holds, over all its repositories (about 7 MB).
const TAGS_MAX: usize = 100_000;

/// Repositories and tags read at a time.
const PAGE_ROWS: usize = 1_000;

/// What is pinned. With a manifest stays all that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// `sha256:…`: a manifest or a blob.
    Digest(Digest),
    /// `library/alpine:3`: what the tag points at, wherever it moves.
    Tag(RepositoryName, Tag),
    /// `library/*`: all tags of the repositories that fit.
    Repositories(Pattern),
}

/// The text is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Neither of the three.
    #[error("a pin is a digest, a repository with a tag, or a pattern of repositories, such as library/*")]
    Malformed,
    /// There are [`PINS_MAX`].
    #[error("there are {PINS_MAX} pins, and no more are kept")]
    TooMany,
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        if text.len() > PIN_BYTES_MAX {
            return Err(PinError::Malformed);
        }
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        match text.rsplit_once(':') {
            Some((name, tag)) => match (name.parse(), tag.parse()) {
                (Ok(name), Ok(tag)) => Ok(Self::Tag(name, tag)),
                _ => Err(PinError::Malformed),
            },
            None => Pattern::parse(text).map(Self::Repositories).map_err(|_| PinError::Malformed),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Tag(name, tag) => write!(f, "{name}:{tag}"),
            Self::Repositories(pattern) => f.write_str(pattern.as_str()),
        }
    }
}

impl Engine {
    /// Keeps something from now on; it need not be held yet. Names are taken as in a request, so `alpine:3` of Docker
    /// Hub is `library/alpine:3`. Says what was pinned.
    pub fn pin(&self, text: &str) -> Result<Pin, PinError> {
        let pin = self.pin_of(text)?;
        if self.pins().len() >= PINS_MAX {
            return Err(PinError::TooMany);
        }
        self.index.apply(Batch::new().put_pin(&pin.to_string()));
        Ok(pin)
    }

    /// Does not keep something any longer. Whether it was pinned.
    pub fn unpin(&self, text: &str) -> Result<bool, PinError> {
        let pin = self.pin_of(text)?;
        let was = self.pins().contains(&pin);
        self.index.apply(Batch::new().remove_pin(&pin.to_string()));
        Ok(was)
    }

    /// All pins.
    pub fn pins(&self) -> Vec<Pin> {
        self.index.pins(PINS_MAX).iter().filter_map(|text| text.parse().ok()).collect()
    }

    fn pin_of(&self, text: &str) -> Result<Pin, PinError> {
        Ok(match text.parse()? {
            Pin::Tag(name, tag) => Pin::Tag(self.pinned_repository(name).name, tag),
            other => other,
        })
    }

    fn pinned_repository(&self, name: RepositoryName) -> Repository {
        self.naming.resolve(None, &name).unwrap_or_else(|_| self.naming.known(name))
    }

    /// What the pins name now. What these lead to is known from the index. Reads the disk.
    pub(super) fn pinned(&self) -> HashSet<Digest> {
        let mut pinned = HashSet::new();
        for pin in self.pins() {
            match pin {
                Pin::Digest(digest) => {
                    pinned.insert(digest);
                }
                Pin::Tag(name, tag) => self.add_tag(&self.naming.known(name), &tag, &mut pinned),
                Pin::Repositories(pattern) => self.add_repositories(&pattern, &mut pinned),
            }
        }
        pinned
    }

    fn add_tag(&self, repository: &Repository, tag: &Tag, pinned: &mut HashSet<Digest>) {
        match self.index.tag(&repository.key, tag) {
            Some(TagRow { digest, before, .. }) => {
                pinned.insert(digest);
                pinned.extend(before.map(|before| before.digest));
            }
            // In a volume that another program filled and nobody asked yet.
            None => pinned.extend(self.store.read_tag(&repository.name, tag)),
        }
    }

    fn add_repositories(&self, pattern: &Pattern, pinned: &mut HashSet<Digest>) {
        let (mut after, mut tags) = (None::<String>, 0);
        loop {
            let names = self.index.repositories(self.naming.upstream(), after.as_deref(), PAGE_ROWS);
            let Some(last) = names.last() else { return };
            after = Some(last.to_string());
            for name in names.into_iter().filter(|name| pattern.matches(name)) {
                let repository = self.naming.known(name);
                let found = self.index.tags(&repository.key, None, TAGS_MAX - tags);
                found.iter().for_each(|tag| self.add_tag(&repository, tag, pinned));
                tags += found.len();
                if tags >= TAGS_MAX {
                    tracing::warn!(pin = pattern.as_str(), TAGS_MAX, "a pin holds no more tags than this");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let pin = text.parse::<Pin>().unwrap();
        let kind = match pin {
            Pin::Digest(_) => "digest",
            Pin::Tag(..) => "tag",
            Pin::Repositories(_) => "repositories",
        };
        assert_eq!((kind, pin.to_string().as_str()), (expected, text));
    }

    #[test]
    fn there_are_three_kinds() {
        check(&Digest::sha256(b"").to_string(), "digest");
        check("library/alpine:3", "tag");
        check("alpine:3.20_x", "tag");
        check("library/*", "repositories");
        check("library/alpine", "repositories");
        check("**", "repositories");
        let long = "a".repeat(PIN_BYTES_MAX + 1);
        for bad in ["", ":", "a:", ":a", "A:1", "library/*:3", "sha256:abc/", "a b", "a:-", &long] {
            assert_eq!(bad.parse::<Pin>(), Err(PinError::Malformed), "{bad}");
        }
    }
}
