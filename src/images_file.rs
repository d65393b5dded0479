//! The images file: TOML text to values, with every problem of the file reported in one run, each at its
//! line and column (SPEC, section 2).
//!
//! A pure room: no file system, environment or clock. The caller passes in where relative paths start,
//! the home directory, the default registry and platform; see [`Source`]. [`parse`] is the one door;
//! [`ImagesFile::desired`] says what a run is to bring about. The key lists of `keys.rs`, [`json_schema`]
//! and [`STARTER`] are held together by tests.

mod entry;
mod groups;
mod keys;
mod problem;
mod reader;
mod registry;
mod secrets;
mod text;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use entry::{Listed, Wanted};
use problem::{Draft, Notes, Page, Span};
pub use problem::{Problem, Problems, Severity};
use reader::{Node, Table, entries};
use registry::{Defaults, RegistryReader};
use values::Fault;

use crate::image_ref::{ImageRef, SANDBOXES_REGISTRY};
use crate::state::{
    Desired, DesiredImage, Limits, Owner, Ownership, Platform, PullPolicy, RegistrySettings, Settings,
};

/// Largest images file, in bytes.
pub const MAX_TEXT: usize = 8 << 20;

/// The commented file that `msb-sync init` writes.
pub const STARTER: &str = include_str!("images_file/starter.toml");

/// The JSON Schema (draft 2020-12) of the images file.
pub fn json_schema() -> &'static str {
    include_str!("images_file/schema.json")
}

const PULL_WORDS: &[(&str, PullPolicy)] =
    &[("always", PullPolicy::Always), ("missing", PullPolicy::Missing), ("never", PullPolicy::Never)];
const OWNERSHIP_WORDS: &[(&str, Ownership)] =
    &[("override-stat", Ownership::OverrideStat), ("none", Ownership::None)];

/// Blobs in flight, at most.
const MAX_DOWNLOADS: u64 = 64;
/// Shortest time between two looks at the tags.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Where a text comes from, and what it is read against.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// As shown in errors: `images.toml`, `<stdin>`.
    pub name: &'a str,
    /// Where relative paths start; absolute.
    pub directory: &'a Path,
    /// What `~` means; `None` where there is no home directory.
    pub home_directory: Option<&'a Path>,
    /// The registry of group members given without one.
    pub default_registry: &'a str,
    /// The platform where the file names none.
    pub default_platform: Platform,
}

/// One image that the file lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEntry {
    /// Which.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// Every group it is in, by its own entry or by `[groups]`, directly or through other groups.
    pub groups: BTreeSet<String>,
    /// Its line in the file, from 1.
    pub line: usize,
}

/// A moving selection of one repository's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSelection {
    /// The registry's name.
    pub registry: String,
    /// The repository, with `library/` where it was added.
    pub repository: String,
    /// For which platform.
    pub platform: Platform,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// Every group it is in, by its own entry or by `[groups]`, directly or through other groups.
    pub groups: BTreeSet<String>,
    /// Its line in the file, from 1.
    pub line: usize,
    /// A range that `semver::VersionReq` parses.
    pub semver: Option<String>,
    /// A pattern that `regex` compiles, already anchored as a whole: `^(?:…)$`.
    pub matching: Option<String>,
    /// How many, the newest first; `None`: all that fit.
    pub newest: Option<NonZeroUsize>,
}

/// A named set of images, resolved through all groups it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its images.
    pub images: BTreeSet<ImageRef>,
    /// Its selections, as indices into [`ImagesFile::selections`].
    pub selections: BTreeSet<usize>,
}

/// A valid images file.
#[derive(Clone, Debug)]
pub struct ImagesFile {
    /// `[settings]`, complete with defaults.
    pub settings: Settings,
    /// Every registry table, in the order of the file.
    pub registries: Vec<RegistrySettings>,
    /// The images, in the order of the file; no reference occurs twice.
    pub images: Vec<ImageEntry>,
    /// Entries with `tags`, in the order of the file.
    pub selections: Vec<TagSelection>,
    /// Groups by name: `[groups]` tables and entries' `groups` together.
    pub groups: BTreeMap<String, Group>,
    /// What is doubtful but does not stop the run.
    pub warnings: Vec<Problem>,
    unsupported: Vec<Problem>,
}

/// `--group` names that the file does not define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownGroups {
    unknown: Vec<String>,
    hint: String,
}

impl UnknownGroups {
    /// The next step: the nearest valid name, or all of them.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for UnknownGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.unknown.len() == 1 { "" } else { "s" };
        write!(f, "unknown group{plural} {}", self.unknown.join(", "))
    }
}

impl std::error::Error for UnknownGroups {}

