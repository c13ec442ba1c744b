//! `http.tls.letsencrypt.*`, `tidegate.acme.*` and `tidegate.edge.http`.

use std::path::PathBuf;

use url::Url;

use crate::config::reader::{Found, Reader};
use crate::config::{Acme, Challenge, DnsName, Listen, address};

/// Let's Encrypt, as in `registry`.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Names with a certificate each: what one CA's limit of orders lets renew in a day of trouble.
const HOSTS_MAX: usize = 100;

/// Where CAs look for answers over HTTP, wherever that is mapped to.
const HTTP: Listen = Listen::Anywhere(80);

pub(in crate::config) fn acme(reader: &mut Reader<'_>) -> Option<Acme> {
    let hosts = hosts(reader);
    let acme = Acme {
        email: email(reader),
        autocert: path(reader, "http.tls.letsencrypt.cachefile"),
        directory: directory(reader, "http.tls.letsencrypt.directoryurl")
            .or_else(|| Url::parse(DIRECTORY).ok())?,
        fallback: directory(reader, "tidegate.acme.fallback"),
        cafile: path(reader, "tidegate.acme.cafile"),
        challenges: challenges(reader),
        http: http(reader),
        hosts,
    };
    if acme.hosts.is_empty() {
        miss_hosts(reader);
        return None;
    }
    Some(acme)
}

/// What is set for certificates that nobody asks for is a mistake: without them the port would speak plain HTTP.
fn miss_hosts(reader: &mut Reader<'_>) {
    let keys = [
        "http.tls.letsencrypt.cachefile",
        "http.tls.letsencrypt.email",
        "http.tls.letsencrypt.directoryurl",
        "tidegate.acme.cafile",
        "tidegate.acme.fallback",
    ];
    let Some(alone) = keys.iter().find_map(|key| reader.text(key)) else { return };
    let fix = "list the names in http.tls.letsencrypt.hosts (REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS='[a.example]'), or remove it";
    reader
        .report
        .refuse(alone.problem("http.tls.letsencrypt.hosts names no host to get a certificate for", fix));
}

fn path(reader: &Reader<'_>, key: &str) -> Option<PathBuf> {
    reader.text(key).map(|found| PathBuf::from(found.text))
}

fn hosts(reader: &mut Reader<'_>) -> Vec<DnsName> {
    let found = reader.texts("http.tls.letsencrypt.hosts");
    let mut hosts = Vec::new();
    for host in &found {
        match host.text.parse::<DnsName>() {
            Ok(name) if hosts.contains(&name) => {}
            Ok(name) => hosts.push(name),
            Err(error) => {
                let fix = "write names such as mirror.example.org; for all else have certbot or another client write files, and name them or their folder";
                reader.report.refuse(host.problem(error.to_string(), fix));
            }
        }
    }
    if let Some(first) = found.first().filter(|_| hosts.len() > HOSTS_MAX) {
        reader.report.refuse(
            first.problem(format!("more than {HOSTS_MAX} names"), "run several mirrors, or use files"),
        );
    }
    hosts
}

fn email(reader: &mut Reader<'_>) -> Option<String> {
    let found = reader.text("http.tls.letsencrypt.email")?;
    let address = found.text.strip_prefix("mailto:").unwrap_or(&found.text);
    let sound = |c: char| c.is_ascii_graphic() && !"<>,;\"\\?&".contains(c);
    let (user, host) = address.split_once('@').unwrap_or_default();
    if user.is_empty() || host.is_empty() || host.contains('@') || !address.chars().all(sound) {
        reader.report.refuse(found.problem("no mail address", "write it as admin@example.org, or remove it"));
        return None;
    }
    Some(address.to_owned())
}

fn directory(reader: &mut Reader<'_>, key: &str) -> Option<Url> {
    let found = reader.text(key)?;
    match Url::parse(&found.text) {
        Ok(url) if url.scheme() == "https" && url.has_host() && url.username().is_empty() => Some(url),
        Ok(url) if url.scheme() == "http" => {
            let reason = "a CA that is reached without TLS could be anybody";
            reader.report.refuse(found.problem(reason, "write its https:// address"));
            None
        }
        _ => {
            let fix = format!("write the address of an ACME directory, such as {DIRECTORY}");
            reader.report.refuse(found.problem("no address of a directory", fix));
            None
        }
    }
}

fn challenges(reader: &mut Reader<'_>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for found in reader.texts("tidegate.acme.challenges") {
        let known = [Challenge::TlsAlpn01, Challenge::Http01];
        match known.into_iter().find(|challenge| challenge.label() == found.text) {
            Some(challenge) if challenges.contains(&challenge) => {}
            Some(challenge) => challenges.push(challenge),
            None => refuse_challenge(reader, &found),
        }
    }
    if challenges.is_empty() { vec![Challenge::TlsAlpn01, Challenge::Http01] } else { challenges }
}

fn refuse_challenge(reader: &mut Reader<'_>, found: &Found) {
    let reason = "there is no such challenge here";
    reader
        .report
        .refuse(found.problem(reason, "use tls-alpn-01, http-01, or both in the order of preference"));
}

fn http(reader: &mut Reader<'_>) -> Option<Listen> {
    let Some(found) = reader.text("tidegate.edge.http") else { return Some(HTTP) };
    if found.text == "off" {
        return None;
    }
    let parsed = address::parse(&found.text);
    if let Err(error) = &parsed {
        let fix = "write :80, an IP address and a port, or off";
        reader.report.refuse(found.problem(format!("no address to listen on: {error}"), fix));
    }
    parsed.ok()
}
