//! `tidegate serve`: puts the parts together, runs them, and takes them apart again.

mod entrance;
mod reload;
mod sidecar;
mod signals;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{dwelling, refuse, renewals, say};
use crate::config::{Config, Debug, Durability, Inputs};
use crate::edge::acme::Renewals;
use crate::edge::drain::{self, Drain};
use crate::edge::gate::Gate;
use crate::edge::listener::Listener;
use crate::edge::reload::Secured;
use crate::edge::{Admin, Console, Edge, Records, Role, Site, SiteParts};
use crate::engine::tend::tend;
use crate::engine::{Engine, FillRules, Parts, freshness, repository, scrub};
use crate::index::{Backend, Heat, Index};
use crate::observe::access::AccessLog;
use crate::observe::health::Health;
use crate::observe::lines::Lines;
use crate::observe::log;
use crate::observe::metrics::Metrics;
use crate::store::Store;
use crate::sys::{clock, files, threads};
use crate::upstream::{AccountState, Setup, Upstream};
use reload::{Doors, Live};
use signals::{Signals, wait_and_drain};

/// How long the stop waits for publications and the index after the connections have ended.
const SETTLE_WAIT: Duration = Duration::from_secs(10);

/// Connections of the debug port: a few scrapers and people.
const CONSOLE_CONNECTIONS_MAX: usize = 64;

/// Threads without which nothing works: the runtime's, the writer of the index, a few that wait for the disk. The runtime
/// panics where it gets none.
const THREADS_MIN: usize = 32;

/// Both logs.
struct Logs {
    errors: Lines,
    access: Lines,
}

impl Logs {
    fn records(&self, config: &Config, metrics: &Arc<Metrics>) -> Records {
        let access = config.log.access.map(|format| AccessLog::new(format, self.access.clone()));
        Records { metrics: Arc::clone(metrics), access }
    }
}

/// Runs the mirror until it is told to stop.
pub fn run(inputs: &Inputs) -> ExitCode {
    let config = match Config::load(inputs) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    let (Ok(errors), Ok(access)) = (Lines::new(std::io::stderr()), Lines::new(std::io::stdout())) else {
        say("no thread could be started");
        return ExitCode::FAILURE;
    };
    let logs = Logs { errors, access };
    log::install(&config.log, logs.errors.clone());
    let outcome = start(&config, inputs, &logs);
    if let Err(reason) = &outcome {
        tracing::error!("{reason}");
    }
    logs.access.flush();
    logs.errors.flush();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(config: &Config, inputs: &Inputs, logs: &Logs) -> Result<(), String> {
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let descriptors = files::raise_descriptor_limit();
    threads::can_start(THREADS_MIN).map_err(|error| {
        format!("this process may not have {THREADS_MIN} threads: {error}; raise its limit of processes (TasksMax, pids.max, ulimit -u)")
    })?;
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(|error| format!("no runtime: {error}"))
    };
    if let Some(backend) = &config.edge.forward {
        let runtime = runtime()?;
        let ended = runtime.block_on(sidecar::serve(config, inputs, backend, logs, descriptors));
        runtime.shutdown_timeout(Duration::from_secs(1));
        return ended;
    }
    let store = dwelling::open(config, inputs).map_err(|error| error.to_string())?;
    let runtime = runtime()?;
    let ended = runtime.block_on(serve(config, inputs, store, logs, descriptors));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve(
    config: &Config,
    inputs: &Inputs,
    store: Store,
    logs: &Logs,
    descriptors: Option<u64>,
) -> Result<(), String> {
    // Before anybody can know that it runs: a word to stop that comes at once is heard, too. And before the first file that
    // grows.
    let signals = Signals::listen()?;
    if config.cache.durability == Durability::Relaxed {
        store.relax();
    }
    let root = store.root().to_owned();
    let index = Index::open(&store.index_folder()).with_heat(Heat::open(&store.heat_file()));
    introduce(config, &root, index.backend());
    let metrics = Arc::new(Metrics::default());
    let gate = entrance::gate(config, descriptors, &metrics)?;
    let secured = entrance::secure(config, &store.certificates_folder(), &metrics)?;
    let tls = secured.as_ref().map(|secured| secured.acceptor.clone());
    let renewals = renewals::open(config, &root, secured.as_ref(), &metrics)?;
    let engine = engine(config, inputs, store, index, Arc::clone(&metrics))?;
    let health = Health::default();
    let (stop, drain) = drain::new();
    let site = Site::new(SiteParts {
        engine: Arc::clone(&engine),
        records: logs.records(config, &metrics),
        health: health.clone(),
        gate: Arc::clone(&gate),
        prefix: config.http.prefix.clone(),
        headers: config.http.headers.clone(),
        catalog_max: config.catalog_max,
    });
    open_admin(config, &engine, &secured, &renewals, &drain, &metrics);
    let listener = Listener::bind(&config.http.listen)?;
    tracing::info!("listening on {listener}{}", if tls.is_some() { ", tls" } else { "" });
    suggest(config, &listener);
    if let Some(debug) = &config.http.debug {
        let console = Console {
            engine: Some(Arc::clone(&engine)),
            metrics: Arc::clone(&metrics),
            health: health.clone(),
            lines: vec![logs.errors.clone(), logs.access.clone()],
            path: debug.metrics.clone(),
            certificates: secured.as_ref().map(|secured| secured.certificates.clone()),
        };
        open_console(debug, console, &drain, &metrics)?;
    }
    if let Some(renewals) = &renewals {
        renewals::start(config, renewals, &drain, &metrics);
    }
    health.start(config.health.checks.clone(), Some(root));
    tokio::spawn(check_account(engine.upstream().clone()));
    let housekeeping = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move {
            tend("the recovery", || engine.recover()).await;
            let schedule = tend("the schedule", || engine.keep_schedule());
            tokio::join!(schedule, tend("the scrub", || Arc::clone(&engine).scrub_for_ever()));
        }
    });
    engine.keep_budget();
    let role = Role::Mirror(site);
    entrance::open_plain(config, &role, &gate, &drain, &metrics)?;
    let edge = Edge { listener, tls, role, gate: Arc::clone(&gate), drain, metrics: Arc::clone(&metrics) };
    let running = tokio::spawn(edge.run());
    let doors = Doors { gate, secured, descriptors };
    let mut live = Live::new(config, inputs, doors, &metrics, Some(&engine));
    let drained = wait_and_drain(signals, &stop, running, &mut live).await;
    // What it holds must be let go, so that the index can be left in order.
    housekeeping.abort();
    let _ = housekeeping.await;
    drained?;
    let until = clock::monotonic() + SETTLE_WAIT;
    if tokio::time::timeout(SETTLE_WAIT, engine.settle()).await.is_err() {
        tracing::warn!("the disk is slow: what was fetched last may be fetched again");
    }
    engine.write_last_schedule(until.saturating_duration_since(clock::monotonic())).await;
    Ok(())
}

