//! What lies on the disk is not what was put there.

mod below;
mod blobs;
mod index;
mod unsynced;

use std::path::PathBuf;

use tidegate::registry::Digest;

use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{Answer, get};
use crate::support::until;

/// Where the bytes of a digest are.
fn data(setup: &Setup, digest: &str) -> PathBuf {
    let hex = &digest[7..];
    setup.root().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

/// A mirror whose counters can be read.
fn watched(setup: Setup) -> Setup {
    setup
        .with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0")
        .with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true")
}

async fn counter(mirror: &Mirror, name: &str) -> u64 {
    let line = mirror.logged("debug server listening");
    let address = line.split("debug server listening ").nth(1).unwrap();
    let address = address.split('"').next().unwrap();
    let page = get(&format!("http://{address}/metrics")).await;
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits until a blob is in its place again, and nothing is under way.
async fn mended(mirror: &Mirror, digest: &str) {
    let path = data(&mirror.setup, digest);
    // To read a pipe would hang.
    let is_file = || std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    let is_right =
        || is_file() && std::fs::read(&path).is_ok_and(|bytes| Digest::sha256(&bytes).to_string() == digest);
    until("the blob is mended", async || is_right() && counter(mirror, "tidegate_fills").await == 0).await;
}

/// Only right bytes, or a cut connection.
#[track_caller]
fn is_right_or_cut(answer: Option<&Answer>, digest: &str, what: &str) {
    let Some(answer) = answer else { return };
    assert_eq!(answer.status, 200, "{what}");
    assert!(!answer.whole || answer.digest() == digest, "{what}: wrong bytes with a clean end");
}

#[track_caller]
fn is_right(answer: &Answer, digest: &str, what: &str) {
    assert_eq!((answer.status, answer.whole, answer.digest().as_str()), (200, true, digest), "{what}");
}
