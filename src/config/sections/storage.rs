//! `storage.*`.

use std::path::PathBuf;

use crate::config::Storage;
use crate::config::document::{Entry, Value};
use crate::config::reader::Reader;
use crate::config::report::{Problem, name_shown};
use crate::config::schema::NO_DRIVERS;

/// Where `registry`'s images have their volume.
const ROOT: &str = "/var/lib/registry";

pub(in crate::config) fn storage(reader: &mut Reader<'_>) -> Storage {
    refuse_several(reader);
    warn_of_cache(reader);
    if driver(reader, "inmemory") {
        return Storage::Temporary;
    }
    let root = reader.text("storage.filesystem.rootdirectory");
    Storage::Filesystem {
        configured: root.is_some(),
        root: root.map_or_else(|| PathBuf::from(ROOT), |found| PathBuf::from(found.text)),
    }
}

fn driver(reader: &Reader<'_>, name: &str) -> bool {
    reader.node(&format!("storage.{name}")).is_some()
}

/// Variables add to the file, so that two drivers are a usual mistake.
fn refuse_several(reader: &mut Reader<'_>) {
    let Some(Value::Map(entries)) = reader.node("storage").map(|node| &node.value) else { return };
    let drivers: Vec<&Entry> =
        entries.iter().filter(|entry| !NO_DRIVERS.contains(&entry.name.as_str())).collect();
    let ([_, .., last], true) =
        (drivers.as_slice(), driver(reader, "filesystem") || driver(reader, "inmemory"))
    else {
        return;
    };
    let names: Vec<_> = drivers.iter().map(|entry| name_shown(&entry.name)).collect();
    let reason = format!("several storage drivers are set: {}", names.join(", "));
    let fix = "keep one; REGISTRY_STORAGE=filesystem takes the place of all that the file has under storage";
    let problem = Problem::new("storage", reason, fix).at(&last.origin);
    reader.report.refuse(problem);
}

fn warn_of_cache(reader: &mut Reader<'_>) {
    let key = "storage.cache.blobdescriptor";
    if let Some(found) = reader.text(key).filter(|found| found.text != "inmemory") {
        let text = "not acted on: tidegate keeps its own index, on disk";
        reader.report.warn(key, &found.origin, text);
    }
}
