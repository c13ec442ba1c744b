//! registry-1.docker.io.

use bytes::Bytes;
use serde_json::json;

use super::content::Repository;
use super::wire::{Reply, Request};
use super::{Blob, Host, State};

pub fn answer(state: &State, request: &Request) -> Reply {
    let Some(rest) = request.path.strip_prefix("/v2/") else { return missing("NOT_FOUND") };
    let places = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let place =
        places.iter().find_map(|place| rest.split_once(place).map(|(name, what)| (*place, name, what)));
    let (place, name, what) = place.unwrap_or(("", "", ""));
    if let Some(refusal) = refuse(state, request, name) {
        return refusal;
    }
    if rest.is_empty() {
        return Reply::new(200, vec![("content-type", "application/json".into())], "{}");
    }
    let mut content = state.content.lock().unwrap();
    let repository = content.repository(name);
    match place {
        "/manifests/" => manifest(repository, what),
        "/blobs/" => blob(state, repository, request, name, what),
        "/tags/" => tags(repository, request, name),
        "/referrers/" => match repository.referrers.get(what) {
            Some(index) => Reply::new(
                200,
                vec![("content-type", "application/vnd.oci.image.index.v1+json".into())],
                index.clone(),
            ),
            None => Reply::new(404, vec![("content-type", "text/plain".into())], "404 page not found\n"),
        },
        _ => missing("NOT_FOUND"),
    }
}

/// 401 without a token that is good for this repository, whether it is private or does not exist.
fn refuse(state: &State, request: &Request, name: &str) -> Option<Reply> {
    let given = request.header("authorization");
    let grant = given
        .as_deref()
        .and_then(|given| given.strip_prefix("Bearer "))
        .and_then(|token| state.tokens.grant(token));
    let content = state.content.lock().unwrap();
    let repository = content.repositories.get(name);
    let allowed = grant.is_some_and(|grant| {
        let visible =
            repository.is_some_and(|repository| !repository.hidden && (!repository.private || grant.account));
        (name.is_empty() || visible) && grant.repository == name
    });
    if allowed {
        return None;
    }
    let error = if given.is_some() { ",error=\"insufficient_scope\"" } else { "" };
    let scope = if name.is_empty() { String::new() } else { format!(",scope=\"repository:{name}:pull\"") };
    let challenge = format!(
        "Bearer realm=\"{}{}\",service=\"registry.docker.io\"{scope}{error}",
        state.url(Host::Token),
        state.token_path()
    );
    let body = json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
    Some(Reply::new(
        401,
        vec![("www-authenticate", challenge), ("content-type", "application/json".into())],
        body.to_string(),
    ))
}

fn manifest(repository: &Repository, reference: &str) -> Reply {
    let digest = repository.tags.get(reference).map_or(reference, String::as_str);
    let Some((media_type, bytes)) = repository.manifests.get(digest) else {
        return missing("MANIFEST_UNKNOWN");
    };
    let headers = vec![
        ("content-type", media_type.clone()),
        ("docker-content-digest", digest.to_owned()),
        ("etag", format!("\"{digest}\"")),
        ("docker-distribution-api-version", "registry/2.0".into()),
        ("ratelimit-limit", "100;w=21600".into()),
        ("ratelimit-remaining", "76;w=21600".into()),
        ("strict-transport-security", "max-age=31536000".into()),
    ];
    Reply::new(200, headers, bytes.clone())
}

/// 307 to the CDN, with a query that looks like a signature; HEAD, too.
fn blob(state: &State, repository: &Repository, request: &Request, name: &str, digest: &str) -> Reply {
    let Some(blob) = repository.blobs.get(digest) else { return missing("BLOB_UNKNOWN") };
    if request.method == "HEAD" && blob.size() == u64::MAX {
        return Reply::of(200, vec![], Blob::Bytes(Bytes::new()));
    }
    let target =
        format!("{}/{name}/data/{digest}?signature=secret-signature&expires=1", state.url(Host::Cdn));
    Reply::new(307, vec![("location", target)], "")
}

fn tags(repository: &Repository, request: &Request, name: &str) -> Reply {
    let last = request.parameter("last").unwrap_or_default();
    let mut tags: Vec<_> = repository.tags.keys().filter(|tag| **tag > last).cloned().collect();
    let n = request.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let mut headers = vec![("content-type", "application/json".to_owned())];
    if tags.len() > n {
        tags.truncate(n);
        headers.push((
            "link",
            format!("</v2/{name}/tags/list?n={n}&last={}>; rel=\"next\"", tags.last().unwrap()),
        ));
    }
    Reply::new(200, headers, json!({ "name": name, "tags": tags }).to_string())
}

fn missing(code: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code, "message": "not there" }] });
    Reply::new(404, vec![("content-type", "application/json".into())], body.to_string())
}
