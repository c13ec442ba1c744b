//! Everything that takes bytes from the network, the disk or the configuration, as one function each: a *door*.
//!
//! A door reads what may be anything, and asserts what its callers rely on: that it gives up without a panic, that what it
//! took prints as what reads the same, that it keeps its limits, and that no error tells a secret or holds a control
//! character. The tests below run every door over generated input; `fuzz/` has a target for each. Neither is in the
//! binary.

use std::fs::File;
use std::io::Write;

use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::Value;
use url::Url;

use crate::config::{Account, Config, Secret};
use crate::edge::{conditional, lists};
use crate::engine::evict::pins::Pin;
use crate::engine::{Command, Next};
use crate::index::inspect::{self, Meta};
use crate::index::rows;
use crate::index::{BlobRow, MemberRow, TagRow};
use crate::registry::manifest::Manifest;
use crate::registry::media_type::{Accept, MediaType};
use crate::registry::range::{Asked, Wanted};
use crate::registry::route::{Refusal, Request, Resource, Route};
use crate::registry::{Digest, Pattern, Reference, RepositoryName};
use crate::store::partial::map;
use crate::store::schedule;
use crate::upstream::token::{Login, Next as Step, Tokens};
use crate::upstream::{blob, challenge, list, policy};

/// A way in.
pub type Door = fn(&[u8]);

/// All of them by name.
pub const DOORS: &[(&str, Door)] = &[
    ("admin", admin),
    ("challenge", challenge),
    ("conditional", conditional),
    ("config", config),
    ("content_range", content_range),
    ("digest", digest),
    ("environment", environment),
    ("index_file", index_file),
    ("index_row", index_row),
    ("link", link),
    ("manifest", manifest),
    ("media_type", media_type),
    ("name", name),
    ("partial_map", partial_map),
    ("pattern", pattern),
    ("pin", pin),
    ("range", range),
    ("redirect", redirect),
    ("reference", reference),
    ("route", route),
    ("scheduler_state", scheduler_state),
    ("token", token),
];

/// Longest text that an error may make of what it was given: it goes into answers and logs.
const PRESENTABLE_BYTES: usize = 1024;

/// What must not be seen anywhere.
const PASSWORD: &str = "correct-horse-battery";

/// Repository names.
pub fn name(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match text.parse::<RepositoryName>() {
        Ok(name) => {
            assert_eq!(name.to_string(), text);
            assert!(name.as_str().len() <= RepositoryName::CHARACTERS_MAX);
            assert!(name.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
            assert!(name.in_library().as_str().ends_with(text));
        }
        Err(error) => is_presentable(&error.to_string()),
    }
}

/// Digests.
pub fn digest(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match text.parse::<Digest>() {
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            assert_eq!(Digest::from_bytes(digest.algorithm(), digest.bytes()), Some(digest));
        }
        Err(error) => is_presentable(&error.to_string()),
    }
}

/// Tags and digests, where either may stand.
pub fn reference(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match text.parse::<Reference>() {
        Ok(reference) => {
            assert_eq!(reference.to_string(), text);
            assert!(!text.contains('/') && !text.starts_with('.'));
        }
        Err(error) => is_presentable(&error.to_string()),
    }
}

/// Patterns of repositories, and names matched by them: pattern, line feed, name.
pub fn pattern(bytes: &[u8]) {
    let Some((pattern, name)) = text(bytes).and_then(|text| text.split_once('\n')) else { return };
    if let (Ok(pattern), Ok(name)) = (Pattern::parse(pattern), name.parse::<RepositoryName>()) {
        assert_eq!(Pattern::parse(pattern.as_str()), Ok(pattern.clone()));
        assert!(
            !pattern.matches(&name) || pattern.as_str().contains('*') || pattern.as_str() == name.as_str()
        );
    }
}

/// `Range`, over a blob of as many bytes as the first eight say.
pub fn range(bytes: &[u8]) {
    let Some((size, value)) = bytes.split_first_chunk::<8>() else { return };
    let (size, Some(value)) = (u64::from_le_bytes(*size), text(value)) else { return };
    if let Wanted::Part(part) = Asked::parse(value).within(size) {
        assert!(part.first < part.end && part.end <= size);
    }
}

/// `Content-Range`.
pub fn content_range(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, value)]);
    if let Some((first, total)) = blob::content_range(&headers) {
        let total = total.map_or("*".to_owned(), |total| total.to_string());
        let again = format!("bytes {first}-{first}/{total}");
        let again = again.parse().map(|value| HeaderMap::from_iter([(header::CONTENT_RANGE, value)]));
        assert_eq!(
            again.ok().and_then(|again| blob::content_range(&again)).map(|(first, _)| first),
            Some(first)
        );
    }
}

