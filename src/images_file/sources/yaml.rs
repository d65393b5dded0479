//! YAML as a tree whose nodes know their lines.
//!
//! An alias is the node that it names, shared and not copied, so that a file of aliases to aliases
//! costs what it has bytes; whoever walks such a tree counts its steps ([`Walk`]). The tree is no
//! deeper than [`MAX_DEPTH`], aliases followed: it can be walked and dropped by recursion.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser};

/// The depth of the tree, at most.
const MAX_DEPTH: usize = 100;
/// The steps of one walk, at most.
const MAX_STEPS: usize = 1_000_000;

/// A value with its line.
#[derive(Debug)]
pub(super) struct Node {
    /// The line where it begins, from 1 on.
    pub(super) line: usize,
    value: Value,
    /// The depth of the tree below.
    height: usize,
}

#[derive(Debug)]
enum Value {
    Scalar(String),
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<(Rc<Node>, Rc<Node>)>),
}

/// The steps that are left for a walk through a tree.
#[derive(Debug)]
pub(super) struct Walk(usize);

impl Default for Walk {
    fn default() -> Self {
        Self(MAX_STEPS)
    }
}

impl Walk {
    /// Counts a step; false if none is left.
    pub(super) fn step(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }

    pub(super) fn is_over(&self) -> bool {
        self.0 == 0
    }
}

impl Node {
    /// Returns the text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// True for an empty document, and for an explicit null.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.text(), Some("" | "~" | "null"))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.value, Value::Mapping(_))
    }

    /// Lists the entries of a mapping.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Node, &Node)> {
        let entries = match &self.value {
            Value::Mapping(entries) => &entries[..],
            _ => &[],
        };
        entries.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Lists the elements of a sequence.
    pub(super) fn elements(&self) -> impl Iterator<Item = &Node> {
        let elements = match &self.value {
            Value::Sequence(elements) => &elements[..],
            _ => &[],
        };
        elements.iter().map(|element| &**element)
    }

    /// Finds the value of `key` in a mapping, or in those that it merges (`<<`).
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.find(key, &mut Walk::default())
    }

    fn find(&self, key: &str, walk: &mut Walk) -> Option<&Node> {
        let named =
            |name: &str| self.entries().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value);
        if !walk.step() {
            return None;
        }
        named(key).or_else(|| {
            let merged = named("<<")?;
            if merged.is_mapping() {
                return merged.find(key, walk);
            }
            merged.elements().find_map(|merged| merged.find(key, walk))
        })
    }
}

/// Reads all documents of `text`; where it breaks off, those before that, with the line and the
/// reason.
pub(super) fn documents(text: &str) -> (Vec<Rc<Node>>, Option<(usize, String)>) {
    let mut tree = Building::default();
    for event in Parser::new_from_str(text) {
        let line = match &event {
            Ok((_, span)) => span.start.line(),
            Err(error) => error.marker().line(),
        };
        let taken = match event {
            Ok((event, _)) => tree.take(event, line),
            Err(error) => Err(error.info()),
        };
        if let Err(reason) = taken {
            return (tree.documents, Some((line, reason)));
        }
    }
    (tree.documents, None)
}

/// A collection that is not closed yet.
struct Open {
    line: usize,
    anchor: usize,
    is_mapping: bool,
    nodes: Vec<Rc<Node>>,
}

/// A tree under construction.
#[derive(Default)]
struct Building {
    documents: Vec<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
}

impl Building {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, _, anchor, _) => {
                self.add(Node { line, value: Value::Scalar(text.into_owned()), height: 0 }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => self.begin(line, anchor, false)?,
            Event::MappingStart(_, anchor, _) => self.begin(line, anchor, true)?,
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).ok_or("an alias stands inside of what it names")?;
                self.put(Rc::clone(node));
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, line: usize, anchor: usize, is_mapping: bool) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep());
        }
        self.open.push(Open { line, anchor, is_mapping, nodes: Vec::new() });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        // The parser closes only what it has opened.
        let Some(Open { line, anchor, is_mapping, nodes }) = self.open.pop() else { return Ok(()) };
        let height = nodes.iter().map(|node| node.height + 1).max().unwrap_or(0);
        let value = if is_mapping {
            let mut nodes = nodes.into_iter();
            Value::Mapping(std::iter::from_fn(|| Some((nodes.next()?, nodes.next()?))).collect())
        } else {
            Value::Sequence(nodes)
        };
        self.add(Node { line, value, height }, anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if node.height > MAX_DEPTH {
            return Err(too_deep());
        }
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.put(node);
        Ok(())
    }

    fn put(&mut self, node: Rc<Node>) {
        match self.open.last_mut() {
            Some(open) => open.nodes.push(node),
            None => self.documents.push(node),
        }
    }
}

fn too_deep() -> String {
    format!("its values nest more than {MAX_DEPTH} deep")
}
