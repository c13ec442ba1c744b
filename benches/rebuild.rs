//! How fast an index is filled from a tree: blobs a second, with the tree in the page cache. And how soon a mirror that
//! starts on it gives out the first blob.
//!
//! ```sh
//! cargo bench --bench rebuild              # 100,000 small blobs
//! cargo bench --bench rebuild -- 1000000
//! ```
//!
//! The tree is made in `$TMPDIR`, two inodes for each blob. The figures to reach are 50,000 blobs a second, and 150 ms for
//! the first hit among a million blobs.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure fails")]
#![allow(clippy::disallowed_methods, reason = "a benchmark has a clock of its own")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tidegate::engine::{Engine, Parts, freshness, repository, scrub};
use tidegate::index::Index;
use tidegate::observe::metrics::Metrics;
use tidegate::registry::Digest;
use tidegate::store::{Owner, PushVolume, Store};
use tidegate::upstream::{Setup, Upstream};

const BLOBS: u64 = 100_000;

/// What each blob ends with.
const BYTES: &str = "and some more bytes";

fn main() {
    // cargo adds words of its own.
    let blobs = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(BLOBS);
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    build(folder.path(), blobs);
    println!("a tree of {blobs} blobs, made in {:.1?}", began.elapsed());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for round in ["first", "second"] {
        let _ = std::fs::remove_dir_all(folder.path().join("tidegate"));
        runtime.block_on(measure(folder.path(), blobs, round));
    }
    link(folder.path(), 0);
    for (what, end) in [("the rebuild", Signal::TERM), ("a stop", Signal::KILL), ("a crash", Signal::TERM)] {
        println!("a start after {what}: the first hit after {:.1?}", first_hit(folder.path(), 0, end));
    }
}

/// How long it takes a mirror from its start to giving out a blob. Then it is ended by a signal.
fn first_hit(root: &Path, number: u64, end: Signal) -> Duration {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let mut mirror = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve"])
        .env("REGISTRY_HTTP_ADDR", port.to_string())
        .env("REGISTRY_PROXY_REMOTEURL", "http://127.0.0.1:1")
        .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !is_hit(port, number) {
        assert!(mirror.try_wait().unwrap().is_none(), "the mirror ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed();
    rustix::process::kill_process(Pid::from_child(&mirror), end).unwrap();
    mirror.wait().unwrap();
    took
}

fn is_hit(port: SocketAddr, number: u64) -> bool {
    let Ok(mut mirror) = TcpStream::connect(port) else { return false };
    let path = format!("/v2/library/app/blobs/{}", digest(number));
    write!(mirror, "GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    mirror.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200") && answer.ends_with(BYTES)
}

/// A link that makes a blob one of `library/app`.
fn link(root: &Path, number: u64) {
    let digest = digest(number);
    let layers = "docker/registry/v2/repositories/library/app/_layers/sha256";
    let folder = root.join(layers).join(digest.hex());
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("link"), digest.to_string()).unwrap();
}

/// Of the bytes that a blob has: they name their number.
fn digest(number: u64) -> Digest {
    Digest::sha256(content(number).as_bytes())
}

fn content(number: u64) -> String {
    format!("{number} {BYTES}")
}

async fn measure(root: &Path, blobs: u64, round: &str) {
    let engine = engine(root);
    let began = Instant::now();
    let found = engine.rebuild_index().await;
    tell(&format!("{round} rebuild"), blobs, began.elapsed());
    assert_eq!((found.blobs as u64, found.adopted as u64), (blobs, blobs));
    let began = Instant::now();
    assert_eq!(engine.rebuild_index().await.adopted, 0);
    tell("nothing left to do", blobs, began.elapsed());
    let began = Instant::now();
    let compared = engine.verify_index().await;
    tell("comparison", blobs, began.elapsed());
    assert_eq!((compared.rows as u64, compared.without_row), (blobs, 0));
    drop(engine);
    let index = root.join("tidegate/index");
    let began = Instant::now();
    drop(Index::open(&index));
    println!("opened after a stop: {:.2?}", began.elapsed());
    std::fs::remove_file(index.join("v1/in-order")).unwrap();
    let began = Instant::now();
    drop(Index::open(&index));
    println!("opened after a crash, page by page: {:.2?}", began.elapsed());
}

fn tell(what: &str, blobs: u64, took: Duration) {
    println!("{what}: {took:.2?}, {:.0} blobs/s", blobs as f64 / took.as_secs_f64());
}

fn build(root: &Path, blobs: u64) {
    for number in 0..blobs {
        let digest = digest(number).hex();
        let folder =
            root.join("docker/registry/v2/blobs/sha256").join(digest.get(..2).unwrap()).join(&digest);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("data"), content(number)).unwrap();
    }
}

fn engine(root: &Path) -> Arc<Engine> {
    let upstream = Upstream::new(&Setup {
        url: "http://127.0.0.1:1".parse().unwrap(),
        account: None,
        anonymous_fallback: true,
        cafile: None,
        realms: vec![],
        redirects: vec![],
        stall: Duration::from_secs(30),
        proxy_hosts: vec![],
    });
    let naming = repository::Naming::new(repository::Setup {
        name: "docker.io",
        name_configured: false,
        host: "127.0.0.1:1",
        account: None,
        patterns: repository::Patterns { allow: vec![], deny: vec![] },
    });
    let store = Store::open(root, PushVolume::Allow, &Owner::new("docker.io", None)).unwrap();
    Engine::new(Parts {
        fill: tidegate::engine::FillRules { segments: 1, lazy: false },
        transfers_max: 1,
        cache: tidegate::config::Cache::default(),
        upstream: upstream.unwrap(),
        index: Index::open(&store.index_folder()),
        store,
        naming,
        rules: freshness::Rules { fresh: Duration::ZERO, stale_for: None, serve_gone: true },
        scrub: scrub::Rules { period: Duration::ZERO, bytes_per_second: 1 },
        negative: Duration::ZERO,
        tags_max: 1,
        metrics: Arc::new(Metrics::default()),
    })
}
