//! What may be answered.

use std::collections::{HashMap, HashSet};

use super::operation::Range;
use super::world::{World, place};
use crate::support::pull::Answer;
use crate::support::volume::{Place, Volume};

/// What the model knows of the mirror.
pub struct Mind {
    /// Whether tags stay fresh for a while, and absences known.
    fresh: bool,
    negative: bool,
    /// What must be given out from now on, whatever becomes of the upstream.
    owed: Owed,
    /// The same as of the last stop that was none of `kill -9`.
    durable: Owed,
    /// A fault came to pass since the start: the upstream may count as not worth asking for seconds.
    clouded: bool,
    /// Digests whose transfers met a fault since the start.
    tainted: HashSet<String>,
    /// What was absent at some time since the start.
    absent: HashSet<Place>,
}

#[derive(Debug, Clone, Default)]
struct Owed {
    /// By repository and digest.
    held: HashSet<Place>,
    /// By repository and tag: the oldest target that it may lead to, as a place in its history.
    tags: HashMap<Place, usize>,
}

/// A question to the mirror, and what came of it.
pub struct Exchange<'a> {
    pub world: &'a World,
    pub repository: &'a str,
    pub head: bool,
    pub answer: &'a Answer,
    /// A fault that was ordered came to pass meanwhile.
    pub faulty: bool,
}

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    Cut,
    Refused,
}

impl Mind {
    pub fn new(fresh: bool, negative: bool) -> Self {
        Self {
            fresh,
            negative,
            owed: Owed::default(),
            durable: Owed::default(),
            clouded: false,
            tainted: HashSet::new(),
            absent: HashSet::new(),
        }
    }

    /// A transfer was begun, and left to itself, while the upstream was in trouble.
    pub fn taint(&mut self, digest: &str) {
        self.tainted.insert(digest.to_owned());
    }

    /// Faults came to pass.
    pub fn cloud(&mut self) {
        self.clouded = true;
    }

    /// The process ended by a signal that lets it end what is under way.
    pub fn stopped(&mut self, volume: &Volume) {
        for (repository, digest) in &self.owed.held {
            assert!(
                volume.blobs.contains(digest),
                "{digest} of {repository} was given out and is not stored"
            );
        }
        self.durable = self.owed.clone();
        self.forget();
    }

    /// The process was killed: what was published by then is owed.
    pub fn killed(&mut self, world: &World, volume: &Volume) {
        self.owed.held.retain(|place| self.durable.held.contains(place) || volume.has(place));
        let published = |tag: &Place| {
            volume.tags.get(tag).is_some_and(|digest| volume.has(&place(&tag.0, digest))).then_some(0)
        };
        let tags = world.tags.keys();
        let owed = tags.filter_map(|tag| {
            let oldest = self.durable.tags.get(tag).copied().or_else(|| published(tag))?;
            Some((tag.clone(), oldest))
        });
        self.owed.tags = owed.collect();
        self.forget();
    }

    fn forget(&mut self) {
        self.clouded = false;
        self.tainted.clear();
        self.absent.clear();
    }

    /// All that is owed: repository, and tag or digest.
    pub fn owed(&self) -> (Vec<Place>, Vec<Place>) {
        (self.owed.tags.keys().cloned().collect(), self.owed.held.iter().cloned().collect())
    }

    /// A manifest by tag.
    pub fn tag(&mut self, tag: &str, exchange: &Exchange<'_>) -> Verdict {
        let key = place(exchange.repository, tag);
        let (history, present) = &exchange.world.tags[&key];
        let there = *present && !exchange.world.is_hidden(exchange.repository);
        let owed = self.owed.tags.get(&key).copied();
        if exchange.answer.status != 200 {
            assert!(owed.is_none(), "the tag {key:?} was given out before");
            return self.refused(&key, there, 503, "MANIFEST_UNKNOWN", exchange);
        }
        let digest = exchange.answer.header("docker-content-digest").to_owned();
        exchange.check_document(&digest);
        let strict = there && !self.fresh && !self.clouded && !exchange.faulty;
        let oldest = if strict { history.len() - 1 } else { owed.unwrap_or(0) };
        let found = history[oldest..].iter().rposition(|target| *target == digest);
        let found =
            found.unwrap_or_else(|| panic!("{key:?} leads to {digest}, not to {:?}", &history[oldest..]));
        if !exchange.head {
            self.owed.tags.insert(key, oldest + found);
            self.owed.held.insert(place(exchange.repository, &digest));
        }
        Verdict::Whole
    }

    /// A manifest by digest.
    pub fn manifest(&mut self, digest: &str, exchange: &Exchange<'_>) -> Verdict {
        let key = place(exchange.repository, digest);
        if exchange.answer.status != 200 {
            assert!(!self.owed.held.contains(&key), "the manifest {key:?} was given out before");
            return self.refused(&key, exchange.is_there(digest), 503, "MANIFEST_UNKNOWN", exchange);
        }
        exchange.check_right(digest);
        assert_eq!(exchange.answer.header("docker-content-digest"), digest);
        exchange.check_document(digest);
        if !exchange.head {
            self.owed.held.insert(key);
        }
        Verdict::Whole
    }

