//! dockerd 20.10 with `--registry-mirror`: pull, run, build.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::peers::LINE;
use super::{SCHEMES, Scene, text};
use crate::support::PATIENCE;
use crate::support::command::run_with;
use crate::support::hub::{ACCOUNT, Fault, Host, Hub};
use crate::support::image::{self, DOCKER};
use crate::support::mirror::Setup;
use crate::support::process::{Signal, signal, signal_group};

/// Debian's own client, whatever else is in the path.
const CLIENT: &str = "/usr/bin/docker";

pub struct Dockerd {
    process: Child,
    pub folder: tempfile::TempDir,
    certificates: Vec<PathBuf>,
}

impl Dockerd {
    /// A daemon of its own, whose containerd it starts and ends itself.
    pub fn start(mirror: &str, authority: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let certificates = authority.map(|authority| {
            // BuildKit in it looks for the CA of a mirror where that of Docker Hub would be.
            let hosts = [mirror.split("://").nth(1).unwrap(), "docker.io"];
            hosts.map(|host| trust(authority, host)).to_vec()
        });
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "-p", &path("pid")]);
        command.args(["-H", &format!("unix://{}", path("socket")), "--registry-mirror", mirror]);
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "vfs"]);
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--config-file", &path("none.json")]);
        if mirror.starts_with("http://") {
            // BuildKit in it speaks HTTPS to every other mirror, whatever the scheme of the mirror says.
            command.args(["--insecure-registry", mirror]);
        }
        std::fs::write(path("none.json"), "{}").unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let process = command.spawn().expect("dockerd is needed by the tests (tests/run installs docker.io)");
        let dockerd = Self { process, folder, certificates: certificates.unwrap_or_default() };
        let deadline = Instant::now() + PATIENCE;
        while !dockerd
            .client(&["version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            let log = || std::fs::read_to_string(dockerd.folder.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "dockerd does not start:\n{}", log());
            std::thread::yield_now();
        }
        dockerd
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CLIENT);
        command.args(["-H", &self.host()]).args(arguments).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        let host = self.host();
        run_with(CLIENT, &[&["-H", host.as_str()], arguments].concat(), &[("DOCKER_BUILDKIT", "1")])
    }

    fn pull_all(&self, scene: &Scene) {
        for (name, digest) in &scene.shelf.images {
            let short = name.trim_start_matches("library/");
            let image = format!("{short}:1");
            self.docker(&["pull", &image]);
            let digests = self.docker(&["inspect", "--format", "{{json .RepoDigests}}", &image]);
            assert!(digests.contains(digest.as_str()), "{name}: {digests}");
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let id = self.process.id();
        signal(id, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(15);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        signal_group(id, Signal::KILL);
        let _ = self.process.wait();
        for folder in &self.certificates {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn trust(authority: &Path, host: &str) -> PathBuf {
    let folder = PathBuf::from(format!("/etc/docker/certs.d/{host}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(authority, folder.join("ca.crt")).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_pulls_runs_and_builds_and_pulls_again_without_the_upstream() {
    for scheme in SCHEMES {
        let scene = Scene::new(scheme).await;
        let dockerd = Dockerd::start(&scene.url(), scene.authority.as_deref());
        dockerd.pull_all(&scene);
        let printed = dockerd.docker(&["run", "--rm", "--network", "none", "run:1"]);
        assert_eq!(printed.trim(), LINE);
        drop(dockerd);
        let dockerd = Dockerd::start(&scene.url(), scene.authority.as_deref());
        build(&scene, &dockerd);
        drop(dockerd);
        let scene = scene.upstream_goes_and_mirror_restarts();
        let fresh = Dockerd::start(&scene.url(), scene.authority.as_deref());
        fresh.pull_all(&scene);
    }
}

/// BuildKit in a daemon that has nothing yet, so that it pulls by itself.
fn build(scene: &Scene, dockerd: &Dockerd) {
    let context = scene.path("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("file"), "copied").unwrap();
    let recipe = "FROM run:1\nCOPY file /file\nRUN [\"/bin/busybox\", \"cp\", \"/file\", \"/made\"]\nCMD [\"cat\", \"/made\"]\n";
    std::fs::write(context.join("Dockerfile"), recipe).unwrap();
    dockerd.docker(&["build", "--quiet", "--network", "none", "-t", "built", text(&context)]);
    assert_eq!(dockerd.docker(&["run", "--rm", "--network", "none", "built"]), "copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_pulled_by_a_client_without_a_login() {
    let _turn = super::TURN.lock().await;
    let hub = Hub::start().await;
    let image = image::publish(&hub, "corp/private", Some("1"), DOCKER, &[image::layer(1, 100_000)]);
    hub.make_private("corp/private");
    let setup = Setup::of(&hub.url()).with("REGISTRY_PROXY_USERNAME", ACCOUNT.0);
    let mirror = setup.with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    let dockerd = Dockerd::start(&format!("http://{}", mirror.address), None);
    dockerd.docker(&["pull", "corp/private:1"]);
    assert!(
        dockerd
            .docker(&["inspect", "--format", "{{json .RepoDigests}}", "corp/private:1"])
            .contains(&image.digest)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_turns_away_in_seconds_from_a_layer_that_can_not_be_had() {
    let _turn = super::TURN.lock().await;
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), DOCKER, &[image::layer(1, 100_000)]);
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_PROXY_NAME", "docker.io").start();
    let refused = hub.fault(Host::Cdn, &image.layers[0], Fault::Answer(403, "", "<Error/>"));
    let dockerd = Dockerd::start(&format!("http://{}", mirror.address), None);
    let mut pull =
        dockerd.client(&["pull", "app:1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // From the mirror's last word about the layer to dockerd's turn to Docker Hub itself.
    mirror.accessed(&format!("/blobs/{} HTTP/1.1\" 429", image.layers[0]));
    let began = Instant::now();
    let log = dockerd.folder.path().join("log");
    let deadline = began + PATIENCE;
    while !std::fs::read_to_string(&log).unwrap().contains("registry-1.docker.io") {
        assert!(Instant::now() < deadline, "{}", std::fs::read_to_string(&log).unwrap());
        std::thread::yield_now();
    }
    let took = began.elapsed();
    let _ = pull.kill();
    let _ = pull.wait();
    assert!(refused.applied() >= 1 && took < Duration::from_secs(5), "{took:?}");
    // One try, which dockerd makes with two requests.
    assert_eq!(mirror.access_log().iter().filter(|line| line.contains("\" 429 ")).count(), 2);
}
