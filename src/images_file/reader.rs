//! Typed access to the spanned TOML tree: what has the wrong type, or is not a known key, becomes a note
//! and the reading goes on, so that one run reports everything.

use toml::de::{DeArray, DeTable, DeValue};

use super::keys::{self, Keys};
use super::text::quoted;
use super::values::Fault;
use crate::diagnostic::{Mistake, Mistakes, Span, list, nearest, suggest};

/// The next step for whoever wrote a password into the file.
const PASSWORD_HINT: &str =
    "put it into an environment variable named by `password-env`, or into a file named by `password-file`";

/// The next step for whoever wrote what needs trust.
const UNTRUSTED_HINT: &str = "leave it out; who trusts this file runs without --untrusted";

/// A value with what it is called.
#[derive(Clone, Copy)]
pub(super) struct Node<'t> {
    name: &'t str,
    is_element: bool,
    pub(super) key_span: Span,
    pub(super) span: Span,
    pub(super) value: &'t DeValue<'t>,
}

impl<'t> Node<'t> {
    /// `` `pull` ``, or `` an entry of `mirrors` ``.
    pub(super) fn called(&self) -> String {
        if self.is_element { format!("an entry of {}", quoted(self.name)) } else { quoted(self.name) }
    }

    fn elements(self, array: &'t DeArray<'t>) -> impl Iterator<Item = Self> {
        array.iter().map(move |element| {
            let span = element.span().into();
            Node { is_element: true, key_span: span, span, value: element.get_ref(), ..self }
        })
    }
}

/// The entries of a table, whatever their keys.
pub(super) fn entries<'t>(table: &'t DeTable<'t>) -> impl Iterator<Item = (&'t str, Node<'t>)> {
    table.iter().map(|(key, value)| {
        let name: &str = key.get_ref();
        let node = Node {
            name,
            is_element: false,
            key_span: key.span().into(),
            span: value.span().into(),
            value: value.get_ref(),
        };
        (name, node)
    })
}

/// A table whose keys are all known.
#[derive(Clone, Copy)]
pub(super) struct Table<'t> {
    keys: &'static Keys,
    entries: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    /// Whether it has any other key than `key`.
    pub(super) fn has_more_than(&self, key: &str) -> bool {
        self.entries.keys().any(|other| other.get_ref() != key)
    }

    pub(super) fn get(&self, key: &str) -> Option<Node<'t>> {
        debug_assert!(self.keys.names.contains(&key), "{key} is not listed in keys.rs");
        let (key, value) = self.entries.get_key_value(key)?;
        Some(Node {
            name: key.get_ref(),
            is_element: false,
            key_span: key.span().into(),
            span: value.span().into(),
            value: value.get_ref(),
        })
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date-time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// True if the file may be a stranger's: keys that need trust are errors then.
    pub(super) untrusted: bool,
    pub(super) mistakes: Mistakes,
}

impl Notes {
    pub(super) fn error(&mut self, mistake: Mistake) {
        self.mistakes.error(mistake);
    }

    pub(super) fn warn(&mut self, mistake: Mistake) {
        self.mistakes.warn(mistake);
    }

    pub(super) fn wrong_type(&mut self, node: Node<'_>, expected: &str) {
        let message = format!("{} must be {expected}, found {}", node.called(), type_name(node.value));
        self.error(Mistake::new(node.span, message));
    }

    /// `fault` of `node`'s value.
    pub(super) fn fault(&mut self, node: Node<'_>, fault: Fault) {
        let message = format!("{} {}", node.called(), fault.message);
        self.error(Mistake::new(node.span, message).maybe_hint(fault.hint));
    }

    /// The value, or a note of its fault.
    pub(super) fn checked<T>(&mut self, node: Node<'_>, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.fault(node, fault)).ok()
    }

