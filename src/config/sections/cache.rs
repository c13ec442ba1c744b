//! `tidegate.cache.*` and `proxy.ttl`.

use crate::config::reader::Reader;
use crate::config::{Cache, Share, units};

/// How much is kept, and for how long.
pub(in crate::config) fn cache(reader: &mut Reader<'_>) -> Cache {
    let default = Cache::default();
    Cache {
        max_size: share(reader, "tidegate.cache.maxsize").unwrap_or(default.max_size),
        min_free: share(reader, "tidegate.cache.minfree").unwrap_or(default.min_free),
        hold: reader.duration("tidegate.cache.hold").unwrap_or(default.hold),
        // The 168h that `registry` has without this key would delete what nobody asked to be deleted.
        idle: reader.duration("proxy.ttl").filter(|ttl| !ttl.is_zero()),
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
