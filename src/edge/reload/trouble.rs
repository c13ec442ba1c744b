//! What is wrong with the files of a source: one line for each distinct trouble, once it has lasted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::edge::certificates::{Certificates, Outlook, Source};

/// How long a trouble may last before it is told: writers need a moment between a certificate and its key.
const TROUBLE_WAIT: Duration = Duration::from_secs(2);

/// Most troubles that are told of one source; a folder of other things must not flood the log.
const TROUBLES_MAX: usize = 64;

/// The troubles of a source.
pub struct Troubles {
    source: Source,
    certificates: Certificates,
    known: BTreeMap<String, Known>,
}

struct Known {
    text: String,
    since: Instant,
    told: bool,
}

impl Troubles {
    /// None yet.
    pub fn new(source: Source, certificates: Certificates) -> Self {
        Self { source, certificates, known: BTreeMap::new() }
    }

    /// These are all there are now, by origin. `at_once` tells new ones without waiting whether they last.
    pub fn are(&mut self, now: BTreeMap<String, String>, at: Instant, at_once: bool) {
        let (source, certificates) = (self.source, &self.certificates);
        self.known.retain(|origin, known| {
            let lasts = now.contains_key(origin);
            if !lasts {
                certificates.foresee(source, origin, Outlook::default());
                if known.told {
                    tracing::info!(origin, "is in order again");
                }
            }
            lasts
        });
        for (origin, text) in now.into_iter().take(TROUBLES_MAX) {
            let known = self.known.entry(origin.clone());
            let known = known.or_insert_with(|| Known { text: String::new(), since: at, told: false });
            if known.text != text {
                *known = Known { text, since: at, told: false };
                let trouble = Some(known.text.clone());
                certificates.foresee(source, &origin, Outlook { trouble, ..Outlook::default() });
            }
            if !known.told && (at_once || at.saturating_duration_since(known.since) >= TROUBLE_WAIT) {
                known.told = true;
                tracing::error!(origin, reason = known.text, "what is served does not change");
            }
        }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.known.is_empty()
    }
}
