//! Typed access to the spanned TOML tree: a value of the wrong type, or a key that is not known,
//! becomes a mistake, and the reading goes on, so that one run reports everything.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use toml::de::{DeArray, DeTable, DeValue};

use super::Source;
use super::keys::{self, Keys};
use super::quoted::quoted;
use super::values::patterns::Patterns;
use super::values::{self, Fault};
use crate::diagnostic::{Mistake, Mistakes, Page, Span, list, nearest, suggest};
use crate::error::printable;

/// The hint for whoever wrote a password into the file.
const PASSWORD_HINT: &str =
    "put it into an environment variable named by `password-env`, or into a file named by `password-file`";

/// The hint for whoever wrote a key that needs trust.
const UNTRUSTED_HINT: &str = "leave it out; who trusts this file runs without --untrusted";

/// A value with its name and its places.
#[derive(Clone, Copy)]
pub(super) struct Node<'t> {
    name: &'t str,
    is_element: bool,
    pub(super) key_span: Span,
    pub(super) span: Span,
    pub(super) value: &'t DeValue<'t>,
}

impl<'t> Node<'t> {
    /// The name in messages: `` `pull` ``, or `` an entry of `mirrors` ``.
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

/// Lists the entries of a table, whatever their keys.
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
    /// True if the table has any other key than `key`.
    pub(super) fn has_more_than(&self, key: &str) -> bool {
        self.entries.keys().any(|other| other.get_ref() != key)
    }

    /// True if the table has none of the keys that it may have.
    pub(super) fn has_no_key(&self) -> bool {
        self.keys.names.iter().all(|key| self.get(key).is_none())
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

/// Reads one file: the readers of its tables note in here what is wrong, and read on.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source<'a>,
    page: &'a Page<'a>,
    /// The patterns of the file, which have one budget.
    pub(super) patterns: Patterns,
    mistakes: Mistakes,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source<'a>, page: &'a Page<'a>) -> Self {
        Self { source, page, patterns: Patterns::default(), mistakes: Mistakes::default() }
    }

    /// Names a place by the file's own name and the line, `images.toml:12`, whatever directory the
    /// file was found in.
    pub(super) fn place(&self, span: Span) -> String {
        let name = Path::new(self.source.name).file_name().map(OsStr::to_string_lossy);
        let name = name.unwrap_or(Cow::Borrowed(self.source.name));
        format!("{}:{}", printable(&name), self.page.line_of(span.start))
    }

    pub(super) fn into_mistakes(self) -> Mistakes {
        self.mistakes
    }

    // ------------------------------------------------------------------------------- what is wrong

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

    /// Takes the value of `node`, or notes its fault.
    pub(super) fn checked<T>(&mut self, node: Node<'_>, result: Result<T, Fault>) -> Option<T> {
        let note = |Fault { message, hint }| {
            let message = format!("{} {message}", node.called());
            self.error(Mistake::new(node.span, message).maybe_hint(hint));
        };
        result.map_err(note).ok()
    }

    /// Notes the fault of a name that the user chose, such as a group's; true if it has none.
    pub(super) fn named(&mut self, span: Span, what: &str, name: &str, result: Result<(), Fault>) -> bool {
        let note = |Fault { message, hint }| {
            let message = format!("{what} {} {message}", quoted(name));
            self.error(Mistake::new(span, message).maybe_hint(hint));
        };
        result.map_err(note).is_ok()
    }

    // ---------------------------------------------------------------------------- values under
    // keys

    /// Reads a text by `read`.
    pub(super) fn text<T>(
        &mut self,
        table: Table<'_>,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = table.get(key)?;
        let text = self.string(node)?;
        self.checked(node, read(text))
    }

    /// Reads a path, which is absolute then.
    pub(super) fn path(&mut self, table: Table<'_>, key: &str) -> Option<PathBuf> {
        let source = self.source;
        self.text(table, key, |text| values::path(text, source))
    }

    /// Reads true or false.
    pub(super) fn flag(&mut self, table: Table<'_>, key: &str) -> Option<bool> {
        let node = table.get(key)?;
        if node.value.as_bool().is_none() {
            self.wrong_type(node, "true or false");
        }
        node.value.as_bool()
    }

    /// Reads an integer between `least` and `most`.
    pub(super) fn number(&mut self, table: Table<'_>, key: &str, least: u64, most: u64) -> Option<u64> {
        self.integer(table.get(key)?, least, most)
    }

