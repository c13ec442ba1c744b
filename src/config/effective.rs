//! The configuration as it is understood, in the form in which it is written: what `tidegate check` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use super::report::{MASK, without_login};
use super::units::{bytes_text, duration_text};
use super::{
    AccessFormat, Acme, Backend, Check, ClientDemand, Config, Durability, Edge, Formatter, Health, Http,
    Level, Listen, Log, Probe, Proxy, Storage, address,
};
use crate::registry::Pattern;

impl Config {
    /// The effective configuration as YAML, defaults included, secrets masked.
    pub fn effective(&self) -> String {
        let mut yaml = Yaml::default();
        yaml.word(0, "version", "0.1");
        self.log.write(&mut yaml);
        self.http.write(&mut yaml, self.acme.as_ref());
        self.health.write(&mut yaml);
        if let Some(htpasswd) = &self.htpasswd {
            yaml.key(0, "auth");
            yaml.key(1, "htpasswd");
            yaml.text(2, "realm", &htpasswd.realm);
            yaml.path(2, "path", &htpasswd.path);
        }
        if self.edge.forward.is_none() {
            self.write_mirror(&mut yaml);
        }
        yaml.key(0, "tidegate");
        if self.edge.forward.is_none() {
            self.write_our_mirror(&mut yaml);
        }
        self.write_ours(&mut yaml);
        yaml.text
    }

    /// The keys that are not as they are in another configuration, by their names. Of secrets, it sees only whether they are
    /// set.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (leaves(&self.effective()), leaves(&other.effective()));
        let all: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        all.into_iter().filter(|key| ours.get(*key) != theirs.get(*key)).cloned().collect()
    }

    fn write_mirror(&self, yaml: &mut Yaml) {
        self.storage.write(yaml);
        self.proxy.write(yaml);
        if let Some(idle) = self.cache.idle {
            yaml.word(1, "ttl", duration_text(idle));
        }
        yaml.key(0, "catalog");
        yaml.word(1, "maxentries", self.catalog_max);
        yaml.key(0, "tags");
        yaml.word(1, "maxtags", self.tags_max);
    }

    fn write_our_mirror(&self, yaml: &mut Yaml) {
        self.proxy.write_ours(yaml);
        let stale_for = self.tags.stale_for.map(duration_text);
        yaml.key(1, "tags");
        yaml.word(2, "fresh", duration_text(self.tags.fresh));
        yaml.word(2, "stalefor", stale_for.as_deref().unwrap_or("unlimited"));
        yaml.word(2, "gone", if self.tags.refuse_gone { "refuse" } else { "serve" });
        yaml.word(2, "negative", duration_text(self.tags.negative));
        yaml.key(1, "fill");
        yaml.word(2, "concurrent", self.fill.concurrent);
        yaml.word(2, "perupstream", self.fill.per_upstream);
        yaml.word(2, "segments", self.fill.segments);
        yaml.word(2, "lazy", self.fill.lazy);
        yaml.word(2, "stall", duration_text(self.fill.stall));
        yaml.key(1, "cache");
        yaml.word(2, "scrub", duration_text(self.cache.scrub));
        yaml.word(2, "scrubrate", bytes_text(self.cache.scrub_bytes_per_second));
        yaml.word(2, "maxsize", self.cache.max_size);
        yaml.word(2, "minfree", self.cache.min_free);
        yaml.word(2, "hold", duration_text(self.cache.hold));
        yaml.word(2, "evictadopted", self.cache.evict_adopted);
        yaml.word(
            2,
            "durability",
            if self.cache.durability == Durability::Full { "full" } else { "relaxed" },
        );
    }

    fn write_ours(&self, yaml: &mut Yaml) {
        self.edge.write(yaml);
        self.write_our_edge(yaml);
        self.http.write_our_tls(yaml);
        if let Some(acme) = &self.acme {
            acme.write_ours(yaml);
        }
        yaml.key(1, "admin");
        yaml.text(2, "socket", &self.admin.socket.display().to_string());
        let access = match self.log.access {
            Some(AccessFormat::CombinedPlus) => "combined+",
            Some(AccessFormat::Json) => "json",
            Some(AccessFormat::Combined) | None => "combined",
        };
        yaml.key(1, "log");
        yaml.word(2, "access", access);
    }
}

impl Edge {
    fn write(&self, yaml: &mut Yaml) {
        yaml.key(1, "edge");
        match &self.forward {
            Some(Backend::Tcp(authority)) => yaml.text(2, "forward", &format!("http://{authority}")),
            Some(Backend::Unix(path)) => yaml.text(2, "forward", &format!("unix:{}", path.display())),
            None => {}
        }
        if let Some(plain) = &self.plain {
            yaml.text(2, "plain", &address::text(plain));
        }
        yaml.list(2, "allow", self.allow.iter().map(ToString::to_string));
        yaml.list(2, "proxyprotocol", self.proxies.iter().map(ToString::to_string));
        yaml.list(2, "alpn", self.alpn.iter().map(|protocol| protocol.name().to_owned()));
        yaml.word(2, "connections", self.connections);
        yaml.word(2, "perclient", self.per_client.map_or("off".to_owned(), |most| most.to_string()));
        yaml.word(2, "hsts", self.hsts.map_or("off".to_owned(), duration_text));
    }
}

