//! containerd 1.6 by `ctr`, with a hosts.toml.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{SCHEMES, Scene, text};
use crate::support::PATIENCE;
use crate::support::command::run;
use crate::support::process::{Signal, signal_group};

pub struct Containerd {
    process: Child,
    socket: String,
}

impl Containerd {
    pub fn start(folder: &Path, round: &str) -> Self {
        let path = |name: &str| folder.join(format!("{round}-{name}")).display().to_string();
        let config = path("config.toml");
        let content = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            path("root"),
            path("state"),
            path("socket")
        );
        std::fs::write(&config, content).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let mut command = Command::new("containerd");
        command
            .args(["--config", &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let process = command.spawn().expect("containerd is needed by the tests (tests/run installs it)");
        let containerd = Self { process, socket: path("socket") };
        let deadline = Instant::now() + PATIENCE;
        let answers = || {
            Command::new("ctr").args(["-a", &containerd.socket, "version"]).output().unwrap().status.success()
        };
        while !answers() {
            assert!(
                Instant::now() < deadline,
                "containerd does not start: {}",
                std::fs::read_to_string(path("log")).unwrap()
            );
            std::thread::yield_now();
        }
        containerd
    }

    fn pull_all(&self, scene: &Scene) {
        let hosts = hosts(scene.folder.path(), &scene.url(), scene.authority.as_deref());
        for (name, digest) in &scene.shelf.images {
            self.pull(&hosts, name, digest);
        }
    }

    /// Pulls `docker.io/<name>:1`, which must be this digest.
    pub fn pull(&self, hosts: &Path, name: &str, digest: &str) {
        let image = format!("docker.io/{name}:1");
        let pull = ["images", "pull", "--hosts-dir", text(hosts), "--snapshotter", "native", &image];
        run("ctr", &[&["-a", self.socket.as_str()], &pull[..]].concat());
        let listed = run("ctr", &["-a", &self.socket, "images", "ls"]);
        assert!(
            listed.lines().any(|line| line.contains(&image) && line.contains(digest)),
            "{name}: {listed}"
        );
    }
}

/// A folder with the hosts.toml that sends docker.io to a mirror.
pub fn hosts(folder: &Path, mirror: &str, authority: Option<&Path>) -> PathBuf {
    let hosts = folder.join("hosts");
    std::fs::create_dir_all(hosts.join("docker.io")).unwrap();
    let ca = authority.map(|path| format!("  ca = \"{}\"\n", path.display())).unwrap_or_default();
    let content = format!(
        "server = \"https://registry-1.docker.io\"\n[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca}"
    );
    std::fs::write(hosts.join("docker.io/hosts.toml"), content).unwrap();
    hosts
}

impl Drop for Containerd {
    fn drop(&mut self) {
        signal_group(self.process.id(), Signal::KILL);
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_all_images_and_again_without_the_upstream() {
    for scheme in SCHEMES {
        let scene = Scene::new(scheme).await;
        Containerd::start(scene.folder.path(), "first").pull_all(&scene);
        let namespaced =
            scene.mirror.access_log().iter().filter(|line| line.contains("ns=docker.io")).count();
        assert!(namespaced > 0, "containerd named no namespace");
        let scene = scene.upstream_goes_and_mirror_restarts();
        Containerd::start(scene.folder.path(), "again").pull_all(&scene);
    }
}
