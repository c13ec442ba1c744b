//! What may be answered. Knows what the Hub has, what was given out whole, and whether there is trouble.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use super::operation::{Place, Trouble, Verb};
use crate::support::pull::Answer;

/// Whether an answer was in order, and if not, what was wrong with it.
pub type Judgement = Result<(), String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Manifest,
    Blob,
}

/// A manifest or blob of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub kind: Kind,
    pub repository: &'static str,
    pub digest: String,
}

#[derive(Debug)]
struct Thing {
    bytes: Bytes,
    /// It was given out whole: from now on it must be.
    held: bool,
}

#[derive(Debug, Default)]
struct Tagged {
    now: Option<String>,
    /// Where it ever pointed.
    ever: HashSet<String>,
    /// It was given out whole.
    held: bool,
}

#[derive(Debug, Default)]
pub struct Rules {
    things: HashMap<Key, Thing>,
    order: Vec<Key>,
    tags: HashMap<Place, Tagged>,
    trouble: Option<Trouble>,
    /// There was trouble since the start: the mirror may go on giving out what is stale for some seconds.
    shaken: bool,
    /// Blobs whose transfer may go on although nobody reads it.
    loose: HashSet<String>,
    /// Blobs that were on their way in trouble, or came wrong: they may be refused for a minute.
    doubtful: HashSet<String>,
}

/// What happens at the Hub and to the process.
impl Rules {
    pub fn add(&mut self, kind: Kind, repository: &'static str, digest: &str, bytes: Bytes) {
        let key = Key { kind, repository, digest: digest.to_owned() };
        if !self.things.contains_key(&key) {
            self.order.push(key.clone());
            self.things.insert(key, Thing { bytes, held: false });
        }
    }

    pub fn point(&mut self, place: Place, digest: &str) {
        let tagged = self.tags.entry(place).or_default();
        tagged.now = Some(digest.to_owned());
        tagged.ever.insert(digest.to_owned());
    }

    pub fn untag(&mut self, place: Place) {
        self.tags.entry(place).or_default().now = None;
    }

    pub fn trouble(&mut self, trouble: Option<Trouble>) {
        self.trouble = trouble;
        if trouble.is_some() {
            self.shaken = true;
            self.doubtful.extend(self.loose.drain());
        }
    }

    /// The upstream took as long as a mirror waits: on a busy machine that is trouble, too.
    pub fn slow(&mut self) {
        self.shaken = true;
    }

    pub fn has_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// A new process remembers no trouble, and carries nothing.
    pub fn restarted(&mut self) {
        self.shaken = self.trouble.is_some();
        self.loose.clear();
        self.doubtful.clear();
    }

    /// What was not published is lost with the process.
    pub fn lose(&mut self, is_published: impl Fn(&Key) -> bool, is_tag_published: impl Fn(Place) -> bool) {
        self.things.iter_mut().for_each(|(key, thing)| thing.held &= is_published(key));
        self.tags.iter_mut().for_each(|(place, tagged)| tagged.held &= is_tag_published(*place));
    }

    /// All that the Hub has of a kind in a repository, oldest first.
    pub fn of(&self, kind: Kind, repository: &str) -> Vec<&Key> {
        self.order.iter().filter(|key| key.kind == kind && key.repository == repository).collect()
    }

    pub fn bytes(&self, key: &Key) -> Option<&Bytes> {
        self.things.get(key).map(|thing| &thing.bytes)
    }

    fn is_held(&self, key: &Key) -> bool {
        self.things.get(key).is_some_and(|thing| thing.held)
    }

    fn is_uneasy(&self, key: &Key) -> bool {
        self.trouble.is_some() || self.doubtful.contains(&key.digest)
    }
}

/// What clients get.
impl Rules {
    /// A tag; gives the digest that it led to, if any.
    pub fn tag(&mut self, place: Place, verb: Verb, answer: &Answer) -> Result<Option<String>, String> {
        let tagged = self.tags.entry(place).or_default();
        let moving = self.trouble.is_some() || self.shaken || tagged.now.is_none();
        let statuses: &[u16] = match (&tagged.now, self.trouble) {
            _ if tagged.held => &[200],
            (Some(_), None) => &[200],
            (Some(_), Some(_)) => &[200, 503],
            (None, None) => &[200, 404],
            (None, Some(_)) => &[200, 404, 503],
        };
        expect(statuses.contains(&answer.status), || {
            format!("a tag gets {}, not {statuses:?}", answer.status)
        })?;
        if answer.status != 200 {
            return Ok(None);
        }
        let digest = answer.header("docker-content-digest").to_owned();
        let outcome = answer.header("cache-status");
        let stale = outcome.contains("detail=stale-");
        // A tag that was only ever asked for by HEAD: its manifest comes from the upstream just now.
        let fetched = outcome.contains("fwd=uri-miss");
        let current = tagged.now.as_ref() == Some(&digest);
        expect(current || moving && tagged.ever.contains(&digest), || format!("{digest}: not this tag's"))?;
        expect(current || stale || fetched, || format!("{digest} is old, and the answer does not say so"))?;
        expect(moving || !stale, || "stale without trouble".into())?;
        tagged.held |= verb == Verb::Get;
        let key = Key { kind: Kind::Manifest, repository: place.repository, digest: digest.clone() };
        self.whole(&key, verb, answer)?;
        Ok(Some(digest))
    }

