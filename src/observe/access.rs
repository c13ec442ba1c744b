//! The access log on stdout: Apache's combined format exactly as `registry` writes it, or more than that.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::json;

use super::lines::Lines;
use crate::config::AccessFormat;

/// Where the lines go, and how they look.
#[derive(Debug, Clone)]
pub struct AccessLog {
    format: AccessFormat,
    lines: Lines,
}

/// One answered request.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The peer's address without its port.
    pub peer: String,
    /// When the request came.
    pub at: SystemTime,
    /// GET and so on.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// `HTTP/1.1` and so on.
    pub version: &'static str,
    /// Of the answer.
    pub status: u16,
    /// Body bytes that were handed to the connection.
    pub bytes: u64,
    /// The request's `Referer`.
    pub referer: String,
    /// The request's `User-Agent`.
    pub agent: String,
    /// Why the answer is what it is.
    pub outcome: &'static str,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
    /// Of this request.
    pub id: u64,
}

impl AccessLog {
    /// A log in a format.
    pub fn new(format: AccessFormat, lines: Lines) -> Self {
        Self { format, lines }
    }

    /// Writes a line.
    pub fn write(&self, entry: &Entry) {
        self.lines.send(match self.format {
            AccessFormat::Combined => combined(entry) + "\n",
            AccessFormat::CombinedPlus => plus(entry),
            AccessFormat::Json => object(entry),
        });
    }
}

fn combined(entry: &Entry) -> String {
    let zoned = stamp(entry).to_zoned_datetime(jiff::tz::TimeZone::UTC);
    format!(
        "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
        entry.peer,
        zoned.strftime("%d/%b/%Y:%H:%M:%S %z"),
        entry.method,
        escaped(&entry.target),
        entry.version,
        entry.status,
        entry.bytes,
        escaped(&entry.referer),
        escaped(&entry.agent),
    )
}

fn plus(entry: &Entry) -> String {
    format!("{} {} {} {:016x}\n", combined(entry), entry.outcome, entry.took.as_millis(), entry.id)
}

fn object(entry: &Entry) -> String {
    let line = json!({
        "time": stamp(entry).to_string(),
        "remote": entry.peer,
        "method": entry.method,
        "uri": entry.target,
        "protocol": entry.version,
        "status": entry.status,
        "bytes": entry.bytes,
        "referer": entry.referer,
        "useragent": entry.agent,
        "outcome": entry.outcome,
        "milliseconds": u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
        "id": format!("{:016x}", entry.id),
    });
    format!("{line}\n")
}

fn stamp(entry: &Entry) -> Timestamp {
    Timestamp::try_from(entry.at).unwrap_or_default()
}

/// Nothing from outside ends a field or a line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn entry() -> Entry {
        Entry {
            peer: "127.0.0.1".into(),
            at: UNIX_EPOCH + Duration::from_secs(1_795_468_294),
            method: "GET".into(),
            target: "/v2/library/nope/tags/list".into(),
            version: "HTTP/1.1",
            status: 404,
            bytes: 120,
            referer: String::new(),
            agent: "curl/7.88.1".into(),
            outcome: "miss",
            took: Duration::from_millis(12),
            id: 7,
        }
    }

    #[test]
    fn the_combined_format_is_that_of_registry() {
        let line = "127.0.0.1 - - [23/Nov/2026:21:11:34 +0000] \"GET /v2/library/nope/tags/list HTTP/1.1\" 404 120 \"\" \"curl/7.88.1\"";
        assert_eq!(combined(&entry()), line);
        assert_eq!(plus(&entry()), format!("{line} miss 12 0000000000000007\n"));
    }

    #[test]
    fn a_line_can_not_be_forged() {
        let forged = Entry { agent: "x\" 200\nfake \\".into(), ..entry() };
        assert!(combined(&forged).ends_with("\"x\\\" 200\\x0afake \\\\\""));
    }

    #[test]
    fn json_lines_are_json() {
        let value: serde_json::Value = serde_json::from_str(&object(&entry())).unwrap();
        assert_eq!(
            (value["status"].as_u64(), value["time"].as_str()),
            (Some(404), Some("2026-11-23T21:11:34Z"))
        );
    }
}
