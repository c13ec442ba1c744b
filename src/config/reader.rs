//! Typed reading of a checked document. Every mistake goes to the report, and reading goes on.

use std::time::Duration;

use super::document::{Node, Value};
use super::report::{Origin, Problem, Report};
use super::secret::Secret;
use super::units;

/// A text and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) key: String,
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Found {
    /// A problem with this text.
    pub(super) fn problem(&self, reason: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem::new(&self.key, reason, fix).at(&self.origin).value(&self.text)
    }
}

/// A document, and the report on it.
pub(super) struct Reader<'a> {
    root: &'a Node,
    pub(super) report: &'a mut Report,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Node, report: &'a mut Report) -> Self {
        Self { root, report }
    }

    /// What a key leads to; items of lists are numbered, as in `health.http.0.uri`.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        key.split('.').try_fold(self.root, |node, part| match &node.value {
            Value::List(items) => items.get(part.parse::<usize>().ok()?),
            _ => node.child(part).map(|entry| &entry.node),
        })
    }

    /// A text; `None` if it is not set or empty.
    pub(super) fn text(&self, key: &str) -> Option<Found> {
        let node = self.node(key)?;
        found(key, node)
    }

    /// A secret and where it came from.
    pub(super) fn secret(&self, key: &str) -> Option<(Secret, Origin)> {
        let node = self.node(key)?;
        let text = node.text().filter(|text| !text.is_empty())?;
        Some((Secret::new(text), node.origin.clone()))
    }

    /// A boolean.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let found = self.text(key)?;
        let flag = units::flag(&found.text);
        if flag.is_none() {
            self.report.refuse(found.problem("neither true nor false", "write true or false"));
        }
        flag
    }

    /// A number that is not negative; negative ones count as 0, as `registry` has it.
    pub(super) fn number(&mut self, key: &str) -> Option<u32> {
        let found = self.text(key)?;
        let number = units::number(&found.text).and_then(|number| u32::try_from(number.max(0)).ok());
        if number.is_none() {
            let reason = "no whole number up to 4294967295";
            self.report.refuse(found.problem(reason, "write digits alone"));
        }
        number
    }

    /// A number of bytes.
    pub(super) fn bytes(&mut self, key: &str) -> Option<u64> {
        let found = self.text(key)?;
        let bytes = units::bytes(&found.text);
        if bytes.is_none() {
            let fix = "write a number and a unit, such as 512KiB, 16MiB, 1.5GiB or 20GB";
            self.report.refuse(found.problem("no number of bytes", fix));
        }
        bytes
    }

    /// A duration.
    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        let found = self.text(key)?;
        self.duration_of(&found)
    }

    /// A text as a duration.
    pub(super) fn duration_of(&mut self, found: &Found) -> Option<Duration> {
        match units::duration(&found.text) {
            Ok(duration) => {
                if units::lacks_unit(&found.text) {
                    let text = format!(
                        "without a unit it means nanoseconds; for seconds write {}s",
                        found.text.trim()
                    );
                    self.report.warn(&found.key, &found.origin, &text);
                }
                Some(duration)
            }
            Err(error) => {
                let fix = "write numbers with units, such as 30s, 1h30m or 100ms";
                self.report.refuse(found.problem(error.to_string(), fix));
                None
            }
        }
    }

    /// The texts of a list, or those between the commas of one text.
    pub(super) fn texts(&self, key: &str) -> Vec<Found> {
        let Some(node) = self.node(key) else { return Vec::new() };
        if let Value::List(items) = &node.value {
            return items.iter().filter_map(|item| found(key, item)).collect();
        }
        let text = node.text().unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items
            .map(|item| Found { key: key.to_owned(), text: item.to_owned(), origin: node.origin.clone() })
            .collect()
    }

    /// The names of a map and the texts of each, in order.
    pub(super) fn headers(&self, key: &str) -> Vec<(String, Found)> {
        let Some(Value::Map(entries)) = self.node(key).map(|node| &node.value) else { return Vec::new() };
        let mut headers = Vec::new();
        for entry in entries {
            let key = format!("{key}.{}", entry.name);
            let values = match &entry.node.value {
                Value::List(items) => items.as_slice(),
                _ => std::slice::from_ref(&entry.node),
            };
            let values = values.iter().filter_map(|value| found(&key, value));
            headers.extend(values.map(|value| (entry.name.clone(), value)));
        }
        headers
    }

    /// How many items a list has.
    pub(super) fn count(&self, key: &str) -> usize {
        match self.node(key).map(|node| &node.value) {
            Some(Value::List(items)) => items.len(),
            _ => 0,
        }
    }
}

fn found(key: &str, node: &Node) -> Option<Found> {
    let text = node.text().filter(|text| !text.is_empty())?;
    Some(Found { key: key.to_owned(), text: text.to_owned(), origin: node.origin.clone() })
}