impl ImagesFile {
    /// What is to be true after a run for `owner`: all images, or those in one of `groups`
    /// (each with or without a leading `@`).
    ///
    /// # Errors
    /// A group that the file does not define, with the nearest one that it does.
    pub fn desired(&self, owner: Owner, groups: &[String]) -> Result<Desired, UnknownGroups> {
        let wanted: BTreeSet<&str> =
            groups.iter().map(|group| group.strip_prefix('@').unwrap_or(group)).collect();
        self.check_groups(&wanted)?;
        let mut images = Vec::new();
        let mut listed_elsewhere = BTreeSet::new();
        for entry in &self.images {
            if wanted.is_empty() || entry.groups.iter().any(|group| wanted.contains(group.as_str())) {
                images.push(DesiredImage {
                    reference: entry.reference.clone(),
                    platform: entry.platform.clone(),
                    pull: entry.pull,
                    groups: entry.groups.clone(),
                });
            } else {
                listed_elsewhere.insert(entry.reference.clone());
            }
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(Desired { owner, images, listed_elsewhere, prune: self.settings.prune })
    }

    fn check_groups(&self, wanted: &BTreeSet<&str>) -> Result<(), UnknownGroups> {
        let unknown: Vec<&str> =
            wanted.iter().copied().filter(|group| !self.groups.contains_key(*group)).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        let names: Vec<&str> = self.groups.keys().map(String::as_str).take(50).collect();
        let hint = if self.groups.is_empty() {
            "the images file defines no groups".to_owned()
        } else {
            match text::nearest(first, self.groups.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the images file has {}", text::list(&names)),
            }
        };
        Err(UnknownGroups { unknown: unknown.into_iter().map(text::quoted).collect(), hint })
    }

    /// Keys in the file that are valid but have no effect yet; a run must refuse rather than ignore them.
    /// The list of such keys is `NOT_YET` in `keys.rs`.
    pub fn unsupported(&self) -> Option<Problems> {
        (!self.unsupported.is_empty()).then(|| Problems::new(self.unsupported.clone()))
    }
}

/// Reads an images file.
///
/// # Errors
/// All problems of the file, in its order. Where the TOML itself is broken: what is wrong with it, and
/// those other problems that do not follow from it.
pub fn parse(text: &str, source: &Source<'_>) -> Result<ImagesFile, Problems> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut notes = Notes::default();
    if text.len() > MAX_TEXT {
        let message = format!("the images file is larger than {} MiB", MAX_TEXT >> 20);
        notes.error(Draft::new(Span { start: 0, end: 0 }, message));
        return Err(notes.into_errors(&Page::new("", source.name, Vec::new())));
    }
    let (root, syntax) = DeTable::parse_recoverable(text);
    let hidden = secrets::hidden_ranges(text, root.get_ref(), !syntax.is_empty());
    let page = Page::new(text, source.name, hidden);
    let mut reader = FileReader { source, page: &page, notes };
    let file = reader.file(root.get_ref(), syntax.is_empty());
    let mut notes = reader.notes;
    dismantle(root.into_inner());
    if !syntax.is_empty() {
        note_syntax(text, &syntax, &page, &mut notes);
    }
    if notes.has_errors() {
        return Err(notes.into_errors(&page));
    }
    let warnings = page.set_all(notes.warnings, Severity::Warning);
    let unsupported = page.set_all(notes.unsupported, Severity::Error);
    Ok(ImagesFile { warnings, unsupported, ..file })
}

/// Drops a tree without recursion: dotted keys in nested inline tables make it deep enough to exhaust a
/// thread's stack.
fn dismantle(root: DeTable<'_>) {
    let mut work: Vec<DeValue<'_>> = vec![DeValue::Table(root)];
    while let Some(value) = work.pop() {
        match value {
            DeValue::Table(table) => work.extend(table.into_iter().map(|(_, value)| value.into_inner())),
            DeValue::Array(array) => work.extend(array.into_iter().map(toml::Spanned::into_inner)),
            _ => {}
        }
    }
}

/// Adds the syntax errors, and drops what probably only follows from them.
fn note_syntax(text: &str, errors: &[toml::de::Error], page: &Page<'_>, notes: &mut Notes) {
    let span = |error: &toml::de::Error| Span::from(error.span().unwrap_or(0..0));
    let mut sorted: Vec<&toml::de::Error> = errors.iter().collect();
    sorted.sort_by_key(|error| span(error));
    let unclosed = |error: &toml::de::Error| {
        ["unclosed array", "unclosed inline table", "invalid multi-line"]
            .iter()
            .any(|start| error.message().starts_with(start))
    };
    let mut lines = BTreeSet::new();
    let first_line = sorted.first().map_or(0, |error| page.line_of(span(error).start));
    if sorted.iter().any(|error| unclosed(error)) {
        // What follows was read as part of the unclosed value: none of it can be judged.
        notes.retain_errors(|at| page.line_of(at.start) < first_line);
        let first = sorted.first().copied();
        sorted.retain(|error| unclosed(error) || first.is_some_and(|first| std::ptr::eq(first, *error)));
    } else {
        let broken: BTreeSet<usize> = sorted.iter().map(|error| page.line_of(span(error).start)).collect();
        notes.retain_errors(|at| !broken.contains(&page.line_of(at.start)));
    }
    for error in sorted {
        let span = span(error);
        // The first error of a line is the cause, the others its echoes.
        if lines.insert(page.line_of(span.start)) {
            notes.error(syntax_draft(error.message(), text.get(span.start..span.end).unwrap_or(""), span));
        }
    }
}

fn syntax_draft(message: &str, at: &str, span: Span) -> Draft {
    match message {
        "duplicate key" => Draft::new(span, format!("duplicate key {}", text::quoted(at))),
        "recursion limit" => Draft::new(span, "invalid TOML: keys or values nest too deeply"),
        _ if message.starts_with("string values must be quoted") && at.is_empty() => {
            Draft::new(span, "invalid TOML: a value is missing")
        }
        _ if message.starts_with("string values must be quoted")
            || message.starts_with("invalid float, expected `")
            || message.starts_with("invalid boolean") =>
        {
            Draft::new(span, "invalid TOML: not a value").hint("text goes in double quotes: \"…\"")
        }
        _ => Draft::new(span, format!("invalid TOML: {message}")),
    }
}

struct FileReader<'a> {
    source: &'a Source<'a>,
    page: &'a Page<'a>,
    notes: Notes,
}