    pub(super) fn string<'t>(&mut self, node: Node<'t>) -> Option<&'t str> {
        if node.value.as_str().is_none() {
            self.wrong_type(node, "a string");
        }
        node.value.as_str()
    }

    pub(super) fn boolean(&mut self, node: Node<'_>) -> Option<bool> {
        if node.value.as_bool().is_none() {
            self.wrong_type(node, "true or false");
        }
        node.value.as_bool()
    }

    /// An integer between `least` and `most`.
    pub(super) fn integer(&mut self, node: Node<'_>, least: u64, most: u64) -> Option<u64> {
        let Some(integer) = node.value.as_integer() else {
            self.wrong_type(node, "an integer");
            return None;
        };
        let value = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
        match u64::try_from(value) {
            Ok(value) if (least..=most).contains(&value) => Some(value),
            _ => {
                let range = if most >= i64::MAX.unsigned_abs() {
                    format!("at least {least}")
                } else {
                    format!("from {least} to {most}")
                };
                self.error(Mistake::new(node.span, format!("{} must be {range}", node.called())));
                None
            }
        }
    }

    pub(super) fn array<'t>(&mut self, node: Node<'t>) -> impl Iterator<Item = Node<'t>> + use<'t> {
        let array = if let DeValue::Array(array) = node.value {
            Some(array)
        } else {
            self.wrong_type(node, "an array");
            None
        };
        array.into_iter().flat_map(move |array| node.elements(array))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, node: Node<'_>, words: &[(&str, T)]) -> Option<T> {
        let word = self.string(node)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let message = format!("unknown value {} for {}", quoted(word), node.called());
        self.error(Mistake::new(node.span, message).hint(suggest(word, &names)));
        None
    }

    pub(super) fn any_table<'t>(&mut self, node: Node<'t>) -> Option<&'t DeTable<'t>> {
        if node.value.as_table().is_none() {
            self.wrong_type(node, "a table");
        }
        node.value.as_table()
    }

    /// A table that may only have `keys`; others are noted.
    pub(super) fn table<'t>(&mut self, node: Node<'t>, keys: &'static Keys) -> Option<Table<'t>> {
        let entries = self.any_table(node)?;
        Some(self.known(entries, keys))
    }

    pub(super) fn known<'t>(&mut self, table: &'t DeTable<'t>, keys: &'static Keys) -> Table<'t> {
        for (key, node) in entries(table) {
            if !keys.names.contains(&key) {
                self.unknown_key(key, node, keys);
            } else if self.untrusted
                && let Some((_, deed)) = keys.guarded.iter().find(|(guarded, _)| *guarded == key)
            {
                let message = format!("{} is refused under --untrusted: {deed}", node.called());
                self.error(Mistake::new(node.key_span, message).hint(UNTRUSTED_HINT));
            }
        }
        Table { keys, entries: table }
    }

    fn unknown_key(&mut self, key: &str, node: Node<'_>, keys: &Keys) {
        let in_registry = keys == &keys::REGISTRY;
        if in_registry && key.eq_ignore_ascii_case("password") {
            let message = "a password in the images file is refused";
            self.error(Mistake::new(node.key_span, message).hint(PASSWORD_HINT));
            return;
        }
        let elsewhere = || keys::ALL.iter().find(|other| other.names.contains(&key));
        let of_machine = [&keys::MACHINE, &keys::MACHINE_SETTINGS].contains(&keys);
        let hint = if of_machine && elsewhere().is_some() {
            format!("`{key}` belongs into an images file")
        } else if in_registry && node.value.is_table() {
            "quote the registry's name, as in [registry.\"docker.io\"]".to_owned()
        } else if in_registry && keys::SECRETS.looks_secret(key) {
            PASSWORD_HINT.to_owned()
        } else if let Some(other) = elsewhere() {
            format!("`{key}` belongs to {}", other.table)
        } else if let Some(near) = nearest(key, keys.names.iter().copied()) {
            format!("did you mean `{near}`?")
        } else {
            format!("the keys of {} are {}", keys.table, list(keys.names))
        };
        self.error(Mistake::new(node.key_span, format!("unknown key {}", quoted(key))).hint(hint));
    }
}