/// `If-None-Match`, `If-Range` and `Range`: one line each.
pub fn conditional(bytes: &[u8]) {
    let held = Digest::sha256(b"held");
    let names = [header::IF_NONE_MATCH, header::IF_RANGE, header::RANGE];
    let values = bytes.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let headers: HeaderMap =
        names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value.ok()?))).collect();
    let matched = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if conditional::not_modified(&headers, &held) {
        let tag = matched(header::IF_NONE_MATCH);
        assert!(tag.contains('*') || tag.contains(&held.hex()));
    }
    if conditional::part(&headers, &held) != Asked::Whole && headers.contains_key(header::IF_RANGE) {
        assert_eq!(matched(header::IF_RANGE).trim(), conditional::etag(&held));
    }
}

/// Media types, and `Accept`.
pub fn media_type(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let _ = Accept::parse(text.lines()).wants_single_image();
    if let Some(found) = MediaType::parse(text) {
        assert_eq!(MediaType::parse(found.as_str()), Some(found.clone()));
        assert!(HeaderValue::from_str(found.as_str()).is_ok());
        assert!(found.as_str().len() <= usize::from(u8::MAX));
    }
}

/// Manifests, indexes and what calls itself so.
pub fn manifest(bytes: &[u8]) {
    for outside in [None, MediaType::parse("application/vnd.oci.image.index.v1+json")] {
        match Manifest::parse(bytes, outside.as_ref()) {
            Ok(manifest) => {
                // Each takes at least as much as its digest.
                assert!(manifest.descriptors.len() <= bytes.len() / 64);
                assert!(outside.is_none_or(|outside| manifest.media_type == outside));
            }
            Err(error) => is_presentable(&error.to_string()),
        }
    }
}

/// Request lines: method, path and query, one line each.
pub fn route(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut lines = text.splitn(3, '\n').chain(std::iter::repeat(""));
    let [method, path, query] = [(); 3].map(|()| lines.next().unwrap_or_default());
    for prefix in ["", "/mirror"] {
        match (Request { method, path, query, prefix }).route() {
            Ok(Route::Repository { name, resource, .. }) => {
                assert!(path.contains(name.as_str()));
                if let Resource::Blob(digest) = resource {
                    assert!(path.ends_with(&digest.to_string()));
                }
            }
            Ok(_) => {}
            Err(Refusal::Fault(fault)) => {
                let body = fault.body();
                assert!(
                    serde_json::from_str::<Value>(&body)
                        .is_ok_and(|body| body.get("errors").is_some_and(Value::is_array))
                );
                assert!(body.len() <= PRESENTABLE_BYTES + 8 * (path.len() + query.len()));
            }
            Err(_) => {}
        }
    }
}

/// Pages of lists: the address of the next page leads to that page; and a foreign `Link` is looked at.
pub fn link(bytes: &[u8]) {
    let Some(query) = text(bytes) else { return };
    let _ = list::leads_on(query);
    let asked = |query: &str| {
        let request = Request { method: "GET", path: "/v2/_catalog", query, prefix: "" };
        request.route().ok().and_then(|route| match route {
            Route::Catalog(page) => Some(page),
            _ => None,
        })
    };
    let Some(page) = asked(query) else { return };
    let (Some(n), Some(last)) = (page.n, page.last.clone()) else { return };
    let mut response = Response::new(crate::edge::body::Body::empty());
    lists::link(&mut response, Some(&Next { last, n }), "/v2/_catalog", None);
    let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok());
    let next = link.and_then(|link| link.strip_prefix("</v2/_catalog?")?.strip_suffix(">; rel=\"next\""));
    assert_eq!(next.and_then(asked), Some(page));
    assert!(link.is_some_and(list::leads_on));
}

/// `WWW-Authenticate`: whoever it names, the account goes to the upstream's own owner alone.
pub fn challenge(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Some(found) = challenge::parse(text.lines()) else { return };
    let tokens = tokens();
    if let Err(error) = tokens.refused(&None, found, None) {
        is_presentable(&error.to_string());
        assert!(!error.to_string().contains(PASSWORD));
    }
    if let Ok(Step::Fetch(request)) = tokens.next(&None) {
        let url = request.scoped();
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_end_matches('.');
        assert!(host == "docker.io" || host.ends_with(".docker.io"), "{host}");
        assert_eq!(url.scheme(), "https");
        assert!(!url.as_str().contains(PASSWORD) && !format!("{request:?}").contains(PASSWORD));
    }
}

/// The documents of token servers.
pub fn token(bytes: &[u8]) {
    match tokens().keep(&None, Login::Anonymous, bytes) {
        Ok(ticket) => {
            assert!(ticket.header.is_sensitive());
            assert!(ticket.header.len() <= bytes.len() + "Bearer ".len());
        }
        Err(error) => is_presentable(&error.to_string()),
    }
}

/// `Location`.
pub fn redirect(bytes: &[u8]) {
    let (Some(location), Some(upstream)) = (text(bytes), hub()) else { return };
    match policy::redirect_target(&upstream, &upstream, location) {
        Ok(target) => {
            assert_eq!(target.scheme(), "https");
            assert!(target.host().is_some() && target.username().is_empty() && target.password().is_none());
        }
        Err(rule) => is_presentable(rule),
    }
}

