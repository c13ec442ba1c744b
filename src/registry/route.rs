//! From a request line to a typed route, as `registry` in proxy mode offers them.
//!
//! The path is read as it came: no percent-decoding, no case folding, no `.` or `//` clean-up. The grammar of names and
//! digests allows none of these, so a path that needs them leads nowhere.

use std::borrow::Cow;

use serde_json::json;

use super::digest::Digest;
use super::fault::{Code, Fault};
use super::name::{NameError, RepositoryName};
use super::reference::{Reference, ReferenceError};

/// A place that a request may ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// `/`: alive, 200 and no body.
    Alive,
    /// `/v2/`: 200 and `{}`, whatever the method.
    Base,
    /// `/v2`: 301 to `/v2/`.
    BaseWithoutSlash,
    /// `/v2/_catalog`.
    Catalog(Page),
    /// Something of one repository.
    Repository {
        /// Which upstream is meant, if the request says so.
        source: Option<Source>,
        /// The repository, as written.
        name: RepositoryName,
        /// What of it.
        resource: Resource,
    },
}

/// Which registry a request means: the name of a host, as containerd's `ns=` or a path prefix gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `?ns=host`; echoed as `OCI-Namespace`.
    Namespace(String),
    /// `/host/v2/…`.
    Prefix(String),
}

/// What a repository offers for reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// `manifests/<reference>`.
    Manifest(Reference),
    /// `blobs/<digest>`.
    Blob(Digest),
    /// `tags/list`.
    Tags(Page),
    /// `referrers/<digest>`.
    Referrers {
        /// The subject.
        subject: Digest,
        /// `artifactType`, to filter by.
        artifact_type: Option<String>,
    },
}

/// `n` and `last` of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// How many entries at most; `None` if the client named no number.
    pub n: Option<u32>,
    /// Entries up to and including this one are left out.
    pub last: Option<String>,
}

/// Why a request leads to no [`Route`].
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// 404, plain text: no such place.
    NotFound,
    /// 405, plain text: the place does not take this method. `OPTIONS` gets 200 instead.
    Method {
        /// The value of `Allow`.
        allow: &'static str,
        /// Whether the method was `OPTIONS`.
        options: bool,
    },
    /// An error in the protocol's own JSON.
    Fault(Box<Fault>),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

/// What a mirror needs of a request line.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The path, as it came.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: &'a str,
    /// `http.prefix`: empty or `/x`, without a slash at its end.
    pub prefix: &'a str,
}

/// Longest value of a query parameter that is looked at; names and tags are shorter.
const PARAMETER_CHARACTERS_MAX: usize = 512;

