//! production.cloudflare.docker.com.

use super::State;
use super::wire::{Reply, Request};

/// Bytes for whoever has the signed URL, and for nobody who shows a token besides.
pub fn answer(state: &State, request: &Request) -> Reply {
    if request.header("authorization").is_some() {
        return Reply::new(400, vec![], "only one way to authenticate, please");
    }
    let Some((name, digest)) = request.path.trim_start_matches('/').split_once("/data/") else {
        return Reply::new(404, vec![], "");
    };
    let content = state.content.lock().unwrap();
    let Some(blob) = content.repositories.get(name).and_then(|repository| repository.blobs.get(digest))
    else {
        return Reply::new(404, vec![], "<Error>NoSuchKey</Error>");
    };
    let mut headers = vec![
        ("content-type", "application/octet-stream".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
        // Not the digest: an MD5, as object stores have it.
        ("etag", format!("\"{}\"", &digest[7..39])),
    ];
    let size = blob.size();
    let mut reply = Reply::of(200, vec![], blob.clone());
    if let Some((first, last)) =
        request.header("range").as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    {
        let first: u64 = first.parse().unwrap();
        let end = last.parse().map_or(size, |last: u64| (last + 1).min(size));
        if first >= size {
            return Reply::new(416, vec![("content-range", format!("bytes */{size}"))], "");
        }
        headers.push(("content-range", format!("bytes {first}-{}/{size}", end - 1)));
        (reply.status, reply.range) = (206, (first, end));
    }
    reply.headers = headers;
    reply
}
