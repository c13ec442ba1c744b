//! What can happen, one variant each.

use super::world::{REPOSITORIES, TAGS, World};
use crate::support::hub::{Fault, Host, Hub, Order, PULL_LIMIT};
use crate::support::random::Random;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub enum Operation {
    /// A manifest by tag and everything that it names.
    Pull { repository: &'static str, tag: &'static str },
    /// A manifest by tag.
    Tag { repository: &'static str, tag: &'static str, head: bool },
    /// A manifest by digest.
    Manifest { repository: &'static str, digest: String, head: bool },
    /// A whole blob.
    Blob { repository: &'static str, digest: String, head: bool },
    /// A part of one: `bytes=` and this.
    Range { repository: &'static str, digest: String, range: Range },
    /// A client that leaves after its first bytes.
    Abort { repository: &'static str, digest: String },
    /// Several clients of one blob at once: whole, in part, and one that leaves.
    Crowd { repository: &'static str, digest: String, ranges: Vec<Range> },
    /// SIGTERM, and a new start.
    Restart,
    /// SIGKILL, and a new start.
    Kill,
    /// The upstream gets a new image under a tag.
    Publish { repository: &'static str, tag: &'static str },
    /// A tag goes back to an image that was there before.
    Move { repository: &'static str, tag: &'static str, digest: String },
    /// A tag is taken away.
    Untag { repository: &'static str, tag: &'static str },
    /// A repository is not there, or is back.
    Hide { repository: &'static str, hidden: bool },
    /// The upstream begins to fail.
    Trouble(Trouble),
    /// The upstream behaves again.
    Heal,
}

/// Part of a blob, in the three forms of RFC 9110.
#[derive(Debug, Clone, Copy)]
pub enum Range {
    Closed(u64, u64),
    From(u64),
    Last(u64),
}

/// How an upstream fails.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// No server answers.
    Down,
    Limited,
    Failing,
    /// Answers that are none.
    Garbage,
    /// No tokens.
    NoTokens,
    /// The CDN refuses its own URLs.
    CdnRefuses,
    /// Bodies break off after so many bytes, the next few times.
    Cut(u64, usize),
    /// The same from a CDN that knows no ranges.
    CutWithoutRanges(u64),
    /// Right length, wrong last byte, once.
    Wrong,
    /// Bodies without a length.
    NoLength,
    /// HEADs of manifests name no digest.
    NoDigest,
}

impl Range {
    pub fn header(self) -> String {
        match self {
            Self::Closed(first, last) => format!("bytes={first}-{last}"),
            Self::From(first) => format!("bytes={first}-"),
            Self::Last(count) => format!("bytes=-{count}"),
        }
    }

    /// First byte and end within a blob; nothing if it has no such bytes.
    pub fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::Closed(first, last) => (first, (last + 1).min(size)),
            Self::From(first) => (first, size),
            Self::Last(count) => (size - count.min(size), size),
        };
        (first < end).then_some((first, end))
    }

    fn any(size: u64, random: &mut Random) -> Self {
        // Now and then beyond the end.
        let first = random.below(size as usize + 1 + size as usize / 20) as u64;
        match random.below(3) {
            0 => Self::Closed(first, first + random.below(size as usize) as u64),
            1 => Self::From(first),
            _ => Self::Last(1 + random.below(size as usize) as u64),
        }
    }
}

impl Trouble {
    fn any(random: &mut Random) -> Self {
        let after = [0, 1, 10_000, 16_384, 100_000, 650_000];
        match random.below(13) {
            0 | 1 => Self::Down,
            2 => Self::Limited,
            3 => Self::Failing,
            4 => Self::Garbage,
            5 => Self::NoTokens,
            6 => Self::CdnRefuses,
            7 | 8 => Self::Cut(random.choose(&after), 1 + random.below(2)),
            9 => Self::CutWithoutRanges(random.choose(&after)),
            10 => Self::Wrong,
            11 => Self::NoLength,
            _ => Self::NoDigest,
        }
    }

    /// Orders it; the orders tell whether it came to pass.
    pub fn order(self, hub: &Hub) -> Vec<Arc<Order>> {
        let everywhere = |fault: Fault| {
            let hosts = [Host::Registry, Host::Token, Host::Cdn];
            hosts.map(|host| hub.fault(host, "", fault.clone())).to_vec()
        };
        let times = |order: Arc<Order>, times: usize| {
            order.times(times);
            vec![order]
        };
        match self {
            Self::Down => everywhere(Fault::Close),
            Self::Limited => vec![hub.fault(Host::Registry, "/v2/", PULL_LIMIT)],
            Self::Failing => vec![hub.fault(Host::Registry, "/v2/", Fault::Answer(500, "", "oops"))],
            Self::Garbage => {
                let (html, nonsense) = ("<html>Welcome</html>", "docker-content-digest: nonsense\r\n");
                vec![
                    hub.fault(Host::Registry, "GET", Fault::Answer(200, "", html)),
                    hub.fault(Host::Registry, "HEAD", Fault::Answer(200, nonsense, "")),
                ]
            }
            Self::NoTokens => {
                hub.revoke_tokens();
                vec![hub.fault(Host::Token, "", Fault::Answer(500, "", ""))]
            }
            Self::CdnRefuses => {
                vec![hub.fault(Host::Cdn, "", Fault::Answer(403, "", "<Error>expired</Error>"))]
            }
            Self::Cut(after, count) => times(hub.fault(Host::Cdn, "GET", Fault::Cut(after)), count),
            Self::CutWithoutRanges(after) => {
                let cut = hub.fault(Host::Cdn, "GET", Fault::Cut(after));
                cut.times(1);
                vec![cut, hub.fault(Host::Cdn, "GET", Fault::NoRange)]
            }
            Self::Wrong => times(hub.fault(Host::Cdn, "GET", Fault::Wrong), 1),
            Self::NoLength => vec![hub.fault(Host::Cdn, "", Fault::NoLength)],
            Self::NoDigest => vec![hub.fault(Host::Registry, "HEAD", Fault::NoDigest)],
        }
    }
}

impl Operation {
    /// The next one. A calm seed has no trouble, so that the strictest rules hold to its end.
    pub fn any(world: &World, troubled: bool, calm: bool, random: &mut Random) -> Self {
        let (repository, tag) = (random.choose(&REPOSITORIES), random.choose(&TAGS));
        let upstream = if calm { 0 } else { 16 };
        match random.below(84 + upstream) {
            0..14 => Self::Pull { repository, tag },
            14..26 => Self::Tag { repository, tag, head: random.chance(40) },
            26..34 => {
                // Now and then somebody else's.
                let owner = if random.chance(10) { random.choose(&REPOSITORIES) } else { repository };
                let digest = random.choose(&world.images[owner]).digest;
                Self::Manifest { repository, digest, head: random.chance(30) }
            }
            34..44 => {
                let owner = if random.chance(10) { random.choose(&REPOSITORIES) } else { repository };
                Self::Blob { repository, digest: world.any_blob(owner, random), head: random.chance(25) }
            }
            44..54 => {
                let digest = world.any_blob(repository, random);
                let range = Range::any(world.content[&digest].len() as u64, random);
                Self::Range { repository, digest, range }
            }
            54..60 => Self::Abort { repository, digest: world.any_blob(repository, random) },
            60..68 => {
                let digest = world.any_blob(repository, random);
                let size = world.content[&digest].len() as u64;
                let ranges = (0..random.below(4)).map(|_| Range::any(size, random)).collect();
                Self::Crowd { repository, digest, ranges }
            }
            68 | 69 => Self::Restart,
            70..73 => Self::Kill,
            73..77 => Self::Publish { repository, tag },
            77..80 => Self::Move { repository, tag, digest: random.choose(&world.images[repository]).digest },
            80 => Self::Untag { repository, tag },
            81..84 => Self::Hide { repository, hidden: !world.is_hidden(repository) },
            _ if troubled => Self::Heal,
            _ => Self::Trouble(Trouble::any(random)),
        }
    }
}
