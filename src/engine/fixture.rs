//! An engine for tests, whose upstream is nowhere.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, FillRules, Parts, freshness, repository, scrub};
use crate::config::Cache;
use crate::index::Index;
use crate::store::Store;
use crate::upstream::{Setup, Upstream};

/// Faster than any test needs.
const FAST: u64 = 1 << 40;

/// Puts an engine together over a store and an index.
pub(super) fn engine(store: Store, index: Index, cache: Cache) -> Arc<Engine> {
    let upstream = Upstream::new(&Setup {
        url: "http://127.0.0.1:9".parse().unwrap(),
        account: None,
        anonymous_fallback: true,
        cafile: None,
        realms: vec![],
        redirects: vec![],
        stall: Duration::from_secs(30),
        proxy_hosts: vec![],
    });
    let naming = repository::Naming::new(repository::Setup {
        name: "docker.io",
        name_configured: true,
        host: "127.0.0.1:9",
        account: None,
        patterns: super::repository::Patterns { allow: vec![], deny: vec![] },
    });
    Engine::new(Parts {
        upstream: upstream.unwrap(),
        store,
        index,
        naming,
        rules: freshness::Rules { fresh: Duration::ZERO, stale_for: None, serve_gone: true },
        fill: FillRules { segments: 1, lazy: false },
        transfers_max: 1,
        cache,
        scrub: scrub::Rules { period: Duration::ZERO, bytes_per_second: FAST },
        negative: Duration::ZERO,
        tags_max: 100,
        metrics: Arc::default(),
    })
}
