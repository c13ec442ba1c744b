//! Which repository of which upstream a request means, and whether it may be asked for at all.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::turns::Client;
use crate::index::RepoKey;
use crate::registry::route::Source;
use crate::registry::{Pattern, RepositoryName};

/// All names under which Docker Hub is asked for.
const HUB_NAMES: [&str; 4] =
    ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// A repository of the upstream, by the name it has on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its key in the index: upstream, account scope and name.
    pub key: RepoKey,
    /// Its name at the upstream, with `library/` where Docker Hub wants it.
    pub name: RepositoryName,
    /// Who asks for something of it.
    pub client: Client,
}

impl Repository {
    /// The same, asked for by a client.
    pub fn asked_by(self, client: Client) -> Self {
        Self { client, ..self }
    }
}

/// The naming rules of one upstream.
#[derive(Debug)]
pub struct Naming {
    upstream: String,
    scope: String,
    aliases: Vec<String>,
    library: bool,
    patterns: ArcSwap<Patterns>,
}

/// Which repositories may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns {
    /// One must match; none means all.
    pub allow: Vec<Pattern>,
    /// None may match.
    pub deny: Vec<Pattern>,
}

/// What [`Naming::new`] needs to know.
#[derive(Debug)]
pub struct Setup<'a> {
    /// `tidegate.proxy.name`.
    pub name: &'a str,
    /// Whether that name was given by hand.
    pub name_configured: bool,
    /// Host and, if it is not the scheme's own, port of the URL.
    pub host: &'a str,
    /// The account, or nothing for anonymous: what one account may see says nothing about another.
    pub account: Option<&'a str>,
    /// Which repositories may be asked for.
    pub patterns: Patterns,
}

/// Why a repository is not served, whatever the upstream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotServed {
    /// The request names a registry that is not configured here.
    Source(String),
    /// `proxy.allow` and `proxy.deny` leave it out.
    Pattern,
}

impl Naming {
    /// The rules for an upstream. `library/` is added only where the other side really is Docker Hub, or was said to be.
    pub fn new(setup: Setup<'_>) -> Self {
        let hub_host = HUB_NAMES.contains(&setup.host);
        let hub_name = setup.name == "docker.io";
        let mut aliases = vec![setup.name.to_owned(), setup.host.to_owned()];
        if hub_name {
            aliases.extend(HUB_NAMES.map(str::to_owned));
        }
        Self {
            upstream: setup.name.to_owned(),
            scope: setup.account.map(|account| format!("account:{account}")).unwrap_or_default(),
            aliases,
            library: hub_host || (hub_name && setup.name_configured),
            patterns: ArcSwap::from_pointee(setup.patterns),
        }
    }

    /// Other patterns, from now on.
    pub fn change(&self, patterns: Patterns) {
        self.patterns.store(Arc::new(patterns));
    }

    /// The name of the upstream: what `ns=` calls it and the index files it under.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Finds the repository that a request means.
    pub fn resolve(&self, source: Option<&Source>, name: &RepositoryName) -> Result<Repository, NotServed> {
        if let Some(Source::Namespace(host) | Source::Prefix(host)) = source
            && !self.is_alias(host)
        {
            return Err(NotServed::Source(host.clone()));
        }
        let name = self.on_the_wire(self.without_prefix(source, name));
        if !self.is_served(&name) {
            return Err(NotServed::Pattern);
        }
        Ok(self.known(name))
    }

    /// A repository of the tree, which has its name on the wire.
    pub fn known(&self, name: RepositoryName) -> Repository {
        Repository { key: RepoKey::new(&self.upstream, &self.scope, &name), name, client: Client::default() }
    }

    /// Whether the patterns let a repository be asked for.
    pub fn is_served(&self, name: &RepositoryName) -> bool {
        let patterns = self.patterns.load();
        let allowed = patterns.allow.is_empty() || patterns.allow.iter().any(|pattern| pattern.matches(name));
        allowed && !patterns.deny.iter().any(|pattern| pattern.matches(name))
    }

    fn is_alias(&self, host: &str) -> bool {
        self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(host))
    }

    /// `/v2/docker.io/library/alpine`: the first component names the upstream, as podman and BuildKit prefixes do.
    fn without_prefix(&self, source: Option<&Source>, name: &RepositoryName) -> RepositoryName {
        match name.split_first() {
            Some((first, rest)) if source.is_none() && self.is_alias(first) => rest,
            _ => name.clone(),
        }
    }

    fn on_the_wire(&self, name: RepositoryName) -> RepositoryName {
        if self.library && name.is_one_part() { name.in_library() } else { name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(name: &str, configured: bool, host: &str) -> Naming {
        let pattern = |text| Pattern::parse(text).unwrap();
        Naming::new(Setup {
            name,
            name_configured: configured,
            host,
            account: None,
            patterns: Patterns { allow: vec![], deny: vec![pattern("secret/**")] },
        })
    }

    #[track_caller]
    fn check(naming: &Naming, source: Option<&str>, name: &str, expected: Result<&str, NotServed>) {
        let source = source.map(|host| Source::Namespace(host.to_owned()));
        let found = naming
            .resolve(source.as_ref(), &name.parse().unwrap())
            .map(|repository| repository.name.to_string());
        assert_eq!(found, expected.map(str::to_owned), "{source:?} {name}");
    }

    #[test]
    fn docker_hub_wants_library() {
        let hub = naming("docker.io", false, "registry-1.docker.io");
        check(&hub, None, "alpine", Ok("library/alpine"));
        check(&hub, None, "corp/app", Ok("corp/app"));
        check(&hub, None, "docker.io/alpine", Ok("library/alpine"));
        check(&hub, Some("index.docker.io"), "alpine", Ok("library/alpine"));
    }

    #[test]
    fn another_host_under_hubs_default_name_is_left_alone() {
        check(&naming("docker.io", false, "10.0.0.5:5000"), None, "alpine", Ok("alpine"));
        check(&naming("docker.io", true, "10.0.0.5:5000"), None, "alpine", Ok("library/alpine"));
        check(&naming("quay.io", false, "quay.io"), None, "alpine", Ok("alpine"));
    }

    #[test]
    fn the_set_of_upstreams_is_closed() {
        let hub = naming("docker.io", false, "registry-1.docker.io");
        check(&hub, Some("quay.io"), "a/b", Err(NotServed::Source("quay.io".into())));
        check(&hub, None, "quay.io/a/b", Ok("quay.io/a/b"));
        check(&hub, None, "secret/a/b", Err(NotServed::Pattern));
    }

    #[test]
    fn an_account_sees_with_other_eyes() {
        let with = |account| {
            let setup = Setup {
                name: "docker.io",
                name_configured: false,
                host: "h",
                account,
                patterns: Patterns { allow: vec![], deny: vec![] },
            };
            Naming::new(setup).resolve(None, &"a/b".parse().unwrap()).unwrap().key
        };
        assert_ne!(with(None), with(Some("bot")));
    }
}