/// The engine of a configuration. Talks to nobody yet.
pub(super) fn engine(
    config: &Config,
    inputs: &Inputs,
    store: Store,
    index: Index,
    metrics: Arc<Metrics>,
) -> Result<Arc<Engine>, String> {
    let proxy = &config.proxy;
    let upstream = Upstream::new(&Setup {
        url: proxy.remoteurl.clone(),
        account: proxy.account.clone(),
        anonymous_fallback: proxy.anonymous_fallback,
        cafile: proxy.cafile.clone(),
        realms: proxy.realms.clone(),
        redirects: proxy.redirects.clone(),
        stall: config.fill.stall,
        proxy_hosts: proxy_hosts(inputs),
    });
    let upstream = upstream.map_err(|error| error.to_string())?;
    let naming = repository::Naming::new(repository::Setup {
        name: &proxy.name,
        name_configured: proxy.name_configured,
        host: upstream.host(),
        account: proxy.account.as_ref().map(|account| account.username.as_str()),
        patterns: reload::patterns(config),
    });
    let rules = freshness::Rules {
        fresh: config.tags.fresh,
        stale_for: config.tags.stale_for,
        serve_gone: !config.tags.refuse_gone,
    };
    let (negative, cache, tags_max) = (config.tags.negative, config.cache, config.tags_max);
    let fill =
        FillRules { segments: usize::try_from(config.fill.segments).unwrap_or(1), lazy: config.fill.lazy };
    // There is one upstream, so the smaller of both limits is the limit.
    let transfers_max = usize::try_from(config.fill.concurrent.min(config.fill.per_upstream)).unwrap_or(1);
    let scrub =
        scrub::Rules { period: config.cache.scrub, bytes_per_second: config.cache.scrub_bytes_per_second };
    Ok(Engine::new(Parts {
        upstream,
        store,
        index,
        naming,
        rules,
        fill,
        transfers_max,
        scrub,
        negative,
        cache,
        tags_max,
        metrics,
    }))
}

