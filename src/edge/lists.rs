//! Lists as HTTP: JSON and, where there is more, a `Link` to the next page (RFC 8288).

use http::{HeaderValue, Response, header};
use serde_json::json;
use url::form_urlencoded::Serializer;

use super::answer::{Answer, insert};
use super::body::Body;
use crate::engine::{CatalogPage, Next, ReferrersAnswer, TagsPage};
use crate::registry::media_type;

/// A page of tags. `name` is the repository as the client called it; `path` is where it asked, `namespace` its `ns=`.
pub fn tags(page: TagsPage, name: &str, path: &str, namespace: Option<&str>) -> Answer {
    let mut response = document(&json!({ "name": name, "tags": page.tags }));
    link(&mut response, page.next.as_ref(), path, namespace);
    Answer { response, outcome: Some(page.outcome) }
}

/// A page of the catalogue.
pub fn catalog(page: &CatalogPage, path: &str) -> Answer {
    let mut response = document(&json!({ "repositories": page.repositories }));
    link(&mut response, page.next.as_ref(), path, None);
    Answer::plain(response)
}

/// An OCI index of referrers.
pub fn referrers(answer: ReferrersAnswer) -> Answer {
    let mut response = Response::new(Body::whole(answer.body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
    if answer.filtered {
        insert(headers, http::HeaderName::from_static("oci-filters-applied"), "artifactType");
    }
    Answer { response, outcome: Some(answer.outcome) }
}

/// A JSON document.
pub fn document(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::whole(format!("{value}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn link(response: &mut Response<Body>, next: Option<&Next>, path: &str, namespace: Option<&str>) {
    let Some(next) = next else { return };
    let mut query = Serializer::new(String::new());
    query.append_pair("last", &next.last).append_pair("n", &next.n.to_string());
    namespace.map(|namespace| query.append_pair("ns", namespace));
    insert(response.headers_mut(), header::LINK, &format!("<{path}?{}>; rel=\"next\"", query.finish()));
}
