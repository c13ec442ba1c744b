//! From a request to an outcome.
//!
//! For each request the engine looks at what is held, makes a plan without awaiting anything, and carries it out:
//! gives out what is held, confirms a tag, joins a flight or starts one. What the upstream gives becomes a blob only
//! after its digest matched, and nothing ever waits for the disk to sync: rows that are not yet committed are readable,
//! and a flight can be joined until its row is.
//!
//! Rights come first: a digest is no permission. What is held is given out for a repository only if a manifest
//! fetched for that repository names it, or the upstream confirmed it for that repository by a HEAD.
//!
//! The engine knows nothing of HTTP heads and sockets; [`crate::edge`] turns its answers into them.

pub mod budget;
pub mod compare;
pub mod deliver;
pub mod evict;
pub mod fault;
pub mod flight;
pub mod freshness;
pub mod operate;
pub mod outcome;
pub mod pace;
pub mod passing;
pub mod rebuild;
pub mod recent;
pub mod repository;
pub mod rescue;
pub mod scrub;
pub mod tend;
pub mod turns;

mod adopt;
mod blob;
mod fill;
#[cfg(test)]
mod fixture;
mod links;
mod list;
mod manifest;
mod referrers;
mod schedule;
mod tag;
mod unpublished;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

pub use blob::BlobAnswer;
pub use budget::{OverBudget, Reservation, Standing};
pub use evict::EvictReport;
pub use evict::pins::{Pin, PinError};
pub use fault::Denial;
pub use fill::FillRules;
pub use list::{CatalogPage, Next, TagsPage};
pub use manifest::ManifestAnswer;
pub use operate::Command;
pub use outcome::{Outcome, Stale};
pub use referrers::ReferrersAnswer;
pub use repository::Repository;

use crate::config::Cache;
use crate::index::{Identity, Index, RepoKey};
use crate::observe::metrics::Metrics;
use crate::registry::{Digest, RepositoryName, Tag, route};
use crate::store::Store;
use crate::sys::collapse::Collapse;
use crate::upstream::Upstream;
use budget::Budget;
use evict::Evictor;
use flight::Flights;
use freshness::{Gate, Rules};
use recent::Recent;
use repository::{Naming, NotServed, Patterns};
use rescue::Damage;

/// Most publications at once: each waits for the disk to sync, and a slow disk must not take the whole blocking pool.
const PUBLICATIONS_MAX: usize = 8;

/// Most adopted files of a kind, small or large, verified at once: each reads as fast as the disk gives.
const VERIFICATIONS_MAX: usize = 8;

/// How long a host is not asked again for a digest that it gave wrong bytes for.
const MISTRUST: Duration = Duration::from_secs(60);

/// How long a blob that the disk would not take is passed through, before it is tried again.
const NO_ROOM: Duration = Duration::from_secs(30);

/// How long a damaged file that is still in its place is not looked at again. The right bytes that take its place make a
/// file of their own, which this does not concern.
const DISTRUST: Duration = Duration::from_secs(600);

/// How long a manifest that could not be fetched is not asked for on behalf of a tag that moved to it, while what the tag
/// pointed at before is at hand. A limited upstream counts such questions.
const WITHHOLDING: Duration = Duration::from_secs(30);

/// Most facts of each kind that are remembered for seconds (about 2 MB).
const FACTS_MAX: usize = 10_000;

/// Longest wait of a client for the first word of an answer. Clients give up at 10 s (CRI-O) to 30 s (containerd).
const WORD_WAIT: Duration = Duration::from_millis(9_500);

/// What the engine needs.
#[derive(Debug)]
pub struct Parts {
    /// The default upstream.
    pub upstream: Upstream,
    /// The blob tree.
    pub store: Store,
    /// What is known about it.
    pub index: Index,
    /// Names and patterns.
    pub naming: Naming,
    /// Freshness of tags.
    pub rules: Rules,
    /// How fills behave.
    pub fill: FillRules,
    /// Most transfers from the upstream at once. Each holds one connection, one file and about 1 MiB; those that wait are
    /// served in order.
    pub transfers_max: usize,
    /// How long an absence is remembered.
    pub negative: Duration,
    /// How often and how fast what is held is read again.
    pub scrub: scrub::Rules,
    /// How much is kept, and for how long.
    pub cache: Cache,
    /// Most tags in one answer to a client that names a number.
    pub tags_max: u32,
    /// Where to count.
    pub metrics: Arc<Metrics>,
}

