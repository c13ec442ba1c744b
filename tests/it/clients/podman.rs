//! podman 4.3, with the mirror in registries.conf.

use std::path::PathBuf;

use super::{SCHEMES, Scene, text};
use crate::support::command::run_with;

/// The file that sends everything of docker.io to the mirror first.
pub fn registries(scene: &Scene) -> PathBuf {
    let insecure = scene.authority.is_none();
    let file = scene.path("registries.conf");
    let content = format!(
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = {insecure}\n",
        scene.host()
    );
    std::fs::write(&file, content).unwrap();
    file
}

fn pull_all(scene: &Scene, round: &str) {
    let (root, runroot) = (scene.path(&format!("{round}-root")), scene.path(&format!("{round}-run")));
    let global = ["--root", text(&root), "--runroot", text(&runroot), "--storage-driver", "vfs"];
    let registries = registries(scene);
    let podman = |arguments: &[&str]| {
        run_with(
            "podman",
            &[&global, arguments].concat(),
            &[("CONTAINERS_REGISTRIES_CONF", text(&registries))],
        )
    };
    let certificates = scene.certificates();
    for (name, digest) in &scene.shelf.images {
        let image = format!("docker.io/{name}:1");
        let mut pull = vec!["pull", "--quiet"];
        if let Some(folder) = &certificates {
            pull.extend(["--cert-dir", text(folder)]);
        }
        podman(&[&pull[..], &[image.as_str()]].concat());
        let digests = podman(&["image", "inspect", "--format", "{{json .RepoDigests}}", &image]);
        assert!(digests.contains(digest.as_str()), "{name}: {digests}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_all_images_and_again_without_the_upstream() {
    for scheme in SCHEMES {
        let scene = Scene::new(scheme).await;
        pull_all(&scene, "first");
        pull_all(&scene.upstream_goes_and_mirror_restarts(), "again");
    }
}
