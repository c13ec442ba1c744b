//! The mirror as an HTTP service: from a request to a response, with its headers, its log line and its counters.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use serde_json::json;

use super::answer::{self, Answer, insert};
use super::body::Body;
use super::connection::Client;
use super::gate::Gate;
use super::socket::Poison;
use super::visit::{NOTHING, Records, Subject, Visit};
use super::{failure, lists};
use crate::engine::{Engine, Want, turns};
use crate::observe::health::Health;
use crate::observe::metrics::Kind;
use crate::registry::media_type::Accept;
use crate::registry::route::{self, Page, Refusal, Resource, Route, Source};
use crate::registry::{Reference, RepositoryName};

/// What a [`Site`] is made of.
#[derive(Debug)]
pub struct SiteParts {
    /// Who decides.
    pub engine: Arc<Engine>,
    /// Where answered requests are written down.
    pub records: Records,
    /// The checks that gate.
    pub health: Health,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// `http.prefix`.
    pub prefix: String,
    /// `http.headers`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `catalog.maxentries`.
    pub catalog_max: u32,
}

/// The mirror as an HTTP service.
#[derive(Debug)]
pub struct Site(SiteParts);

const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

impl Site {
    /// Puts the parts together.
    pub fn new(parts: SiteParts) -> Arc<Self> {
        Arc::new(Self(parts))
    }

    /// Answers a request.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        client: Client,
        poison: Poison,
    ) -> Response<Body> {
        let has_body = !request.body().is_end_stream();
        let (mut head, _) = request.into_parts();
        head.extensions.insert(turns::Client::at(client.ip));
        let mut visit = Visit::new(&self.0.records, &head, client.name.clone());
        let (subject, answer) = self.decide(&head, has_body, &client, poison).await;
        let Answer { mut response, outcome } = answer;
        if let Some(outcome) = outcome {
            insert(response.headers_mut(), CACHE_STATUS, &outcome.to_string());
        }
        if head.method == Method::HEAD {
            response = without_body(response);
        }
        visit.answered(subject, outcome, response.status());
        response.map(|body| body.reporting(Box::new(move |bytes| visit.ended(bytes))))
    }

    async fn decide(
        self: &Arc<Self>,
        head: &http::request::Parts,
        has_body: bool,
        client: &Client,
        poison: Poison,
    ) -> (Subject, Answer) {
        if self.0.health.gates() {
            return (NOTHING, Answer::plain(failure::unhealthy()));
        }
        if has_body && matches!(head.method, Method::GET | Method::HEAD) {
            return (NOTHING, Answer::plain(failure::with_body()));
        }
        let request = route::Request {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            prefix: &self.0.prefix,
        };
        let route = request.route();
        if route == Ok(Route::Alive) {
            return (NOTHING, alive());
        }
        let is_place = !matches!(route, Ok(Route::BaseWithoutSlash) | Err(Refusal::NotFound));
        let login = match is_place {
            true => self.0.gate.check_login(&head.headers, client).await,
            false => Ok(()),
        };
        let (subject, mut answer) = match route {
            _ if login.is_err() => (NOTHING, Answer::plain(login.err().unwrap_or_else(failure::denied))),
            Ok(route) => self.dispatch(route, head, poison).await,
            Err(refusal) => (NOTHING, failure::refusal(refusal)),
        };
        let headers = answer.response.headers_mut();
        headers.insert(VERSION.0, VERSION.1);
        // As `registry` has it: on all answers of a place of the API, refusals included.
        for (name, value) in self.0.headers.iter().filter(|_| is_place) {
            if headers.get(name) != Some(value) {
                headers.append(name, value.clone());
            }
        }
        (subject, answer)
    }

    async fn dispatch(
        self: &Arc<Self>,
        route: Route,
        head: &http::request::Parts,
        poison: Poison,
    ) -> (Subject, Answer) {
        let base = Subject { handler: "base", kind: None };
        match route {
            Route::Alive => (base, alive()),
            Route::Base => (base, Answer::plain(base_document())),
            Route::BaseWithoutSlash => (base, Answer::plain(to_base(head))),
            Route::Catalog(page) => (Subject { handler: "catalog", kind: None }, self.catalog(&page, head)),
            Route::Repository { source, name, resource } => {
                let subject = subject(&resource);
                let mut answer = self.of_repository(source.as_ref(), &name, resource, head, poison).await;
                if let Some(Source::Namespace(host)) = &source {
                    insert(answer.response.headers_mut(), NAMESPACE, host);
                }
                (subject, answer)
            }
        }
    }

    fn catalog(&self, page: &Page, head: &http::request::Parts) -> Answer {
        match self.0.engine.catalog(page, self.0.catalog_max) {
            Ok(page) => lists::catalog(&page, head.uri.path()),
            Err(denied) => failure::denial(&denied),
        }
    }

    async fn of_repository(
        self: &Arc<Self>,
        source: Option<&Source>,
        name: &RepositoryName,
        resource: Resource,
        head: &http::request::Parts,
        poison: Poison,
    ) -> Answer {
        let engine = &self.0.engine;
        let want = if head.method == Method::HEAD { Want::Head } else { Want::Body };
        let repository = match engine.resolve(source, name) {
            Ok(repository) => repository.asked_by(client(head)),
            Err(denied) => return failure::denial(&denied),
        };
        let answered = match resource {
            Resource::Manifest(Reference::Tag(tag)) => {
                let answered = engine.manifest_by_tag(&repository, &tag, accept(&head.headers), want).await;
                answered.map(|found| answer::manifest(found, &head.headers, want))
            }
            Resource::Manifest(Reference::Digest(digest)) => {
                let answered = engine.manifest_by_digest(&repository, &digest, want).await;
                answered.map(|found| answer::manifest(found, &head.headers, want))
            }
            Resource::Blob(digest) => {
                let part = super::conditional::part(&head.headers, &digest);
                let answered = engine.blob(&repository, &digest, want, part).await;
                answered.map(|found| answer::blob(found, head, want, poison))
            }
            Resource::Tags(page) => {
                let namespace = match source {
                    Some(Source::Namespace(host)) => Some(host.as_str()),
                    _ => None,
                };
                let answered = engine.tags(&repository, &page).await;
                answered.map(|page| lists::tags(page, name.as_str(), head.uri.path(), namespace))
            }
            Resource::Referrers { subject, artifact_type } => {
                Ok(lists::referrers(engine.referrers(&repository, &subject, artifact_type.as_deref()).await))
            }
        };
        answered.unwrap_or_else(|denied| failure::denial(&denied))
    }
}

