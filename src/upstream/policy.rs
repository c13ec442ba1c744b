//! Where an upstream may send us: token realms and redirects. Pure.
//!
//! Credentials go to the hosts they were configured for, and nowhere else: three registries lost theirs in one year to a
//! realm that they believed. A redirect never gets any, and may not lead into networks that the upstream is not in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The kind of network that an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Anybody's.
    Public,
    /// RFC 1918, RFC 4193, RFC 6598.
    Private,
    /// This machine.
    Loopback,
    /// Link-local, unspecified, multicast: no registry lives there, but cloud metadata services do.
    Never,
}

/// Which networks, besides the public one, the upstream itself is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Networks {
    /// It has a private address.
    pub private: bool,
    /// It has a loopback address.
    pub loopback: bool,
}

impl Networks {
    /// Adds the network of one more address.
    pub fn add(&mut self, address: IpAddr) {
        match network(address) {
            Network::Private => self.private = true,
            Network::Loopback => self.loopback = true,
            Network::Public | Network::Never => {}
        }
    }

    /// Whether an address is in one of them, or public.
    pub fn admit(self, address: IpAddr) -> bool {
        match network(address) {
            Network::Public => true,
            Network::Private => self.private,
            Network::Loopback => self.loopback,
            Network::Never => false,
        }
    }
}

/// The network of an address. An IPv4 address in IPv6 clothes is what it is.
pub fn network(address: IpAddr) -> Network {
    match address.to_canonical() {
        IpAddr::V4(v4) => network_v4(v4),
        IpAddr::V6(v6) => network_v6(v6),
    }
}

fn network_v4(address: Ipv4Addr) -> Network {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && (second & 0xc0) == 64;
    if address.is_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || first == 0
    {
        Network::Never
    } else if address.is_loopback() {
        Network::Loopback
    } else if address.is_private() || shared {
        Network::Private
    } else {
        Network::Public
    }
}

fn network_v6(address: Ipv6Addr) -> Network {
    if let Some(inner) = tunnelled_v4(address) {
        return network_v4(inner);
    }
    if address.is_unicast_link_local() || address.is_unspecified() || address.is_multicast() {
        Network::Never
    } else if address.is_loopback() {
        Network::Loopback
    } else if address.is_unique_local() {
        Network::Private
    } else {
        Network::Public
    }
}

/// The IPv4 address that a gateway would reach under an IPv6 one: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn tunnelled_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// Longest URL that an upstream may send us to; signed ones have about 1,000 characters.
const URL_CHARACTERS_MAX: usize = 8 * 1024;

/// Reads the target of a redirect. The error is the rule that it breaks.
pub fn redirect_target(upstream: &Url, from: &Url, location: &str) -> Result<Url, &'static str> {
    if location.len() > URL_CHARACTERS_MAX {
        return Err("the URL is too long");
    }
    let target = from.join(location).map_err(|_| "it is no URL")?;
    let secure = target.scheme() == "https" || (target.scheme() == "http" && upstream.scheme() == "http");
    if !secure {
        return Err("it is not https");
    }
    if target.host().is_none() || !target.username().is_empty() || target.password().is_some() {
        return Err("it has no host, or a user");
    }
    Ok(target)
}

/// Whether an IP literal in a URL may be asked; names are judged when they are resolved.
pub fn admits_literal(networks: Networks, listed: &[String], target: &Url) -> bool {
    let address = match target.host() {
        Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
        Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        _ => return true,
    };
    networks.admit(address) || (is_listed(listed, target) && network(address) != Network::Never)
}

/// Whether a host was listed by hand, with or without its port.
pub fn is_listed(listed: &[String], target: &Url) -> bool {
    let (Some(host), port) = (target.host_str(), target.port_or_known_default()) else {
        return false;
    };
    listed.iter().any(|entry| {
        let bare = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
        let bare = bare.trim_end_matches('/');
        bare.eq_ignore_ascii_case(host)
            || port.is_some_and(|port| bare.eq_ignore_ascii_case(&format!("{host}:{port}")))
    })
}

/// Reads a token realm; `None` if it gets nothing from us. It must be as secure as the upstream, and the same host, one
/// of the same registrable domain, or listed.
pub fn realm(upstream: &Url, text: &str, listed: &[String]) -> Option<Url> {
    let realm = Url::parse(text).ok().filter(|_| text.len() <= URL_CHARACTERS_MAX)?;
    let secure = realm.scheme() == "https" || (realm.scheme() == "http" && upstream.scheme() == "http");
    let plain = realm.username().is_empty() && realm.password().is_none();
    let related = same_owner(upstream, &realm) || is_listed(listed, &realm);
    (secure && plain && related).then_some(realm)
}

fn same_owner(upstream: &Url, realm: &Url) -> bool {
    match (upstream.host(), realm.host()) {
        (Some(Host::Domain(ours)), Some(Host::Domain(theirs))) => {
            let (ours, theirs) = (ours.trim_end_matches('.'), theirs.trim_end_matches('.'));
            ours.eq_ignore_ascii_case(theirs)
                || registrable(ours).is_some_and(|domain| registrable(theirs) == Some(domain))
        }
        (ours, theirs) => ours.is_some() && ours == theirs,
    }
}

/// The part of a name that somebody registered, such as `docker.io`; `None` for a public suffix or a bare name. Hosts in
/// a parsed URL are lower-case already.
fn registrable(name: &str) -> Option<&str> {
    let domain = psl::domain(name.as_bytes())?;
    // An unknown suffix is a private network's own name; there every machine may belong to somebody else.
    if !domain.suffix().is_known() {
        return None;
    }
    std::str::from_utf8(domain.as_bytes()).ok()
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
