//! What is served, for people and for the metrics.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Certificates, Source, now};
use crate::sys::sync::lock;

/// What a source says of an origin besides its pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// When it will be renewed, in seconds since 1970, by whoever does that here.
    pub next_renewal: Option<i64>,
    /// What went wrong last.
    pub trouble: Option<String>,
}

/// A pair, or an origin that gave none, as `tidegate cert show` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The names it is for.
    pub names: Vec<String>,
    /// [`Source::label`].
    pub source: String,
    /// Where it comes from.
    pub origin: String,
    /// What its key signs with; empty if there is no pair.
    pub key: String,
    /// From when it is valid, RFC 3339.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
    /// The same in seconds since 1970; 0 if there is no pair.
    pub not_after_seconds: i64,
    /// Whether it is valid now.
    pub valid: bool,
    /// Whether less than a quarter of its life is left.
    pub old: bool,
    /// Whether its issuer's certificate is there.
    pub complete: bool,
    /// Whether some client gets it.
    pub in_use: bool,
    /// Whether nobody offers it any more.
    pub retained: bool,
    /// The SHA-256 of the certificate.
    pub fingerprint: String,
    /// When it will be renewed here, RFC 3339; empty if nobody here does.
    pub next_renewal: String,
    /// What went wrong last; empty for nothing.
    pub trouble: String,
}

impl Certificates {
    /// Says what a source knows of an origin besides its pair.
    pub fn foresee(&self, source: Source, origin: &str, outlook: Outlook) {
        let mut outlooks = lock(&self.0.outlooks);
        if outlook == Outlook::default() {
            outlooks.remove(&(source, origin.to_owned()));
        } else if outlooks.len() < super::PAIRS_MAX {
            outlooks.insert((source, origin.to_owned()), outlook);
        }
    }

    /// All that is served, in order of precedence, and the origins that gave nothing with their troubles.
    pub fn listing(&self) -> Vec<Listed> {
        let mut held = lock(&self.0.held).clone();
        held.sort_by_key(|held| (held.source, held.retained, held.pair.origin().to_owned()));
        let outlooks = lock(&self.0.outlooks).clone();
        let table = self.0.table.load();
        let in_use = table.in_use(now());
        let mut seen = BTreeSet::new();
        let mut listed = Vec::new();
        for held in &held {
            let key = (held.source, held.pair.origin().to_owned());
            let outlook = outlooks.get(&key).cloned().unwrap_or_default();
            seen.insert(key);
            let pair = &held.pair;
            listed.push(Listed {
                names: pair.names().to_vec(),
                source: held.source.label().to_owned(),
                origin: pair.origin().to_owned(),
                key: pair.kind().label().to_owned(),
                not_before: stamp(pair.not_before()),
                not_after: stamp(pair.not_after()),
                not_after_seconds: pair.not_after(),
                valid: pair.is_valid(now()),
                old: pair.is_old(now()),
                complete: pair.is_complete(),
                in_use: in_use.contains(pair.fingerprint()),
                retained: held.retained,
                fingerprint: pair.fingerprint().to_owned(),
                next_renewal: outlook.next_renewal.map(stamp).unwrap_or_default(),
                trouble: outlook.trouble.unwrap_or_default(),
            });
        }
        let barren = outlooks.into_iter().filter(|(key, _)| !seen.contains(key));
        listed.extend(barren.map(|((source, origin), outlook)| Listed::barren(source, origin, outlook)));
        listed
    }
}

impl Listed {
    /// What somebody should know who looks after this mirror; `None` if all is well.
    pub fn alarm(&self) -> Option<String> {
        let until = &self.not_after;
        if !self.trouble.is_empty() {
            Some(self.trouble.clone())
        } else if self.in_use && self.source == Source::StandIn.label() {
            Some("it is self-signed, and clients refuse it".to_owned())
        } else if self.in_use && !self.valid {
            Some(format!("it is not valid now (from {} until {until})", self.not_before))
        } else if self.in_use && self.old {
            Some(format!("less than a quarter of its life is left: it ends {until}"))
        } else {
            None
        }
    }

    /// An origin without a pair.
    fn barren(source: Source, origin: String, outlook: Outlook) -> Self {
        Self {
            names: Vec::new(),
            source: source.label().to_owned(),
            origin,
            key: String::new(),
            not_before: String::new(),
            not_after: String::new(),
            not_after_seconds: 0,
            valid: false,
            old: false,
            complete: false,
            in_use: false,
            retained: false,
            fingerprint: String::new(),
            next_renewal: outlook.next_renewal.map(stamp).unwrap_or_default(),
            trouble: outlook.trouble.unwrap_or_default(),
        }
    }
}

/// RFC 3339.
pub fn stamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}
