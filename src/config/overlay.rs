//! One variable after the other over a document: the walk to the place that a name means, and the value that goes there.

use std::collections::BTreeSet;

use super::compat::{self, join};
use super::document::{self, Entry, Node, Value};
use super::environment::is_of_a_service;
use super::file;
use super::report::{MASK, Origin, Problem, Report};
use super::schema::{Field, Kind};

/// A variable that is meant for us.
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    pub(super) origin: Origin,
}

/// What is remembered from one variable to the next.
pub(super) struct Overlay<'a> {
    report: &'a mut Report,
    /// Keys whose text a variable gave, so that a `_FILE` variable cannot give it again.
    texts: BTreeSet<String>,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(report: &'a mut Report) -> Self {
        Self { report, texts: BTreeSet::new() }
    }
}

impl Overlay<'_> {
    /// Sets something below a map with known keys.
    pub(super) fn keys(
        &mut self,
        node: &mut Node,
        fields: &[Field],
        path: &str,
        rest: &[&str],
        variable: &Variable<'_>,
    ) {
        let Some((first, below)) = rest.split_first() else { return };
        compat::open_short_form(node, path);
        let Some(field) = fields.iter().find(|field| field.is_upper(first)) else {
            return self.unknown_below(path, first, variable);
        };
        let path = join(path, field.name);
        let is_file = matches!(below, [only] if only.eq_ignore_ascii_case("file"));
        if is_file && matches!(field.kind, Kind::Raw | Kind::Secret) {
            return self.read_file(node, field, &path, variable);
        }
        if is_file && matches!(field.kind, Kind::Text) {
            return self.refuse_file(&path, variable);
        }
        // Where no keys are known, a name that Kubernetes gives is taken for one of its own.
        let foreign = matches!(field.kind, Kind::Opaque) && is_of_a_service(variable.name);
        if !below.is_empty() && (foreign || !can_descend(field.kind)) {
            return self.unknown(variable, &path);
        }
        let place = entry(node, field, variable);
        self.set(place, field.kind, &path, below, variable);
    }

    fn set(&mut self, node: &mut Node, kind: Kind, path: &str, rest: &[&str], variable: &Variable<'_>) {
        if rest.is_empty() {
            return self.replace(node, kind, path, variable);
        }
        match kind {
            Kind::Keys(fields) => self.keys(node, fields, path, rest, variable),
            Kind::Each(fields) => {
                if let Some((item, rest)) = self.item(node, path, rest, variable) {
                    self.keys(item, fields, path, rest, variable);
                }
            }
            Kind::Texts => {
                if let Some((item, [])) = self.item(node, path, rest, variable) {
                    *item = text(variable);
                }
            }
            Kind::Fields => *named(node, &rest.join("_"), variable) = text(variable),
            Kind::Headers => self.header(node, path, rest, variable),
            Kind::Opaque => *named(node, &rest.join("."), variable) = text(variable),
            Kind::Text | Kind::Raw | Kind::Secret | Kind::Flag | Kind::Number | Kind::Duration => {}
        }
    }

    /// One header: its values at once, or one of them by its number.
    fn header(&mut self, node: &mut Node, path: &str, rest: &[&str], variable: &Variable<'_>) {
        let Some((name, rest)) = rest.split_first() else { return };
        let place = named(node, name, variable);
        if rest.is_empty() {
            *place = list(variable).unwrap_or_else(|| text(variable));
        } else if let Some((item, [])) = self.item(place, path, rest, variable) {
            *item = text(variable);
        }
    }

    /// The item of a list that the next part of a name counts; it may be the one after the last.
    fn item<'n, 'r, 's>(
        &mut self,
        node: &'n mut Node,
        path: &str,
        rest: &'r [&'s str],
        variable: &Variable<'_>,
    ) -> Option<(&'n mut Node, &'r [&'s str])> {
        let (first, rest) = rest.split_first()?;
        let Ok(index) = first.parse::<usize>() else {
            self.unknown(variable, path);
            return None;
        };
        if !matches!(node.value, Value::List(_)) {
            node.value = Value::List(Vec::new());
        }
        let Value::List(items) = &mut node.value else { return None };
        if index == items.len() {
            items.push(Node::null(variable.origin.clone()));
        }
        let length = items.len();
        let item = items.get_mut(index);
        if item.is_none() {
            let reason =
                format!("the list has {length} items, and there is no item {index} to change or append");
            let fix = "count the items from 0, without gaps";
            self.report.refuse(Problem::new(path, reason, fix).at(&variable.origin));
        }
        Some((item?, rest))
    }

    /// Puts the whole value in the place of what is there.
    fn replace(&mut self, node: &mut Node, kind: Kind, path: &str, variable: &Variable<'_>) {
        let new = match kind {
            Kind::Raw | Kind::Secret => {
                self.warn_of_quotes(path, variable);
                Ok(Node::raw(variable.value, variable.origin.clone()))
            }
            Kind::Texts => Ok(texts(variable)),
            Kind::Text | Kind::Flag | Kind::Number | Kind::Duration | Kind::Opaque => Ok(text(variable)),
            Kind::Fields | Kind::Headers | Kind::Keys(_) | Kind::Each(_) => {
                document::parse(variable.value, variable.name)
            }
        };
        if matches!(kind, Kind::Text | Kind::Raw | Kind::Secret) && !variable.value.is_empty() {
            self.texts.insert(path.to_owned());
        }
        match new {
            Ok(mut new) => {
                set_origin(&mut new, &variable.origin);
                *node = new;
            }
            Err(problem) => self.report.refuse(Problem {
                key: path.to_owned(),
                fix: "write the value as one line of YAML, such as '{key: value}'".to_owned(),
                ..problem
            }),
        }
    }

    /// `registry` reads such a value as YAML, and users learned to quote what YAML would not take.
    fn warn_of_quotes(&mut self, path: &str, variable: &Variable<'_>) {
        let quoted =
            |quote| variable.value.strip_prefix(quote).is_some_and(|rest: &str| rest.ends_with(quote));
        if quoted('"') || quoted('\'') {
            let text = "the quotes are taken as part of the value; remove them if they are not";
            self.report.warn(path, &variable.origin, text);
        }
    }

    /// `X_FILE`: the content of a file as the value of `X`.
    fn read_file(&mut self, node: &mut Node, field: &Field, path: &str, variable: &Variable<'_>) {
        if variable.value.is_empty() {
            return;
        }
        if self.texts.contains(path) {
            let other = variable.name.get(..variable.name.len().saturating_sub(5));
            let reason = format!("{} is set too", other.unwrap_or("the variable without _FILE"));
            let problem = Problem::new(path, reason, "unset one of the two").at(&variable.origin);
            return self.report.refuse(problem);
        }
        match file::read_value(variable.value) {
            Ok(content) => *entry(node, field, variable) = Node::raw(&content, variable.origin.clone()),
            Err(reason) => {
                let fix = "name a readable text file, or unset the variable";
                let problem = Problem::new(path, reason, fix).at(&variable.origin);
                self.report.refuse(problem.value(variable.value));
                if !matches!(field.kind, Kind::Text) {
                    // Something was meant to stand here: that it is missing is no second problem.
                    *entry(node, field, variable) = Node::raw(MASK, variable.origin.clone());
                }
            }
        }
    }

    /// Most texts are paths already: the content of a key in the place of its path would end up in error messages.
    fn refuse_file(&mut self, path: &str, variable: &Variable<'_>) {
        let plain = variable.name.get(..variable.name.len().saturating_sub(5)).unwrap_or_default();
        let reason = "only a user name or a secret is read from a file";
        let problem = Problem::new(path, reason, format!("set {plain} to the value itself, here the path"));
        self.report.refuse(problem.at(&variable.origin));
    }

    fn unknown_below(&mut self, path: &str, name: &str, variable: &Variable<'_>) {
        if is_of_a_service(variable.name) {
            self.unknown(variable, path);
        } else {
            compat::unknown(self.report, path, &name.to_ascii_lowercase(), &variable.origin);
        }
    }

    /// Says that a variable names no key.
    pub(super) fn unknown(&mut self, variable: &Variable<'_>, path: &str) {
        let text = if is_of_a_service(variable.name) {
            "Kubernetes sets this variable for a service of that name; it is ignored"
        } else if path.split('.').next() == Some("tidegate") {
            let problem =
                Problem::new(variable.name, "no such key", "correct the name, or unset the variable");
            return self.report.refuse(problem);
        } else {
            "this variable names no key and is ignored"
        };
        self.report.warn(variable.name, &variable.origin, text);
    }
}

