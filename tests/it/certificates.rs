//! Certificates that look after themselves: files that change in every way that writers know, and a mirror that serves
//! what is good of them, always.

mod clients;
mod swaps;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::authority::{Authority, Client, DAY, Texts};
use crate::support::command::run;
use crate::support::mirror::{Mirror, Setup};
use crate::support::process::Signal;
use crate::support::pull::get;
use crate::support::soon;
use crate::support::writer::{self, Writer};
use serde_json::Value;

/// Nobody is there: certificates need no upstream.
const NOWHERE: &str = "http://127.0.0.1:1";

/// How long a good pair may take from its last write to its first handshake.
const PROMPT: Duration = Duration::from_secs(2);

/// A mirror that watches a folder, and who signs for it.
struct Story {
    _home: TempDir,
    folder: PathBuf,
    authority: Authority,
    client: Client,
}

impl Story {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let authority = Authority::new("the CA of the story");
        let client = authority.client(None);
        Self { folder: home.path().join("tls"), _home: home, authority, client }
    }

    fn setup(&self) -> Setup {
        Setup::of(NOWHERE).with("TIDEGATE_TLS_DIR", &self.folder.display().to_string())
    }

    /// The same files, named.
    fn named(&self) -> Setup {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let setup = Setup::of(NOWHERE).with("REGISTRY_HTTP_TLS_CERTIFICATE", &path("fullchain.pem"));
        setup.with("REGISTRY_HTTP_TLS_KEY", &path("privkey.pem"))
    }

    /// Waits until a pair is served; how long that took.
    async fn served(&self, mirror: &Mirror, pair: &Texts) -> Duration {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < Duration::from_secs(20) {
            match self.client.ask(&mirror.address, "localhost").await {
                Ok(seen) if seen.leaf == pair.leaf_der() => return began.elapsed(),
                other => last = format!("{other:?}"),
            }
            tokio::task::yield_now().await;
        }
        panic!("the pair is not served: {last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_a_good_pair_is_served_within_two_seconds() {
    let story = Story::new();
    let first = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &first, 0);
    let mirror = story.setup().start();
    story.served(&mirror, &first).await;
    for (number, writer) in (1..).zip(writer::ALL.into_iter().chain(writer::ALL)) {
        let next = story.authority.good(&["localhost"]);
        writer::write(writer, &story.folder, &next, number);
        let took = story.served(&mirror, &next).await;
        assert!(took < PROMPT, "{writer:?} took {took:?}");
        if writer == Writer::Combined {
            std::fs::remove_file(story.folder.join("all.pem")).unwrap();
        }
    }
}

/// Spoils the files of a folder that has a good pair; what the mirror says of it.
type Sabotage = (&'static str, fn(&Story), &'static str);

const SABOTAGES: [Sabotage; 15] = [
    ("half a chain", |story| cut(story, "fullchain.pem"), "not whole"),
    ("half a key", |story| cut(story, "privkey.pem"), "not whole"),
    ("an empty certificate", |story| put(story, "fullchain.pem", ""), "no certificate"),
    ("an empty key", |story| put(story, "privkey.pem", ""), "no private key"),
    (
        "another key",
        |story| put(story, "privkey.pem", &story.authority.good(&["localhost"]).key),
        "no certificate",
    ),
    (
        "an expired pair",
        |story| pair(story, &story.authority.sign(&["localhost"], -9 * DAY, -DAY)),
        "expired",
    ),
    (
        "a pair of tomorrow",
        |story| pair(story, &story.authority.sign(&["localhost"], DAY, 9 * DAY)),
        "not valid yet",
    ),
    (
        "a leaf alone",
        |story| {
            let pair = story.authority.good(&["localhost"]);
            put(story, "privkey.pem", &pair.key);
            put(story, "fullchain.pem", &pair.leaf);
        },
        "issuer is missing",
    ),
    (
        "an encrypted key",
        |story| {
            let path = story.folder.join("privkey.pem").display().to_string();
            let cipher = ["pkcs8", "-topk8", "-passout", "pass:secret", "-in", &path, "-out"];
            let locked = format!("{path}.locked");
            run("openssl", &[&cipher[..], &[&locked]].concat());
            std::fs::rename(locked, path).unwrap();
        },
        "encrypted",
    ),
    (
        "DER",
        |story| {
            let path = story.folder.join("fullchain.pem").display().to_string();
            let der = format!("{path}.der");
            run("openssl", &["x509", "-in", &path, "-outform", "der", "-out", &der]);
            std::fs::rename(der, path).unwrap();
        },
        "DER",
    ),
    ("a huge file", |story| put(story, "fullchain.pem", &"x".repeat(2_000_000)), "more than"),
    (
        "10,000 certificates",
        |story| {
            put(
                story,
                "fullchain.pem",
                &"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".repeat(10_000),
            )
        },
        "too many",
    ),
    (
        "a link to itself",
        |story| {
            std::fs::remove_file(story.folder.join("privkey.pem")).unwrap();
            std::os::unix::fs::symlink("privkey.pem", story.folder.join("privkey.pem")).unwrap();
        },
        "symbolic links",
    ),
    (
        "nothing",
        |story| {
            std::fs::remove_file(story.folder.join("privkey.pem")).unwrap();
            std::fs::remove_file(story.folder.join("fullchain.pem")).unwrap();
        },
        "no certificate with a key",
    ),
    ("no folder", |story| std::fs::remove_dir_all(&story.folder).unwrap(), "No such file"),
];

