//! Headers on their way to a backend and back.

use http::{HeaderMap, HeaderName, header};

use crate::edge::answer::insert;
use crate::edge::connection::Client;

/// Headers that concern one connection alone, besides those that `Connection` names. `Expect` was answered by us.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Removes what concerns one connection alone.
pub fn without_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Says who asks, in place of all that a client says of that.
pub fn tell_asker(headers: &mut HeaderMap, asker: &Client) {
    let theirs = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip"
    };
    let theirs: Vec<HeaderName> = headers.keys().filter(theirs).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
    let scheme = if asker.secure { "https" } else { "http" };
    insert(headers, HeaderName::from_static("x-forwarded-for"), &asker.name);
    insert(headers, HeaderName::from_static("x-real-ip"), &asker.name);
    insert(headers, HeaderName::from_static("x-forwarded-proto"), scheme);
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_belongs_to_a_connection_ends_with_it() {
        let mut headers = map(&[
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ]);
        without_hops(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let mut headers = map(&[
            ("host", "mirror.test:5000"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-prefix", "/x"),
            ("forwarded", "for=10.0.0.1;proto=http"),
            ("x-real-ip", "10.0.0.1"),
        ]);
        tell_asker(&mut headers, &Client::of("192.0.2.7", true));
        let expected = map(&[
            ("host", "mirror.test:5000"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "mirror.test:5000"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.7"),
        ]);
        assert_eq!(headers, expected);
    }
}
