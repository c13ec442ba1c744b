//! The environment, the file, the command line.

use std::process::{Command, Stdio};

use super::one_image;
use crate::support::hub::{Fault, Host};
use crate::support::mirror::{Setup, TIDEGATE};
use crate::support::process::Signal;
use crate::support::pull::{self, get, open};

#[tokio::test(flavor = "multi_thread")]
async fn check_16_passwords_as_typed() {
    let (hub, image, setup) = one_image().await;
    hub.make_private("library/app");
    for password in ["@x", "a: b", "x #y", "*x", "\"q\"", "~", "{a", "0123"] {
        hub.account("bot", password);
        let setup = Setup::of(&hub.url())
            .with("REGISTRY_PROXY_USERNAME", "bot")
            .with("REGISTRY_PROXY_PASSWORD", password);
        let mirror = setup.start();
        assert_eq!(get(&super::tag(&mirror)).await.digest(), image.digest, "{password}");
    }
    let without = setup.start();
    assert_eq!(get(&super::tag(&without)).await.status, 404);
}

#[test]
fn check_17_lists_and_maps_that_broke_the_start() {
    let setup = Setup::of("https://registry.test");
    let config = setup.config().display().to_string();
    let setup = setup.arguments(&["check", &config]);
    for (name, value) in
        [("REGISTRY_HTTP_TLS_CLIENTCAS", "[/a.pem,/b.pem]"), ("REGISTRY_HTTP_TLS_CLIENTCAS_0", "/a.pem")]
    {
        let output = setup.clone().with(name, value).output();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text.contains("http.tls.clientcas") && text.contains("REGISTRY_HTTP_TLS_CLIENTCAS"),
            "{text}"
        );
    }
    let readonly = setup.with("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "true");
    assert!(readonly.output().status.success());
}

#[test]
fn check_18_both_default_paths() {
    for folder in ["/etc/docker/registry", "/etc/distribution"] {
        // A mount namespace of its own, in which /etc has nothing but the file.
        let script = format!(
            "mount -t tmpfs none /etc && mkdir -p {folder} && \
             printf 'version: 0.1\\nhttp: {{addr: \":5999\"}}\\n' > {folder}/config.yml && exec {TIDEGATE} check"
        );
        let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).env_clear().output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("5999"),
            "{folder}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn check_18_the_forms_of_the_container_command() {
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("registry");
    std::os::unix::fs::symlink(TIDEGATE, &registry).unwrap();
    let config = folder.path().join("config.yml");
    std::fs::write(&config, "version: 0.1\nproxy: {remoteurl: nonsense}\n").unwrap();
    let run = |arguments: &[&str]| {
        let output =
            Command::new(&registry).args(arguments).env_clear().stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let config = config.to_str().unwrap();
    // Each form reads the file, and says what is wrong with it.
    for arguments in [&[config][..], &["serve", config]] {
        let (code, text) = run(arguments);
        assert!(
            code == Some(1) && text.contains("proxy.remoteurl") && text.contains("config.yml:2"),
            "{arguments:?}: {text}"
        );
    }
    for arguments in [&["--version"][..], &["-v"]] {
        let (code, text) = run(arguments);
        assert_eq!((code, text.starts_with("tidegate ")), (Some(0), true), "{text}");
    }
    // So does the collection of garbage, and does its own kind of it on the volume.
    let (code, text) = run(&["garbage-collect", "-m", config]);
    assert!(code == Some(1) && text.contains("proxy.remoteurl"), "{text}");
    let (root, socket) = (folder.path().join("root"), folder.path().join("admin.sock"));
    let right = format!(
        "version: 0.1\nproxy: {{remoteurl: 'http://127.0.0.1:1'}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\ntidegate: {{admin: {{socket: {}}}}}\n",
        root.display(),
        socket.display()
    );
    std::fs::write(config, right).unwrap();
    for arguments in [&["garbage-collect", "-m", config][..], &["garbage-collect", "--dry-run", config]] {
        let (code, text) = run(arguments);
        assert!(code == Some(0) && text.contains("blobs: 0"), "{text}");
    }
    assert_eq!(run(&["help"]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_18_sigterm_finishes_what_is_under_way() {
    let (hub, image, setup) = one_image().await;
    let mut mirror = setup.start();
    hub.fault(Host::Cdn, "GET", Fault::Gate(300_000));
    let mut pulled = open(&super::layer(&mirror, &image)).await;
    let first = pulled.chunk().await.unwrap().unwrap();
    mirror.signal(Signal::TERM);
    mirror.logged("Draining connections");
    let closed = async { while pull::client().get(mirror.url("/v2/")).send().await.is_ok() {} };
    crate::support::soon("the close of the port", closed).await;
    hub.release();
    let rest = pull::finish(pulled).await;
    let whole = [first.as_ref(), rest.body.as_ref()].concat();
    assert_eq!(tidegate::registry::Digest::sha256(&whole).to_string(), image.layers[0]);
    assert!(mirror.ended().success());
    let setup = mirror.setup.clone();
    drop(mirror);
    hub.stop();
    assert_eq!(get(&super::layer(&setup.start(), &image)).await.header("cache-status"), "tidegate; hit");
}
