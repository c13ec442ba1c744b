//! From a checked document to [`Config`](super::Config), section by section. What is wrong goes to the report, and a
//! default takes its place, so that one run finds everything.

mod acme;
mod admin;
mod auth;
mod cache;
mod edge;
mod fill;
mod health;
mod http;
mod log;
mod proxy;
mod storage;
mod tls;

use std::time::Duration;

pub(super) use acme::acme;
pub(super) use admin::{Places, admin};
pub(super) use auth::htpasswd;
pub(super) use cache::cache;
pub(super) use edge::edge;
pub(super) use fill::fill;
pub(super) use health::health;
pub(super) use http::http;
pub(super) use log::log;
pub(super) use proxy::proxy;
pub(super) use storage::storage;

use super::TagRules;
use super::reader::Reader;

/// `registry`'s own default for pages of the catalog and of tags.
const PAGE_ENTRIES: u32 = 1000;

/// `catalog.maxentries` or `tags.maxtags`; 0 is the default, as in `registry`.
pub(super) fn page(reader: &mut Reader<'_>, key: &str) -> u32 {
    reader.number(key).filter(|entries| *entries > 0).unwrap_or(PAGE_ENTRIES)
}

/// How long an absence is remembered: long enough for the retries of one client, short enough for a push to be seen.
const NEGATIVE: Duration = Duration::from_secs(5);

/// `tidegate.tags.*`.
pub(super) fn tags(reader: &mut Reader<'_>) -> TagRules {
    let fresh = reader.duration("tidegate.tags.fresh").unwrap_or(Duration::ZERO);
    let stale_for = reader
        .text("tidegate.tags.stalefor")
        .filter(|found| found.text != "unlimited")
        .and_then(|found| reader.duration_of(&found));
    let refuse_gone = choice(reader, "tidegate.tags.gone", &[("serve", false), ("refuse", true)]);
    let negative = reader.duration("tidegate.tags.negative").unwrap_or(NEGATIVE);
    TagRules { fresh, stale_for, refuse_gone: refuse_gone.unwrap_or(false), negative }
}

/// One of a few words, in any case, as `registry` takes `log.level`.
fn choice<T: Copy>(reader: &mut Reader<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
    let found = reader.text(key)?;
    let chosen = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&found.text));
    if chosen.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let fix = format!("use one of: {}", words.join(", "));
        reader.report.refuse(found.problem("no such value", fix));
    }
    chosen.map(|(_, value)| *value)
}