    /// A blob, whole.
    pub fn blob(&mut self, digest: &str, exchange: &Exchange<'_>) -> Verdict {
        let key = place(exchange.repository, digest);
        let answer = exchange.answer;
        if answer.status != 200 {
            return self.no_blob(digest, exchange);
        }
        exchange.check_right(digest);
        let content = &exchange.world.content[digest];
        // Of what is not held, a HEAD can but repeat what the upstream says.
        let hearsay = exchange.head && exchange.faulty && !self.owed.held.contains(&key);
        let length = content.len().to_string();
        assert!(hearsay || answer.header("content-length") == length, "another length: {:?}", answer.headers);
        if exchange.head {
            assert!(answer.body.is_empty());
            return Verdict::Whole;
        }
        if answer.whole {
            assert!(answer.body == content, "a complete 200 for {digest} has other bytes");
            self.tainted.remove(digest);
            self.owed.held.insert(key);
            return Verdict::Whole;
        }
        assert!(content.starts_with(&answer.body), "a cut 200 for {digest} has other bytes");
        self.excused_cut(digest, exchange);
        Verdict::Cut
    }

    /// A part of a blob.
    pub fn range(&mut self, digest: &str, range: Range, exchange: &Exchange<'_>) -> Verdict {
        let (content, answer) = (&exchange.world.content[digest], exchange.answer);
        let size = content.len() as u64;
        match (answer.status, range.within(size)) {
            (200, _) => self.blob(digest, exchange),
            (206, Some((first, end))) => {
                exchange.check_right(digest);
                let expected = format!("bytes {first}-{}/{size}", end - 1);
                assert_eq!(answer.header("content-range"), expected, "{range:?}");
                let part = &content[first as usize..end as usize];
                if answer.whole {
                    // Out of a transfer under way it is checked by its transport alone.
                    let right = answer.body == part || exchange.faulty || self.tainted.contains(digest);
                    assert!(
                        right && answer.body.len() == part.len(),
                        "{range:?} of {digest} has other bytes"
                    );
                    return Verdict::Whole;
                }
                self.excused_cut(digest, exchange);
                Verdict::Cut
            }
            (416, None) => Verdict::Whole,
            _ => self.no_blob(digest, exchange),
        }
    }

    fn no_blob(&mut self, digest: &str, exchange: &Exchange<'_>) -> Verdict {
        let key = place(exchange.repository, digest);
        assert!(!self.owed.held.contains(&key), "the blob {key:?} was given out before");
        let verdict = self.refused(&key, exchange.is_there(digest), 429, "BLOB_UNKNOWN", exchange);
        if exchange.faulty {
            self.taint(digest);
        }
        verdict
    }

    /// What is held is never cut, and what is not only by a fault.
    fn excused_cut(&mut self, digest: &str, exchange: &Exchange<'_>) {
        let held = self.owed.held.contains(&place(exchange.repository, digest));
        assert!(!held, "{digest} was cut, and had been given out before");
        assert!(exchange.faulty || self.tainted.contains(digest), "{digest} was cut without a fault");
        self.taint(digest);
    }

    /// A refusal has the status and the code of its reason, and a reason.
    fn refused(
        &mut self,
        key: &Place,
        there: bool,
        busy: u16,
        unknown: &str,
        exchange: &Exchange<'_>,
    ) -> Verdict {
        let answer = exchange.answer;
        if !there {
            self.absent.insert(key.clone());
        }
        match answer.status {
            404 => {
                let remembered = self.negative && self.absent.contains(key);
                assert!(!there || remembered, "{key:?} is at the upstream, and was said not to exist");
            }
            status => {
                assert_eq!(status, busy, "{key:?}: {:?}", answer.body);
                let excused = exchange.faulty || self.tainted.contains(&key.1);
                assert!(excused, "{key:?} was refused without a fault: {:?}", answer.body);
                assert!(!answer.header("retry-after").is_empty());
            }
        }
        if !exchange.head {
            let code = if answer.status == 404 {
                unknown
            } else if busy == 503 {
                "UNAVAILABLE"
            } else {
                "TOOMANYREQUESTS"
            };
            assert_eq!(answer.code(), code, "{key:?}");
        }
        Verdict::Refused
    }
}

impl Exchange<'_> {
    fn is_there(&self, digest: &str) -> bool {
        self.world.belongs(self.repository, digest) && !self.world.is_hidden(self.repository)
    }

    /// A digest is no permission.
    fn check_right(&self, digest: &str) {
        assert!(self.world.belongs(self.repository, digest), "{digest} was never in {}", self.repository);
    }

    fn check_document(&self, digest: &str) {
        let content = &self.world.content[digest];
        assert_eq!(self.answer.header("content-length"), content.len().to_string());
        assert_eq!(self.answer.header("content-type"), crate::support::image::OCI.manifest);
        assert!(self.answer.whole, "a manifest was cut");
        assert!(self.head || self.answer.body == content, "the manifest {digest} has other bytes");
    }
}
