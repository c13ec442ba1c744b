//! `tidegate.fill.*`.

use std::time::Duration;

use crate::config::Fill;
use crate::config::reader::Reader;

/// Transfers at once, as many connections to upstreams. Docker Hub's CDN is fast enough that a few fill a line.
const CONCURRENT: u32 = 64;
const PER_UPSTREAM: u32 = 32;

/// Most of either: each takes a connection, a file and about 1 MiB.
const TRANSFERS_MAX: u32 = 1024;

/// Most transfers of one blob: more gain nothing and look like an attack.
const SEGMENTS_MAX: u32 = 16;

const STALL: Duration = Duration::from_secs(30);
const STALL_MIN: Duration = Duration::from_secs(1);
const STALL_MAX: Duration = Duration::from_secs(600);

pub(in crate::config) fn fill(reader: &mut Reader<'_>) -> Fill {
    Fill {
        concurrent: count(reader, "tidegate.fill.concurrent", CONCURRENT, TRANSFERS_MAX),
        per_upstream: count(reader, "tidegate.fill.perupstream", PER_UPSTREAM, TRANSFERS_MAX),
        segments: count(reader, "tidegate.fill.segments", 1, SEGMENTS_MAX),
        lazy: reader.flag("tidegate.fill.lazy").unwrap_or(false),
        stall: stall(reader),
    }
}

fn count(reader: &mut Reader<'_>, key: &str, default: u32, most: u32) -> u32 {
    let Some(number) = reader.number(key) else { return default };
    if !(1..=most).contains(&number)
        && let Some(found) = reader.text(key)
    {
        let fix = format!("write a number from 1 to {most}");
        reader.report.refuse(found.problem("out of range", fix));
        return default;
    }
    number
}

fn stall(reader: &mut Reader<'_>) -> Duration {
    let key = "tidegate.fill.stall";
    let Some(duration) = reader.duration(key) else { return STALL };
    if !(STALL_MIN..=STALL_MAX).contains(&duration)
        && let Some(found) = reader.text(key)
    {
        let fix = format!("write a duration from {STALL_MIN:?} to {STALL_MAX:?}");
        reader.report.refuse(found.problem("out of range", fix));
        return STALL;
    }
    duration
}
