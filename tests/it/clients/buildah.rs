//! buildah 1.28, with the mirror in registries.conf.

use super::{SCHEMES, Scene, podman, text};
use crate::support::command::run_with;

fn pull_all(scene: &Scene, round: &str) {
    let (root, runroot) = (scene.path(&format!("{round}-root")), scene.path(&format!("{round}-run")));
    let global = ["--root", text(&root), "--runroot", text(&runroot), "--storage-driver", "vfs"];
    let registries = podman::registries(scene);
    let buildah = |arguments: &[&str]| {
        run_with(
            "buildah",
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
        buildah(&[&pull[..], &[image.as_str()]].concat());
        let listed = buildah(&["images", "--all", "--digests", "--format", "{{.Digest}}"]);
        // An index is listed under the digest of the child that was chosen.
        assert!(listed.contains(digest.as_str()) || *name == "library/multi", "{name}: {listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_pulls_all_images_and_again_without_the_upstream() {
    for scheme in SCHEMES {
        let scene = Scene::new(scheme).await;
        pull_all(&scene, "first");
        pull_all(&scene.upstream_goes_and_mirror_restarts(), "again");
    }
}
