//! Which pair a client gets: pure, given the name it asks for, what it can verify, and the time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rustls::SignatureScheme;

use super::{Held, KeyKind, Pair, Source};

/// One snapshot of all that can be served.
#[derive(Debug, Default)]
pub struct Table {
    /// In order of preference.
    all: Vec<(Source, Arc<Pair>)>,
    /// Places in `all`, by exact name; wildcards as `*.example.org`.
    by_name: HashMap<String, Vec<usize>>,
    strict: bool,
    /// Changes whenever a name loses its certificate: sessions that were made before must not be resumed.
    pub(super) generation: u64,
}

impl Table {
    /// Orders what is held. With `strict`, who asks for no name, or for one that nobody has, is refused.
    pub(super) fn new(held: &[Held], strict: bool, generation: u64) -> Self {
        let mut held: Vec<&Held> = held.iter().collect();
        held.sort_by_key(|held| {
            let pair = &held.pair;
            // What was once in the files comes after what is in them now.
            // The certificate of a CA, or one whose issuer is missing, is what many clients refuse.
            let doubtful = (pair.is_authority(), !pair.is_complete());
            let newest_first = std::cmp::Reverse(pair.not_before());
            (held.source, held.retained, doubtful, pair.kind(), newest_first, pair.origin().to_owned())
        });
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, held) in held.iter().enumerate() {
            for name in held.pair.names() {
                by_name.entry(name.clone()).or_default().push(place);
            }
        }
        let all = held.iter().map(|held| (held.source, Arc::clone(&held.pair))).collect();
        Self { all, by_name, strict, generation }
    }

    /// The pair for a client that asks for a name and can verify signatures of these schemes.
    pub fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme], now: i64) -> Option<&Arc<Pair>> {
        let named = name.and_then(|name| self.places(name));
        match (named, name) {
            (Some(places), _) => self.best(places.iter().copied(), schemes, now),
            (None, _) if self.strict => None,
            (None, None) => {
                let addressed = (0..self.all.len())
                    .filter(|place| self.all.get(*place).is_some_and(|(_, pair)| pair.has_address()));
                self.best(addressed, schemes, now).or_else(|| self.best(0..self.all.len(), schemes, now))
            }
            (None, Some(_)) => self.best(0..self.all.len(), schemes, now),
        }
    }

    /// The fingerprints of the pairs that somebody gets: for each name, the best of each kind of key.
    pub(super) fn in_use(&self, now: i64) -> BTreeSet<&str> {
        let kinds = [KeyKind::Ecdsa, KeyKind::Rsa, KeyKind::Ed25519];
        let everybody: Vec<usize> = (0..self.all.len()).collect();
        let mut in_use = BTreeSet::new();
        for places in self.by_name.values().chain([&everybody]) {
            for kind in kinds {
                let of_kind = places.iter().filter_map(|place| self.all.get(*place));
                let of_kind = of_kind.filter(|(_, pair)| pair.kind() == kind);
                in_use.extend(best(of_kind, now).map(|pair| pair.fingerprint()));
            }
        }
        in_use
    }

    fn places(&self, name: &str) -> Option<&[usize]> {
        let exact = self.by_name.get(name.trim_end_matches('.'));
        let wildcard = || {
            // One label exactly (RFC 6125 6.4.3).
            let (_, parent) = name.trim_end_matches('.').split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        exact.or_else(wildcard).map(Vec::as_slice)
    }

    /// The best that suits the client.
    fn best(
        &self,
        places: impl Iterator<Item = usize>,
        schemes: &[SignatureScheme],
        now: i64,
    ) -> Option<&Arc<Pair>> {
        let all = places.filter_map(|place| self.all.get(place));
        best(all.filter(|(_, pair)| pair.certified().key.choose_scheme(schemes).is_some()), now)
    }
}

/// The first that is valid, else the first; a stand-in only if there is nothing else.
fn best<'a>(all: impl Iterator<Item = &'a (Source, Arc<Pair>)>, now: i64) -> Option<&'a Arc<Pair>> {
    let best = all.min_by_key(|(source, pair)| (*source == Source::StandIn, !pair.is_valid(now)));
    best.map(|(_, pair)| pair)
}
