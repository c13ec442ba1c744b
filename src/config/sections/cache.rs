//! `tidegate.cache.*` and `proxy.ttl`.

use crate::config::reader::Reader;
use crate::config::{Cache, Durability, Share, units};

/// How much is kept, and for how long.
pub(in crate::config) fn cache(reader: &mut Reader<'_>) -> Cache {
    let default = Cache::default();
    Cache {
        max_size: share(reader, "tidegate.cache.maxsize").unwrap_or(default.max_size),
        min_free: share(reader, "tidegate.cache.minfree").unwrap_or(default.min_free),
        hold: reader.duration("tidegate.cache.hold").unwrap_or(default.hold),
        // The 168h that `registry` has without this key would delete what nobody asked to be deleted.
        idle: reader.duration("proxy.ttl").filter(|ttl| !ttl.is_zero()),
        durability: durability(reader).unwrap_or(default.durability),
        scrub: reader.duration("tidegate.cache.scrub").unwrap_or(default.scrub),
        scrub_bytes_per_second: scrub_rate(reader).unwrap_or(default.scrub_bytes_per_second),
        evict_adopted: reader.flag("tidegate.cache.evictadopted").unwrap_or(default.evict_adopted),
    }
}

fn share(reader: &mut Reader<'_>, key: &str) -> Option<Share> {
    let found = reader.text(key)?;
    let share = units::share(&found.text);
    if share.is_none() {
        let fix =
            "write bytes with a unit, such as 200GiB or 500MB, or a part of the file system, such as 80%";
        reader.report.refuse(found.problem("no size", fix));
    }
    share
}

fn durability(reader: &mut Reader<'_>) -> Option<Durability> {
    let found = reader.text("tidegate.cache.durability")?;
    match found.text.as_str() {
        "full" => Some(Durability::Full),
        "relaxed" => Some(Durability::Relaxed),
        _ => {
            reader.report.refuse(found.problem("no such durability", "write full or relaxed"));
            None
        }
    }
}

/// Zero would be a scrub that never ends; `scrub: 0s` is one that never begins.
fn scrub_rate(reader: &mut Reader<'_>) -> Option<u64> {
    let key = "tidegate.cache.scrubrate";
    let rate = reader.bytes(key);
    if rate == Some(0)
        && let Some(found) = reader.text(key)
    {
        let fix = "to switch the scrub off, set tidegate.cache.scrub to 0s";
        reader.report.refuse(found.problem("nothing would ever be read", fix));
    }
    rate.filter(|rate| *rate > 0)
}