/// The hosts of the HTTP proxies that the client library takes from the environment.
fn proxy_hosts(inputs: &Inputs) -> Vec<String> {
    let named = |name: &str| {
        ["http_proxy", "https_proxy", "all_proxy"].iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let values = inputs.variables.iter().filter(|(name, _)| named(name)).map(|(_, value)| value);
    values
        .filter_map(|value| {
            let with_scheme = if value.contains("://") { value.clone() } else { format!("http://{value}") };
            url::Url::parse(&with_scheme).ok()?.host_str().map(str::to_owned)
        })
        .collect()
}

/// Where everything comes from and goes to, before anything happens.
fn introduce(config: &Config, root: &std::path::Path, backend: &Backend) {
    let file = config.file.as_ref().map_or("no file".to_owned(), |file| file.display().to_string());
    tracing::info!("tidegate {}: configuration from {file} and the environment", env!("CARGO_PKG_VERSION"));
    let account = config
        .proxy
        .account
        .as_ref()
        .map_or("anonymously".to_owned(), |account| format!("as {}", account.username));
    tracing::info!("mirror of {} ({}), {account}", config.proxy.remoteurl, config.proxy.name);
    if config.proxy.account.is_some() && config.proxy.allow.is_empty() {
        tracing::warn!(
            "the private images of this account are open to everybody who can reach the mirror: tidegate.proxy.allow can name what may be asked for"
        );
    }
    let (most, free) = (config.cache.max_size, config.cache.min_free);
    tracing::info!("cache in {}: at most {most} of its disk, and {free} stay free", root.display());
    if let Backend::Memory(reason) = backend {
        tracing::error!(reason, "the index can't be kept on disk; it is kept in memory until the next start");
    }
}

/// A line to paste.
fn suggest(config: &Config, listener: &Listener) {
    let scheme = if config.http.tls.is_some() { "https" } else { "http" };
    let place = match listener {
        Listener::Unix(_, path) => format!("--unix-socket {} {scheme}://localhost", path.display()),
        Listener::Tcp(_) => format!(
            "{scheme}://{}",
            listener.to_string().replace("[::]", "localhost").replace("0.0.0.0", "localhost")
        ),
    };
    tracing::info!("try: curl {place}{}/v2/library/alpine/manifests/latest", config.http.prefix);
}

fn open_console(
    debug: &Debug,
    console: Console,
    drain: &Drain,
    metrics: &Arc<Metrics>,
) -> Result<(), String> {
    let listener = Listener::bind(&debug.listen)?;
    tracing::info!("debug server listening {listener}");
    if let Some(path) = &debug.metrics {
        tracing::info!("providing prometheus metrics on {path}");
    }
    let role = Role::Console(Arc::new(console));
    let (drain, metrics) = (drain.clone(), Arc::clone(metrics));
    let gate = Gate::open_to_all(CONSOLE_CONNECTIONS_MAX, Arc::clone(&metrics));
    let edge = Edge { listener, tls: None, role, gate, drain, metrics };
    tokio::spawn(edge.run());
    Ok(())
}

/// The socket of an operator. A mirror serves without it too.
fn open_admin(
    config: &Config,
    engine: &Arc<Engine>,
    secured: &Option<Secured>,
    renewals: &Option<Arc<Renewals>>,
    drain: &Drain,
    metrics: &Arc<Metrics>,
) {
    match Listener::bind_private(&config.admin.socket, config.admin.group) {
        Ok(listener) => {
            tracing::debug!("commands of an operator are taken on {listener}");
            let role = Role::Admin(Arc::new(Admin {
                engine: Arc::clone(engine),
                secured: secured.clone(),
                renewals: renewals.clone(),
            }));
            let (drain, metrics) = (drain.clone(), Arc::clone(metrics));
            let gate = Gate::open_to_all(CONSOLE_CONNECTIONS_MAX, Arc::clone(&metrics));
            tokio::spawn(Edge { listener, tls: None, role, gate, drain, metrics }.run());
        }
        Err(reason) => tracing::warn!(
            reason,
            "no commands of an operator are taken; tidegate.admin.socket (TIDEGATE_ADMIN_SOCKET) can name another place"
        ),
    }
}

/// In the background: the start never needs the upstream.
async fn check_account(upstream: Upstream) {
    match upstream.check_account().await {
        Ok(AccountState::Accepted) => {
            tracing::info!("the upstream answers and takes the account of this mirror")
        }
        Ok(AccountState::Refused) => {}
        Ok(AccountState::Anonymous | AccountState::Unknown) => tracing::info!("the upstream answers"),
        Err(error) => tracing::warn!(%error, "the upstream does not answer now; what is held is served"),
    }
}
