//! A reference model: random operations against a real mirror and a scripted Hub, and beside them a small model that
//! knows what may be answered.
//!
//! A seed makes a world, a mirror with settings of its own and a list of operations; the same seed makes the same ones
//! again. What the model says of an answer:
//!
//! * a complete 200 has exactly the bytes of its digest, and an incomplete one the beginning of them;
//! * a tag leads to where it points, or, where the upstream could not be asked, to where it pointed at some time since it
//!   was last given out;
//! * what was given out once is given out again, whatever became of the upstream; after `kill -9`, what was published;
//! * a refusal and a cut have a reason: the upstream does not have it, or a fault that was ordered came to pass.
//!
//! `TIDEGATE_TESTS_SEED=<n>` runs one seed alone, `TIDEGATE_TESTS_SEED=<first>..<end>` those.

mod mind;
mod operation;
mod run;
mod world;

use futures_util::StreamExt;

use crate::support::is_long;

/// Seeds at once: most of the time of a seed is waits of the mirror between its tries.
const SEEDS_AT_ONCE: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_only_what_may_be_answered_is_answered() {
    let seeds: Vec<u64> = match std::env::var("TIDEGATE_TESTS_SEED") {
        Ok(wanted) => wanted_seeds(&wanted).expect("TIDEGATE_TESTS_SEED is a number, or two with .. between"),
        Err(_) if is_long() => (0..10_000).collect(),
        Err(_) => (0..200).collect(),
    };
    let count = seeds.len();
    let runs = futures_util::stream::iter(seeds).map(|seed| tokio::spawn(run::run(seed)));
    let tallies: Vec<_> = runs.buffer_unordered(SEEDS_AT_ONCE).collect().await;
    let mut total = run::Tally::default();
    for tally in tallies {
        total.add(tally.expect("the seed and its operations are printed above"));
    }
    eprintln!("reference model: {count} seeds: {total:?}");
    // The model is no good if hardly anything happens.
    if count >= 200 {
        assert!(
            total.answers > 20 * count && total.faults > count && total.restarts > count / 2,
            "{total:?}"
        );
        assert!(
            total.whole > 5 * count && total.refused > count / 4 && total.stale > count / 10,
            "{total:?}"
        );
    }
}

fn wanted_seeds(text: &str) -> Option<Vec<u64>> {
    match text.split_once("..") {
        None => Some(vec![text.parse().ok()?]),
        Some((first, end)) => Some((first.parse().ok()?..end.parse().ok()?).collect()),
    }
}