    /// Reads one of a few words.
    pub(super) fn word<T: Copy>(&mut self, table: Table<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let node = table.get(key)?;
        let word = self.string(node)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let message = format!("unknown value {} for {}", quoted(word), node.called());
        self.error(Mistake::new(node.span, message).hint(suggest(word, &names)));
        None
    }

    // ------------------------------------------------------------------------------- single values

    pub(super) fn string<'t>(&mut self, node: Node<'t>) -> Option<&'t str> {
        if node.value.as_str().is_none() {
            self.wrong_type(node, "a string");
        }
        node.value.as_str()
    }

    /// Reads an integer between `least` and `most`.
    pub(super) fn integer(&mut self, node: Node<'_>, least: u64, most: u64) -> Option<u64> {
        let Some(integer) = node.value.as_integer() else {
            self.wrong_type(node, "an integer");
            return None;
        };
        let digits = integer.as_str();
        let beyond = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
        let value = i128::from_str_radix(digits, integer.radix()).unwrap_or(beyond);
        match u64::try_from(value) {
            Ok(value) if (least..=most).contains(&value) => Some(value),
            _ => {
                let range = if most < i64::MAX.unsigned_abs() {
                    format!("from {least} to {most}")
                } else if value > i128::from(most) {
                    format!("at most {most}")
                } else {
                    format!("at least {least}")
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

    /// Reads a table whose keys are names that the user chose.
    pub(super) fn any_table<'t>(&mut self, node: Node<'t>) -> Option<&'t DeTable<'t>> {
        if node.value.as_table().is_none() {
            self.wrong_type(node, "a table");
        }
        node.value.as_table()
    }

    /// Reads a table that may only have `keys`.
    pub(super) fn table<'t>(&mut self, node: Node<'t>, keys: &'static Keys) -> Option<Table<'t>> {
        let entries = self.any_table(node)?;
        Some(self.known(entries, keys))
    }

    /// Notes the keys of a table that are not among `keys`, or that a stranger may not set.
    pub(super) fn known<'t>(&mut self, table: &'t DeTable<'t>, keys: &'static Keys) -> Table<'t> {
        for (key, node) in entries(table) {
            if !keys.names.contains(&key) {
                self.error(unknown_key(key, node, keys));
            } else if self.source.untrusted
                // `layers = false` names no directory.
                && !(key == "layers" && node.value.is_bool())
                && let Some((_, deed)) = keys.guarded.iter().find(|(guarded, _)| *guarded == key)
            {
                let message = format!("{} is refused under --untrusted: {deed}", node.called());
                self.error(Mistake::new(node.key_span, message).hint(UNTRUSTED_HINT));
            }
        }
        Table { keys, entries: table }
    }
}

fn unknown_key(key: &str, node: Node<'_>, keys: &Keys) -> Mistake {
    let in_registry = keys == &keys::REGISTRY;
    if in_registry && key.eq_ignore_ascii_case("password") {
        let message = "a password in the file is refused";
        return Mistake::new(node.key_span, message).hint(PASSWORD_HINT);
    }
    let elsewhere = || keys::ALL.iter().find(|other| other.names.contains(&key));
    let is_of_both = [&keys::SETTINGS, &keys::REGISTRY].iter().all(|other| other.names.contains(&key));
    let of_machine = [&keys::MACHINE, &keys::MACHINE_SETTINGS].contains(&keys);
    let in_images_file = |other: &&Keys| !other.table.starts_with("[engine.");
    let hint = if of_machine && elsewhere().is_some_and(in_images_file) {
        format!("`{key}` belongs into an images file")
    } else if in_registry && keys::SECRETS.looks_secret(key) {
        PASSWORD_HINT.to_owned()
    } else if in_registry && node.value.is_table() {
        "quote the registry's name, as in [registry.\"docker.io\"]".to_owned()
    } else if is_of_both {
        format!("`{key}` belongs to {} or {}", keys::SETTINGS.table, keys::REGISTRY.table)
    } else if let Some(other) = elsewhere() {
        format!("`{key}` belongs to {}", other.table)
    } else if let Some(near) = nearest(key, keys.names.iter().copied()) {
        format!("did you mean `{near}`?")
    } else {
        format!("the keys of {} are {}", keys.table, list(keys.names))
    };
    Mistake::new(node.key_span, format!("unknown key {}", quoted(key))).hint(hint)
}
