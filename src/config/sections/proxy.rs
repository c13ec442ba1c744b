//! `proxy.*` and `tidegate.proxy.*`.

use std::path::PathBuf;

use url::Url;

use crate::config::reader::{Found, Reader};
use crate::config::report::Problem;
use crate::config::{Account, Proxy, address};
use crate::registry::Pattern;

/// Docker Hub.
const HUB: &str = "https://registry-1.docker.io";
const HUB_NAME: &str = "docker.io";

/// Registries that go by the name of their host.
const WELL_KNOWN: [&str; 6] =
    ["quay.io", "ghcr.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws"];

pub(in crate::config) fn proxy(reader: &mut Reader<'_>) -> Proxy {
    let configured = reader.text("proxy.remoteurl").is_some();
    let remoteurl = remoteurl(reader);
    let account = account(reader);
    let (name, name_configured) = name(reader, &remoteurl);
    let fallback = reader.flag("tidegate.proxy.anonymousfallback");
    Proxy {
        remoteurl,
        configured,
        account,
        name,
        name_configured,
        cafile: reader.text("tidegate.proxy.cafile").map(|found| PathBuf::from(found.text)),
        realms: hosts(reader, "tidegate.proxy.realms"),
        redirects: hosts(reader, "tidegate.proxy.redirects"),
        allow: patterns(reader, "tidegate.proxy.allow"),
        deny: patterns(reader, "tidegate.proxy.deny"),
        anonymous_fallback: fallback.unwrap_or(true),
    }
}

fn hub() -> Url {
    Url::parse(HUB).expect("Docker Hub's URL is one")
}

fn remoteurl(reader: &mut Reader<'_>) -> Url {
    let Some(found) = reader.text("proxy.remoteurl") else { return hub() };
    let fix = format!("write scheme and host, such as {HUB}");
    let mut url = match Url::parse(&found.text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) => {
            reader.report.refuse(found.problem("its scheme is neither https nor http", fix));
            return hub();
        }
        Err(error) => {
            reader.report.refuse(found.problem(format!("no URL: {error}"), fix));
            return hub();
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let fix = "set proxy.username and proxy.password instead";
        reader.report.refuse(found.problem("it holds a login", fix));
    }
    if url.query().is_some() || url.fragment().is_some() {
        reader.report.refuse(found.problem("it has a query or a fragment", fix));
    }
    if !matches!(url.path(), "" | "/") {
        let text = "its path is dropped; a registry answers below /v2/";
        reader.report.warn(&found.key, &found.origin, text);
    }
    url.set_path("");
    url
}

fn account(reader: &mut Reader<'_>) -> Option<Account> {
    let username = reader.text("proxy.username");
    let password = reader.secret("proxy.password");
    match (username, password) {
        (Some(username), Some((password, _))) => Some(Account { username: username.text, password }),
        (Some(username), None) => {
            let fix = "set proxy.password, or remove both to pull anonymously";
            reader.report.refuse(username.problem("proxy.password is not set", fix));
            None
        }
        (None, Some((_, origin))) => {
            let fix = "set proxy.username, or remove both to pull anonymously";
            let problem = Problem::new("proxy.password", "proxy.username is not set", fix);
            reader.report.refuse(problem.at(&origin).masked());
            None
        }
        (None, None) => None,
    }
}

fn name(reader: &mut Reader<'_>, remoteurl: &Url) -> (String, bool) {
    if let Some(found) = reader.text("tidegate.proxy.name") {
        if !address::is_authority(&found.text) {
            reader.report.refuse(found.problem("no name of a registry", "write a host, such as quay.io"));
        }
        return (found.text.to_ascii_lowercase(), true);
    }
    let host = remoteurl.host_str().unwrap_or_default();
    let name = WELL_KNOWN.iter().find(|known| **known == host);
    (name.unwrap_or(&HUB_NAME).to_string(), false)
}

fn hosts(reader: &mut Reader<'_>, key: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    for found in reader.texts(key) {
        if address::is_authority(bare(&found)) {
            hosts.push(found.text);
        } else {
            let fix = "write a host, or a host and a port, such as auth.example:5001";
            reader.report.refuse(found.problem("no host", fix));
        }
    }
    hosts
}

/// People copy hosts from URLs.
fn bare(found: &Found) -> &str {
    let text = found.text.as_str();
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    text.trim_end_matches('/')
}

fn patterns(reader: &mut Reader<'_>, key: &str) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for found in reader.texts(key) {
        match Pattern::parse(&found.text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                let fix = "write repositories, such as library/* or corp/**";
                reader.report.refuse(found.problem(error.to_string(), fix));
            }
        }
    }
    patterns
}
