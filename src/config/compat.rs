//! The walk over everything that was set: what is unknown or not acted on is named, what cannot be ignored safely is
//! refused, and keys get their one name. What passes has the shape that the schema says.

use super::document::{Entry, Node, Value};
use super::report::{Origin, Problem, Report};
use super::schema::{Fate, Field, Kind, ROOT};

/// Checks a whole document.
pub(super) fn check(root: &mut Node, report: &mut Report) {
    Walk { report }.keys(root, ROOT, "");
}

/// `filesystem` for `{filesystem: }`, where `registry` takes a name alone.
pub(super) fn open_short_form(node: &mut Node, path: &str) {
    if !matches!(path, "storage" | "auth") {
        return;
    }
    let Some(name) = node.text().filter(|name| !name.is_empty()) else { return };
    let entry = Entry {
        name: name.trim().to_owned(),
        origin: node.origin.clone(),
        node: Node::null(node.origin.clone()),
    };
    node.value = Value::Map(vec![entry]);
}

/// Says that there is no such key.
pub(super) fn unknown(report: &mut Report, path: &str, name: &str, origin: &Origin) {
    let key = join(path, name);
    let refusal = match path {
        "storage" => Some(("there is no such storage driver", "use storage.filesystem")),
        "auth" => Some(("there is no such way to log in", "remove it")),
        _ if path.split('.').next() == Some("tidegate") => {
            Some(("there is no such key", "correct the name, or remove it"))
        }
        _ => None,
    };
    match refusal {
        Some((reason, fix)) => report.refuse(Problem::new(&key, reason, fix).at(origin)),
        None => report.warn(&key, origin, "there is no such key; it is ignored"),
    }
}

/// The path of a child.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

struct Walk<'a> {
    report: &'a mut Report,
}

impl Walk<'_> {
    fn keys(&mut self, node: &mut Node, fields: &[Field], path: &str) {
        open_short_form(node, path);
        if node.is_null() {
            return;
        }
        let origin = node.origin.clone();
        let Some(entries) = node.entries_mut() else {
            let fix = format!("write its keys below it, such as `{}`", example(fields));
            return self.shape(path, &origin, "it holds keys", &fix);
        };
        for entry in entries.iter_mut() {
            let Some(field) = fields.iter().find(|field| field.is(&entry.name)) else {
                unknown(self.report, path, &entry.name, &entry.origin);
                continue;
            };
            field.name.clone_into(&mut entry.name);
            self.entry(entry, field, path);
        }
        self.twice(entries, fields, path);
    }

    /// A key may have two names, but only one value.
    fn twice(&mut self, entries: &[Entry], fields: &[Field], path: &str) {
        for field in fields.iter().filter(|field| !field.alias.is_empty()) {
            let mut found = entries.iter().filter(|entry| entry.name == field.name);
            if let Some(second) = found.nth(1) {
                let reason = format!("it is set a second time: `{}` is the same key", field.alias);
                let problem = Problem::new(&join(path, field.name), reason, "remove one of them");
                self.report.refuse(problem.at(&second.origin));
            }
        }
    }

    fn entry(&mut self, entry: &mut Entry, field: &Field, parent: &str) {
        let path = join(parent, field.name);
        match field.fate {
            Fate::Silent => {}
            Fate::Unused(why) => {
                if !asks_nothing(&entry.node) {
                    self.report.warn(&path, &entry.origin, &format!("not acted on: {why}"));
                }
            }
            Fate::Refused(reason, fix) => self.refused(entry, &path, reason, fix),
            Fate::Used => self.used(&mut entry.node, field.kind, &path),
        }
    }

    /// Ours are refused by the keys below, which are what the user wrote and can look up.
    fn refused(&mut self, entry: &Entry, path: &str, reason: &str, fix: &str) {
        let by_name_alone = path.starts_with("storage.") || path.starts_with("auth.");
        if entry.node.is_empty() && !by_name_alone {
            return;
        }
        match &entry.node.value {
            Value::Map(children) if path.starts_with("tidegate.") => {
                for child in children.iter().filter(|child| !child.node.is_empty()) {
                    let problem = Problem::new(&join(path, &child.name), reason, fix);
                    self.report.refuse(problem.at(&child.origin));
                }
            }
            _ => self.report.refuse(Problem::new(path, reason, fix).at(&entry.origin)),
        }
    }

    fn used(&mut self, node: &mut Node, kind: Kind, path: &str) {
        let origin = node.origin.clone();
        let is_empty = node.is_empty();
        match (kind, &mut node.value) {
            (Kind::Keys(fields), _) => self.keys(node, fields, path),
            (Kind::Opaque, _) => {}
            (Kind::Each(fields), Value::List(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.keys(item, fields, &join(path, &index.to_string()));
                }
            }
            (Kind::Texts, Value::List(items)) => {
                for item in items.iter() {
                    self.scalar(item, path);
                }
            }
            (Kind::Texts, Value::Scalar { .. }) => {}
            (Kind::Fields, Value::Map(entries)) => {
                for entry in entries.iter() {
                    self.scalar(&entry.node, &join(path, &entry.name));
                }
            }
            (Kind::Headers, Value::Map(entries)) => {
                for entry in entries.iter() {
                    self.header(&entry.node, &join(path, &entry.name));
                }
            }
            (Kind::Each(_) | Kind::Fields | Kind::Headers, Value::Scalar { .. }) if is_empty => {}
            (Kind::Each(_), _) => {
                self.shape(path, &origin, "it is a list", "write items below it, each after `-`")
            }
            (Kind::Texts, _) => self.shape(path, &origin, "it is a list of texts", "write it as [a, b]"),
            (Kind::Fields | Kind::Headers, _) => {
                self.shape(path, &origin, "it holds names with values", "write lines `name: value` below it");
            }
            _ => self.scalar(node, path),
        }
    }

    fn header(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.scalar(item, path)),
            _ => self.scalar(node, path),
        }
    }

    fn scalar(&mut self, node: &Node, path: &str) {
        if !matches!(node.value, Value::Scalar { .. }) {
            self.shape(
                path,
                &node.origin,
                "it is a single value",
                "write it on the line of its key, in quotes if need be",
            );
        }
    }

    fn shape(&mut self, path: &str, origin: &Origin, what: &str, fix: &str) {
        let reason = format!("{what}, and something else stands here");
        self.report.refuse(Problem::new(path, reason, fix).at(origin));
    }
}

fn example(fields: &[Field]) -> String {
    fields.first().map_or_else(String::new, |field| format!("{}:", field.name))
}

/// Whether a key that is not acted on asks for nothing anyway, as `enabled: false` does.
fn asks_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Scalar { text, .. } => {
            text.is_empty() || node.is_null() || super::units::flag(text) == Some(false)
        }
        Value::List(items) => items.iter().all(asks_nothing),
        Value::Map(entries) => entries.iter().all(|entry| asks_nothing(&entry.node)),
    }
}