fn client(head: &http::request::Parts) -> turns::Client {
    head.extensions.get().copied().unwrap_or_default()
}

fn subject(resource: &Resource) -> Subject {
    match resource {
        Resource::Manifest(_) => Subject { handler: "manifest", kind: Some(Kind::Manifest) },
        Resource::Blob(_) => Subject { handler: "blob", kind: Some(Kind::Blob) },
        Resource::Tags(_) => Subject { handler: "tags", kind: None },
        Resource::Referrers { .. } => Subject { handler: "referrers", kind: None },
    }
}

/// The answer to a HEAD: the length that a GET would have, and no body. hyper sees to that in HTTP/1.1 alone.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    let length = response.body().length();
    let headers = response.headers_mut();
    if length > 0 && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.map(|_| Body::empty())
}

/// `/`: alive.
fn alive() -> Answer {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Answer::plain(response)
}

/// `/v2/`: the protocol is spoken here, and nobody is asked who he is.
fn base_document() -> Response<Body> {
    let mut response = Response::new(Body::whole(json!({}).to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `/v2`: there is a slash missing. With the page that Go's server gives to a GET.
fn to_base(head: &http::request::Parts) -> Response<Body> {
    let target = format!("{}/", head.uri.path());
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let page = match head.method {
        Method::GET => Body::whole(format!("<a href=\"{target}\">Moved Permanently</a>.\n\n")),
        _ => Body::empty(),
    };
    let mut response = Response::new(page);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let headers = response.headers_mut();
    if reads {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    insert(headers, header::LOCATION, &target);
    response
}

fn accept(headers: &HeaderMap) -> Accept {
    Accept::parse(headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok()))
}
