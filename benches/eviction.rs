//! The index at size: how long it takes to open, to find a blob, and to choose what goes, over a synthetic catalogue.
//!
//! ```sh
//! cargo bench --bench eviction              # 100,000 and 1,000,000 blobs, in $TMPDIR
//! cargo bench --bench eviction -- 20000     # another number
//! ```
//!
//! One in eight blobs is a manifest; the others are what it names. The folder should be on the disk that the cache is to
//! be on.
#![allow(clippy::disallowed_methods, reason = "a bench measures for itself")]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it prints its figures, and ends where it can't"
)]

use std::collections::HashSet;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate::engine::budget::room::Need;
use tidegate::engine::evict::plan::Terms;
use tidegate::engine::evict::survey::{Found, Spared, Survey};
use tidegate::index::heat::{self, Seconds};
use tidegate::index::{Batch, BlobKind, BlobRow, Heat, Index};
use tidegate::registry::Digest;

const SIZES: [u32; 2] = [100_000, 1_000_000];

/// Blobs of an image, its manifest among them.
const IMAGE_BLOBS: u32 = 8;

/// Rows written before the next ones are made.
const STEP: u32 = 16_384;

/// Lookups measured.
const LOOKUPS: u32 = 10_000;

#[derive(Debug)]
struct Nothing;

impl Spared for Nothing {
    fn spares(&self, _: &Digest, _: &BlobRow) -> bool {
        false
    }
}

fn main() {
    let given = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let sizes = given.map_or(SIZES.to_vec(), |size| vec![size]);
    println!(
        "{:>9} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "blobs", "fill", "open", "count", "choose", "lookup p50", "lookup p99"
    );
    for size in sizes {
        let folder = tempfile::tempdir().unwrap();
        measure(folder.path(), size);
    }
}

fn measure(folder: &Path, blobs: u32) {
    let open = || Index::open(&folder.join("index")).with_heat(Heat::open(&folder.join("heat")));
    let filled = time(|| fill(&open(), blobs));
    let mut index = None;
    let opened = time(|| {
        let found = open();
        black_box(found.blob(&digest(1)));
        index = Some(found);
    });
    let index = index.unwrap();
    let counted = time(|| assert_eq!(scan(&index, 0).blobs, u64::from(blobs)));
    // A twentieth of everything, as a pass does it.
    let all = scan(&index, 0);
    let chosen = time(|| assert!(!scan(&index, all.large / 20).victims.is_empty()));
    let mut lookups: Vec<_> =
        (0..LOOKUPS).map(|n| time(|| drop(black_box(index.blob(&digest(n * 7_919 % blobs)))))).collect();
    lookups.sort();
    let at = |percent: usize| lookups.get(lookups.len() * percent / 100).copied().unwrap_or_default();
    println!(
        "{blobs:>9} {filled:>10.2?} {opened:>10.2?} {counted:>10.2?} {chosen:>10.2?} {:>12.2?} {:>12.2?}",
        at(50),
        at(99)
    );
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn digest(number: u32) -> Digest {
    Digest::sha256(&number.to_le_bytes())
}

fn fill(index: &Index, blobs: u32) {
    index.heat().make_room_for(u64::from(blobs));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for first in (0..blobs).step_by(usize::try_from(STEP).unwrap()) {
        let numbers = first..blobs.min(first + STEP);
        index.apply(numbers.fold(Batch::new(), |batch, number| add(index, batch, number)));
        runtime.block_on(index.committed());
    }
}

fn add(index: &Index, batch: Batch, number: u32) -> Batch {
    let is_manifest = number.is_multiple_of(IMAGE_BLOBS);
    let row = BlobRow {
        size: if is_manifest { 1_200 } else { u64::from(number % 97) * 300_000 },
        identity: None,
        kind: if is_manifest { BlobKind::Manifest } else { BlobKind::Other },
        media_type: None,
        created_ms: 1_700_000_000_000,
        verified_ms: Some(1_700_000_000_000),
        adopted: false,
    };
    index.heat().touch(&digest(number), used(number));
    let batch = batch.put_blob(digest(number), row);
    if is_manifest {
        batch
    } else {
        batch.put_parent(&digest(number), &digest(number / IMAGE_BLOBS * IMAGE_BLOBS))
    }
}

/// Within the last months.
fn used(number: u32) -> Seconds {
    heat::now() - number.wrapping_mul(2_654_435_761) % 10_000_000
}

fn scan(index: &Index, large: u64) -> Found {
    let terms = Terms { need: Need { small: 0, large, blobs: 0 }, held_since: heat::now(), idle_since: None };
    Survey::new(index, &HashSet::new(), &Nothing).run(terms)
}
