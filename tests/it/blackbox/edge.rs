//! The TLS port.

use super::one_image;
use crate::support::command::run;
use crate::support::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn check_22_plain_http_to_the_tls_port() {
    let (_hub, _, setup) = one_image().await;
    let pair = tls::pair();
    let mirror = setup
        .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
        .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap())
        .start();
    let mut stream = tokio::net::TcpStream::connect(&mirror.address).await.unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_22_versions_and_protocols() {
    let (_hub, _, setup) = one_image().await;
    let pair = tls::pair();
    let setup = setup
        .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
        .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap());
    let authority = pair.authority.to_str().unwrap();
    let mirror = setup.clone().start();
    let url = format!("https://{}/v2/", mirror.address);
    let curl = |url: &str, arguments: &[&str]| {
        let format = "%{http_code} %{http_version}";
        run(
            "curl",
            &[&["-s", "-o", "/dev/null", "-w", format, "--cacert", authority, url], arguments].concat(),
        )
    };
    assert_eq!(curl(&url, &["--http2"]), "200 2");
    assert_eq!(curl(&url, &["--http1.1"]), "200 1.1");
    assert_eq!(curl(&url, &["--tls-max", "1.2"]), "200 2");
    drop(mirror);
    let only_new = setup.with("REGISTRY_HTTP_TLS_MINIMUMTLS", "tls1.3").start();
    let url = format!("https://{}/v2/", only_new.address);
    assert_eq!(curl(&url, &[]), "200 2");
    let old = std::process::Command::new("curl")
        .args(["-s", "--cacert", authority, "--tls-max", "1.2", &url])
        .status();
    // 35: the handshake failed.
    assert_eq!(old.unwrap().code(), Some(35));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_no_body_in_http_2_either() {
    let (_hub, image, setup) = one_image().await;
    let pair = tls::pair();
    let mirror = setup
        .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
        .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap())
        .start();
    let zeros = "0".repeat(64);
    for (path, status) in [
        ("/v2/".to_owned(), "200"),
        ("/v2".to_owned(), "301"),
        ("/nowhere".to_owned(), "404"),
        ("/v2/library/app/manifests/1".to_owned(), "200"),
        ("/v2/library/app/manifests/none".to_owned(), "404"),
        (format!("/v2/library/app/blobs/{}", image.layers[0]), "200"),
        (format!("/v2/library/app/blobs/sha256:{zeros}"), "404"),
        (format!("/v2/library/app/referrers/sha256:{zeros}"), "200"),
        ("/v2/library/app/tags/list".to_owned(), "405"),
    ] {
        let url = format!("https://{}{path}", mirror.address);
        let authority = pair.authority.to_str().unwrap();
        let head = |version: &str| {
            let format = "%{http_code} %{http_version} %header{content-length}";
            let arguments =
                ["-s", "-I", "-o", "/dev/null", "-w", format, "--cacert", authority, version, &url];
            run("curl", &arguments)
        };
        let (old, new) = (head("--http1.1"), head("--http2"));
        assert!(new.starts_with(&format!("{status} 2 ")), "{path}: {new}");
        assert_eq!(old.replace(" 1.1 ", " 2 "), new, "{path}");
    }
}
