//! Names of hosts, as certificates have them.

use std::fmt;
use std::str::FromStr;

/// Longest name (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Longest part of it.
const LABEL_BYTES_MAX: usize = 63;

/// The name of a host in lower case: at least two labels of letters, digits and dashes. It is safe as the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

/// Why a text is no such name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// `*.example.org`.
    #[error("a certificate for all names of a domain is only given to those who write to its DNS")]
    Wildcard,
    /// An address.
    #[error("it is an address, not a name")]
    Address,
    /// One label.
    #[error("no public CA knows a name without a dot")]
    Bare,
    /// All else.
    #[error("no name of a host: labels of letters, digits and dashes, joined by dots")]
    Malformed,
}

impl DnsName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DnsName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.starts_with("*.") {
            return Err(BadName::Wildcard);
        }
        // Also turns other scripts into the form that DNS has.
        let name = match url::Host::parse(text.trim_end_matches('.')) {
            Ok(url::Host::Domain(name)) => name,
            Ok(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => return Err(BadName::Address),
            Err(_) if text.parse::<std::net::IpAddr>().is_ok() => return Err(BadName::Address),
            Err(_) => return Err(BadName::Malformed),
        };
        let sound = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if name.len() > NAME_BYTES_MAX || !name.split('.').all(sound) {
            return Err(BadName::Malformed);
        }
        if name.contains('.') { Ok(Self(name)) } else { Err(BadName::Bare) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_all_else() {
        let parse = str::parse::<DnsName>;
        for (text, name) in [
            ("mirror.test", "mirror.test"),
            ("Mirror.Example.ORG.", "mirror.example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(parse(text).unwrap().as_str(), name);
        }
        assert_eq!(parse("*.example.org"), Err(BadName::Wildcard));
        assert_eq!(parse("192.0.2.1"), Err(BadName::Address));
        assert_eq!(parse("::1"), Err(BadName::Address));
        assert_eq!(parse("localhost"), Err(BadName::Bare));
        for odd in [
            "",
            ".",
            "a..b",
            "-a.test",
            "a_b.test",
            "a/b.test",
            "../x",
            "a b.test",
            "https://a.test",
            "a.test:443",
        ] {
            assert_eq!(parse(odd), Err(BadName::Malformed), "{odd}");
        }
        assert_eq!(parse(&format!("{}.test", "a".repeat(64))), Err(BadName::Malformed));
        assert_eq!(parse(&format!("{}test", "a.".repeat(130))), Err(BadName::Malformed));
    }
}
