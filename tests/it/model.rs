//! A reference model: random operations against a real mirror, and a table of what may be answered.
//!
//! Each seed is one short life of a mirror before a scripted Hub: pulls, parts, clients that leave, crowds, restarts,
//! `kill -9`, tags that move and go, and an upstream in trouble ([`operation`] makes the choices, [`world`] carries them
//! out). The rules ([`rules`]) are few:
//!
//! * a complete 200 has exactly the bytes of its digest, a complete 206 exactly the bytes of its part;
//! * a tag leads to where it points now; to where it pointed once only if the upstream is or was in trouble, or the tag
//!   is gone, and then the answer says that it is stale;
//! * what was given out whole is given out again, whatever the upstream does; after `kill -9` what was published is;
//! * what the upstream has and is not held comes unless there is trouble; only then a manifest may be refused with 503,
//!   a blob with 429, and a body may be cut; what is cut was right so far;
//! * what the upstream does not have for a repository is 404, or a refusal while there is trouble, and never a 200.
//!
//! `TIDEGATE_TESTS_SEED=7` runs seed 7 alone. A life that breaks a rule is told with its seed.

mod operation;
mod rules;
mod world;

use std::collections::BTreeMap;

use futures_util::StreamExt;

use crate::support::is_long;

/// Lives at once: most of them wait, for a process to start or for a mirror to try its upstream again.
const AT_ONCE: usize = 40;

/// Operations of one life.
const OPERATIONS: usize = 24;

/// What must have come about in the course of all lives, or the model looks at less than it says.
const SEEN: [&str; 14] = [
    "200", "206", "404", "429", "503", "cut", "stale", "killed", "stopped", "Down", "Limited", "Failing",
    "Cut", "Wrong",
];

/// How often something came about.
type Tally = BTreeMap<String, usize>;

#[tokio::test(flavor = "multi_thread")]
async fn no_life_of_a_mirror_breaks_a_rule() {
    let alone = std::env::var("TIDEGATE_TESTS_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = match alone {
        Some(seed) => seed..seed + 1,
        None => 0..if is_long() { 10_000 } else { 200 },
    };
    let lives = futures_util::stream::iter(seeds).map(|seed| tokio::spawn(world::live(seed, OPERATIONS)));
    let mut lives = lives.buffer_unordered(AT_ONCE);
    let mut all = Tally::new();
    while let Some(life) = lives.next().await {
        for (what, times) in life.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic())) {
            *all.entry(what).or_default() += times;
        }
    }
    let missed: Vec<_> = SEEN.iter().filter(|what| !all.contains_key(**what)).collect();
    assert!(alone.is_some() || missed.is_empty(), "never came about: {missed:?} in {all:?}");
}