fn can_descend(kind: Kind) -> bool {
    match kind {
        Kind::Text | Kind::Raw | Kind::Secret | Kind::Flag | Kind::Number | Kind::Duration => false,
        Kind::Texts | Kind::Fields | Kind::Headers | Kind::Keys(_) | Kind::Each(_) | Kind::Opaque => true,
    }
}

/// The place of a known key, made if it is not there yet.
fn entry<'n>(node: &'n mut Node, field: &Field, variable: &Variable<'_>) -> &'n mut Node {
    place(node, field.name, |name| field.is(name), variable)
}

/// The place of a name; names that are new are in lower case.
fn named<'n>(node: &'n mut Node, name: &str, variable: &Variable<'_>) -> &'n mut Node {
    let lower = name.to_ascii_lowercase();
    place(node, &lower, |other| other.eq_ignore_ascii_case(name), variable)
}

fn place<'n>(
    node: &'n mut Node,
    name: &str,
    is: impl Fn(&str) -> bool,
    variable: &Variable<'_>,
) -> &'n mut Node {
    if !matches!(node.value, Value::Map(_)) {
        // What stood here was no map, and a child takes its place.
        node.value = Value::Map(Vec::new());
    }
    let entries = node.entries_mut().expect("it was just made a map");
    let index = entries.iter().position(|entry| is(&entry.name)).unwrap_or(entries.len());
    if index == entries.len() {
        entries.push(Entry {
            name: name.to_owned(),
            origin: variable.origin.clone(),
            node: Node::null(variable.origin.clone()),
        });
    }
    let entry = entries.get_mut(index);
    &mut entry.expect("the entry was found, or pushed at the end").node
}

