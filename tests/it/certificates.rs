//! Certificates that look after themselves: files that change in every way that writers know, and a mirror that serves
//! what is good of them, always.

mod swaps;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::authority::{Authority, Client, Texts};
use crate::support::mirror::{Mirror, Setup};
use crate::support::writer::{self, Writer};

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
