//! SIGHUP: the configuration is read again. What can change while it runs does, all of it or nothing; what can't is named.

use std::sync::Arc;
use std::time::Duration;

use super::entrance;
use crate::config::{Config, Inputs};
use crate::edge::gate::Gate;
use crate::edge::reload::Secured;
use crate::engine::Engine;
use crate::engine::repository::Patterns;
use crate::observe::log;
use crate::observe::metrics::Metrics;

/// The keys that change while it runs.
const LIVE: [&str; 17] = [
    "auth.htpasswd.path",
    "auth.htpasswd.realm",
    "http.draintimeout",
    "log.level",
    "proxy.password",
    "proxy.ttl",
    "tidegate.cache.evictadopted",
    "tidegate.cache.hold",
    "tidegate.cache.maxsize",
    "tidegate.cache.minfree",
    "tidegate.edge.allow",
    "tidegate.edge.connections",
    "tidegate.edge.hsts",
    "tidegate.edge.perclient",
    "tidegate.edge.proxyprotocol",
    "tidegate.proxy.allow",
    "tidegate.proxy.deny",
];

/// By what clients come in.
pub struct Doors {
    /// Who may.
    pub gate: Arc<Gate>,
    /// The certificates, if TLS is spoken.
    pub secured: Option<Secured>,
    /// The limit of open files.
    pub descriptors: Option<u64>,
}

/// What changes, and from what.
pub struct Live {
    inputs: Inputs,
    /// What can't change is as it was then.
    started: Config,
    current: Config,
    doors: Doors,
    metrics: Arc<Metrics>,
    /// A sidecar has none.
    engine: Option<Arc<Engine>>,
}

impl Live {
    /// A process that runs by a configuration.
    pub fn new(
        config: &Config,
        inputs: &Inputs,
        doors: Doors,
        metrics: &Arc<Metrics>,
        engine: Option<&Arc<Engine>>,
    ) -> Self {
        Self {
            inputs: inputs.clone(),
            started: config.clone(),
            current: config.clone(),
            doors,
            metrics: Arc::clone(metrics),
            engine: engine.cloned(),
        }
    }

    /// How long a stop waits for open answers.
    pub fn drain(&self) -> Duration {
        self.current.http.drain
    }

    /// Reads the configuration and the certificates again. One that is wrong changes nothing, and all that is wrong with it is in the log.
    pub async fn reload(&mut self) {
        if let Some(secured) = self.doors.secured.clone() {
            tracing::info!("SIGHUP: certificate files are read again");
            tokio::spawn(async move { secured.reload().await });
        }
        let (inputs, metrics) = (self.inputs.clone(), Arc::clone(&self.metrics));
        let read = tokio::task::spawn_blocking(move || {
            let config = Config::load(&inputs)
                .map_err(|errors| errors.problems().iter().map(ToString::to_string).collect::<Vec<_>>())?;
            let logins = entrance::logins(&config, &metrics).map_err(|error| vec![error])?;
            Ok((config, logins))
        });
        let problems = match read.await {
            Ok(Ok((config, logins))) => return self.change(config, logins),
            Ok(Err(problems)) => problems,
            Err(error) => vec![error.to_string()],
        };
        problems.iter().for_each(|problem| tracing::error!("{problem}"));
        tracing::error!("SIGHUP: the configuration stays as it was: the new one is wrong");
    }

    fn change(&mut self, config: Config, logins: Option<Arc<crate::edge::logins::Logins>>) {
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        log::set_level(config.log.level);
        self.doors.gate.change(entrance::rules(&config, self.doors.descriptors, logins));
        let new_password = self.change_account(&config);
        if let Some(engine) = &self.engine {
            engine.change(config.cache, patterns(&config));
        }
        let is_live = |key: &String| LIVE.contains(&key.as_str());
        let mut changed: Vec<_> = config.differences(&self.current).into_iter().filter(is_live).collect();
        changed.extend(new_password.then(|| "proxy.password".to_owned()));
        let waiting: Vec<_> =
            config.differences(&self.started).into_iter().filter(|key| !is_live(key)).collect();
        match changed.is_empty() {
            true => tracing::info!("SIGHUP: the configuration was read again, and nothing changes"),
            false => tracing::info!("SIGHUP: changed: {}", changed.join(", ")),
        }
        if !waiting.is_empty() {
            tracing::warn!("SIGHUP: these change only at the next start: {}", waiting.join(", "));
        }
        self.current = config;
    }

    /// The account itself can't change: what is held is held by its right.
    fn change_account(&self, config: &Config) -> bool {
        let (Some(new), Some(old)) = (&config.proxy.account, &self.current.proxy.account) else {
            return false;
        };
        let is_new = new.username == old.username && new.password != old.password;
        if let (true, Some(engine)) = (is_new, &self.engine) {
            engine.upstream().change_account(new.clone());
            tokio::spawn(super::check_account(engine.upstream().clone()));
        }
        is_new
    }
}

/// Which repositories may be asked for.
pub fn patterns(config: &Config) -> Patterns {
    Patterns { allow: config.proxy.allow.clone(), deny: config.proxy.deny.clone() }
}