/// A value that should be a scalar: YAML if it reads as one, else the text as it is.
fn text(variable: &Variable<'_>) -> Node {
    let origin = variable.origin.clone();
    // Anchors, aliases and tags are nothing that anybody means in a variable.
    let marked = variable.value.starts_with(['&', '*', '!', '%']);
    match document::parse(variable.value, variable.name) {
        Ok(Node { value: value @ Value::Scalar { .. }, .. }) if !marked => Node { value, origin },
        _ => Node::raw(variable.value, origin),
    }
}

/// A value that is a list in YAML.
fn list(variable: &Variable<'_>) -> Option<Node> {
    let mut node = document::parse(variable.value, variable.name).ok()?;
    set_origin(&mut node, &variable.origin);
    matches!(node.value, Value::List(_)).then_some(node)
}

/// A list of texts: YAML if it reads as such, else by its commas.
fn texts(variable: &Variable<'_>) -> Node {
    if let Some(list) = list(variable) {
        return list;
    }
    let inner = variable.value.trim();
    let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
    let items = inner
        .split(',')
        .map(|item| item.trim().trim_matches(['"', '\'']))
        .filter(|item| !item.is_empty())
        .map(|item| Node::raw(item, variable.origin.clone()));
    Node { value: Value::List(items.collect()), origin: variable.origin.clone() }
}

/// Within a variable, lines and columns say little; its name says all.
fn set_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter_mut().for_each(|item| set_origin(item, origin)),
        Value::Map(entries) => {
            for entry in entries {
                entry.origin = origin.clone();
                set_origin(&mut entry.node, origin);
            }
        }
    }
}
