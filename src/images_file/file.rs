//! The whole file: settings, registries in their order, and what spans registries (images listed twice,
//! groups).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::entry::{Listed, Wanted};
use super::patterns::Patterns;
use super::reader::{Node, Notes, Table, entries};
use super::registry::{Defaults, RegistryReader};
use super::text::quoted;
use super::values::{self, Fault};
use super::{Group, ImagesFile, PULL_WORDS, Source, groups, keys};
use crate::diagnostic::{Mistake, Span};
use crate::image_ref::{ImageRef, SANDBOXES_REGISTRY};
use crate::state::{DesiredImage, Limits, Ownership, RegistrySettings, Settings, TagSelection};

const OWNERSHIP_WORDS: &[(&str, Ownership)] =
    &[("override-stat", Ownership::OverrideStat), ("none", Ownership::None)];

/// Blobs in flight, at most.
const MAX_DOWNLOADS: u64 = 64;
/// Shortest time between two looks at the tags.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the top level.
pub(super) struct FileReader<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) notes: Notes,
}

impl FileReader<'_> {
    /// `whole` is whether the tree has everything that the text says: only then can one part be compared
    /// with another.
    pub(super) fn file(&mut self, root: &DeTable<'_>, whole: bool) -> ImagesFile {
        let top = self.notes.known(root, &keys::TOP);
        let mut settings = self.settings(top.get("settings"));
        let machine = self.source.machine;
        settings.hosts_dir = settings.hosts_dir.or_else(|| machine?.hosts_dir.clone());
        let defaults = Defaults { platform: settings.platform.clone(), pull: settings.pull };

        let mut registries = Vec::new();
        let mut listed: Vec<Listed> = Vec::new();
        let tables = top.get("registry").and_then(|node| self.notes.any_table(node));
        let mut tables: Vec<(&str, Node<'_>)> = tables.into_iter().flat_map(entries).collect();
        tables.sort_by_key(|(_, node)| node.key_span);
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        let mut patterns = Patterns::default();
        for (name, node) in tables {
            let mut reader =
                RegistryReader { source: self.source, notes: &mut self.notes, patterns: &mut patterns };
            let (registry, images) = reader.read(name, node, &defaults);
            listed.extend(images);
            let Some(registry) = registry else { continue };
            self.check_two_tables(&mut names, &registry.name, node.key_span);
            registries.push(registry);
        }
        let others = machine.into_iter().flat_map(|machine| &machine.registries);
        registries.extend(others.filter(|other| !names.contains_key(&other.name)).cloned());
        listed.sort_by_key(|entry| entry.span);
        let mut groups = BTreeMap::new();
        if whole {
            self.check_twice(&listed);
            let default_registry = self.source.default_registry;
            groups = groups::resolve(top.get("groups"), &listed, default_registry, &mut self.notes);
        }
        assemble(settings, registries, listed, &groups)
    }

    /// Notes a registry that has a table already.
    pub(super) fn check_two_tables(&mut self, names: &mut BTreeMap<String, Span>, name: &str, span: Span) {
        if let Some(first) = names.insert(name.to_owned(), span) {
            let message = format!("registry {} has two tables", quoted(name));
            self.notes.error(Mistake::new(span, message).related(first, "the first one"));
        }
    }

    fn settings(&mut self, node: Option<Node<'_>>) -> Settings {
        let mut settings = Settings { platform: self.source.default_platform.clone(), ..Settings::default() };
        let Some(table) = node.and_then(|node| self.notes.table(node, &keys::SETTINGS)) else {
            return settings;
        };
        settings.layers = self.text(table, "layers", values::path);
        if let Some(mode) = self.text(table, "layers-mode", |text, _| values::mode(text)) {
            settings.layers_mode = mode;
        }
        settings.hosts_dir = self.text(table, "hosts-dir", values::path);
        if let Some(platform) = self.text(table, "platform", |text, _| values::platform(text)) {
            settings.platform = platform;
        }
        if let Some(pull) = table.get("pull").and_then(|node| self.notes.choice(node, PULL_WORDS)) {
            settings.pull = pull;
        }
        if let Some(prune) = table.get("prune").and_then(|node| self.notes.boolean(node)) {
            settings.prune = prune;
        }
        let downloads = table.get("downloads").and_then(|node| self.notes.integer(node, 1, MAX_DOWNLOADS));
        if let Some(downloads) = downloads.and_then(|downloads| usize::try_from(downloads).ok()) {
            settings.downloads = downloads;
        }
        if let Some(interval) = self.text(table, "interval", |text, _| values::duration(text, MIN_INTERVAL)) {
            settings.interval = interval;
        }
        if let Some(ownership) =
            table.get("ownership").and_then(|node| self.notes.choice(node, OWNERSHIP_WORDS))
        {
            settings.ownership = ownership;
        }
        if let Some(limits) = table.get("limits").and_then(|node| self.notes.table(node, &keys::LIMITS)) {
            settings.limits = self.limits(limits);
        }
        settings
    }

    fn limits(&mut self, table: Table<'_>) -> Limits {
        let mut limits = Limits::default();
        if let Some(size) = self.size(table, "layer-size") {
            limits.layer_size = size;
        }
        if let Some(size) = self.size(table, "manifest-size") {
            limits.manifest_size = size;
        }
        let most = i64::MAX.unsigned_abs();
        if let Some(count) = table.get("layer-entries").and_then(|node| self.notes.integer(node, 1, most)) {
            limits.layer_entries = count;
        }
        limits
    }

    /// A size as a string with a unit, or as an integer of bytes.
    fn size(&mut self, table: Table<'_>, key: &str) -> Option<u64> {
        let node = table.get(key)?;
        match node.value {
            DeValue::String(text) => self.notes.checked(node, values::size(text)),
            DeValue::Integer(_) => self.notes.integer(node, 1, i64::MAX.unsigned_abs()),
            _ => {
                self.notes.wrong_type(node, "a size such as \"64GiB\"");
                None
            }
        }
    }

    pub(super) fn text<T>(
        &mut self,
        table: Table<'_>,
        key: &str,
        read: impl FnOnce(&str, &Source<'_>) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = table.get(key)?;
        let text = self.notes.string(node)?;
        self.notes.checked(node, read(text, self.source))
    }

    /// Images listed twice, and names that would be recorded for two platforms.
    fn check_twice(&mut self, listed: &[Listed]) {
        let mut recorded: BTreeMap<ImageRef, &Listed> = BTreeMap::new();
        let mut selections: Vec<(&TagSelection, Span)> = Vec::new();
        for entry in listed {
            match &entry.wanted {
                Wanted::Image(image) => self.check_image(image, entry, &mut recorded),
                Wanted::Selection(selection) => selections.push((selection, entry.span)),
            }
        }
        selections.sort_by_key(|(selection, span)| (&selection.repository, &selection.rule, *span));
        for pair in selections.windows(2) {
            let ((first, first_span), (second, span)) = (pair[0], pair[1]);
            if (&first.repository, &first.rule) == (&second.repository, &second.rule) {
                let message = format!("the same selection of {} is listed twice", second.repository);
                self.notes.error(Mistake::new(span, message).related(first_span, "first listed here"));
            }
        }
    }

    fn check_image<'l>(
        &mut self,
        image: &DesiredImage,
        entry: &'l Listed,
        recorded: &mut BTreeMap<ImageRef, &'l Listed>,
    ) {
        for name in image.reference.recorded_names() {
            let Some(first) = recorded.get(&name) else {
                recorded.insert(name, entry);
                continue;
            };
            let Wanted::Image(first_image) = &first.wanted else { continue };
            let mistake = if first_image.platform != image.platform {
                let (one, other) = (&first_image.platform, &image.platform);
                let mistake = Mistake::new(
                    entry.span,
                    format!("{name} is wanted for two platforms: {one} and {other}"),
                );
                if first_image.reference == image.reference {
                    mistake
                } else {
                    mistake.hint(format!("an image of {SANDBOXES_REGISTRY} is recorded under docker.io, too"))
                }
            } else if first_image.reference == image.reference {
                Mistake::new(entry.span, format!("{name} is listed twice")).hint("remove one of the two")
            } else {
                continue;
            };
            self.notes.error(mistake.related(first.span, "first listed here"));
            return;
        }
    }
}

fn assemble(
    settings: Settings,
    registries: Vec<RegistrySettings>,
    listed: Vec<Listed>,
    members: &BTreeMap<String, groups::Members>,
) -> ImagesFile {
    let mut groups_of: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (name, members) in members {
        for index in members {
            groups_of.entry(*index).or_default().insert(name.clone());
        }
    }
    let mut groups: BTreeMap<String, Group> =
        members.keys().map(|name| (name.clone(), Group::default())).collect();
    let mut images = Vec::new();
    let mut selections = Vec::new();
    for (index, entry) in listed.into_iter().enumerate() {
        let names = groups_of.remove(&index).unwrap_or_default();
        match entry.wanted {
            Wanted::Image(mut image) => {
                for name in &names {
                    groups.entry(name.clone()).or_default().images.insert(image.reference.clone());
                }
                image.groups = names;
                images.push(image);
            }
            Wanted::Selection(mut selection) => {
                for name in &names {
                    groups.entry(name.clone()).or_default().selections.insert(selections.len());
                }
                selection.groups = names;
                selections.push(selection);
            }
        }
    }
    ImagesFile { settings, registries, images, selections, groups, warnings: Vec::new() }
}
