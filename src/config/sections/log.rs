//! `log.*` and `tidegate.log.*`.

use super::choice;
use crate::config::reader::Reader;
use crate::config::{AccessFormat, Formatter, Level, Log};

const LEVELS: [(&str, Level); 4] =
    [("error", Level::Error), ("warn", Level::Warn), ("info", Level::Info), ("debug", Level::Debug)];

const FORMATTERS: [(&str, Formatter); 3] =
    [("text", Formatter::Text), ("json", Formatter::Json), ("logstash", Formatter::Logstash)];

const ACCESS: [(&str, AccessFormat); 3] = [
    ("combined", AccessFormat::Combined),
    ("combined+", AccessFormat::CombinedPlus),
    ("json", AccessFormat::Json),
];

pub(in crate::config) fn log(reader: &mut Reader<'_>) -> Log {
    let key = level_key(reader);
    let level = choice(reader, key, &LEVELS);
    let formatter = choice(reader, "log.formatter", &FORMATTERS);
    let access = choice(reader, "tidegate.log.access", &ACCESS);
    let silent = reader.flag("log.accesslog.disabled").unwrap_or(false);
    let mut fields: Vec<(String, String)> =
        reader.headers("log.fields").into_iter().map(|(name, found)| (name, found.text)).collect();
    fields.sort();
    Log {
        level: level.unwrap_or(Level::Info),
        formatter: formatter.unwrap_or(Formatter::Text),
        fields,
        access: (!silent).then(|| access.unwrap_or(AccessFormat::Combined)),
    }
}

/// The old name of the level counts where the new one is not used.
fn level_key(reader: &mut Reader<'_>) -> &'static str {
    let new = reader.text("log.level");
    match reader.text("loglevel") {
        Some(old) if new.is_none() => {
            let text = "it is deprecated; use log.level";
            reader.report.warn("loglevel", &old.origin, text);
            "loglevel"
        }
        _ => "log.level",
    }
}
