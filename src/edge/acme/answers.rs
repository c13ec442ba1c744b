//! The answers to challenges over HTTP, and the listener that gives them: nothing else is on that port.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::super::body::Body;
use super::super::failure;
use crate::config::DnsName;
use crate::sys::sync::lock;

/// Where CAs look (RFC 8555 section 8.3).
pub const PLACE: &str = "/.well-known/acme-challenge/";

/// Most answers at once: one for each session, and sessions run one by one.
const ANSWERS_MAX: usize = 100;

/// Longest token; CAs send 43 characters.
const TOKEN_BYTES_MAX: usize = 256;

/// What is answered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Answers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    tokens: Mutex<HashMap<String, String>>,
    /// The thumbprint of our account: with it the answer to any token can be given, also to one that another process asked
    /// for before it ended.
    thumbprint: Mutex<Option<String>>,
    listens: AtomicBool,
}

impl Answers {
    /// Puts up an answer, or takes it down.
    pub fn put(&self, token: &str, answer: Option<String>) {
        let mut tokens = lock(&self.0.tokens);
        match answer {
            Some(answer) if tokens.len() < ANSWERS_MAX => drop(tokens.insert(token.to_owned(), answer)),
            Some(_) => tracing::error!("too many challenges are under way"),
            None => drop(tokens.remove(token)),
        }
    }

    /// Takes all answers down.
    pub fn clear(&self) {
        lock(&self.0.tokens).clear();
    }

    /// Says whose account it is.
    pub fn belongs_to(&self, thumbprint: String) {
        *lock(&self.0.thumbprint) = Some(thumbprint);
    }

    /// Whether anybody can ask.
    pub fn listens(&self) -> bool {
        self.0.listens.load(Ordering::Relaxed)
    }

    /// Says that from now on somebody can.
    pub fn set_listening(&self) {
        self.0.listens.store(true, Ordering::Relaxed);
    }

    /// The answer to a token.
    pub fn get(&self, token: &str) -> Option<String> {
        let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(sound) {
            return None;
        }
        let known = lock(&self.0.tokens).get(token).cloned();
        known.or_else(|| lock(&self.0.thumbprint).as_ref().map(|thumbprint| format!("{token}.{thumbprint}")))
    }
}

/// Answers on the listener for challenges.
#[derive(Debug)]
pub struct Front {
    /// The answers.
    pub answers: Answers,
    /// The names that are ours: others are led nowhere.
    pub hosts: Vec<DnsName>,
}

impl Front {
    /// Answers a request.
    pub fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        self.answer_to(request.method(), request.uri().path_and_query().map_or("/", |all| all.as_str()), host)
    }

    fn answer_to(&self, method: &Method, path: &str, host: Option<&str>) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return failure::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        if let Some(token) = path.strip_prefix(PLACE) {
            return match self.answers.get(token) {
                Some(answer) => plain(answer),
                None => failure::text(StatusCode::NOT_FOUND, "no such challenge\n"),
            };
        }
        // A registry client that is led from one protocol to the other would send its login in the clear once.
        if path == "/v2" || path.starts_with("/v2/") {
            return failure::text(StatusCode::NOT_FOUND, "the registry speaks HTTPS only\n");
        }
        match host.and_then(|host| self.own(host)) {
            Some(host) => moved(host, path),
            None => failure::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// Which of our names a client asked for.
    fn own(&self, host: &str) -> Option<&DnsName> {
        let name = host.split(':').next().unwrap_or_default().trim_end_matches('.');
        self.hosts.iter().find(|own| own.as_str().eq_ignore_ascii_case(name))
    }
}

fn plain(answer: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn moved(host: &DnsName, path: &str) -> Response<Body> {
    let Ok(place) = HeaderValue::from_str(&format!("https://{host}{path}")) else {
        return failure::text(StatusCode::BAD_REQUEST, "400 Bad Request\n");
    };
    let mut response = failure::text(StatusCode::PERMANENT_REDIRECT, "");
    response.headers_mut().insert(header::LOCATION, place);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front() -> Front {
        Front { answers: Answers::default(), hosts: vec!["mirror.test".parse().unwrap()] }
    }

    #[track_caller]
    fn check(front: &Front, path: &str, host: &str, status: u16, place: Option<&str>) {
        let response = front.answer_to(&Method::GET, path, Some(host));
        let found = response.headers().get(header::LOCATION).map(|place| place.to_str().unwrap());
        assert_eq!((response.status().as_u16(), found), (status, place), "{path}");
    }

    #[test]
    fn challenges_are_answered_and_the_rest_is_led_to_https() {
        let front = front();
        let at = format!("{PLACE}token-1");
        check(&front, &at, "whoever", 404, None);
        front.answers.put("token-1", Some("token-1.thumb".into()));
        check(&front, &at, "whoever", 200, None);
        check(&front, "/a?b=c", "Mirror.test:80", 308, Some("https://mirror.test/a?b=c"));
        check(&front, "/", "evil.test", 404, None);
        for registry in ["/v2", "/v2/", "/v2/library/alpine/manifests/latest"] {
            check(&front, registry, "mirror.test", 404, None);
        }
        assert_eq!(front.answer_to(&Method::POST, &at, None).status(), 405);
        front.answers.clear();
        check(&front, &at, "whoever", 404, None);
    }

    #[test]
    fn a_token_of_an_earlier_process_is_answered_with_our_thumbprint() {
        let answers = Answers::default();
        answers.belongs_to("thumb".into());
        assert_eq!(answers.get("abc_-1").as_deref(), Some("abc_-1.thumb"));
        for odd in ["", "a/b", "a.b", "<script>", "a b", &"a".repeat(257)] {
            assert_eq!(answers.get(odd), None, "{odd}");
        }
    }
}