impl Config {
    fn write_our_edge(&self, yaml: &mut Yaml) {
        let Some(tls) = &self.http.tls else { return };
        yaml.word(2, "strictsni", tls.strict_sni);
        if let Some(acme) = &self.acme {
            yaml.text(2, "http", &acme.http.as_ref().map_or_else(|| "off".to_owned(), address::text));
        }
    }
}

impl Log {
    fn write(&self, yaml: &mut Yaml) {
        let level = match self.level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        };
        let formatter = match self.formatter {
            Formatter::Text => "text",
            Formatter::Json => "json",
            Formatter::Logstash => "logstash",
        };
        yaml.key(0, "log");
        yaml.word(1, "level", level);
        yaml.word(1, "formatter", formatter);
        if !self.fields.is_empty() {
            yaml.key(1, "fields");
        }
        for (name, text) in &self.fields {
            yaml.text(2, &quoted(name), text);
        }
        yaml.key(1, "accesslog");
        yaml.word(2, "disabled", self.access.is_none());
    }
}

impl Http {
    fn write(&self, yaml: &mut Yaml, acme: Option<&Acme>) {
        let net = match self.listen {
            Listen::Unix(_) => "unix",
            Listen::Anywhere(_) | Listen::Tcp(_) => "tcp",
        };
        yaml.key(0, "http");
        yaml.word(1, "net", net);
        yaml.text(1, "addr", &address::text(&self.listen));
        yaml.text(1, "prefix", &self.prefix);
        yaml.word(1, "draintimeout", duration_text(self.drain));
        self.write_headers(yaml);
        self.write_tls(yaml, acme);
        let Some(debug) = &self.debug else { return };
        yaml.key(1, "debug");
        yaml.text(2, "addr", &address::text(&debug.listen));
        yaml.key(2, "prometheus");
        yaml.word(3, "enabled", debug.metrics.is_some());
        if let Some(path) = &debug.metrics {
            yaml.text(3, "path", path);
        }
    }

    fn write_headers(&self, yaml: &mut Yaml) {
        let mut written = Vec::new();
        for (name, _) in &self.headers {
            if written.contains(&name) {
                continue;
            }
            if written.is_empty() {
                yaml.key(1, "headers");
            }
            written.push(name);
            let values = self.headers.iter().filter(|(other, _)| other == name);
            let values = values.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned());
            yaml.list(2, name.as_str(), values);
        }
    }

    fn write_our_tls(&self, yaml: &mut Yaml) {
        let Some(tls) = &self.tls else { return };
        yaml.key(1, "tls");
        if let Some(folder) = &tls.folder {
            yaml.path(2, "dir", folder);
        }
        yaml.word(2, "keep", tls.keep);
    }

    fn write_tls(&self, yaml: &mut Yaml, acme: Option<&Acme>) {
        let Some(tls) = &self.tls else { return };
        yaml.key(1, "tls");
        if let Some(acme) = acme {
            acme.write(yaml);
        }
        if let Some(files) = &tls.files {
            yaml.path(2, "certificate", &files.certificate);
            yaml.path(2, "key", &files.key);
        }
        if let Some(clients) = &tls.clients {
            yaml.list(2, "clientcas", clients.authorities.iter().map(|path| path.display().to_string()));
            let demand = match clients.demand {
                ClientDemand::Request => "request-client-cert",
                ClientDemand::RequireAny => "require-any-client-cert",
                ClientDemand::VerifyIfGiven => "verify-client-cert-if-given",
                ClientDemand::RequireAndVerify => "require-and-verify-client-cert",
            };
            yaml.word(2, "clientauth", demand);
        }
        yaml.word(2, "minimumtls", if tls.only_1_3 { "tls1.3" } else { "tls1.2" });
        if !tls.suites.is_empty() {
            yaml.list(2, "ciphersuites", tls.suites.iter().cloned());
        }
    }
}

impl Acme {
    fn write(&self, yaml: &mut Yaml) {
        yaml.key(2, "letsencrypt");
        yaml.list(3, "hosts", self.hosts.iter().map(ToString::to_string));
        if let Some(email) = &self.email {
            yaml.text(3, "email", email);
        }
        if let Some(folder) = &self.autocert {
            yaml.path(3, "cachefile", folder);
        }
        yaml.text(3, "directoryurl", self.directory.as_str());
    }

    fn write_ours(&self, yaml: &mut Yaml) {
        yaml.key(1, "acme");
        if let Some(cafile) = &self.cafile {
            yaml.path(2, "cafile", cafile);
        }
        yaml.list(2, "challenges", self.challenges.iter().map(|challenge| challenge.label().to_owned()));
        if let Some(fallback) = &self.fallback {
            yaml.text(2, "fallback", fallback.as_str());
        }
    }
}

