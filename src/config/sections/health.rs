//! `health.*`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::reader::{Found, Reader};
use crate::config::report::{Origin, Problem};
use crate::config::{Check, Health, Probe, address};

/// `registry`'s defaults.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);
const STATUS: u16 = 200;

/// A shorter interval is mostly a number without its unit, and would keep a processor busy.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(in crate::config) fn health(reader: &mut Reader<'_>) -> Health {
    let mut checks = Vec::new();
    for (list, probe) in [
        ("health.file", file as fn(&mut Reader<'_>, &str) -> Option<Probe>),
        ("health.http", http),
        ("health.tcp", tcp),
    ] {
        for index in 0..reader.count(list) {
            let at = format!("{list}.{index}");
            checks.extend(probe(reader, &at).map(|probe| check(reader, &at, probe)));
        }
    }
    Health { checks }
}

fn check(reader: &mut Reader<'_>, at: &str, probe: Probe) -> Check {
    let key = format!("{at}.interval");
    let mut interval = positive(reader, &key).unwrap_or(INTERVAL);
    if interval < INTERVAL_MIN {
        interval = INTERVAL_MIN;
        let origin = reader.node(&key).map(|node| node.origin.clone());
        let text = "a check runs at most ten times a second";
        reader.report.warn(&key, &origin.unwrap_or_else(|| Origin::whole(at)), text);
    }
    Check {
        probe,
        interval,
        timeout: positive(reader, &format!("{at}.timeout")).unwrap_or(TIMEOUT),
        threshold: reader.number(&format!("{at}.threshold")).unwrap_or(0),
    }
}

/// A duration; 0 is the default, as in `registry`.
fn positive(reader: &mut Reader<'_>, key: &str) -> Option<Duration> {
    reader.duration(key).filter(|duration| !duration.is_zero())
}

fn file(reader: &mut Reader<'_>, at: &str) -> Option<Probe> {
    let found = required(reader, at, "file", "the path of a file that stops the service while it exists")?;
    Some(Probe::File(PathBuf::from(found.text)))
}

fn http(reader: &mut Reader<'_>, at: &str) -> Option<Probe> {
    let found = required(reader, at, "uri", "the URL to ask")?;
    let headers = reader.headers(&format!("{at}.headers"));
    let headers = headers.into_iter().map(|(name, found)| (name, found.text)).collect();
    let status = status(reader, &format!("{at}.statuscode"));
    match Url::parse(&found.text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Some(Probe::Http { url, headers, status })
        }
        _ => {
            let fix = "write scheme, host and path, such as http://127.0.0.1:8080/ready";
            reader.report.refuse(found.problem("no URL of http or https", fix));
            None
        }
    }
}

fn status(reader: &mut Reader<'_>, key: &str) -> u16 {
    match reader.number(key).map(u16::try_from) {
        None | Some(Ok(0)) => STATUS,
        Some(Ok(status @ 100..=999)) => status,
        _ => {
            if let Some(found) = reader.text(key) {
                let problem = found.problem("no status of HTTP", "write a number such as 200");
                reader.report.refuse(problem);
            }
            STATUS
        }
    }
}

fn tcp(reader: &mut Reader<'_>, at: &str) -> Option<Probe> {
    let found = required(reader, at, "addr", "host and port to connect to")?;
    if !address::is_host_and_port(&found.text) {
        let problem = found.problem("no host and port", "write it as db.example:5432");
        reader.report.refuse(problem);
    }
    Some(Probe::Tcp(found.text))
}

fn required(reader: &mut Reader<'_>, at: &str, name: &str, what: &str) -> Option<Found> {
    let key = format!("{at}.{name}");
    let found = reader.text(&key);
    if found.is_none() {
        let problem = Problem::new(&key, "it is not set", format!("set it to {what}, or remove the check"));
        let origin = reader.node(at).map(|node| node.origin.clone());
        reader.report.refuse(match origin {
            Some(origin) => problem.at(&origin),
            None => problem,
        });
    }
    found
}
