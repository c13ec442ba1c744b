//! `tidegate.cache.*`.

use std::time::Duration;

use crate::config::Cache;
use crate::config::reader::Reader;

/// How often each blob is read again, unless configured otherwise: 30 days. Disks rot a bit in years; a bad controller or
/// cable shows within weeks.
const SCRUB: Duration = Duration::from_secs(30 * 24 * 3600);

/// How fast, in bytes a second: a tenth of what a slow disk reads. 30 days of it are 40 TB.
const SCRUB_RATE: u64 = 16 * 1024 * 1024;

pub(in crate::config) fn cache(reader: &mut Reader<'_>) -> Cache {
    Cache {
        scrub: reader.duration("tidegate.cache.scrub").unwrap_or(SCRUB),
        scrub_bytes_per_second: scrub_rate(reader),
    }
}

/// Zero would be a scrub that never ends; `scrub: 0s` is one that never begins.
fn scrub_rate(reader: &mut Reader<'_>) -> u64 {
    let key = "tidegate.cache.scrubrate";
    match reader.bytes(key) {
        Some(0) => {
            if let Some(found) = reader.text(key) {
                let fix = "to switch the scrub off, set tidegate.cache.scrub to 0s";
                reader.report.refuse(found.problem("nothing would ever be read", fix));
            }
            SCRUB_RATE
        }
        rate => rate.unwrap_or(SCRUB_RATE),
    }
}
