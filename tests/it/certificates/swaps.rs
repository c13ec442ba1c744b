//! Many swaps of several folders under load, by whoever comes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{NOWHERE, Story};
use crate::support::is_long;
use crate::support::mirror::{Mirror, Setup};
use crate::support::writer::{self, Writer};

/// Swaps in all.
fn count() -> u32 {
    if is_long() { 10_000 } else { 500 }
}

/// Mirrors, each with a folder of its own.
const FOLDERS: u32 = 4;

/// Clients that shake hands all the time, for each mirror.
const CLIENTS: usize = 2;

/// The bound is that of a machine with nothing else to do; this one builds and tests at the same time.
const PROMPT: Duration = Duration::from_secs(2);

/// Shakes hands until it is told to stop; each handshake must succeed, with a pair that goes together: the client verifies
/// the signature by the certificate that it got.
fn load(
    story: &Story,
    mirror: &Mirror,
    stop: &Arc<AtomicBool>,
    shaken: &Arc<AtomicU64>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let client = |_| {
        let (client, address) = (story.client.clone(), mirror.address.clone());
        let (stop, shaken) = (Arc::clone(stop), Arc::clone(shaken));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.ask(&address, "localhost").await.expect("a handshake failed");
                shaken.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

/// Numbers that look random and are the same each time.
fn next(state: &mut u32) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state as usize
}

async fn swap(story: Arc<Story>, number: u32, swaps: u32) {
    let folder: PathBuf = story.folder.with_file_name(format!("folder{number}"));
    writer::write(Writer::Move, &folder, &story.authority.good(&["localhost"]), 0);
    let mirror = Setup::of(NOWHERE).with("TIDEGATE_TLS_DIR", &folder.display().to_string()).start();
    let (stop, shaken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = load(&story, &mirror, &stop, &shaken);
    let mut state = 88_172_645 + number;
    let mut slowest = Duration::ZERO;
    for swap in 1..=swaps {
        let good = story.authority.good(&["localhost"]);
        let writer = writer::ALL[next(&mut state) % writer::ALL.len()];
        // Some leave a mess first.
        match next(&mut state) % 8 {
            0 => drop(std::fs::write(folder.join("fullchain.pem"), &good.chain()[..300])),
            1 => drop(std::fs::write(folder.join("privkey.pem"), "")),
            2 => drop(std::fs::remove_file(folder.join("privkey.pem"))),
            3 => drop(std::fs::remove_dir_all(&folder)),
            _ => {}
        }
        let path = folder.clone();
        let written = good.clone();
        tokio::task::spawn_blocking(move || writer::write(writer, &path, &written, swap)).await.unwrap();
        let took = story.served(&mirror, &good).await;
        assert!(took < PROMPT, "swap {swap} by {writer:?} took {took:?}");
        slowest = slowest.max(took);
        if writer == Writer::Combined {
            std::fs::remove_file(folder.join("all.pem")).unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    eprintln!(
        "folder {number}: {swaps} swaps, the slowest after {slowest:?}; {} handshakes",
        shaken.load(Ordering::Relaxed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_handshake_fails_while_certificates_are_swapped_by_all_who_write_them() {
    let story = Arc::new(Story::new());
    let folders: Vec<_> = (0..FOLDERS)
        .map(|number| tokio::spawn(swap(Arc::clone(&story), number, count() / FOLDERS)))
        .collect();
    for folder in folders {
        folder.await.unwrap();
    }
}
