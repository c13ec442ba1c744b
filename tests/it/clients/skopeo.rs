//! skopeo 1.9.

use super::{SCHEMES, Scene, text};
use crate::support::command::run;

/// Copies every image with all its platforms into a folder, and compares the manifest.
fn copy_all(scene: &Scene, round: &str) {
    for (name, digest) in &scene.shelf.images {
        let folder = scene.path(&format!("{round}-{}", name.replace('/', "-")));
        let source = format!("docker://{}/{name}:1", scene.host());
        let target = format!("dir:{}", folder.display());
        let mut arguments = vec!["copy", "--all", "--quiet"];
        let certificates = scene.certificates();
        match &certificates {
            Some(folder) => arguments.extend(["--src-cert-dir", text(folder)]),
            None => arguments.push("--src-tls-verify=false"),
        }
        arguments.extend([source.as_str(), target.as_str()]);
        run("skopeo", &arguments);
        let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
        assert_eq!(&tidegate::registry::Digest::sha256(&manifest).to_string(), digest, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_all_images_and_again_without_the_upstream() {
    for scheme in SCHEMES {
        let scene = Scene::new(scheme).await;
        copy_all(&scene, "first");
        copy_all(&scene.upstream_goes_and_mirror_restarts(), "again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_after_a_pull_loses_nothing() {
    let scene = Scene::new(super::Scheme::Http).await;
    copy_all(&scene, "first");
    let address = scene.mirror.address.clone();
    // All blobs and manifests of the shelf, published.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let published = || scene.mirror.files().iter().filter(|path| path.ends_with("data")).count();
    while published() < 15 {
        assert!(std::time::Instant::now() < deadline, "{} published", published());
        tokio::task::yield_now().await;
    }
    let setup = scene.mirror.kill();
    let upstream = scene.upstream.stop();
    let mirror = setup.with("REGISTRY_HTTP_ADDR", &address).start();
    copy_all(&Scene { mirror, upstream, ..scene }, "again");
}
