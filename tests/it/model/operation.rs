//! What may happen in the life of a mirror, and the dice.

use std::ops::Range;

/// A generator with a seed (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

pub const REPOSITORIES: [&str; 2] = ["library/one", "library/two"];
pub const TAGS: [&str; 2] = ["1", "2"];

/// A tag of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub repository: &'static str,
    pub tag: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Head,
}

/// A layer or config: a number that is taken modulo those that there are. `foreign`: asked for in the other repository,
/// which may or may not have it too.
#[derive(Debug, Clone, Copy)]
pub struct Pick {
    pub repository: &'static str,
    pub number: usize,
    pub foreign: bool,
}

/// How the upstream misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It closes every connection without a word.
    Down,
    /// It limits.
    Limited,
    /// It fails with 500.
    Failing,
    /// Bodies break off.
    Cut,
    /// Bodies have a wrong byte.
    Wrong,
}

const TROUBLES: [Trouble; 5] =
    [Trouble::Down, Trouble::Limited, Trouble::Failing, Trouble::Cut, Trouble::Wrong];

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Operation {
    /// A client pulls an image: tag, manifest by digest, config, layers.
    Pull(Place),
    Tag(Verb, Place),
    Manifest(Verb, Pick),
    Blob(Verb, Pick),
    /// A part, in thousandths of the blob.
    Part(Pick, Range<usize>),
    /// A client that takes the first bytes and leaves.
    Leave(Pick),
    /// Several clients of one blob at once.
    Crowd(Pick),
    /// SIGTERM and a new start.
    Restart,
    /// `kill -9` and a new start.
    Kill,
    /// A new image, and the tag moves to it.
    Publish(Place),
    /// The tag moves (back) to an image that is there.
    Retag(Place, usize),
    Untag(Place),
    Trouble(Trouble),
    Calm,
}

impl Operation {
    /// One at random.
    pub fn draw(random: &mut Random) -> Self {
        match random.below(100) {
            0..16 => Self::Pull(place(random)),
            16..28 => Self::Tag(verb(random), place(random)),
            28..36 => Self::Manifest(verb(random), pick(random)),
            36..46 => Self::Blob(verb(random), pick(random)),
            46..54 => Self::Part(pick(random), part(random)),
            54..60 => Self::Leave(pick(random)),
            60..66 => Self::Crowd(pick(random)),
            66..68 => Self::Restart,
            68..71 => Self::Kill,
            71..79 => Self::Publish(place(random)),
            79..82 => Self::Retag(place(random), random.below(1000)),
            82..85 => Self::Untag(place(random)),
            85..91 => Self::Trouble(TROUBLES[random.below(TROUBLES.len())]),
            _ => Self::Calm,
        }
    }
}

fn place(random: &mut Random) -> Place {
    Place { repository: REPOSITORIES[random.below(2)], tag: TAGS[random.below(2)] }
}

fn verb(random: &mut Random) -> Verb {
    if random.below(3) == 0 { Verb::Head } else { Verb::Get }
}

fn pick(random: &mut Random) -> Pick {
    Pick {
        repository: REPOSITORIES[random.below(2)],
        number: random.below(1000),
        foreign: random.below(8) == 0,
    }
}

fn part(random: &mut Random) -> Range<usize> {
    let first = random.below(999);
    first..first + 1 + random.below(1000 - first)
}
