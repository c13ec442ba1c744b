//! A client of the tests: one answer with its head and its whole body.

use bytes::Bytes;
use http::HeaderMap;
use reqwest::Method;
use tidegate::registry::Digest;

use super::{PATIENCE, soon};

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the body ended as its length said.
    pub whole: bool,
}

impl Answer {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    /// The error code in the body.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// What the body hashes to.
    pub fn digest(&self) -> String {
        Digest::sha256(&self.body).to_string()
    }
}

/// A client without a pool: each request has a connection of its own, as dockerd's had for years.
pub fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().timeout(PATIENCE);
    builder.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// Asks with headers.
pub async fn ask(method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = client().request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    finish(soon(url, request.send()).await.unwrap()).await
}

/// Asks as clients that pull do. Nothing if the connection ends before there is a head.
pub async fn attempt(url: &str) -> Option<Answer> {
    let request = client().get(url).header(MODERN.0, MODERN.1);
    Some(finish(soon(url, request.send()).await.ok()?).await)
}

/// Asks for all of something, and gives the answer once its head is there.
pub async fn open(url: &str) -> reqwest::Response {
    soon(url, client().get(url).send()).await.unwrap()
}

/// Reads an answer to its end, or to where it breaks off.
pub async fn finish(mut response: reqwest::Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::new();
    let whole = loop {
        match soon("the rest of a body", response.chunk()).await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    Answer { status, headers, body: body.into(), whole }
}

pub async fn get(url: &str) -> Answer {
    ask(Method::GET, url, &[]).await
}

pub async fn head(url: &str) -> Answer {
    ask(Method::HEAD, url, &[]).await
}

/// All four modern types, as current clients send them.
pub const MODERN: (&str, &str) = (
    "accept",
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json",
);
