//! Name resolution that knows the rule of redirects: a name that leads into a network that the upstream itself is not in
//! has no addresses.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::policy::{self, Network, Networks};
use super::suspects::Suspects;
use crate::sys::clock;
use crate::sys::collapse::Collapse;
use crate::sys::sync::lock;

/// The networks of an upstream, learned from its URL and from each resolution of its name.
#[derive(Debug, Clone, Default)]
pub struct Learned(Arc<Mutex<Networks>>);

impl Learned {
    /// What a URL says without a resolver.
    pub fn of(url: &Url) -> Self {
        let learned = Self::default();
        match url.host() {
            Some(Host::Ipv4(v4)) => lock(&learned.0).add(v4.into()),
            Some(Host::Ipv6(v6)) => lock(&learned.0).add(v6.into()),
            _ => {}
        }
        learned
    }

    /// What is known by now.
    pub fn networks(&self) -> Networks {
        *lock(&self.0)
    }
}

/// Lookups by the system's resolver, which occupy a thread each for as long as a name server does not answer: one at a
/// time for each name.
#[derive(Debug, Clone, Default)]
pub struct Lookups {
    running: Arc<Collapse<String, Looked>>,
    /// Addresses that are tried last.
    pub suspects: Suspects,
}

type Looked = Result<Vec<SocketAddr>, Arc<std::io::Error>>;

impl Lookups {
    async fn look_up(&self, name: &Name) -> Looked {
        let wanted = name.as_str().to_owned();
        let mut lookup = self.running.join(wanted.clone(), || async move {
            tokio::net::lookup_host((wanted, 0)).await.map(Iterator::collect).map_err(Arc::new)
        });
        let gone = || Err(Arc::new(std::io::Error::other("the lookup failed")));
        let mut found = lookup.wait().await.unwrap_or_else(gone)?;
        self.suspects.last(&mut found, clock::monotonic());
        Ok(found)
    }
}

/// Resolves for the upstream itself, and learns.
#[derive(Debug)]
pub struct Recording {
    /// How.
    pub lookups: Lookups,
    /// Where to write.
    pub learned: Learned,
    /// The name of the upstream; a proxy in front of it teaches nothing.
    pub host: String,
}

impl Resolve for Recording {
    fn resolve(&self, name: Name) -> Resolving {
        let own = name.as_str().eq_ignore_ascii_case(&self.host);
        let (learned, lookups) = (self.learned.clone(), self.lookups.clone());
        Box::pin(async move {
            let addresses = lookups.look_up(&name).await?;
            if own {
                let mut networks = lock(&learned.0);
                addresses.iter().for_each(|address| networks.add(address.ip()));
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Resolves for redirects and token servers, and refuses.
#[derive(Debug)]
pub struct Guarded {
    /// How.
    pub lookups: Lookups,
    /// The networks of the upstream.
    pub learned: Learned,
    /// Names that may lead anywhere but to [`Network::Never`].
    pub listed: Vec<String>,
    /// Names of HTTP proxies: they are where they are.
    pub proxies: Vec<String>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let is_in = |names: &[String]| names.iter().any(|listed| listed.eq_ignore_ascii_case(name.as_str()));
        let (proxy, listed) = (is_in(&self.proxies), is_in(&self.listed));
        let (networks, lookups) = (self.learned.networks(), self.lookups.clone());
        Box::pin(async move {
            let found = lookups.look_up(&name).await?;
            let admitted = |address: &SocketAddr| {
                proxy
                    || networks.admit(address.ip())
                    || (listed && policy::network(address.ip()) != Network::Never)
            };
            let addresses: Vec<_> = found.into_iter().filter(admitted).collect();
            if addresses.is_empty() {
                return Err("the name leads into a network that the upstream is not in".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn guarded(learned: &str, listed: &[&str], proxies: &[&str]) -> bool {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let learned = Learned::of(&learned.parse().unwrap());
        let (listed, proxies) = (owned(listed), owned(proxies));
        let guarded = Guarded { lookups: Lookups::default(), learned, listed, proxies };
        guarded.resolve("localhost".parse().unwrap()).await.is_ok()
    }

    #[tokio::test]
    async fn a_redirect_reaches_this_machine_only_if_the_upstream_is_here_too() {
        assert!(!guarded("https://registry-1.docker.io", &[], &[]).await);
        assert!(!guarded("https://10.0.0.1", &[], &[]).await);
        assert!(guarded("https://127.0.0.1", &[], &[]).await);
        assert!(guarded("https://registry-1.docker.io", &["localhost"], &[]).await);
        assert!(guarded("https://registry-1.docker.io", &[], &["localhost"]).await);
    }

    #[tokio::test]
    async fn the_networks_of_an_upstream_are_learned_when_it_is_resolved() {
        let learned = Learned::default();
        let (lookups, host) = (Lookups::default(), "localhost".into());
        let recording = Recording { lookups, learned: learned.clone(), host };
        assert!(!learned.networks().loopback);
        let _ = recording.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(learned.networks().loopback);
    }
}