impl FileReader<'_> {
    /// `whole` is whether the tree has everything that the text says: only then can one part be compared
    /// with another.
    fn file(&mut self, root: &DeTable<'_>, whole: bool) -> ImagesFile {
        let top = self.notes.known(root, &keys::TOP);
        let settings = self.settings(top.get("settings"));
        let defaults = Defaults { platform: settings.platform.clone(), pull: settings.pull };

        let mut registries = Vec::new();
        let mut listed: Vec<Listed> = Vec::new();
        let tables = top.get("registry").and_then(|node| self.notes.any_table(node));
        let mut tables: Vec<(&str, Node<'_>)> = tables.into_iter().flat_map(entries).collect();
        tables.sort_by_key(|(_, node)| node.key_span);
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        for (name, node) in tables {
            let mut reader = RegistryReader { source: self.source, page: self.page, notes: &mut self.notes };
            let (registry, images) = reader.read(name, node, &defaults);
            listed.extend(images);
            let Some(registry) = registry else { continue };
            if let Some(first) = names.insert(registry.name.clone(), node.key_span) {
                let message = format!("registry {} has two tables", text::quoted(&registry.name));
                self.notes.error(Draft::new(node.key_span, message).related(first, "the first one"));
            }
            registries.push(registry);
        }
        listed.sort_by_key(|entry| entry.span);
        let mut groups = BTreeMap::new();
        if whole {
            self.check_twice(&listed);
            let default_registry = self.source.default_registry;
            groups = groups::resolve(top.get("groups"), &listed, default_registry, &mut self.notes);
        }
        assemble(settings, registries, listed, &groups)
    }

    fn settings(&mut self, node: Option<Node<'_>>) -> Settings {
        let mut settings = Settings { platform: self.source.default_platform.clone(), ..Settings::default() };
        let Some(table) = node.and_then(|node| self.notes.table(node, &keys::SETTINGS)) else {
            return settings;
        };
        settings.layers = self.text(table, "layers", values::path);
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

    fn text<T>(
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
        selections.sort_by_key(|(selection, span)| {
            (
                &selection.registry,
                &selection.repository,
                &selection.semver,
                &selection.matching,
                selection.newest,
                *span,
            )
        });
        for pair in selections.windows(2) {
            let ((first, first_span), (second, span)) = (pair[0], pair[1]);
            let key = |it: &TagSelection| {
                (
                    it.registry.clone(),
                    it.repository.clone(),
                    it.semver.clone(),
                    it.matching.clone(),
                    it.newest,
                )
            };
            if key(first) == key(second) {
                let message = format!(
                    "the same selection of {}/{} is listed twice",
                    second.registry, second.repository
                );
                self.notes.error(Draft::new(span, message).related(first_span, "first listed here"));
            }
        }
    }

    fn check_image<'l>(
        &mut self,
        image: &ImageEntry,
        entry: &'l Listed,
        recorded: &mut BTreeMap<ImageRef, &'l Listed>,
    ) {
        for name in image.reference.recorded_names() {
            let Some(first) = recorded.get(&name) else {
                recorded.insert(name, entry);
                continue;
            };
            let Wanted::Image(first_image) = &first.wanted else { continue };
            let draft = if first_image.platform != image.platform {
                let (one, other) = (&first_image.platform, &image.platform);
                let draft =
                    Draft::new(entry.span, format!("{name} is wanted for two platforms: {one} and {other}"));
                if first_image.reference == image.reference {
                    draft
                } else {
                    draft.hint(format!("an image of {SANDBOXES_REGISTRY} is recorded under docker.io, too"))
                }
            } else if first_image.reference == image.reference {
                Draft::new(entry.span, format!("{name} is listed twice")).hint("remove one of the two")
            } else {
                continue;
            };
            self.notes.error(draft.related(first.span, "first listed here"));
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
    ImagesFile {
        settings,
        registries,
        images,
        selections,
        groups,
        warnings: Vec::new(),
        unsupported: Vec::new(),
    }
}
