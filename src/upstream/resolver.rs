//! Name resolution that knows the rule of redirects: a name that leads into a network that the upstream itself is not in
//! has no addresses.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::policy::{self, Network, Networks};
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

/// Resolves for the upstream itself, and learns.
#[derive(Debug)]
pub struct Recording {
    /// Where to write.
    pub learned: Learned,
    /// The name of the upstream; a proxy in front of it teaches nothing.
    pub host: String,
}

impl Resolve for Recording {
    fn resolve(&self, name: Name) -> Resolving {
        let own = name.as_str().eq_ignore_ascii_case(&self.host);
        let learned = self.learned.clone();
        Box::pin(async move {
            let addresses = look_up(&name).await?;
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
        let networks = self.learned.networks();
        Box::pin(async move {
            let found = look_up(&name).await?;
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

/// The addresses of a name, by the system's resolver, on the blocking pool.
async fn look_up(name: &Name) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn guarded(learned: &str, listed: &[&str], proxies: &[&str]) -> bool {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let learned = Learned::of(&learned.parse().unwrap());
        let guarded = Guarded { learned, listed: owned(listed), proxies: owned(proxies) };
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
        let recording = Recording { learned: learned.clone(), host: "localhost".into() };
        assert!(!learned.networks().loopback);
        let _ = recording.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(learned.networks().loopback);
    }
}
