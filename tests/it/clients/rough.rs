//! Real clients while the upstream is slow and breaks off, and while the mirror itself does.

use std::process::Stdio;
use std::time::Instant;

use super::containerd::{Containerd, hosts};
use super::docker::Dockerd;
use super::{TURN, text};
use crate::support::PATIENCE;
use crate::support::command::run_with;
use crate::support::hub::{Fault, Host, Hub, Order};
use crate::support::image::{self, DOCKER, Image};
use crate::support::mirror::{Mirror, Setup};
use std::sync::Arc;

/// Bytes of the one layer.
const LENGTH: usize = 3_000_000;

struct Rough {
    hub: Hub,
    image: Image,
    mirror: Mirror,
    orders: [Arc<Order>; 2],
}

impl Rough {
    /// An upstream whose bodies break off twice, and then come at 2 MB/s.
    async fn new() -> Self {
        let hub = Hub::start().await;
        let image = image::publish(&hub, "library/app", Some("1"), DOCKER, &[image::layer(1, LENGTH)]);
        let layer = format!("GET /library/app/data/{}", image.layers[0]);
        let cut = hub.fault(Host::Cdn, &layer, Fault::Cut(500_000));
        cut.times(2);
        let slow = hub.fault(Host::Cdn, &layer, Fault::Slow(2_000_000));
        let mirror = Setup::of(&hub.url()).with("TIDEGATE_PROXY_NAME", "docker.io").start();
        Self { hub, image, mirror, orders: [cut, slow] }
    }

    /// The client noticed nothing, and nothing was fetched twice.
    fn check(&self) {
        assert!(self.orders[0].applied() == 2 && self.orders[1].applied() >= 1);
        let all = image::layer(1, LENGTH).len() as u64 + 100_000;
        assert!(self.hub.bytes_sent(Host::Cdn) <= all, "{}", self.hub.bytes_sent(Host::Cdn));
        let lines = self.mirror.access_log();
        let layers = lines
            .iter()
            .filter(|line| line.contains(&format!("GET /v2/library/app/blobs/{}", self.image.layers[0])));
        assert_eq!(layers.count(), 1, "{lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_over_an_upstream_that_is_slow_and_breaks_off() {
    let _turn = TURN.lock().await;
    let rough = Rough::new().await;
    let folder = tempfile::tempdir().unwrap();
    let hosts = hosts(folder.path(), &format!("http://{}", rough.mirror.address), None);
    tokio::task::block_in_place(|| {
        Containerd::start(folder.path(), "rough").pull(&hosts, "library/app", &rough.image.digest);
    });
    rough.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_over_an_upstream_that_is_slow_and_breaks_off() {
    let _turn = TURN.lock().await;
    let rough = Rough::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let content = format!(
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        rough.mirror.address
    );
    std::fs::write(path("registries.conf"), content).unwrap();
    let (root, run) = (path("root"), path("run"));
    let global = ["--root", text(&root), "--runroot", text(&run), "--storage-driver", "vfs"];
    let registries = path("registries.conf");
    let variables = [("CONTAINERS_REGISTRIES_CONF", text(&registries))];
    let image = "docker.io/library/app:1";
    let digests = tokio::task::block_in_place(|| {
        run_with("podman", &[&global[..], &["pull", "--quiet", image]].concat(), &variables);
        let inspect = ["image", "inspect", "--format", "{{json .RepoDigests}}", image];
        run_with("podman", &[&global[..], &inspect].concat(), &variables)
    });
    assert!(digests.contains(&rough.image.digest), "{digests}");
    rough.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_goes_on_where_a_mirror_that_was_killed_broke_off() {
    let _turn = TURN.lock().await;
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), DOCKER, &[image::layer(1, LENGTH)]);
    let gate = hub.fault(Host::Cdn, &image.layers[0], Fault::Gate(2_000_000));
    gate.times(1);
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_PROXY_NAME", "docker.io").start();
    let address = mirror.address.clone();
    let dockerd = tokio::task::block_in_place(|| Dockerd::start(&format!("http://{address}"), None));
    let mut pull =
        dockerd.client(&["pull", "app:1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // dockerd writes what it has into a file of its own.
    let downloads = dockerd.folder.path().join("data/tmp");
    let has_some = || {
        let files = std::fs::read_dir(&downloads).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).any(|file| file.len() >= 1_000_000)
    };
    let deadline = Instant::now() + PATIENCE;
    while !has_some() {
        assert!(Instant::now() < deadline, "nothing arrives");
        tokio::task::yield_now().await;
    }
    let mirror = tokio::task::block_in_place(|| mirror.kill().with("REGISTRY_HTTP_ADDR", &address).start());
    let ended = tokio::task::block_in_place(|| pull.wait().unwrap());
    assert!(ended.success() && gate.applied() == 1, "{ended}");
    let digests = dockerd.docker(&["inspect", "--format", "{{json .RepoDigests}}", "app:1"]);
    assert!(digests.contains(&image.digest), "{digests}");
    mirror.accessed(&format!("/blobs/{} HTTP/1.1\" 206", image.layers[0]));
}
