//! `tidegate.edge.*`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::Authority;
use ipnet::IpNet;
use url::Url;

use super::http::tcp;
use crate::config::reader::{Found, Reader};
use crate::config::report::Problem;
use crate::config::{Backend, Edge, Protocol, address, units};

/// Open connections at once; at most 40 KiB each while idle.
const CONNECTIONS: u32 = 20_000;

const FORWARD: &str = "tidegate.edge.forward";

/// What says how a mirror works; a sidecar is none.
const OF_A_MIRROR: [&str; 6] =
    ["proxy", "storage", "tidegate.proxy", "tidegate.tags", "tidegate.cache", "tidegate.fill"];

/// What `registry` does itself with its answers; those of a backend are passed on.
const OF_ANSWERS: [&str; 4] = ["http.prefix", "http.headers", "catalog", "tags"];

pub(in crate::config) fn edge(reader: &mut Reader<'_>) -> Edge {
    let forward = reader.text(FORWARD);
    if forward.is_some() {
        refuse_mirror(reader);
        warn_of_answers(reader);
    }
    Edge {
        forward: forward.and_then(|found| backend(reader, &found)),
        plain: reader.text("tidegate.edge.plain").map(|found| tcp(reader, &found)),
        allow: networks(reader, "tidegate.edge.allow"),
        proxies: networks(reader, "tidegate.edge.proxyprotocol"),
        alpn: alpn(reader),
        connections: connections(reader),
        per_client: per_client(reader),
        hsts: hsts(reader),
    }
}

/// Networks and single addresses; `off` is none.
fn networks(reader: &mut Reader<'_>, key: &str) -> Vec<IpNet> {
    let found = reader.texts(key);
    if let [only] = found.as_slice()
        && is_off(&only.text)
    {
        return Vec::new();
    }
    let mut networks = Vec::new();
    for found in found {
        let address = found.text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
        match address.or_else(|_| found.text.parse::<IpNet>()) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => {
                let fix = "write networks and addresses, such as 10.0.0.0/8 or 2001:db8::7";
                reader.report.refuse(found.problem("no network", fix));
            }
        }
    }
    networks
}

fn alpn(reader: &mut Reader<'_>) -> Vec<Protocol> {
    let both = [Protocol::Http2, Protocol::Http1];
    let http2_disabled = reader.flag("http.http2.disabled").unwrap_or(false);
    let mut protocols = Vec::new();
    for found in reader.texts("tidegate.edge.alpn") {
        match both.into_iter().find(|protocol| protocol.name() == found.text) {
            Some(Protocol::Http2) if http2_disabled => {
                let problem = found.problem("http.http2.disabled is set", "remove one of them");
                reader.report.refuse(problem);
            }
            Some(protocol) if !protocols.contains(&protocol) => protocols.push(protocol),
            _ => {
                reader.report.refuse(found.problem("no such protocol, or twice", "use h2, http/1.1, or both"))
            }
        }
    }
    if protocols.is_empty() {
        protocols.extend(both.into_iter().filter(|protocol| *protocol != Protocol::Http2 || !http2_disabled));
    }
    protocols
}

fn connections(reader: &mut Reader<'_>) -> u32 {
    let wanted = reader.number("tidegate.edge.connections");
    if let (Some(0), Some(found)) = (wanted, reader.text("tidegate.edge.connections")) {
        reader.report.refuse(found.problem("nobody could connect", "write a number, such as 20000"));
    }
    wanted.unwrap_or(CONNECTIONS)
}

fn per_client(reader: &mut Reader<'_>) -> Option<u32> {
    let found = reader.text("tidegate.edge.perclient").filter(|found| !is_off(&found.text))?;
    let number = units::number(&found.text).and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number > 0);
    if number.is_none() {
        reader.report.refuse(found.problem("no number above 0", "write a number of connections, or off"));
    }
    number
}

fn hsts(reader: &mut Reader<'_>) -> Option<Duration> {
    let found = reader.text("tidegate.edge.hsts").filter(|found| !is_off(&found.text))?;
    reader.duration_of(&found)
}

fn is_off(text: &str) -> bool {
    units::flag(text) == Some(false)
}

fn refuse_mirror(reader: &mut Reader<'_>) {
    for key in OF_A_MIRROR {
        let Some(node) = reader.node(key).filter(|node| !node.is_empty()) else { continue };
        let reason = "it is of a mirror, and with tidegate.edge.forward there is none";
        let fix = "remove it, or remove tidegate.edge.forward";
        let problem = Problem::new(key, reason, fix).at(&node.origin);
        reader.report.refuse(problem);
    }
}

fn warn_of_answers(reader: &mut Reader<'_>) {
    for key in OF_ANSWERS {
        if let Some(node) = reader.node(key).filter(|node| !node.is_empty()) {
            let text = "not acted on: with tidegate.edge.forward the answers are those of the backend";
            reader.report.warn(key, &node.origin, text);
        }
    }
}

fn backend(reader: &mut Reader<'_>, found: &Found) -> Option<Backend> {
    match parse(&found.text) {
        Ok(backend) => Some(backend),
        Err(reason) => {
            let fix = "write http://127.0.0.1:5001, or unix:/run/registry.sock";
            reader.report.refuse(found.problem(reason, fix));
            None
        }
    }
}

fn parse(text: &str) -> Result<Backend, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if path.is_absolute() {
            Ok(Backend::Unix(path))
        } else {
            Err("no absolute path of a socket")
        };
    }
    let url = Url::parse(text).map_err(|_| "neither a URL nor a socket")?;
    if url.scheme() != "http" {
        return Err("a backend is spoken to in plain HTTP");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a login, and those of clients are passed on as they are");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("it has a path, and requests are passed on as they are");
    }
    let authority = format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(80));
    let authority = authority.parse::<Authority>().map_err(|_| "no host")?;
    if address::is_authority(authority.as_str()) { Ok(Backend::Tcp(authority)) } else { Err("no host") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = parse(text).map(|backend| match backend {
            Backend::Tcp(authority) => authority.to_string(),
            Backend::Unix(path) => path.display().to_string(),
        });
        assert_eq!(parsed.as_deref(), expected.as_deref().map_err(|reason| reason as _), "{text}");
    }

    #[test]
    fn a_backend_is_a_host_or_a_socket() {
        check("http://127.0.0.1:5001", Ok("127.0.0.1:5001"));
        check("http://registry/", Ok("registry:80"));
        check("http://[::1]:5001", Ok("[::1]:5001"));
        check("unix:/run/registry.sock", Ok("/run/registry.sock"));
        check("unix:registry.sock", Err("no absolute path of a socket"));
        check("https://registry", Err("a backend is spoken to in plain HTTP"));
        check("127.0.0.1:5001", Err("neither a URL nor a socket"));
        check("http://a:b@c", Err("it holds a login, and those of clients are passed on as they are"));
        check("http://registry/v2/", Err("it has a path, and requests are passed on as they are"));
    }
}
