//! `registries.toml`: what all images files of a machine need to know of registries, so that none of them has to say it,
//! and so that `pull`, which has no images file, knows it too.
//!
//! The same tables as in an images file, but without images: `[registry."…"]`, and of `[settings]` only `hosts-dir`.
//! `[engine.…]` tables name programs that images are handed to; they are read, and not used yet. A table of the same name
//! in an images file that has more than `images` is taken in place of the machine's, as a whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeTable;

use super::file::FileReader;
use super::keys::{self, Keys};
use super::patterns::Patterns;
use super::reader::{Node, entries};
use super::registry::RegistryReader;
use super::text::quoted;
use super::{PULL_WORDS, Source, read, values};
use crate::diagnostic::nearest;
use crate::diagnostic::{Mistake, Problem, Problems, Span};
use crate::state::{PullPolicy, RegistrySettings};

/// The machine's settings for all images files.
#[derive(Clone, Debug, Default)]
pub struct MachineSettings {
    /// Its registries, in the order of the file.
    pub registries: Vec<RegistrySettings>,
    /// A directory of containerd `hosts.toml` files. Absolute.
    pub hosts_dir: Option<PathBuf>,
    /// What is doubtful but does not stop the run.
    pub warnings: Vec<Problem>,
    /// The policy of images of these registries that name none.
    pulls: BTreeMap<String, PullPolicy>,
}

impl MachineSettings {
    /// The settings of the registry `name`, and the pull policy that goes with them.
    pub(super) fn registry(&self, name: &str) -> Option<(&RegistrySettings, Option<PullPolicy>)> {
        let settings = self.registries.iter().find(|settings| settings.name == name)?;
        Some((settings, self.pulls.get(name).copied()))
    }

    /// These settings for a stranger's images file: how registries are reached, without all that opens their private
    /// parts (logins, headers, client certificates, and hosts files, which may have headers too).
    #[must_use]
    pub fn without_credentials(mut self) -> Self {
        self.hosts_dir = None;
        for registry in &mut self.registries {
            registry.headers.clear();
            (registry.username, registry.password_env, registry.password_file) = (None, None, None);
            (registry.client_cert, registry.client_key) = (None, None);
        }
        self
    }
}

/// Reads a machine's `registries.toml`.
///
/// # Errors
/// As for [`parse`](super::parse).
pub fn parse_machine(text: &str, source: &Source<'_>) -> Result<MachineSettings, Problems> {
    let (machine, warnings) = read(text, source, |reader, root, _| reader.machine(root))?;
    Ok(MachineSettings { warnings, ..machine })
}

impl FileReader<'_> {
    fn machine(&mut self, root: &DeTable<'_>) -> MachineSettings {
        let mut machine = MachineSettings::default();
        let top = self.notes.known(root, &keys::MACHINE);
        if let Some(settings) =
            top.get("settings").and_then(|node| self.notes.table(node, &keys::MACHINE_SETTINGS))
        {
            machine.hosts_dir = self.text(settings, "hosts-dir", values::path);
        }
        let tables = top.get("registry").and_then(|node| self.notes.any_table(node));
        let mut tables: Vec<(&str, Node<'_>)> = tables.into_iter().flat_map(entries).collect();
        tables.sort_by_key(|(_, node)| node.key_span);
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        for (name, node) in tables {
            let mut reader = RegistryReader {
                source: self.source,
                notes: &mut self.notes,
                patterns: &mut Patterns::default(),
            };
            let Some((registry, pull)) = reader.read_machine(name, node) else { continue };
            self.check_two_tables(&mut names, &registry.name, node.key_span);
            machine.pulls.extend(pull.map(|pull| (registry.name.clone(), pull)));
            machine.registries.push(registry);
        }
        if let Some(engines) = top.get("engine").and_then(|node| self.notes.any_table(node)) {
            for (name, node) in entries(engines) {
                self.engine(name, node);
            }
        }
        machine
    }

    /// `[engine.NAME]`: only its form is checked.
    fn engine(&mut self, name: &str, node: Node<'_>) {
        let engines = || keys::ENGINES.iter().map(|(name, _)| *name);
        let Some((_, keys)) = keys::ENGINES.iter().find(|(known, _)| *known == name) else {
            let hint = match nearest(name, engines()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the engines are {}", engines().map(quoted).collect::<Vec<_>>().join(", ")),
            };
            self.notes
                .error(Mistake::new(node.key_span, format!("unknown engine {}", quoted(name))).hint(hint));
            return;
        };
        let keys: &'static Keys = keys;
        let Some(table) = self.notes.table(node, keys) else { return };
        for node in keys.names.iter().filter_map(|key| table.get(key)) {
            if self.notes.string(node).is_some_and(str::is_empty) {
                self.notes.error(Mistake::new(node.span, format!("{} is empty", node.called())));
            }
        }
    }
}

impl RegistryReader<'_> {
    /// The settings of one registry's table, which has no images, and its pull policy.
    fn read_machine(&mut self, name: &str, node: Node<'_>) -> Option<(RegistrySettings, Option<PullPolicy>)> {
        let name = self.name(name, node);
        let table = self.table(node)?;
        if let Some(images) = table.get("images") {
            let of = name.as_deref().unwrap_or("NAME");
            let hint = format!(
                "list them in an images file, as in images.toml: [registry.\"{of}\"] with nothing but `images`"
            );
            let message = "`images` in the machine's settings: they belong to no image";
            self.notes.error(Mistake::new(images.key_span, message).hint(hint));
        }
        let settings = self.settings(table);
        let pull = table.get("pull").and_then(|node| self.notes.choice(node, PULL_WORDS));
        Some((RegistrySettings { name: name?, ..settings }, pull))
    }
}
