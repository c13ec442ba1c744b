//! `http.*`.

use std::path::PathBuf;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};

use super::tls::tls;
use crate::config::reader::{Found, Reader};
use crate::config::{Debug, Http, Listen, address};

/// `registry`'s port.
const LISTEN: Listen = Listen::Anywhere(5000);

/// What orchestrators grant between SIGTERM and SIGKILL by default.
const DRAIN: Duration = Duration::from_secs(30);

pub(in crate::config) fn http(reader: &mut Reader<'_>) -> Http {
    Http {
        listen: listen(reader),
        prefix: prefix(reader),
        headers: headers(reader),
        drain: reader.duration("http.draintimeout").unwrap_or(DRAIN),
        tls: tls(reader),
        debug: debug(reader),
    }
}

fn listen(reader: &mut Reader<'_>) -> Listen {
    let found = reader.text("http.addr");
    let Some(net) = reader.text("http.net") else { return found.map_or(LISTEN, |found| tcp(reader, &found)) };
    match (net.text.as_str(), found) {
        ("tcp", found) => found.map_or(LISTEN, |found| tcp(reader, &found)),
        ("unix", Some(found)) => Listen::Unix(PathBuf::from(found.text)),
        ("unix", None) => {
            let fix = "write the path of the socket in http.addr";
            reader.report.refuse(net.problem("a Unix socket needs a path", fix));
            LISTEN
        }
        _ => {
            reader.report.refuse(net.problem("no such kind of socket", "use tcp or unix"));
            LISTEN
        }
    }
}

pub(super) fn tcp(reader: &mut Reader<'_>, found: &Found) -> Listen {
    address::parse(&found.text).unwrap_or_else(|error| {
        let fix = "write :5000, or an IP address and a port, such as 127.0.0.1:5000 or [::1]:5000";
        reader.report.refuse(found.problem(format!("no address to listen on: {error}"), fix));
        LISTEN
    })
}

fn prefix(reader: &mut Reader<'_>) -> String {
    let Some(found) = reader.text("http.prefix") else { return String::new() };
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    if !found.text.starts_with('/') || !found.text.bytes().all(sound) || found.text.contains("//") {
        let reason = "no path of letters, digits and -._~ that starts with a slash";
        reader.report.refuse(found.problem(reason, "write it as /mirror/"));
    }
    found.text.trim_end_matches('/').to_owned()
}

fn headers(reader: &mut Reader<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (name, found) in reader.headers("http.headers") {
        match (HeaderName::try_from(&name), HeaderValue::from_str(&found.text)) {
            (Ok(name), Ok(_)) if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) => {
                let reason = "it says where an answer ends, which differs with each";
                reader.report.refuse(found.problem(reason, "remove it"));
            }
            (Ok(name), Ok(value)) => headers.push((name, value)),
            (Err(_), _) => {
                let fix = "use letters, digits and dashes";
                reader.report.refuse(found.problem("no name of a header", fix));
            }
            (_, Err(_)) => {
                let fix = "remove line breaks and control characters";
                reader.report.refuse(found.problem("no value of a header", fix));
            }
        }
    }
    headers
}

fn debug(reader: &mut Reader<'_>) -> Option<Debug> {
    let enabled = reader.flag("http.debug.prometheus.enabled").unwrap_or(false);
    let path = reader.text("http.debug.prometheus.path");
    if let Some(found) = path.as_ref().filter(|found| !found.text.starts_with('/')) {
        let problem = found.problem("a path starts with a slash", "write it as /metrics");
        reader.report.refuse(problem);
    }
    let path = path.map_or_else(|| "/metrics".to_owned(), |found| found.text);
    let found = reader.text("http.debug.addr")?;
    Some(Debug { listen: tcp(reader, &found), metrics: enabled.then_some(path) })
}
