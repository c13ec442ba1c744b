use super::*;
use proptest::prelude::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn route(method: &str, target: &str) -> Result<Route, Refusal> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request { method, path, query, prefix: "" }.route()
}

#[track_caller]
fn check_code(method: &str, target: &str, expected: Code) {
    match route(method, target) {
        Err(Refusal::Fault(fault)) => assert_eq!(fault.code, expected, "{method} {target}"),
        other => panic!("{method} {target}: {other:?}"),
    }
}

#[track_caller]
fn check_method(method: &str, target: &str, allowed: &str) {
    match route(method, target) {
        Err(Refusal::Method { allow, options }) => {
            assert_eq!((allow, options), (allowed, method == "OPTIONS"), "{method} {target}");
        }
        other => panic!("{method} {target}: {other:?}"),
    }
}

#[track_caller]
fn check_missing(method: &str, target: &str) {
    assert_eq!(route(method, target), Err(Refusal::NotFound), "{method} {target}");
}

#[track_caller]
fn repository(target: &str) -> (Option<Source>, String, Resource) {
    match route("GET", target) {
        Ok(Route::Repository { source, name, resource }) => (source, name.to_string(), resource),
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn the_fixed_places() {
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        assert_eq!(route(method, "/v2/"), Ok(Route::Base));
    }
    assert_eq!(route("GET", "/"), Ok(Route::Alive));
    assert_eq!(route("GET", "/v2"), Ok(Route::BaseWithoutSlash));
    assert_eq!(route("GET", "/v2/_catalog"), Ok(Route::Catalog(Page::default())));
    for missing in ["/v1/", "/v2/x", "/v2//", "/v3/", "/index.html", "//", "", "/v2/_catalog/"] {
        check_missing("GET", missing);
    }
}

#[test]
fn a_name_may_hold_the_words_of_the_protocol() {
    let (_, name, resource) = repository("/v2/a/manifests/b/blobs/c/manifests/latest");
    assert_eq!(name, "a/manifests/b/blobs/c");
    assert_eq!(resource, Resource::Manifest("latest".parse().unwrap()));
}

#[test]
fn blobs_and_manifests_by_digest() {
    let digest: Digest = DIGEST.parse().unwrap();
    assert_eq!(repository(&format!("/v2/a/b/blobs/{DIGEST}")).2, Resource::Blob(digest));
    assert_eq!(
        repository(&format!("/v2/a/b/manifests/{DIGEST}")).2,
        Resource::Manifest(Reference::Digest(digest))
    );
    check_code("GET", "/v2/a/blobs/sha256:baddigeststring", Code::DigestInvalid);
    check_code("GET", "/v2/a/manifests/sha256:baddigeststring", Code::DigestInvalid);
    check_code("GET", &format!("/v2/a/blobs/{}", DIGEST.to_uppercase()), Code::DigestInvalid);
}

#[test]
fn names_that_could_leave_their_folder_lead_nowhere() {
    for name in ["..", "a/..", "a//b", "%2e%2e", "a%2Fb", "a\\b", "A", "ü", "a/", "/a"] {
        check_missing("GET", &format!("/v2/{name}/manifests/latest"));
    }
    check_code("GET", &format!("/v2/{}/manifests/latest", "a".repeat(256)), Code::NameInvalid);
    check_missing("GET", "/v2/a/manifests/.hidden");
}

#[test]
fn writes_are_unsupported() {
    check_code("PUT", "/v2/a/manifests/latest", Code::Unsupported);
    check_code("DELETE", "/v2/a/manifests/latest", Code::Unsupported);
    check_code("DELETE", &format!("/v2/a/blobs/{DIGEST}"), Code::Unsupported);
    check_code("POST", "/v2/a/blobs/uploads/", Code::Unsupported);
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        check_code(method, "/v2/a/blobs/uploads/some-uuid", Code::BlobUploadInvalid);
        check_code(method, "/v2/a/blobs/uploads/", Code::BlobUploadUnknown);
    }
}

#[test]
fn other_methods_are_told_what_is_allowed() {
    check_method("HEAD", "/v2/a/tags/list", "GET");
    check_method("POST", "/v2/a/manifests/latest", "DELETE, GET, HEAD, PUT");
    check_method("OPTIONS", &format!("/v2/a/blobs/{DIGEST}"), "DELETE, GET, HEAD");
    check_method("OPTIONS", "/v2/a/blobs/uploads/", "DELETE, GET, HEAD, PATCH, POST, PUT");
    check_method("POST", "/v2/_catalog", "GET");
}

#[test]
fn lists_read_their_page() {
    let page = |target: &str| match repository(target).2 {
        Resource::Tags(page) => page,
        other => panic!("{other:?}"),
    };
    assert_eq!(page("/v2/a/tags/list?n=3&last=v1%2e2"), Page { n: Some(3), last: Some("v1.2".into()) });
    assert_eq!(page("/v2/a/tags/list?n=99999999999").n, Some(u32::MAX));
    for bad in ["-1", "x", "", "1.5"] {
        check_code("GET", &format!("/v2/a/tags/list?n={bad}"), Code::PaginationNumberInvalid);
    }
}

#[test]
fn the_source_is_told_by_ns_or_by_a_path_prefix() {
    assert_eq!(repository("/v2/a/manifests/x?ns=docker.io").0, Some(Source::Namespace("docker.io".into())));
    assert_eq!(repository("/quay.io/v2/a/manifests/x").0, Some(Source::Prefix("quay.io".into())));
    assert_eq!(repository("/host:5000/v2/a/b/manifests/x").1, "a/b");
    assert_eq!(repository("/v2/a/manifests/x").0, None);
    check_code("GET", "/v2/a/manifests/x?ns=a.io&ns=b.io", Code::NameUnknown);
    check_code("GET", &format!("/v2/a/manifests/x?ns={}", "a".repeat(513)), Code::NameUnknown);
    check_missing("GET", "/quay/v2/a/manifests/x");
    check_missing("GET", "/\"onload=\".x/v2/a/manifests/x");
}

#[test]
fn a_prefix_moves_everything() {
    let at = |path| Request { method: "GET", path, query: "", prefix: "/hub" }.route();
    assert_eq!(at("/hub/v2/"), Ok(Route::Base));
    assert_eq!(at("/hub/"), Ok(Route::Alive));
    assert_eq!(at("/hub"), Ok(Route::Alive));
    assert_eq!(at("/v2/"), Err(Refusal::NotFound));
    assert_eq!(at("/hubby/v2/"), Err(Refusal::NotFound));
}

proptest! {
    #[test]
    fn any_target_has_one_answer(method in "[A-Z]{1,7}", path in "/[\\PC]{0,80}", query in "[\\PC]{0,40}") {
        let _ = Request { method: &method, path: &path, query: &query, prefix: "" }.route();
    }
}
