//! The process and its signals.

use std::time::{Duration, Instant};

use super::Cold;
use crate::support::hub::{Fault, Host, Seen};
use crate::support::mirror::Setup;
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

#[test]
fn a_process_that_gets_few_threads_says_so_at_the_start() {
    // A user of its own, whose threads nobody else has; root has no such limit.
    const USER: &str = "64999";
    let setup = Setup::of("http://127.0.0.1:9");
    let root = setup.root();
    let above = root.parent().unwrap();
    for path in [above, &setup.config()] {
        std::os::unix::fs::chown(path, Some(64_999), Some(64_999)).unwrap();
    }
    let user = [format!("--reuid={USER}"), format!("--regid={USER}")];
    let limit = ["setpriv", &user[0], &user[1], "--clear-groups", "prlimit", "--nproc=8"];
    let refused = setup.under(&limit).output();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("TasksMax") && !text.contains("panicked"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_little_address_space_serves_and_harms_no_index() {
    let cold = Cold::new().await;
    cold.is_pulled().await;
    let (setup, _) = cold.mirror.stop();
    let index = setup.root().join("tidegate/index");
    let plain = setup.clone();
    let cold = Cold { mirror: setup.under(&["prlimit", "--as=4000000000"]).start(), ..cold };
    cold.mirror.logged("no room in memory to map it");
    cold.is_pulled().await;
    let (_, status) = cold.mirror.stop();
    assert!(status.success(), "{status}");
    let names: Vec<_> = std::fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["v1"], "nothing was set aside");
    cold.hub.forget();
    let cold = Cold { mirror: plain.start(), hub: cold.hub, image: cold.image };
    cold.is_pulled().await;
    assert_eq!(cold.hub.count(Seen::is_blob_transfer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_log_on_a_full_disk_stops_nothing() {
    let cold = Cold::new().await;
    let setup = cold.mirror.kill();
    let full = setup.under(&["sh", "-c", "exec \"$0\" \"$@\" > /dev/full"]);
    let cold = Cold { mirror: full.start(), ..cold };
    for _ in 0..2 {
        cold.is_pulled().await;
    }
    assert!(cold.mirror.access_log().is_empty(), "the fault did not come to pass");
    let (_, status) = cold.mirror.stop();
    assert!(status.success(), "{status}");
}
