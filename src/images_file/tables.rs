//! The tables of the two files, one kind of table in one file of `tables/`, and the two top levels,
//! which put them together.
//!
//! A new key is named in `keys.rs` and read in its table's file. A new table gets its keys in
//! `keys.rs`, a file of its own here, and its place in [`images_file`] or [`machine`].

mod engines;
mod entry;
mod groups;
mod on_change;
mod rate;
mod registry;
mod rules;
mod settings;
mod signer;
mod tags;
mod trust;
mod twice;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toml::de::DeTable;

use self::engines::Engines;
use self::entry::Defaults;
use self::groups::Members;
use self::trust::Rule;
use super::listed::{Listed, Wanted};
use super::machine::ForImages;
use super::quoted::quoted;
use super::reader::{Node, Reader, Table, entries};
use super::{Group, ImagesFile, MachineSettings, keys};
use crate::diagnostic::{Mistake, Problem, Span};
use crate::state::{DesiredImage, Hook, RegistrySettings, Settings, TagSelection};

/// Everything that the tables of an images file say.
pub(super) struct ImagesTables {
    settings: Settings,
    registries: Vec<RegistrySettings>,
    /// The entries of all registries, in the order of the file.
    listed: Vec<Listed>,
    groups: BTreeMap<String, Members>,
    hooks: Vec<Hook>,
    /// The environment variables that hold passwords, also of tables of the machine's that do not
    /// count.
    secret_variables: BTreeSet<String>,
}

/// Reads the top level of an images file. Only where it is `whole`, as the text is valid TOML, can
/// one part of it be compared with another.
pub(super) fn images_file(reader: &mut Reader<'_>, root: &DeTable<'_>, whole: bool) -> ImagesTables {
    let top = reader.known(root, &keys::TOP);
    let engines = Engines::read(reader, top.get("engine"), whole);
    let mut settings = settings::read(reader, top.get("settings"), &engines);
    let defaults = Defaults {
        platform: settings.platform.clone(),
        pull: settings.pull,
        cooldown: settings.cooldown,
        engines: &engines,
        needs_engine: !settings.targets.extracts && !settings.targets.keeps_blobs,
    };

    let mut registries = Vec::new();
    let mut listed: Vec<Listed> = Vec::new();
    let mut names = Names::default();
    for (name, node) in registry_tables(reader, top) {
        let Some((registry, images)) = registry::read(reader, name, node, &defaults) else { continue };
        listed.extend(images);
        names.add(reader, &registry.name, node.key_span);
        registries.push(registry);
    }
    let of_machine: &[RegistrySettings] = reader.source.machine.map_or(&[], |machine| &machine.registries);
    let all = registries.iter().chain(of_machine);
    let secret_variables = all.filter_map(|registry| registry.password_env.clone()).collect();
    registries.extend(of_machine.iter().filter(|other| !names.tables.contains_key(&other.name)).cloned());
    listed.sort_by_key(|entry| entry.span);
    let rules = trust::read(reader, top.get("trust"));
    let hooks = on_change::read(reader, top.get("on-change"));
    let mut groups = BTreeMap::new();
    if whole {
        twice::check(reader, &listed);
        trust::check(reader, &rules, &listed);
        groups = groups::resolve(top.get("groups"), &listed, reader);
    }
    settings.trust.rules = rules.into_iter().map(Rule::into_rule).collect();
    ImagesTables { settings, registries, listed, groups, hooks, secret_variables }
}

/// Everything that the tables of the machine's settings say.
pub(super) struct MachineTables {
    hosts_dir: Option<PathBuf>,
    engines: Engines,
    registries: Vec<(RegistrySettings, ForImages)>,
}

/// Reads the top level of the machine's settings.
pub(super) fn machine(reader: &mut Reader<'_>, root: &DeTable<'_>) -> MachineTables {
    let top = reader.known(root, &keys::MACHINE);
    let settings = top.get("settings").and_then(|node| reader.table(node, &keys::MACHINE_SETTINGS));
    let hosts_dir = settings.and_then(|settings| reader.path(settings, "hosts-dir"));
    let mut registries = Vec::new();
    let mut names = Names::default();
    for (name, node) in registry_tables(reader, top) {
        let Some((registry, for_images)) = registry::read_machine(reader, name, node) else { continue };
        names.add(reader, &registry.name, node.key_span);
        registries.push((registry, for_images));
    }
    let engines = Engines::read(reader, top.get("engine"), false);
    MachineTables { hosts_dir, engines, registries }
}

/// Lists the tables of `[registry]` in the order of the file.
fn registry_tables<'t>(reader: &mut Reader<'_>, top: Table<'t>) -> Vec<(&'t str, Node<'t>)> {
    let tables = top.get("registry").and_then(|node| reader.any_table(node));
    let mut tables: Vec<(&str, Node<'_>)> = tables.into_iter().flat_map(entries).collect();
    tables.sort_by_key(|(_, node)| node.key_span);
    tables
}

/// The registries that have a table, and its place.
#[derive(Default)]
struct Names {
    tables: BTreeMap<String, Span>,
}

impl Names {
    /// Adds the registry `name`, and notes if it has a table already.
    fn add(&mut self, reader: &mut Reader<'_>, name: &str, span: Span) {
        if let Some(first) = self.tables.insert(name.to_owned(), span) {
            let message = format!("registry {} has two tables", quoted(name));
            reader.error(Mistake::new(span, message).related(first, "the first one"));
        }
    }
}

impl ImagesTables {
    /// Returns the entries of all registries, in the order of the file.
    pub(super) fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// Makes the file of its tables: each entry gets all its groups.
    pub(super) fn into_file(self, warnings: Vec<Problem>) -> ImagesFile {
        let Self { settings, registries, listed, groups: members, hooks, secret_variables } = self;
        let mut groups_of: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (name, members) in &members {
            for index in members {
                groups_of.entry(*index).or_default().insert(name.clone());
            }
        }
        let mut groups: BTreeMap<String, Group> =
            members.into_keys().map(|name| (name, Group::default())).collect();
        let mut images = Vec::new();
        let mut selections = Vec::new();
        for (index, entry) in listed.into_iter().enumerate() {
            let Listed { wanted, platform, pull, cooldown, engines, .. } = entry;
            let names = groups_of.remove(&index).unwrap_or_default();
            match wanted {
                Wanted::Image(reference) => {
                    for name in &names {
                        groups.entry(name.clone()).or_default().images.insert(reference.clone());
                    }
                    images.push(DesiredImage {
                        reference,
                        platform,
                        pull,
                        groups: names,
                        engines,
                        cooldown,
                        locked: None,
                        back_to: None,
                    });
                }
                Wanted::Selection { repository, rule } => {
                    for name in &names {
                        groups.entry(name.clone()).or_default().selections.insert(selections.len());
                    }
                    let groups = names;
                    selections.push(TagSelection {
                        repository,
                        platform,
                        pull,
                        groups,
                        engines,
                        cooldown,
                        rule,
                        locked: None,
                    });
                }
            }
        }
        ImagesFile { settings, registries, images, selections, groups, hooks, secret_variables, warnings }
    }
}

impl MachineTables {
    /// Makes the machine's settings of their tables.
    pub(super) fn into_settings(self, warnings: Vec<Problem>) -> MachineSettings {
        let words = self.registries.iter();
        let for_images = words.map(|(registry, for_images)| (registry.name.clone(), *for_images)).collect();
        let registries = self.registries.into_iter().map(|(registry, _)| registry).collect();
        let engines = self.engines.settings();
        MachineSettings { registries, engines, hosts_dir: self.hosts_dir, warnings, for_images }
    }
}