/// `config.yml`.
pub fn config(bytes: &[u8]) {
    if let Some(text) = text(bytes) {
        configure(text, Vec::new());
    }
}

/// Variables, one a line.
pub fn environment(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let named = text.lines().filter_map(|line| line.split_once('='));
    // Those name files, which are none of our business here.
    let variables = named.filter(|(name, _)| !name.ends_with("_FILE"));
    configure("version: 0.1\n", variables.map(|(name, value)| (name.into(), value.into())).collect());
}

/// What is understood is printed as what is understood the same; what is not is told in lines for a terminal.
fn configure(text: &str, mut variables: Vec<(String, String)>) {
    let account = [("REGISTRY_PROXY_USERNAME", "bot"), ("REGISTRY_PROXY_PASSWORD", PASSWORD)];
    variables.retain(|(name, _)| account.iter().all(|(ours, _)| !name.eq_ignore_ascii_case(ours)));
    variables.extend(account.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let shown = match Config::from_text(text, &variables) {
        Ok(config) => {
            let effective = config.effective();
            let again = Config::from_text(&effective, &variables).map(|config| config.effective());
            assert_eq!(again.ok().as_ref(), Some(&effective));
            format!("{effective}{config:?}{}", config.warnings.join("\n"))
        }
        Err(errors) => errors.to_string(),
    };
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
}

/// Rows of the index: what has the right checksum may still be of another version.
pub fn index_row(bytes: &[u8]) {
    if let Some(row) = BlobRow::decode(bytes) {
        assert_eq!(BlobRow::decode(&row.encode()), Some(row));
    }
    if let Some(row) = TagRow::decode(bytes) {
        assert_eq!(TagRow::decode(&row.encode()), Some(row));
    }
    if let Some(row) = MemberRow::decode(bytes) {
        assert_eq!(MemberRow::decode(&row.encode()), Some(row));
    }
    let sealed = rows::seal(b"key", bytes);
    assert_eq!(rows::unseal(b"key", &sealed), Some(bytes));
    let _ = rows::unseal(b"key", bytes);
}

/// The pages of the index.
pub fn index_file(bytes: &[u8]) {
    let file = rustix::fs::memfd_create("index", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    let mut file = file.expect("a file in memory can be made");
    file.write_all(bytes).expect("it takes bytes");
    for at in [0, 4096] {
        let meta = Meta::read(&file, at).ok().flatten();
        let Some(meta) = meta.filter(|meta| meta.claimed_bytes().is_some()) else { continue };
        if let Err(flaw) = inspect::inspect(&file, &meta) {
            is_presentable(&flaw.to_string());
        }
    }
}

/// The map of a partial, of a blob of as many bytes as the first eight say.
pub fn partial_map(bytes: &[u8]) {
    let Some((total, records)) = bytes.split_first_chunk::<8>() else { return };
    let total = u64::from_le_bytes(*total);
    let read = map::parse(records, total);
    assert!(read.len() <= records.len() / 8);
    assert!(read.iter().all(|record| record.range.first < record.range.end && record.range.end <= total));
    assert!(read.iter().zip(read.iter().skip(1)).all(|(one, next)| one.range.end <= next.range.first));
}

/// `scheduler-state.json`.
pub fn scheduler_state(bytes: &[u8]) {
    match schedule::parse(bytes) {
        // Each takes at least as much as its digest.
        Ok(entries) => assert!(entries.len() <= bytes.len() / 64),
        Err(error) => is_presentable(&error.to_string()),
    }
}

/// Pins.
pub fn pin(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    match text.parse::<Pin>() {
        Ok(pin) => assert_eq!(pin.to_string().parse(), Ok(pin)),
        Err(error) => is_presentable(&error.to_string()),
    }
}

/// Commands on the admin socket.
pub fn admin(bytes: &[u8]) {
    match serde_json::from_slice::<Command>(bytes) {
        Ok(command) => {
            let again = serde_json::to_vec(&command).expect("a command can be written");
            assert_eq!(serde_json::from_slice::<Command>(&again).ok(), Some(command));
        }
        Err(error) => assert!(error.to_string().len() <= PRESENTABLE_BYTES + 8 * bytes.len()),
    }
}

/// Text; not such as tells the password itself, which a fuzzer finds in this very code.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(PASSWORD))
}

fn hub() -> Option<Url> {
    Url::parse("https://registry-1.docker.io").ok()
}

fn tokens() -> Tokens {
    let account = Account { username: "bot".into(), password: Secret::new(PASSWORD) };
    let upstream = hub().expect("the address is one");
    Tokens::new(&upstream, "registry-1.docker.io", Some(account), true, Vec::new())
}

fn is_presentable(error: &str) {
    assert!(!error.is_empty() && error.len() <= PRESENTABLE_BYTES, "{} bytes: {error}", error.len());
    assert!(!error.chars().any(char::is_control), "{error:?}");
}

#[cfg(test)]
#[path = "untrusted/tests.rs"]
mod tests;
