//! The service as its operator sees it: start, logs, health, metrics, stop.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::command::run;
use crate::support::hub::{ACCOUNT, Fault, Host, Hub};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Setup, TIDEGATE};
use crate::support::pull::get;

async fn hub() -> (Hub, Image) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1000)]);
    (hub, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_screen_says_what_runs_and_no_secret() {
    let (hub, _) = hub().await;
    let setup = Setup::of(&hub.url()).with("REGISTRY_PROXY_USERNAME", ACCOUNT.0);
    let mirror = setup.with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    mirror.logged("takes the account of this mirror");
    let log = mirror.log().join("\n");
    let root = mirror.setup.root().display().to_string();
    for word in [
        "configuration from",
        "config.yml",
        &hub.url(),
        ACCOUNT.0,
        &root,
        "listening on 127.0.0.1:",
        "try: curl",
    ] {
        assert!(log.contains(word), "no {word} in\n{log}");
    }
    assert!(!log.contains(ACCOUNT.1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_the_format_that_was_chosen() {
    let (hub, image) = hub().await;
    let path = format!("/v2/library/app/manifests/{}", image.digest);
    let size = image.manifest.len();
    let line = async |format: &str| {
        let mirror = Setup::of(&hub.url()).with("TIDEGATE_LOG_ACCESS", format).start();
        get(&mirror.url(&path)).await;
        mirror.accessed(&path)
    };
    let combined = line("combined").await;
    assert!(
        combined.starts_with("127.0.0.1 - - [")
            && combined.ends_with(&format!("\"GET {path} HTTP/1.1\" 200 {size} \"\" \"\""))
    );
    let plus = line("combined+").await;
    assert!(plus.contains(&format!("200 {size} \"\" \"\" miss ")), "{plus}");
    let object: serde_json::Value = serde_json::from_str(&line("json").await).unwrap();
    assert_eq!((object["status"].as_u64(), object["outcome"].as_str()), (Some(200), Some("miss")));
    let silent = Setup::of(&hub.url()).with("REGISTRY_LOG_ACCESSLOG_DISABLED", "true").start();
    get(&silent.url(&path)).await;
    let (_, status) = silent.stop();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_structured_log_has_the_shape_that_was_chosen() {
    let (hub, _) = hub().await;
    for (formatter, key) in [("json", "msg"), ("logstash", "message")] {
        let output = Setup::of(&hub.url())
            .with("REGISTRY_LOG_FORMATTER", formatter)
            .with("REGISTRY_HTTP_ADDR", "127.0.0.1:1");
        // Port 1 may be free for root, so the address is one that this machine does not have.
        let output = output.with("REGISTRY_HTTP_ADDR", "192.0.2.1:5000").output();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(
            lines.last().unwrap()[key].as_str().unwrap().contains("can't listen on 192.0.2.1:5000"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_debug_port_has_health_and_metrics() {
    let (hub, image) = hub().await;
    let mark = tempfile::NamedTempFile::new().unwrap();
    let down = mark.path().with_extension("down");
    let checks = format!("[{{file: {}, interval: 100ms}}]", down.display());
    let setup = Setup::of(&hub.url()).with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
    let setup = setup
        .with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true")
        .with("REGISTRY_HEALTH_FILECHECKERS", &checks);
    let mirror = setup.start();
    let line = mirror.logged("debug server listening ");
    let debug = line.split("listening ").nth(1).unwrap().trim_end_matches('"').to_owned();
    get(&mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]))).await;
    mirror.accessed("/blobs/");
    let metrics = String::from_utf8(get(&format!("http://{debug}/metrics")).await.body.to_vec()).unwrap();
    let documented = include_str!("../../docs/metrics.md");
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(documented.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
    }
    assert!(metrics.contains("registry_proxy_misses_total{type=\"blob\"} 1"), "{metrics}");
    assert!(metrics.contains("tidegate_answers_total{type=\"blob\",outcome=\"miss\"} 1"));
    let health = get(&format!("http://{debug}/debug/health")).await;
    assert_eq!((health.status, health.json()), (200, serde_json::json!({})));
    std::fs::write(&down, "").unwrap();
    mirror.logged("a health check fails");
    let gated = get(&mirror.url("/v2/")).await;
    assert_eq!((gated.status, gated.code().as_str()), (503, "UNAVAILABLE"));
    let failing = get(&format!("http://{debug}/debug/health")).await;
    assert_eq!((failing.status, failing.json()[down.to_str().unwrap()].as_str()), (503, Some("file exists")));
    std::fs::remove_file(&down).unwrap();
    mirror.logged("passes again");
    assert_eq!(get(&mirror.url("/v2/")).await.status, 200);
    assert_eq!(get(&format!("http://{debug}/")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served() {
    let (hub, image) = hub().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let path = path.to_str().unwrap();
    let mirror =
        Setup::of(&hub.url()).with("REGISTRY_HTTP_NET", "unix").with("REGISTRY_HTTP_ADDR", path).start();
    let body = run("curl", &["-sf", "--unix-socket", path, "http://x/v2/library/app/manifests/1"]);
    assert_eq!(body.as_bytes(), image.manifest);
    drop(mirror);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let setup = Setup::of("ftp://x").with("REGISTRY_LOG_LEVEL", "loud").with("REGISTRY_HTTP_ADDR", "nowhere");
    let setup = setup.with("REGISTRY_STORAGE_S3_BUCKET", "b").with("REGISTRY_PROXY_PASSWORD", "hunter2");
    let output = setup.with("TIDEGATE_NONSENSE", "1").output();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for key in ["proxy.remoteurl", "log.level", "http.addr", "storage", "proxy.username", "tidegate.nonsense"]
    {
        assert!(text.contains(key), "no {key} in\n{text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("panicked"));
}

#[test]
fn check_prints_what_would_run_and_its_output_is_a_configuration() {
    let setup = Setup::of("https://registry.test:8443").with("REGISTRY_PROXY_USERNAME", "bot");
    let config = setup.config().display().to_string();
    let setup = setup.with("REGISTRY_PROXY_PASSWORD", "hunter2").arguments(&["check", &config]);
    let output = setup.output();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(
        text.contains("https://registry.test:8443") && text.contains("bot") && !text.contains("hunter2"),
        "{text}"
    );
    std::fs::write(setup.config(), &text).unwrap();
    assert!(setup.output().status.success());
}

#[test]
fn an_unwritable_root_is_named_with_its_owner_or_left_for_the_home() {
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    for name in ["home", "registry", "root/tmp"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    for name in ["", "home"] {
        std::fs::set_permissions(folder.path().join(name), open.clone()).unwrap();
    }
    let path = folder.path().display().to_string();
    std::fs::copy(TIDEGATE, folder.path().join("tidegate")).unwrap();
    // As nobody, since root may write everywhere; in a root of its own, so that no mark of a container is seen.
    let as_nobody = |more: &str, variables: &[(&str, &str)], seconds: &str| {
        let config =
            "version: 0.1\nhttp: {addr: \"127.0.0.1:0\"}\nproxy: {remoteurl: \"http://127.0.0.1:1\"}\n";
        std::fs::write(folder.path().join("config.yml"), format!("{config}{more}")).unwrap();
        let script = format!(
            "cd {path}/root && for d in lib lib64 usr bin proc dev; do [ -e /$d ] || continue; mkdir -p $d; \
             mount --rbind /$d $d; done && mount --bind {path} tmp && exec timeout -s TERM {seconds} \
             chroot --userspec=65534:65534 . /tmp/tidegate serve /tmp/config.yml"
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(variables.iter().copied());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = as_nobody("storage: {filesystem: {rootdirectory: /tmp/registry}}\n", &[], "20");
    assert_eq!(code, Some(1), "{text}");
    assert!(["/tmp/registry", "uid 0", "755"].iter().all(|word| text.contains(word)), "{text}");
    // Unnamed, by hand: the cache goes to the home of whoever started it.
    let (_, text) = as_nobody("", &[("XDG_DATA_HOME", "/tmp/home")], "1");
    assert!(text.contains("the cache is in /tmp/home/tidegate instead"), "{text}");
    let (code, text) = as_nobody("", &[("XDG_DATA_HOME", "/tmp/home"), ("INVOCATION_ID", "x")], "20");
    assert!(code == Some(1) && text.contains("/var/lib/registry"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_left_before_the_answer_is_in_the_log() {
    let (hub, _) = hub().await;
    let hold = hub.fault(Host::Registry, "/manifests/", Fault::Hold);
    let mirror = Setup::of(&hub.url()).start();
    let url = mirror.url("/v2/library/app/manifests/1");
    let waiting = tokio::spawn(async move { get(&url).await });
    hub.arrived(1, |seen| seen.path.contains("/manifests/")).await;
    waiting.abort();
    mirror.accessed("\"GET /v2/library/app/manifests/1 HTTP/1.1\" 499 0 ");
    assert_eq!(hold.applied(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_account_shows_everywhere() {
    let (hub, _) = hub().await;
    hub.refuse_login(true);
    let setup = Setup::of(&hub.url()).with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
    let setup = setup.with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true");
    let setup = setup.with("REGISTRY_PROXY_USERNAME", ACCOUNT.0).with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1);
    let mirror = setup.start();
    mirror.logged("the upstream refused the account of this mirror");
    let line = mirror.logged("debug server listening ");
    let debug = line.split("listening ").nth(1).unwrap().trim_end_matches('"').to_owned();
    let health = get(&format!("http://{debug}/debug/health")).await;
    assert_eq!(
        (health.status, health.json()["upstream_account"].as_str()),
        (503, Some("the upstream refuses it"))
    );
    let metrics = String::from_utf8(get(&format!("http://{debug}/metrics")).await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_upstream_account_refused 1"), "{metrics}");
    // It gates nothing: what needs no account is served.
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_comes_at_once_is_heard() {
    let mut setup = Setup::of("http://127.0.0.1:1");
    for _ in 0..20 {
        let (again, status) = setup.start().stop();
        assert!(status.success(), "{status}");
        setup = again;
    }
}
