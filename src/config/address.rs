//! Where to listen, as Go writes it: `:5000`, `127.0.0.1:5000`, `[::]:443`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Listen;

/// Why a text is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// Nothing after the last colon, or no colon.
    #[error("it names no port")]
    NoPort,
    /// No number up to 65535.
    #[error("its port is no number up to 65535")]
    BadPort,
    /// Go would ask the name server, and listen on what it says.
    #[error("its host is no IP address")]
    BadHost,
}

/// Reads an address. `localhost` is 127.0.0.1; other names are not resolved.
pub(super) fn parse(text: &str) -> Result<Listen, AddressError> {
    let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
    let port = port_of(port)?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match (bracketed, host) {
        (None, "") => return Ok(Listen::Anywhere(port)),
        (None, name) if name.eq_ignore_ascii_case("localhost") => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        (Some(v6), _) => v6.parse::<Ipv6Addr>().map(IpAddr::V6),
        (None, v4) => v4.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    match address.map_err(|_| AddressError::BadHost)? {
        // Go opens both families for it.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ok(Listen::Anywhere(port)),
        address => Ok(Listen::Tcp(SocketAddr::new(address, port))),
    }
}

/// A number, or one of the two names that Go users write.
fn port_of(text: &str) -> Result<u16, AddressError> {
    match text {
        "" => Err(AddressError::NoPort),
        "http" => Ok(80),
        "https" => Ok(443),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| AddressError::BadPort),
        _ => Err(AddressError::BadPort),
    }
}

/// Whether a text is `host:port` with any host, as a check may connect to.
pub(super) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port_of(port).is_ok() && is_host(host))
}

/// Whether a text can be a host: a name, or an address, that of IPv6 in brackets.
pub(super) fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => {
            let sound = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            !text.is_empty() && text.bytes().all(sound) && !text.starts_with(['.', '-'])
        }
    }
}

/// Whether a text is a host, with or without a port.
pub(super) fn is_authority(text: &str) -> bool {
    is_host(text) || is_host_and_port(text)
}

/// The address as it is written in a configuration.
pub(super) fn text(listen: &Listen) -> String {
    match listen {
        Listen::Anywhere(port) => format!(":{port}"),
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Result<&str, AddressError>) {
        assert_eq!(parse(address).map(|listen| text(&listen)), expected.map(str::to_owned), "{address}");
    }

    #[test]
    fn addresses_have_the_form_of_go() {
        check(":5000", Ok(":5000"));
        check(":https", Ok(":443"));
        check("0.0.0.0:80", Ok("0.0.0.0:80"));
        check("[::1]:443", Ok("[::1]:443"));
        check("[::]:443", Ok(":443"));
        check("localhost:5000", Ok("127.0.0.1:5000"));
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused() {
        check("", Err(AddressError::NoPort));
        check("5000", Err(AddressError::NoPort));
        check("0.0.0.0", Err(AddressError::NoPort));
        check("0.0.0.0:", Err(AddressError::NoPort));
        check(":70000", Err(AddressError::BadPort));
        check(":+80", Err(AddressError::BadPort));
        check("hub.example:80", Err(AddressError::BadHost));
        check("::1:80", Err(AddressError::BadHost));
        check("[127.0.0.1]:80", Err(AddressError::BadHost));
    }

    #[test]
    fn a_host_may_have_a_port() {
        for good in ["quay.io", "localhost:5000", "[::1]:80", "10.0.0.1", "a_b"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in ["", "a b", "a/b", "user@host", ":80", "host:", "-x", "::1"] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
