//! Names, lists and what clients say they accept.

use super::{one_image, tag};
use crate::support::hub::Hub;
use crate::support::image::{self, DOCKER, OCI};
use crate::support::mirror::Setup;
use crate::support::pull::{ask, get, head};
use reqwest::Method;

#[tokio::test(flavor = "multi_thread")]
async fn check_19_tags_list() {
    let hub = Hub::start().await;
    for name in ["a", "b", "c", "d"] {
        image::publish(&hub, "library/app", Some(name), OCI, &[]);
    }
    let mirror = Setup::of(&hub.url()).start();
    let list = |query: &str| mirror.url(&format!("/v2/library/app/tags/list{query}"));
    let tags = |answer: &crate::support::pull::Answer| answer.json()["tags"].to_string();
    for (query, expected) in [
        ("", r#"["a","b","c","d"]"#),
        ("?n=10000", r#"["a","b","c","d"]"#),
        ("?n=2", r#"["a","b"]"#),
        ("?n=2&last=b", r#"["c","d"]"#),
        ("?last=c", r#"["d"]"#),
        ("?n=0", "[]"),
    ] {
        let answer = get(&list(query)).await;
        assert_eq!((answer.status, tags(&answer).as_str()), (200, expected), "{query}");
        assert_eq!(answer.json()["name"], "library/app");
    }
    let page = get(&list("?n=2")).await;
    assert_eq!(page.header("link"), "</v2/library/app/tags/list?last=b&n=2>; rel=\"next\"");
    let last = get(&list("?n=2&last=b")).await;
    assert_eq!(last.header("link"), "");
    for query in ["?n=-1", "?n=x"] {
        let answer = get(&list(query)).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "PAGINATION_NUMBER_INVALID"), "{query}");
    }
    assert_eq!((head(&list("")).await.status, head(&list("")).await.header("allow")), (405, "GET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_19_the_catalogue_is_what_was_pulled() {
    let (hub, _, setup) = one_image().await;
    image::publish(&hub, "corp/tool", Some("1"), OCI, &[]);
    let mirror = setup.start();
    for name in ["library/app", "corp/tool"] {
        assert_eq!(get(&mirror.url(&format!("/v2/{name}/manifests/1"))).await.status, 200);
    }
    let all = get(&mirror.url("/v2/_catalog")).await;
    assert_eq!(all.json()["repositories"].to_string(), r#"["corp/tool","library/app"]"#);
    let page = get(&mirror.url("/v2/_catalog?n=1")).await;
    assert_eq!(page.header("link"), "</v2/_catalog?last=corp%2Ftool&n=1>; rel=\"next\"");
    let next = get(&mirror.url("/v2/_catalog?last=corp%2Ftool&n=1")).await;
    assert_eq!(
        (next.json()["repositories"].to_string().as_str(), next.header("link")),
        (r#"["library/app"]"#, "")
    );
    assert_eq!(get(&mirror.url("/v2/_catalog?n=1001")).await.code(), "PAGINATION_NUMBER_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_20_accept() {
    let hub = Hub::start().await;
    for (family, repository) in [(OCI, "library/oci"), (DOCKER, "library/docker")] {
        let amd = image::publish_for(&hub, repository, Some("image"), family, &[], "amd64");
        let arm = image::publish_for(&hub, repository, None, family, &[], "arm64");
        image::publish_index(&hub, repository, "index", family, &[("arm64", &arm), ("amd64", &amd)]);
    }
    let mirror = Setup::of(&hub.url()).start();
    let typed = async |repository: &str, name: &str, accept: Option<&str>| {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let url = mirror.url(&format!("/v2/library/{repository}/manifests/{name}"));
        let answer = ask(Method::GET, &url, &headers).await;
        assert_eq!(answer.status, 200, "{repository} {name} {accept:?}");
        assert_eq!(answer.header("docker-content-digest"), answer.digest());
        answer.header("content-type").to_owned()
    };
    for accept in [None, Some("*/*")] {
        for (family, repository) in [(OCI, "oci"), (DOCKER, "docker")] {
            assert_eq!(typed(repository, "image", accept).await, family.manifest);
            assert_eq!(typed(repository, "index", accept).await, family.index);
        }
    }
    let schema2 = Some(DOCKER.manifest);
    assert_eq!(typed("docker", "index", schema2).await, DOCKER.manifest);
    assert_eq!(typed("oci", "image", schema2).await, OCI.manifest);
    assert_eq!(typed("docker", "image", schema2).await, DOCKER.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_21_one_part_names_through_library() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.with("TIDEGATE_PROXY_NAME", "docker.io").start();
    for url in [
        tag(&mirror),
        mirror.url("/v2/app/manifests/1"),
        mirror.url("/v2/docker.io/app/manifests/1"),
        mirror.url("/docker.io/v2/app/manifests/1"),
        mirror.url("/v2/library/app/manifests/1?ns=docker.io"),
    ] {
        assert_eq!(get(&url).await.digest(), image.digest, "{url}");
    }
    let namespaced = get(&mirror.url("/v2/app/manifests/1?ns=docker.io")).await;
    assert_eq!(namespaced.header("oci-namespace"), "docker.io");
    hub.forget();
    let foreign = get(&mirror.url("/v2/app/manifests/1?ns=quay.io")).await;
    assert_eq!((foreign.status, foreign.code().as_str()), (404, "NAME_UNKNOWN"));
    assert_eq!(foreign.header("cache-status"), "tidegate; detail=refused");
    assert_eq!(hub.seen().len(), 0);
}
