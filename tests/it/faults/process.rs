//! The process and its signals.

use std::time::{Duration, Instant};

use super::Cold;
use crate::support::hub::{Fault, Host};
use crate::support::process::Signal;
use crate::support::pull::{finish, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_at_once() {
    let cold = Cold::new().await;
    let gate = cold.hub.fault(Host::Cdn, "GET", Fault::Gate(100_000));
    let mut flying = open(&cold.layer()).await;
    assert!(flying.chunk().await.unwrap().is_some() && gate.applied() == 1);
    let mut mirror = cold.mirror;
    mirror.signal(Signal::TERM);
    mirror.logged("stopping server gracefully");
    let began = Instant::now();
    mirror.signal(Signal::TERM);
    let status = mirror.ended();
    assert!(status.success() && began.elapsed() < Duration::from_secs(5), "{status} {:?}", began.elapsed());
    assert!(!finish(flying).await.whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_its_output() {
    let cold = Cold::new().await;
    // Its pipes are closed under it: no SIGPIPE ends it, no line holds it up.
    let setup = cold.mirror.kill();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let setup = setup.with("REGISTRY_HTTP_ADDR", &address);
    let mut process = setup
        .command()
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop((process.stdout.take(), process.stderr.take()));
    let url = format!("http://{address}/v2/library/app/manifests/1");
    let deadline = Instant::now() + crate::support::PATIENCE;
    let answer = loop {
        match crate::support::pull::client().get(&url).send().await {
            Ok(answer) => break finish(answer).await,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.digest(), cold.image.digest);
    assert!(process.try_wait().unwrap().is_none(), "it ended");
    process.kill().unwrap();
    process.wait().unwrap();
}
