//! `[engine.NAME]`: a program that images are handed to, and the engines that an entry chooses.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Mistake, Span, nearest};
use crate::images_file::keys;
use crate::images_file::quoted::quoted;
use crate::images_file::reader::{Node, Reader, entries};
use crate::images_file::values;
use crate::state::{EngineName, EngineSettings};

/// The engines of a file, and the machine's other ones.
pub(super) struct Engines {
    tables: BTreeMap<EngineName, EngineSettings>,
    /// True if nothing of the tables was lost, so that a name without a table is a mistake.
    complete: bool,
}

impl Engines {
    /// Reads the tables of `[engine]`. Only where the file is `whole` do they say which engines
    /// there are not.
    pub(super) fn read(reader: &mut Reader<'_>, node: Option<Node<'_>>, whole: bool) -> Self {
        let of_machine = reader.source.machine.into_iter().flat_map(|machine| &machine.engines);
        let tables = of_machine.map(|engine| (engine.name, engine.clone())).collect();
        let mut engines = Self { tables, complete: whole };
        let Some(node) = node else { return engines };
        let Some(table) = reader.any_table(node) else {
            engines.complete = false;
            return engines;
        };
        for (name, node) in entries(table) {
            match known(reader, name, node.key_span).and_then(|name| settings(reader, name, node)) {
                Some(settings) => {
                    engines.tables.insert(settings.name, settings);
                }
                None => engines.complete = false,
            }
        }
        engines
    }

    /// True if there surely is no engine.
    pub(super) fn are_none(&self) -> bool {
        self.complete && self.tables.is_empty()
    }

    /// Lists the engines in the order of [`EngineName::ALL`].
    pub(super) fn settings(&self) -> Vec<EngineSettings> {
        EngineName::ALL.iter().filter_map(|name| self.tables.get(name).cloned()).collect()
    }

    /// Reads an entry's choice among the engines.
    pub(super) fn chosen(&self, reader: &mut Reader<'_>, node: Node<'_>) -> BTreeSet<EngineName> {
        let mut chosen = BTreeSet::new();
        for node in reader.array(node) {
            let Some(name) = reader.string(node).and_then(|name| known(reader, name, node.span)) else {
                continue;
            };
            if self.complete && !self.tables.contains_key(&name) {
                let message = format!("no table [engine.{name}] is in this file");
                let hint = format!("add the line [engine.{name}], or leave {} out", quoted(name.as_str()));
                reader.error(Mistake::new(node.span, message).hint(hint));
            }
            chosen.insert(name);
        }
        chosen
    }
}

/// Finds the engine `name`, or notes that there is none.
fn known(reader: &mut Reader<'_>, name: &str, span: Span) -> Option<EngineName> {
    let engine = EngineName::ALL.into_iter().find(|engine| engine.as_str() == name);
    if engine.is_none() {
        let names = EngineName::ALL.map(EngineName::as_str);
        let hint = match nearest(name, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the engines are {}", names.map(quoted).join(", ")),
        };
        reader.error(Mistake::new(span, format!("unknown engine {}", quoted(name))).hint(hint));
    }
    engine
}

/// Reads the table of one engine.
fn settings(reader: &mut Reader<'_>, name: EngineName, node: Node<'_>) -> Option<EngineSettings> {
    let keys = keys::of_engine(name);
    let table = reader.table(node, keys)?;
    let source = reader.source;
    let has = |key: &str| keys.names.contains(&key);
    let mut settings = EngineSettings::new(name);
    if let Some(command) = reader.text(table, "command", |text| values::program(text, source)) {
        settings.command = command;
    }
    if has("home") {
        settings.home = reader.path(table, "home");
    }
    if has("address") {
        settings.address = reader.text(table, "address", |text| values::socket(text, source));
    }
    if has("namespace") {
        settings.namespace = reader.text(table, "namespace", values::identifier);
    }
    if has("snapshotter") {
        settings.snapshotter = reader.text(table, "snapshotter", values::identifier);
    }
    Some(settings)
}
