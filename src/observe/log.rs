//! The structured log on stderr, in the shapes that `registry` has: logrus's text, JSON, logstash.
//!
//! Only our own events are written. Libraries' debug output may show headers, and with them tokens.

use std::fmt;
use std::sync::RwLock;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::Lines;
use crate::config::{self, Formatter, Log};
use crate::sys::clock;
use crate::sys::sync::{read, write};

/// The least important level that is written. One log, one level.
static LEAST: RwLock<config::Level> = RwLock::new(config::Level::Info);

/// Sends all events of this process to `lines`, from now on.
pub fn install(log: &Log, lines: Lines) {
    set_level(log.level);
    let ours = filter_fn(|metadata: &Metadata<'_>| {
        metadata.target().starts_with("tidegate") && *metadata.level() <= least()
    });
    let layer = Shape { formatter: log.formatter, constant: log.fields.clone(), lines };
    // A second call in one process, as tests make it, changes nothing.
    let _ = tracing_subscriber::registry().with(layer.with_filter(ours)).try_init();
}

/// Another level, from now on.
pub fn set_level(level: config::Level) {
    *write(&LEAST) = level;
    // What was decided for each place in the code is decided anew.
    tracing::callsite::rebuild_interest_cache();
}

fn least() -> Level {
    match *read(&LEAST) {
        config::Level::Error => Level::ERROR,
        config::Level::Warn => Level::WARN,
        config::Level::Info => Level::INFO,
        config::Level::Debug => Level::DEBUG,
    }
}

struct Shape {
    formatter: Formatter,
    constant: Vec<(String, String)>,
    lines: Lines,
}

impl<S: Subscriber> Layer<S> for Shape {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = Timestamp::try_from(clock::now()).unwrap_or_default();
        self.lines.send(render(self.formatter, time, *event.metadata().level(), &fields, &self.constant));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, json!(value));
    }
}

fn render(
    formatter: Formatter,
    time: Timestamp,
    level: Level,
    fields: &Fields,
    constant: &[(String, String)],
) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    };
    match formatter {
        Formatter::Text => text(time, level, fields, constant),
        Formatter::Json => object(
            &[("time", json!(time.to_string())), ("level", json!(level)), ("msg", json!(fields.message))],
            fields,
            constant,
        ),
        Formatter::Logstash => {
            let head = [
                ("@timestamp", json!(time.to_string())),
                ("@version", json!("1")),
                ("level", json!(level)),
                ("message", json!(fields.message)),
            ];
            object(&head, fields, constant)
        }
    }
}

fn text(time: Timestamp, level: &str, fields: &Fields, constant: &[(String, String)]) -> String {
    let mut line = format!("time=\"{time}\" level={level} msg={}", quoted(&fields.message));
    let mut add = |name: &str, value: &str| {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        let plain =
            !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c));
        line.push_str(&if plain { value.to_owned() } else { quoted(value) });
    };
    for (name, value) in &fields.others {
        add(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    constant.iter().for_each(|(name, value)| add(name, value));
    line.push('\n');
    line
}

/// In quotes, on one line, whatever is in it: a log line can't be forged from outside.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn object(head: &[(&str, Value)], fields: &Fields, constant: &[(String, String)]) -> String {
    let constant = constant.iter().map(|(name, value)| (name.clone(), json!(value)));
    let others = fields.others.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let head = head.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let all: Map<String, Value> = constant.chain(others).chain(head).collect();
    format!("{}\n", Value::Object(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(formatter: Formatter, expected: &str) {
        let others = vec![
            ("repository", json!("library/alpine")),
            ("error", json!("no \"such\"\nthing")),
            ("bytes", json!(7)),
        ];
        let fields = Fields { message: "it is so".into(), others };
        let constant = [("service".to_owned(), "registry".to_owned())];
        assert_eq!(render(formatter, Timestamp::UNIX_EPOCH, Level::WARN, &fields, &constant), expected);
    }

    #[test]
    fn lines_have_the_shape_of_logrus() {
        let line = "time=\"1970-01-01T00:00:00Z\" level=warning msg=\"it is so\" repository=library/alpine \
                    error=\"no \\\"such\\\"\\nthing\" bytes=7 service=registry\n";
        check(Formatter::Text, line);
    }

    #[test]
    fn lines_are_json_objects() {
        let line = "{\"bytes\":7,\"error\":\"no \\\"such\\\"\\nthing\",\"level\":\"warning\",\"msg\":\"it is so\",\
                    \"repository\":\"library/alpine\",\"service\":\"registry\",\"time\":\"1970-01-01T00:00:00Z\"}\n";
        check(Formatter::Json, line);
        let line = "{\"@timestamp\":\"1970-01-01T00:00:00Z\",\"@version\":\"1\",\"bytes\":7,\
                    \"error\":\"no \\\"such\\\"\\nthing\",\"level\":\"warning\",\"message\":\"it is so\",\
                    \"repository\":\"library/alpine\",\"service\":\"registry\"}\n";
        check(Formatter::Logstash, line);
    }
}