impl Request<'_> {
    /// Finds the route, or why there is none.
    pub fn route(&self) -> Result<Route, Refusal> {
        let path = self.path.strip_prefix(self.prefix).ok_or(Refusal::NotFound)?;
        if path == "/" || (path.is_empty() && !self.prefix.is_empty()) {
            return Ok(Route::Alive);
        }
        let (host, path) = split_host(path);
        match path {
            "/v2" => return Ok(Route::BaseWithoutSlash),
            "/v2/" => return Ok(Route::Base),
            "/v2/_catalog" => return self.allowed("GET", Ok(Route::Catalog(self.page()?))),
            _ => {}
        }
        let inside = path.strip_prefix("/v2/").ok_or(Refusal::NotFound)?;
        let (name, place) = Place::find(inside).ok_or(Refusal::NotFound)?;
        let source = self.source(host)?;
        let name = read_name(name)?;
        let resource = self.resource(place)?;
        Ok(Route::Repository { source, name, resource })
    }

    /// `ns=` if given, else the host before `/v2`. Two different `ns=` could be read differently by whoever stands
    /// between, so they are refused.
    fn source(&self, host: Option<&str>) -> Result<Option<Source>, Refusal> {
        let mut given = self.values("ns");
        match (given.next(), given.next()) {
            (None, _) => Ok(host.map(|host| Source::Prefix(host.to_owned()))),
            (Some(one), None) if one.len() > PARAMETER_CHARACTERS_MAX => {
                Err(Fault::new(Code::NameUnknown).because("ns is longer than any host").into())
            }
            (Some(one), None) => Ok(Some(Source::Namespace(one.into_owned()))),
            (Some(_), Some(_)) => {
                Err(Fault::new(Code::NameUnknown).because("ns was given more than once").into())
            }
        }
    }

    fn resource(&self, place: Place<'_>) -> Result<Resource, Refusal> {
        match place {
            Place::Manifest(reference) => self.manifest(reference),
            Place::Blob(digest) => self.blob(digest),
            Place::Tags => self.allowed("GET", Ok(Resource::Tags(self.page()?))),
            Place::Referrers(digest) => {
                let subject = read_digest(digest)?;
                let artifact_type = self.parameters("artifactType").next();
                self.allowed("GET, HEAD", Ok(Resource::Referrers { subject, artifact_type }))
            }
            Place::UploadStart => match self.method {
                "POST" => Err(Fault::new(Code::Unsupported).into()),
                _ => self.upload(Fault::new(Code::BlobUploadUnknown)),
            },
            Place::Upload => self.upload(Fault::new(Code::BlobUploadInvalid).with_detail(json!({}))),
        }
    }

    fn manifest(&self, reference: &str) -> Result<Resource, Refusal> {
        let reference = match reference.parse() {
            Ok(reference) => reference,
            Err(ReferenceError::Digest(error)) => return Err(malformed_digest(error).into()),
            Err(ReferenceError::Tag(_)) => return Err(Refusal::NotFound),
        };
        match self.method {
            "PUT" | "DELETE" => Err(Fault::new(Code::Unsupported).into()),
            _ => self.allowed("DELETE, GET, HEAD, PUT", Ok(Resource::Manifest(reference))),
        }
    }

    fn blob(&self, digest: &str) -> Result<Resource, Refusal> {
        let digest = read_digest(digest)?;
        match self.method {
            "DELETE" => Err(Fault::new(Code::Unsupported).into()),
            _ => self.allowed("DELETE, GET, HEAD", Ok(Resource::Blob(digest))),
        }
    }

    /// There are no uploads; each method of one is told so.
    fn upload(&self, fault: Fault) -> Result<Resource, Refusal> {
        match self.method {
            "GET" | "HEAD" | "PATCH" | "POST" | "PUT" | "DELETE" => Err(fault.into()),
            _ => self.allowed("DELETE, GET, HEAD, PATCH, POST, PUT", Err(Refusal::NotFound)),
        }
    }

    /// Gives `then` to a method that reads and is listed, and the plain 405 to all others.
    fn allowed<T>(&self, allow: &'static str, then: Result<T, Refusal>) -> Result<T, Refusal> {
        let reads = matches!(self.method, "GET" | "HEAD");
        if reads && allow.split(", ").any(|method| method == self.method) {
            return then;
        }
        Err(Refusal::Method { allow, options: self.method == "OPTIONS" })
    }

    fn page(&self) -> Result<Page, Refusal> {
        let n = match self.parameters("n").next() {
            None => None,
            Some(text) => Some(read_count(&text)?),
        };
        Ok(Page { n, last: self.parameters("last").next() })
    }

    /// The values of a query parameter that are short enough to mean anything.
    fn parameters<'q>(&'q self, wanted: &'q str) -> impl Iterator<Item = String> + 'q {
        let short = self.values(wanted).filter(|value| value.len() <= PARAMETER_CHARACTERS_MAX);
        short.map(Cow::into_owned)
    }

    /// All values of a query parameter, percent-decoded.
    fn values<'q>(&'q self, wanted: &'q str) -> impl Iterator<Item = Cow<'q, str>> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(move |(name, _)| name == wanted).map(|(_, value)| value)
    }
}

/// What follows the name, still as text.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Manifest(&'a str),
    Blob(&'a str),
    Tags,
    Referrers(&'a str),
    UploadStart,
    Upload,
}

impl<'a> Place<'a> {
    /// Splits `library/alpine/manifests/latest` from its end, since a name may itself hold `manifests` or `blobs`.
    fn find(path: &'a str) -> Option<(&'a str, Self)> {
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some((name, Self::Tags));
        }
        if let Some(name) =
            path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads"))
        {
            return Some((name, Self::UploadStart));
        }
        let (head, last) = path.rsplit_once('/')?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Some((name, Self::Upload));
        }
        let (name, kind) = head.rsplit_once('/')?;
        match kind {
            "manifests" => Some((name, Self::Manifest(last))),
            "blobs" => Some((name, Self::Blob(last))),
            "referrers" => Some((name, Self::Referrers(last))),
            _ => None,
        }
    }
}

/// `/quay.io/v2/…` is `quay.io` and `/v2/…`. A host has a dot, a colon or is `localhost`, which tells it from `v2`.
fn split_host(path: &str) -> (Option<&str>, &str) {
    let Some((host, _)) = path.strip_prefix('/').and_then(|rest| rest.split_once('/')) else {
        return (None, path);
    };
    let rest = path.get(host.len() + 1..).unwrap_or_default();
    let sound = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:_[]".contains(&b));
    let is_host = sound && (host.contains(['.', ':']) || host == "localhost");
    if is_host && (rest == "/v2" || rest.starts_with("/v2/")) { (Some(host), rest) } else { (None, path) }
}

fn read_name(text: &str) -> Result<RepositoryName, Refusal> {
    text.parse().map_err(|error| match error {
        NameError::TooLong => Fault::new(Code::NameInvalid).because(error).into(),
        NameError::Malformed => Refusal::NotFound,
    })
}

fn read_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error| malformed_digest(error).into())
}

/// With the empty detail that `registry` gives.
fn malformed_digest(error: impl std::fmt::Display) -> Fault {
    Fault::new(Code::DigestInvalid).with_detail(json!({})).because(error)
}

/// A number of list entries. One beyond 32 bits means "all there are", as any other large one.
fn read_count(text: &str) -> Result<u32, Refusal> {
    let refuse =
        || Refusal::from(Fault::new(Code::PaginationNumberInvalid).with_detail(json!({ "n": text })));
    match text.parse::<i64>() {
        Ok(count) if count >= 0 => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
#[path = "route/tests.rs"]
mod tests;
