//! YAML as a small tree with positions. Scalars keep the text they were written with, so that whoever knows what a key
//! means types it: `0123` is a fine password.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::report::{Origin, Problem, name_shown};

/// Something in a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A text; if it was not quoted, it may also stand for nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and what it leads to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Node {
    /// A text that is taken as it is.
    pub(super) fn raw(text: &str, origin: Origin) -> Self {
        Self { value: Value::Scalar { text: text.to_owned(), plain: false }, origin }
    }

    /// `null`.
    pub(super) fn null(origin: Origin) -> Self {
        Self { value: Value::Scalar { text: String::new(), plain: true }, origin }
    }

    /// Whether it is `null`, `~` or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => {
                *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Value::List(_) | Value::Map(_) => false,
        }
    }

    /// Whether there is no value anywhere in it.
    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Scalar { text, .. } => text.is_empty() || self.is_null(),
            Value::List(items) => items.iter().all(Self::is_empty),
            Value::Map(entries) => entries.iter().all(|entry| entry.node.is_empty()),
        }
    }

    /// The text of a scalar; `None` for anything else and for `null`.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// The entries, if it is a map.
    pub(super) fn entries_mut(&mut self) -> Option<&mut Vec<Entry>> {
        match &mut self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// What a key of a map leads to.
    pub(super) fn child(&self, name: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.name == name),
            _ => None,
        }
    }
}

/// Levels of maps and lists; `registry` has at most seven.
const DEPTH_MAX: usize = 32;

/// Nodes of a tree, aliases resolved. A megabyte of plain YAML stays below; a chain of aliases does not.
const NODES_MAX: usize = 600_000;

/// Reads a document; `null` if there is none.
pub(super) fn parse(text: &str, place: &str) -> Result<Node, Problem> {
    let mut builder = Builder {
        place: place.into(),
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        documents: 0,
        root: None,
    };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.event(event, span)?,
            // The parser's words never hold more of the text than one character.
            Err(error) => return Err(builder.problem(*error.marker(), error.info())),
        }
    }
    let origin = Origin::whole(place);
    Ok(builder.root.unwrap_or_else(|| Node::null(origin)))
}

/// A map or a list whose end was not seen yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value, in a map.
    key: Option<(String, Origin)>,
    /// The keys so far, in a map.
    names: HashSet<String>,
}

struct Builder {
    place: Arc<str>,
    open: Vec<Open>,
    /// Each anchored node, and how many nodes it has.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let start = span.start;
        match event {
            Event::DocumentStart(_) => self.document(start),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = self.is_plain(style, tag.as_deref(), start)?;
                let value = Value::Scalar { text: text.into_owned(), plain };
                let node = self.node(value, start)?;
                self.add(node, anchor, start)
            }
            Event::SequenceStart(anchor, tag) => {
                self.start(Value::List(Vec::new()), anchor, tag.as_deref(), start)
            }
            Event::MappingStart(anchor, tag) => {
                self.start(Value::Map(Vec::new()), anchor, tag.as_deref(), start)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.add(open.node, open.anchor, start),
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(anchor, start),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn document(&mut self, at: Marker) -> Result<(), Problem> {
        self.documents = self.documents.saturating_add(1);
        if self.documents > 1 {
            return Err(self.problem(at, "a second document starts here"));
        }
        Ok(())
    }

    fn start(&mut self, value: Value, anchor: usize, tag: Option<&Tag>, at: Marker) -> Result<(), Problem> {
        self.is_plain(ScalarStyle::Plain, tag, at)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(self.problem(at, "maps and lists are nested too deeply"));
        }
        let node = self.node(value, at)?;
        self.open.push(Open { node, anchor, key: None, names: HashSet::new() });
        Ok(())
    }

    /// Whether a scalar may stand for nothing. Of the tags, those of plain YAML are understood.
    fn is_plain(&self, style: ScalarStyle, tag: Option<&Tag>, at: Marker) -> Result<bool, Problem> {
        let plain = style == ScalarStyle::Plain;
        match tag {
            None => Ok(plain),
            Some(tag) if tag.handle == "!" && tag.suffix.is_empty() => Ok(false),
            Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
                "str" => Ok(false),
                "null" | "bool" | "int" | "float" | "map" | "seq" => Ok(plain),
                _ => Err(self.problem(at, "this tag is not understood")),
            },
            Some(_) => Err(self.problem(at, "this tag is not understood")),
        }
    }

    fn alias(&mut self, anchor: usize, at: Marker) -> Result<(), Problem> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            return Err(self.problem(at, "an alias stands inside its own anchor"));
        };
        self.count(size, at)?;
        if self.open.len().saturating_add(depth(&node)) > DEPTH_MAX {
            return Err(self.problem(at, "maps and lists are nested too deeply"));
        }
        self.add(node, 0, at)
    }

    /// Puts a complete node where it belongs.
    fn add(&mut self, node: Node, anchor: usize, at: Marker) -> Result<(), Problem> {
        if anchor != 0 {
            let size = size(&node);
            self.count(size, at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(mut open) = self.open.pop() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some((name, origin))) => entries.push(Entry { name, origin, node }),
            (_, _) => {
                let (name, origin) = self.key(node, at)?;
                if !open.names.insert(name.clone()) {
                    return Err(
                        self.problem(at, &format!("the key `{}` stands here twice", name_shown(&name)))
                    );
                }
                open.key = Some((name, origin));
            }
        }
        self.open.push(open);
        Ok(())
    }

    fn key(&self, node: Node, at: Marker) -> Result<(String, Origin), Problem> {
        match node.value {
            Value::Scalar { text, plain } if plain && text == "<<" => {
                Err(self.problem(at, "merge keys are not understood; write the keys out"))
            }
            Value::Scalar { text, .. } => Ok((text, node.origin)),
            Value::List(_) | Value::Map(_) => Err(self.problem(at, "a key must be a text")),
        }
    }

    fn node(&mut self, value: Value, at: Marker) -> Result<Node, Problem> {
        self.count(1, at)?;
        let origin = self.origin(at);
        Ok(Node { value, origin })
    }

    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            return Err(self.problem(at, "there is too much of it, or aliases multiply"));
        }
        Ok(())
    }

    fn origin(&self, at: Marker) -> Origin {
        Origin::position(&self.place, at.line(), at.col().saturating_add(1))
    }

    fn problem(&self, at: Marker, reason: &str) -> Problem {
        Problem::new("", format!("no usable YAML: {reason}"), "correct the YAML at this place")
            .at(&self.origin(at))
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(items) => items.iter().map(size).fold(1, usize::saturating_add),
        Value::Map(entries) => entries.iter().map(|entry| size(&entry.node)).fold(1, usize::saturating_add),
    }
}

fn depth(node: &Node) -> usize {
    let below = match &node.value {
        Value::Scalar { .. } => return 0,
        Value::List(items) => items.iter().map(depth).max(),
        Value::Map(entries) => entries.iter().map(|entry| depth(&entry.node)).max(),
    };
    below.unwrap_or(0).saturating_add(1)
}