fn put(story: &Story, name: &str, text: &str) {
    std::fs::write(story.folder.join(name), text).unwrap();
}

fn pair(story: &Story, pair: &Texts) {
    put(story, "fullchain.pem", &pair.chain());
    put(story, "privkey.pem", &pair.key);
}

fn cut(story: &Story, name: &str) {
    let text = std::fs::read_to_string(story.folder.join(name)).unwrap();
    put(story, name, &text[..text.len() / 2]);
}

/// What the mirror lists after it read all files again.
fn reloaded(mirror: &Mirror) -> Vec<Value> {
    let config = mirror.setup.config().display().to_string();
    let output = mirror.setup.clone().arguments(&["cert", "reload", &config, "--json"]).output();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["certificates"].as_array().unwrap().clone()
}

fn troubles(listed: &[Value]) -> String {
    listed.iter().map(|listed| listed["trouble"].as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// Each sabotage alone, with a good pair before and after it.
async fn is_never_replaced(story: &Story, setup: Setup, sabotages: &[Sabotage]) {
    let mut good = story.authority.good(&["localhost"]);
    writer::write(Writer::CertificateFirst, &story.folder, &good, 0);
    let mirror = setup.start();
    for (name, sabotage, words) in sabotages {
        sabotage(story);
        let listed = reloaded(&mirror);
        assert!(troubles(&listed).contains(words), "{name}: {listed:#?}");
        let seen = story.client.ask(&mirror.address, "localhost").await.unwrap();
        assert_eq!(seen.leaf, good.leaf_der(), "{name}");
        good = story.authority.good(&["localhost"]);
        writer::write(Writer::Again, &story.folder, &good, 0);
        let took = story.served(&mirror, &good).await;
        assert!(took < PROMPT, "{name}: {took:?}");
        assert_eq!(troubles(&reloaded(&mirror)), "", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_in_the_folder_never_replaces_a_good_pair() {
    let story = Story::new();
    is_never_replaced(&story, story.setup(), &SABOTAGES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_of_the_two_that_are_named_never_replaces_a_good_pair() {
    let story = Story::new();
    let sabotages = SABOTAGES.map(|(name, sabotage, words)| {
        let words = match name {
            "an empty certificate" => "no PEM certificate",
            "an empty key" => "no PEM private key",
            "another key" => "do not go together",
            "nothing" => "No such file",
            _ => words,
        };
        (name, sabotage, words)
    });
    is_never_replaced(&story, story.named(), &sabotages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_lasting_trouble_there_is_one_line_and_one_of_its_end() {
    let story = Story::new();
    let good = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &good, 0);
    let mirror = story.setup().start();
    put(&story, "privkey.pem", "");
    mirror.logged("no private key belongs");
    for _ in 0..5 {
        reloaded(&mirror);
    }
    put(&story, "privkey.pem", &good.key);
    mirror.logged("is in order again");
    let told = mirror.log().iter().filter(|line| line.contains("no private key belongs")).count();
    assert_eq!(told, 1, "{:#?}", mirror.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_stood_in_for_until_it_has_a_pair() {
    let story = Story::new();
    std::fs::create_dir(&story.folder).unwrap();
    let setup = story.setup().with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
    let mirror = setup.with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true").start();
    mirror.logged("a self-signed one stands in");
    let refused = story.client.ask(&mirror.address, "localhost").await.unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer") || refused.contains("CaUsedAsEndEntity"), "{refused}");
    let health = health(&mirror).await;
    assert!(health.contains("self-signed") && health.contains("no certificate with a key"), "{health}");
    let good = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &good, 0);
    assert!(story.served(&mirror, &good).await < PROMPT);
    well(&mirror, "{}").await;
    let metrics = mirror.metrics().await;
    let ends = "tidegate_certificate_not_after_seconds{name=\"localhost\",source=\"folder\",key=\"ECDSA\"}";
    assert!(metrics.contains(ends), "{metrics}");
    assert!(metrics.contains("tidegate_tls_handshakes_total{version=\"1.3\",resumed=\"no\"}"), "{metrics}");
    assert!(metrics.contains("tidegate_certificate_reloads_total{result=\"changed\"}"), "{metrics}");
    // In the last quarter of its life health says so, and goes on.
    writer::write(Writer::Move, &story.folder, &story.authority.sign(&["localhost"], -9 * DAY, DAY), 0);
    well(&mirror, "less than a quarter").await;
    story.client.ask(&mirror.address, "localhost").await.unwrap();
}

/// Waits until health has these words.
async fn well(mirror: &Mirror, words: &str) {
    let began = Instant::now();
    loop {
        let said = health(mirror).await;
        if said.contains(words) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "health says {said}");
        tokio::task::yield_now().await;
    }
}

async fn health(mirror: &Mirror) -> String {
    let line = mirror.logged("debug server listening ");
    let debug = line.split("listening ").nth(1).unwrap().trim_end_matches('"').to_owned();
    let answer = get(&format!("http://{debug}/debug/health")).await;
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_bad_files_uses_the_last_good_pair() {
    let story = Story::new();
    for (number, setup) in [story.setup(), story.named()].into_iter().enumerate() {
        let good = story.authority.good(&["localhost"]);
        writer::write(Writer::Again, &story.folder, &good, 0);
        let mirror = setup.start();
        let kept = mirror.setup.root().join("tidegate/tls");
        let is_kept = |entry: std::io::Result<std::fs::DirEntry>| {
            !entry.unwrap().file_name().to_string_lossy().starts_with('.')
        };
        soon("the pair is kept", async {
            while !std::fs::read_dir(&kept).is_ok_and(|mut entries| entries.any(is_kept)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (setup, _) = mirror.stop();
        assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
        cut(&story, "privkey.pem");
        let mirror = setup.start();
        mirror.logged("kept at an earlier start");
        let seen = story.client.ask(&mirror.address, "localhost").await.unwrap();
        assert_eq!(seen.leaf, good.leaf_der(), "{number}");
        let next = story.authority.good(&["localhost"]);
        writer::write(Writer::Again, &story.folder, &next, 0);
        assert!(story.served(&mirror, &next).await < PROMPT);
        let (setup, _) = mirror.stop();
        // Nobody has to keep private keys in the cache.
        writer::write(Writer::Again, &story.folder, &story.authority.good(&["localhost"]), 0);
        std::fs::remove_dir_all(&kept).unwrap();
        let (setup, _) = setup.with("TIDEGATE_TLS_KEEP", "false").start().stop();
        assert!(!kept.exists());
        if number == 1 {
            cut(&story, "privkey.pem");
            let Err(ended) = setup.try_start() else { panic!("it started without a certificate") };
            assert!(ended.log.iter().any(|line| line.contains("http.tls.key")), "{:?}", ended.log);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_files_again_and_unknown_names_can_be_refused() {
    let story = Story::new();
    let first = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &first, 0);
    let mirror = story.setup().with("TIDEGATE_EDGE_STRICTSNI", "true").start();
    story.client.ask(&mirror.address, "localhost").await.unwrap();
    let refused = story.client.ask(&mirror.address, "other.test").await.unwrap_err().to_string();
    assert!(refused.contains("AccessDenied"), "{refused}");
    mirror.signal(Signal::HUP);
    mirror.logged("SIGHUP: certificate files are read again");
    let both = story.authority.good(&["other.test", "localhost"]);
    writer::write(Writer::Move, &story.folder, &both, 0);
    story.served(&mirror, &both).await;
    story.client.ask(&mirror.address, "other.test").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_events_polling_finds_a_change() {
    let story = Story::new();
    let first = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &first, 0);
    let log = story.folder.with_extension("strace");
    let deaf = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=inotify_init1", "-e"];
    let mirror = story.setup().under(&[&deaf[..], &["inject=inotify_init1:error=EMFILE"]].concat()).start();
    mirror.logged("can't be heard");
    let next = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &next, 0);
    let took = story.served(&mirror, &next).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(std::fs::read_to_string(&log).unwrap().contains("(INJECTED)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_of_root_are_fed_to_a_mirror_that_may_not_read_them() {
    let story = Story::new();
    let home = story.folder.parent().unwrap().to_owned();
    let good = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &good, 0);
    std::fs::set_permissions(&story.folder, Permissions::from_mode(0o700)).unwrap();
    let handed = home.join("handed");
    std::fs::create_dir(&handed).unwrap();
    std::fs::set_permissions(&home, Permissions::from_mode(0o755)).unwrap();
    const NOBODY: u32 = 65534;
    std::os::unix::fs::chown(&handed, Some(0), Some(NOBODY)).unwrap();
    std::fs::set_permissions(&handed, Permissions::from_mode(0o750)).unwrap();
    let (from, to) = (story.folder.display().to_string(), handed.display().to_string());
    let feeder = Setup::of(NOWHERE).arguments(&["cert", "feed", "--from", &from, "--to", &to]);
    let mut feeder = feeder.command().stderr(std::process::Stdio::null()).spawn().unwrap();
    let setup = Setup::of(NOWHERE).with("TIDEGATE_TLS_DIR", &to);
    setup.give_to(NOBODY);
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mirror = setup.under(&user).start();
    assert!(std::fs::read_dir(format!("/proc/{}/root{from}", mirror.pid())).is_ok(), "root sees it");
    story.served(&mirror, &good).await;
    for number in 1..4 {
        let next = story.authority.good(&["localhost"]);
        writer::write(Writer::Certbot, &story.folder, &next, number);
        let took = story.served(&mirror, &next).await;
        assert!(took < PROMPT, "{took:?}");
    }
    // What was handed over is one file for each pair, for the group alone.
    let files: Vec<_> = std::fs::read_dir(&handed).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let metadata = std::fs::metadata(&files[0]).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o640, NOBODY));
    cut(&story, "privkey.pem");
    let seen = story.client.ask(&mirror.address, "localhost").await.unwrap();
    assert!(!seen.resumed);
    feeder.kill().unwrap();
    feeder.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_pair_is_made_served_and_shown() {
    let story = Story::new();
    let out = story.folder.display().to_string();
    let made =
        Setup::of(NOWHERE).arguments(&["cert", "self-signed", "--out", &out, "localhost", "127.0.0.1"]);
    let made = made.output();
    let words = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success() && words.contains("/etc/docker/certs.d/localhost"), "{words}");
    let authority = story.folder.parent().unwrap().join("tidegate-ca/ca.pem");
    // The folder by its argument this time.
    let setup = Setup::of(NOWHERE);
    let config = setup.config().display().to_string();
    let mirror = setup.arguments(&["serve", "--tls-dir", &out, &config]).start();
    let url = format!("https://{}/v2/", mirror.address);
    assert_eq!(run("curl", &["-s", "--cacert", authority.to_str().unwrap(), &url]), "{}");
    let shown = mirror.setup.clone().arguments(&["cert", "show", &config]).output();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("localhost, 127.0.0.1\n  from      ") && shown.contains("fullchain.pem (folder)"),
        "{shown}"
    );
    assert!(!shown.contains("trouble"), "{shown}");
    let (setup, _) = mirror.stop();
    let nobody = setup.arguments(&["cert", "show", &config]).output();
    assert_eq!(nobody.status.code(), Some(3));
}

/// What a client of openssl is shown, with these arguments.
fn shown(mirror: &Mirror, arguments: &[&str]) -> String {
    let address = mirror.address.clone();
    let all = [&["s_client", "-connect", &address, "-servername", "localhost"][..], arguments].concat();
    let output = std::process::Command::new("openssl").args(all).stdin(std::process::Stdio::null()).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_gets_the_kind_of_key_that_it_knows() {
    let story = Story::new();
    let pair = story.authority.good(&["localhost"]);
    writer::write(Writer::Move, &story.folder, &pair, 0);
    let (key, certificate) = (story.folder.join("rsa.key"), story.folder.join("rsa.crt"));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"];
    let named = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate];
    run("openssl", &[&made[..], &named].concat());
    let mirror = story.setup().start();
    // openssl marks what it signs itself as a CA's: served all the same, to those who can't use a better one.
    mirror.logged("it is marked as a CA's");
    for version in ["-tls1_2", "-tls1_3"] {
        let old = shown(&mirror, &[version, "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"]);
        assert!(old.contains("Peer signature type: RSA"), "{version}: {old}");
        let new = shown(&mirror, &[version]);
        assert!(new.contains("Peer signature type: ECDSA"), "{version}: {new}");
    }
    let url = format!("https://localhost:{}/v2/", mirror.address.rsplit(':').next().unwrap());
    let old =
        ["-s", "--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256", "--cacert", certificate, &url];
    assert_eq!(run("curl", &old), "{}");
}