    /// A manifest by digest, or a blob.
    pub fn thing(&mut self, key: &Key, verb: Verb, answer: &Answer) -> Judgement {
        self.status(key, answer, 200)?;
        match answer.status {
            200 if verb == Verb::Get && !answer.whole => self.cut(key, answer),
            200 => self.whole(key, verb, answer),
            _ => {
                self.asked_in_trouble(key);
                Ok(())
            }
        }
    }

    /// A part of a blob.
    pub fn part(&mut self, key: &Key, range: Range<usize>, answer: &Answer) -> Judgement {
        self.begun(key);
        self.status(key, answer, 206)?;
        let Some(bytes) = self.bytes(key).filter(|_| answer.status == 206) else { return Ok(()) };
        let right = bytes.slice(range);
        // What was fetched for a part is checked by the transport alone until the blob is whole.
        let unchecked = self.is_uneasy(key) && !self.is_held(key);
        expect(answer.whole || unchecked, || "a part is cut without trouble".into())?;
        expect(!answer.whole || answer.body.len() == right.len(), || "a part of another length".into())?;
        expect(unchecked || answer.body == right, || "a part has wrong bytes".into())
    }

    /// The first bytes for a client that leaves then.
    pub fn left(&mut self, key: &Key, answer: &Answer) -> Judgement {
        self.begun(key);
        self.status(key, answer, 200)?;
        let Some(bytes) = self.bytes(key).filter(|_| answer.status == 200) else { return Ok(()) };
        expect(bytes.starts_with(&answer.body), || "the first bytes are wrong".into())
    }

    fn status(&self, key: &Key, answer: &Answer, success: u16) -> Judgement {
        let refusal = if key.kind == Kind::Manifest { 503 } else { 429 };
        let statuses = match (self.things.get(key), self.is_uneasy(key)) {
            (Some(thing), uneasy) if thing.held || !uneasy => [success, success],
            (Some(_), _) => [success, refusal],
            (None, false) => [404, 404],
            (None, true) => [404, refusal],
        };
        expect(statuses.contains(&answer.status), || {
            format!("{key:?} gets {} {}, not {statuses:?}", answer.status, answer.header("cache-status"))
        })
    }

    fn whole(&mut self, key: &Key, verb: Verb, answer: &Answer) -> Judgement {
        let Some(thing) = self.things.get_mut(key) else { return Err(format!("{key:?} does not exist")) };
        let length = thing.bytes.len().to_string();
        expect(answer.header("content-length") == length, || format!("{key:?} has another length"))?;
        if verb == Verb::Head {
            return expect(answer.body.is_empty(), || format!("{key:?}: a HEAD with a body"));
        }
        expect(answer.whole && answer.body == thing.bytes, || format!("{key:?}: the body is not that"))?;
        thing.held = true;
        self.loose.remove(&key.digest);
        self.doubtful.remove(&key.digest);
        Ok(())
    }

    fn cut(&mut self, key: &Key, answer: &Answer) -> Judgement {
        expect(self.is_uneasy(key) && !self.is_held(key), || format!("{key:?} is cut"))?;
        let right = self.bytes(key).is_some_and(|bytes| bytes.starts_with(&answer.body));
        expect(right, || format!("{key:?}: what is cut was wrong before"))?;
        self.asked_in_trouble(key);
        Ok(())
    }

    /// Its transfer may go on.
    fn begun(&mut self, key: &Key) {
        let set = if self.trouble.is_some() { &mut self.doubtful } else { &mut self.loose };
        set.insert(key.digest.clone());
    }

    /// Wrong bytes of a blob are not asked for again at once.
    fn asked_in_trouble(&mut self, key: &Key) {
        if self.trouble == Some(Trouble::Wrong) && key.kind == Kind::Blob {
            self.doubtful.insert(key.digest.clone());
        }
    }
}

