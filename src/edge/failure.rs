//! Refusals as clients read them.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::answer::Answer;
use super::body::Body;
use crate::engine::Denial;
use crate::registry::fault::Blame;
use crate::registry::route::Refusal;
use crate::registry::{Code, Fault};

/// When a login that was not even looked at may be tried again: until then one more guess is free.
const GUESS_WAIT: Duration = Duration::from_secs(6);

/// What `registry` says where it has no route.
const NOT_FOUND: &str = "404 page not found\n";

/// What it says to a method that a route does not take.
const NOT_ALLOWED: &str = "Method not allowed\n";

/// A request that leads to no route.
pub fn refusal(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NotFound => Answer::plain(text(StatusCode::NOT_FOUND, NOT_FOUND)),
        Refusal::Method { allow, options: true } => {
            Answer::plain(allowing(Response::new(Body::empty()), allow))
        }
        Refusal::Method { allow, options: false } => {
            Answer::plain(allowing(text(StatusCode::METHOD_NOT_ALLOWED, NOT_ALLOWED), allow))
        }
        Refusal::Fault(refused) => fault(&refused, None),
    }
}

/// What the engine denies.
pub fn denial(denied: &Denial) -> Answer {
    fault(&denied.fault, Some(denied))
}

/// A failing health check, in place of everything.
pub fn unhealthy() -> Response<Body> {
    let detail = json!("health check failed: please see /debug/health");
    document(&Fault::new(Code::Unavailable).with_detail(detail))
}

/// A GET or HEAD with a body: the one way to smuggle a second request past whoever stands in between.
pub fn with_body() -> Response<Body> {
    let mut response = text(StatusCode::BAD_REQUEST, "400 Bad Request: GET and HEAD have no body\n");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Nobody who may come in; in the form of the protocol, so that a person sees why.
pub fn denied() -> Response<Body> {
    let mut response = document(&Fault::new(Code::Denied));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Who asks must say who he is.
pub fn unauthorized(challenge: &HeaderValue) -> Response<Body> {
    let mut response = document(&Fault::new(Code::Unauthorized));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.clone());
    response
}

/// Somebody guesses passwords, or too many log in at once.
pub fn too_many_logins() -> Response<Body> {
    let fault = Fault::new(Code::TooManyRequests).with_message("too many logins; try again later");
    document(&fault.with_retry_after(GUESS_WAIT))
}

/// A backend that gave no answer, in the form of the protocol.
pub fn at_the_backend(status: StatusCode, message: &'static str) -> Response<Body> {
    let mut response = document(&Fault::new(Code::Unavailable).with_message(message));
    *response.status_mut() = status;
    response
}

fn fault(fault: &Fault, denied: Option<&Denial>) -> Answer {
    let (code, cause) = (fault.code.as_str(), fault.cause().unwrap_or_default());
    match fault.code.blame() {
        Blame::Client => tracing::debug!(code, cause, "refused"),
        Blame::Upstream => {
            tracing::warn!(code, cause, message_to_client = fault.message(), "could not serve")
        }
        Blame::Mirror => tracing::error!(code, cause, "could not serve"),
    }
    Answer { response: document(fault), outcome: denied.map(|denied| denied.outcome) }
}

/// The protocol's own error document.
fn document(fault: &Fault) -> Response<Body> {
    let mut response = Response::new(Body::whole(fault.body()));
    *response.status_mut() =
        StatusCode::from_u16(fault.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = fault.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

/// Plain text, as Go's server gives it.
pub fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn allowing(mut response: Response<Body>, allow: &'static str) -> Response<Body> {
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}