/// The mirror behind the edge.
#[derive(Debug)]
pub struct Engine {
    upstream: Upstream,
    store: Arc<Store>,
    index: Arc<Index>,
    naming: Naming,
    rules: Rules,
    fill_rules: FillRules,
    scrub: scrub::Rules,
    tags_max: u32,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    evictor: Evictor,
    gate: Gate,
    flights: Flights,
    negatives: Recent<(RepoKey, Wanted)>,
    withheld: Recent<(RepoKey, Digest), Stale>,
    mistrusted: Recent<Digest>,
    unstorable: Recent<Digest>,
    damaged: Recent<Digest, (Identity, Damage)>,
    referrers: Recent<referrers::Question, ReferrersAnswer>,
    no_referrers: Recent<()>,
    referrer_questions: Collapse<referrers::Question, ReferrersAnswer>,
    heads: Collapse<(RepoKey, Tag), tag::Found>,
    fetches: Collapse<(RepoKey, Digest), manifest::Fetched>,
    tag_lists: Collapse<list::TagsQuestion, list::Tags>,
    lists: Semaphore,
    confirmations: Collapse<(RepoKey, Digest), blob::Confirmed>,
    unpublished: unpublished::Unpublished,
    linked: links::Linked,
    tag_links: Mutex<()>,
    linkings: Arc<Semaphore>,
    fills: Arc<turns::Turns>,
    publications: Arc<Semaphore>,
    verifications: Arc<Semaphore>,
    small_verifications: Arc<Semaphore>,
    scrubbing: Semaphore,
    scrub_on_demand: Semaphore,
    scrub_wanted: Notify,
    /// Whether `registry`'s note of what expires was taken over.
    schedule_known: AtomicBool,
    /// The newest writing of it; older ones end.
    schedule_turn: AtomicU64,
}

/// What was asked for and found absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Wanted {
    Tag(Tag),
    Manifest(Digest),
    Blob(Digest),
}

/// Whether only the head of an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// `HEAD`.
    Head,
    /// `GET`.
    Body,
}

impl Engine {
    /// Puts the parts together. Talks to nobody: the upstream may be down.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            upstream: parts.upstream,
            store: Arc::new(parts.store),
            index: Arc::new(parts.index),
            naming: parts.naming,
            rules: parts.rules,
            fill_rules: parts.fill,
            scrub: parts.scrub,
            tags_max: parts.tags_max,
            metrics: parts.metrics,
            budget: Budget::new(parts.cache),
            evictor: Evictor::default(),
            gate: Gate::default(),
            flights: Flights::default(),
            negatives: Recent::new(parts.negative, FACTS_MAX),
            withheld: Recent::new(WITHHOLDING, FACTS_MAX),
            mistrusted: Recent::new(MISTRUST, FACTS_MAX),
            unstorable: Recent::new(NO_ROOM, FACTS_MAX),
            damaged: Recent::new(DISTRUST, FACTS_MAX),
            referrers: Recent::new(referrers::REMEMBERED_FOR, referrers::REMEMBERED_MAX),
            no_referrers: Recent::new(referrers::FAILED_FOR, 1),
            referrer_questions: Collapse::default(),
            heads: Collapse::default(),
            fetches: Collapse::default(),
            tag_lists: Collapse::default(),
            lists: Semaphore::new(list::LISTS_MAX),
            confirmations: Collapse::default(),
            unpublished: unpublished::Unpublished::default(),
            linked: links::Linked::default(),
            tag_links: Mutex::default(),
            linkings: Arc::new(Semaphore::new(links::LINKINGS_MAX)),
            fills: turns::Turns::new(parts.transfers_max),
            publications: Arc::new(Semaphore::new(PUBLICATIONS_MAX)),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
            small_verifications: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
            scrubbing: Semaphore::new(1),
            scrub_on_demand: Semaphore::new(1),
            scrub_wanted: Notify::new(),
            schedule_known: AtomicBool::new(false),
            schedule_turn: AtomicU64::new(0),
        })
    }

    /// The repository that a request means, or the refusal that it gets.
    pub fn resolve(
        &self,
        source: Option<&route::Source>,
        name: &RepositoryName,
    ) -> Result<Repository, Denial> {
        self.naming.resolve(source, name).map_err(|why| match why {
            NotServed::Source(host) => fault::not_a_source(&host),
            NotServed::Pattern => fault::not_allowed(name),
        })
    }

    /// Goes by other rules from now on; what is under way ends by those it began with.
    pub fn change(&self, cache: Cache, patterns: Patterns) {
        self.budget.change(cache);
        self.naming.change(patterns);
    }

    /// The upstream, for its state.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// How many blobs are being filled.
    pub fn fills_running(&self) -> usize {
        self.flights.count()
    }

    /// How many transfers wait for their turn.
    pub fn fills_waiting(&self) -> usize {
        self.fills.waiting()
    }

    /// Waits until what was fetched is published and its rows are durable; at the stop, so that nothing is fetched again.
    pub async fn settle(&self) {
        let all = u32::try_from(PUBLICATIONS_MAX).unwrap_or(u32::MAX);
        // All permits at once: every publication that was under way has ended.
        let _permits = self.publications.acquire_many(all).await;
        self.index.committed().await;
        let store = Arc::clone(&self.store);
        if let Err(error) = blocking(move || store.stop_relaxing()).await.and_then(|result| result) {
            tracing::warn!(%error, "what was fetched is verified again at the next start: it can't be synced");
        }
    }
}

/// An answer, or a denial when it takes too long. What was begun for it goes on without the client.
async fn in_time<T>(
    answer: impl Future<Output = Result<T, Denial>>,
    late: impl FnOnce() -> Denial,
) -> Result<T, Denial> {
    tokio::time::timeout(WORD_WAIT, answer).await.unwrap_or_else(|_| Err(late()))
}

/// Runs blocking work on the pool. A panic in it is an I/O error of this one operation.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| std::io::Error::other(error.to_string()))
}