pub fn expect(right: bool, wrong: impl FnOnce() -> String) -> Judgement {
    if right { Ok(()) } else { Err(wrong()) }
}

/// The rules bite: each of these answers breaks one.
mod bites {
    use super::*;
    use crate::support::hub::pattern;
    use tidegate::registry::Digest;

    const PLACE: Place = Place { repository: "library/one", tag: "1" };

    fn answer(status: u16, body: Bytes, outcome: &'static str) -> Answer {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-length", body.len().into());
        headers.insert("docker-content-digest", Digest::sha256(&body).to_string().parse().unwrap());
        headers.insert("cache-status", outcome.parse().unwrap());
        Answer { status, headers, body, whole: true }
    }

    /// A Hub with a blob; and one tag that moved from a manifest to another.
    fn rules() -> (Rules, Key, [Bytes; 2]) {
        let mut rules = Rules::default();
        let manifests = [pattern(0, 100), pattern(8, 108)];
        for bytes in &manifests {
            let digest = Digest::sha256(bytes).to_string();
            rules.add(Kind::Manifest, PLACE.repository, &digest, bytes.clone());
            rules.point(PLACE, &digest);
        }
        let (blob, digest) = (pattern(0, 1000), Digest::sha256(&pattern(0, 1000)).to_string());
        rules.add(Kind::Blob, PLACE.repository, &digest, blob);
        (rules, Key { kind: Kind::Blob, repository: PLACE.repository, digest }, manifests)
    }

    #[test]
    fn on_wrong_bytes_whatever_the_trouble() {
        for trouble in [None, Some(Trouble::Wrong)] {
            let (mut rules, key, _) = rules();
            rules.trouble(trouble);
            assert!(rules.thing(&key, Verb::Get, &answer(200, pattern(8, 1008), "")).is_err());
            let cut = Answer { whole: false, ..answer(200, pattern(8, 100), "") };
            assert!(rules.thing(&key, Verb::Get, &cut).is_err());
        }
    }

    #[test]
    fn on_a_cut_or_a_refusal_without_trouble() {
        let (mut rules, key, _) = rules();
        let cut = Answer { whole: false, ..answer(200, pattern(0, 800), "") };
        let refused = answer(429, Bytes::new(), "");
        assert!(
            rules.thing(&key, Verb::Get, &cut).is_err() && rules.thing(&key, Verb::Get, &refused).is_err()
        );
        rules.trouble(Some(Trouble::Cut));
        assert!(rules.thing(&key, Verb::Get, &cut).is_ok() && rules.thing(&key, Verb::Get, &refused).is_ok());
        rules.trouble(None);
        assert!(rules.thing(&key, Verb::Get, &refused).is_err());
    }

    #[test]
    fn on_the_loss_of_what_was_given_out_whole() {
        let (mut rules, key, _) = rules();
        assert!(rules.thing(&key, Verb::Get, &answer(200, pattern(0, 1000), "")).is_ok());
        rules.trouble(Some(Trouble::Down));
        let refused = answer(429, Bytes::new(), "");
        assert!(rules.thing(&key, Verb::Get, &refused).is_err());
        rules.lose(|_| false, |_| false);
        assert!(rules.thing(&key, Verb::Get, &refused).is_ok());
    }

    #[test]
    fn on_an_old_tag_without_trouble_or_without_a_word() {
        let (mut rules, _, [old, new]) = rules();
        let stale = "tidegate; hit; ttl=-1; detail=stale-down";
        assert!(rules.tag(PLACE, Verb::Get, &answer(200, old.clone(), stale)).is_err());
        assert!(rules.tag(PLACE, Verb::Get, &answer(200, new, "tidegate; hit")).is_ok());
        rules.trouble(Some(Trouble::Down));
        assert!(rules.tag(PLACE, Verb::Get, &answer(200, old.clone(), "tidegate; hit")).is_err());
        assert!(rules.tag(PLACE, Verb::Get, &answer(200, old, stale)).is_ok());
        assert!(rules.tag(PLACE, Verb::Get, &answer(200, pattern(16, 116), stale)).is_err());
    }

    #[test]
    fn on_what_another_repository_has() {
        let (mut rules, key, _) = rules();
        let foreign = Key { repository: "library/two", ..key };
        assert!(rules.thing(&foreign, Verb::Get, &answer(200, pattern(0, 1000), "tidegate; hit")).is_err());
        assert!(rules.thing(&foreign, Verb::Get, &answer(404, Bytes::new(), "")).is_ok());
    }
}
