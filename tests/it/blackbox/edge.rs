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