impl Storage {
    fn write(&self, yaml: &mut Yaml) {
        yaml.key(0, "storage");
        match self {
            Self::Filesystem { root, .. } => {
                yaml.key(1, "filesystem");
                yaml.path(2, "rootdirectory", root);
            }
            Self::Temporary => yaml.key(1, "inmemory"),
        }
    }
}

impl Proxy {
    fn write(&self, yaml: &mut Yaml) {
        yaml.key(0, "proxy");
        let url = without_login(self.remoteurl.as_str());
        yaml.text(1, "remoteurl", url.trim_end_matches('/'));
        if let Some(account) = &self.account {
            yaml.text(1, "username", &account.username);
            yaml.text(1, "password", MASK);
        }
    }

    fn write_ours(&self, yaml: &mut Yaml) {
        let patterns = |patterns: &[Pattern]| -> Vec<String> {
            patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
        };
        yaml.key(1, "proxy");
        yaml.text(2, "name", &self.name);
        if let Some(cafile) = &self.cafile {
            yaml.path(2, "cafile", cafile);
        }
        yaml.list(2, "realms", self.realms.iter().cloned());
        yaml.list(2, "redirects", self.redirects.iter().cloned());
        yaml.list(2, "allow", patterns(&self.allow).into_iter());
        yaml.list(2, "deny", patterns(&self.deny).into_iter());
        yaml.word(2, "anonymousfallback", self.anonymous_fallback);
    }
}

impl Health {
    fn write(&self, yaml: &mut Yaml) {
        if self.checks.is_empty() {
            return;
        }
        yaml.key(0, "health");
        for (name, is) in [
            ("file", (|probe| matches!(probe, Probe::File(_))) as fn(&Probe) -> bool),
            ("http", |probe| matches!(probe, Probe::Http { .. })),
            ("tcp", |probe| matches!(probe, Probe::Tcp(_))),
        ] {
            let checks: Vec<&Check> = self.checks.iter().filter(|check| is(&check.probe)).collect();
            if !checks.is_empty() {
                yaml.key(1, name);
            }
            for check in checks {
                check.write(yaml);
            }
        }
    }
}

impl Check {
    fn write(&self, yaml: &mut Yaml) {
        yaml.word(2, "- interval", duration_text(self.interval));
        match &self.probe {
            // A check of a file takes no time, and its first failure counts.
            Probe::File(path) => return yaml.path(3, "file", path),
            Probe::Http { url, headers, status } => {
                yaml.text(3, "uri", &without_login(url.as_str()));
                yaml.word(3, "statuscode", status);
                if !headers.is_empty() {
                    yaml.key(3, "headers");
                }
                let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
                names.dedup();
                for name in names {
                    // Most headers of checks are logins.
                    yaml.text(4, &quoted(name), MASK);
                }
            }
            Probe::Tcp(address) => yaml.text(3, "addr", address),
        }
        yaml.word(3, "timeout", duration_text(self.timeout));
        yaml.word(3, "threshold", self.threshold);
    }
}

/// What stands at the ends of our own YAML: values by key, several where a list has several.
fn leaves(yaml: &str) -> BTreeMap<String, Vec<String>> {
    let mut leaves: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    for line in yaml.lines() {
        let text = line.trim_start();
        let level = (line.len() - text.len()) / 2;
        let Some((name, value)) = text.trim_start_matches("- ").split_once(':') else { continue };
        path.truncate(level);
        path.push(name);
        if !value.is_empty() {
            leaves.entry(path.join(".")).or_default().push(value.trim().to_owned());
        }
    }
    leaves
}

/// Lines of YAML.
#[derive(Default)]
struct Yaml {
    text: String,
}

impl Yaml {
    fn line(&mut self, level: usize, line: &str) {
        for _ in 0..level {
            self.text.push_str("  ");
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn key(&mut self, level: usize, name: &str) {
        self.line(level, &format!("{name}:"));
    }

    /// A value that needs no quotes.
    fn word(&mut self, level: usize, name: &str, word: impl std::fmt::Display) {
        self.line(level, &format!("{name}: {word}"));
    }

    fn text(&mut self, level: usize, name: &str, text: &str) {
        self.line(level, &format!("{name}: {}", quoted(text)));
    }

    fn path(&mut self, level: usize, name: &str, path: &Path) {
        self.text(level, name, &path.display().to_string());
    }

    fn list(&mut self, level: usize, name: &str, items: impl Iterator<Item = String>) {
        let items: Vec<String> = items.map(|item| quoted(&item)).collect();
        self.line(level, &format!("{name}: [{}]", items.join(", ")));
    }
}

/// A text in double quotes, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric() => {
                quoted.push(character);
            }
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\U{:08X}", u32::from(character));
            }
        }
    }
    quoted.push('"');
    quoted
}
