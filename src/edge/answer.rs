//! Manifests and blobs as HTTP. The header set is the same on hit and miss, on GET and HEAD.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};

use super::body::Body;
use super::conditional;
use super::socket::Poison;
use crate::engine::deliver::{PIECE_BYTES, STREAM_PIECE_BYTES};
use crate::engine::{BlobAnswer, ManifestAnswer, Outcome, Want};
use crate::registry::range::Wanted;
use crate::registry::{ByteRange, Digest};

/// A response, and why it is what it is.
pub struct Answer {
    /// The response, without the headers that all have.
    pub response: Response<Body>,
    /// The outcome, where content was asked for.
    pub outcome: Option<Outcome>,
}

impl Answer {
    /// An answer about no content.
    pub fn plain(response: Response<Body>) -> Self {
        Self { response, outcome: None }
    }
}

/// What is under a digest never changes; a year is the most that `registry` says.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000");

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest.
pub fn manifest(answer: ManifestAnswer, asked: &HeaderMap, want: Want) -> Answer {
    let outcome = Some(answer.outcome);
    if conditional::not_modified(asked, &answer.digest) {
        return Answer { response: not_modified(&answer.digest), outcome };
    }
    let body = answer.bytes.filter(|_| want == Want::Body).map(Body::whole);
    let mut response = Response::new(body.unwrap_or_else(Body::empty));
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_TYPE, answer.media_type.as_str());
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(answer.size));
    identify(headers, &answer.digest);
    Answer { response, outcome }
}

/// A blob, or a part of it.
pub fn blob(answer: BlobAnswer, head: &Parts, want: Want, poison: Poison) -> Answer {
    let asked = &head.headers;
    let piece = if head.version == Version::HTTP_2 { STREAM_PIECE_BYTES } else { PIECE_BYTES };
    let outcome = Some(answer.outcome);
    if conditional::not_modified(asked, &answer.digest) {
        return Answer { response: not_modified(&answer.digest), outcome };
    }
    let parts = answer.source.as_ref().is_some_and(crate::engine::deliver::Source::has_parts);
    let wanted = match want {
        Want::Body if parts => conditional::part(asked, &answer.digest).within(answer.size),
        _ => Wanted::Whole,
    };
    let range = match wanted {
        Wanted::Whole => conditional::whole(answer.size),
        Wanted::Part(range) => range,
        Wanted::Unsatisfiable => {
            return Answer { response: unsatisfiable(&answer.digest, answer.size), outcome };
        }
    };
    let body = match answer.source {
        Some(source) if want == Want::Body => {
            Body::delivered(source.read(range, piece), range.length(), poison)
        }
        _ => Body::empty(),
    };
    let mut response = Response::new(body);
    describe_blob(&mut response, &answer.digest, answer.size, range, wanted != Wanted::Whole);
    Answer { response, outcome }
}

fn describe_blob(response: &mut Response<Body>, digest: &Digest, size: u64, range: ByteRange, partial: bool) {
    if partial {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.length()));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, FOREVER);
    identify(headers, digest);
    if partial {
        insert(
            headers,
            header::CONTENT_RANGE,
            &format!("bytes {}-{}/{size}", range.first, range.end.saturating_sub(1)),
        );
    }
}

fn not_modified(digest: &Digest) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    identify(response.headers_mut(), digest);
    response
}

/// In the words of Go's server.
fn unsatisfiable(digest: &Digest, size: u64) -> Response<Body> {
    let mut response =
        super::failure::text(StatusCode::RANGE_NOT_SATISFIABLE, "invalid range: failed to overlap\n");
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_RANGE, &format!("bytes */{size}"));
    headers.insert(header::CACHE_CONTROL, FOREVER);
    identify(headers, digest);
    response
}

fn identify(headers: &mut HeaderMap, digest: &Digest) {
    insert(headers, DIGEST, &digest.to_string());
    insert(headers, header::ETAG, &conditional::etag(digest));
}

/// Inserts a value that we made, or that passed our grammars: it always fits a header.
pub fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
