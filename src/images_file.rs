//! The images file, and the machine's `registries.toml`: TOML text to values. One run reports every
//! problem of a file, each at its line and column.
//!
//! A pure room: no file system, environment or clock. The caller passes in the directory where
//! relative paths start, the home directory, the default registry and platform; see [`Source`].
//! [`parse`] and [`parse_machine`] are the doors; [`ImagesFile::desired`] says what a run is to
//! bring about.
//!
//! Inside, `keys.rs` names every key, `tables/` has a file for each kind of table, `values/` reads
//! the texts of single values, and `reader.rs` is what the tables are read with. Tests hold the
//! keys, [`json_schema`] and [`STARTER`] together. `edit.rs` adds and removes images, and keeps
//! every other byte; `sources.rs` reads the images that other files name, such as compose files.

mod edit;
mod keys;
mod listed;
mod machine;
mod quoted;
mod reader;
mod sources;
mod syntax;
mod tables;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub(crate) use edit::{Addition, EditError, Edited, add, empty, remove};
pub use edit::{EditStatus, EditedGroup};
pub(crate) use machine::MachineSettings;
use reader::Reader;
pub use sources::UnreadLine;
pub(crate) use sources::{Found, MAX_SOURCE, read as read_source};

use crate::diagnostic::{Mistake, Page, Problem, Problems, Severity, Span, Tree, nearest};
use crate::error::InputError;
use crate::image_ref::ImageRef;
use crate::state::{Desired, DesiredImage, Hook, Owner, Platform, RegistrySettings, Settings, TagSelection};

/// The largest images file, in bytes.
pub(crate) const MAX_TEXT: usize = 8 << 20;

/// The commented file that `msb-sync init` writes.
pub(crate) const STARTER: &str = include_str!("images_file/starter.toml");

/// The JSON Schema (draft 2020-12) of the images file.
pub fn json_schema() -> &'static str {
    include_str!("images_file/schema.json")
}

/// The origin of a text, and the surroundings that it is read in.
#[derive(Clone, Debug)]
pub(crate) struct Source<'a> {
    /// The name in errors: `images.toml`, `<stdin>`.
    pub name: &'a str,
    /// The directory where relative paths start. Absolute.
    pub directory: &'a Path,
    /// The directory that `~` means; `None` where there is no home directory.
    pub home_directory: Option<&'a Path>,
    /// The registry of group members given without one.
    pub default_registry: &'a str,
    /// The platform where the file names none.
    pub default_platform: Platform,
    /// The platform that counts in place of the file's own, and of the default one.
    pub for_platform: Option<Platform>,
    /// True if a stranger may have written the file: keys that read local files, name credentials
    /// or hosts, or say where files are written are problems then.
    pub untrusted: bool,
    /// The machine's settings, which count where the file says nothing else.
    pub machine: Option<&'a MachineSettings>,
}

/// A named set of images, resolved through all groups it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// The images of the group.
    pub images: BTreeSet<ImageRef>,
    /// The selections of the group, as indices into [`ImagesFile::selections`].
    pub selections: BTreeSet<usize>,
}

/// A valid images file.
#[derive(Clone, Debug)]
pub(crate) struct ImagesFile {
    /// `[settings]`, complete with defaults.
    pub settings: Settings,
    /// Every registry table, in the order of the file, then the machine's other ones.
    pub registries: Vec<RegistrySettings>,
    /// The images, in the order of the file; no reference occurs twice.
    pub images: Vec<DesiredImage>,
    /// Entries with `tags`, in the order of the file.
    pub selections: Vec<TagSelection>,
    /// Groups by name: `[groups]` tables and entries' `groups` together.
    pub groups: BTreeMap<String, Group>,
    /// The programs that are run after images have changed, in the order of the file.
    pub hooks: Vec<Hook>,
    /// The environment variables that hold passwords of registries.
    pub secret_variables: BTreeSet<String>,
    /// Problems that are doubtful but do not stop the run.
    pub warnings: Vec<Problem>,
}

impl ImagesFile {
    /// Says what is to be true after a run for `owner`: all images are here, or those in one of
    /// `groups` (each with or without a leading `@`).
    ///
    /// # Errors
    /// A group that the file does not define, with the nearest one that it does.
    pub(crate) fn desired(
        &self,
        owner: Owner,
        layers_directory: PathBuf,
        groups: &[String],
    ) -> Result<Desired, InputError> {
        let wanted: BTreeSet<&str> =
            groups.iter().map(|group| group.strip_prefix('@').unwrap_or(group)).collect();
        self.check_groups(&wanted)?;
        let mut images = Vec::new();
        let mut listed_elsewhere = BTreeSet::new();
        for entry in &self.images {
            if wanted.is_empty() || entry.groups.iter().any(|group| wanted.contains(group.as_str())) {
                images.push(entry.clone());
            } else {
                listed_elsewhere.insert(entry.reference.clone());
            }
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        let mut selections = Vec::new();
        for selection in &self.selections {
            if wanted.is_empty() || selection.groups.iter().any(|group| wanted.contains(group.as_str())) {
                selections.push(selection.clone());
            } else {
                listed_elsewhere.insert(selection.repository.clone());
            }
        }
        let prune = self.settings.prune;
        let targets = self.settings.targets.clone();
        Ok(Desired {
            owner,
            layers_directory,
            images,
            selections,
            taken_now: BTreeSet::new(),
            listed_elsewhere,
            targets,
            prune,
            stage: None,
        })
    }

    /// True if the file lists neither an image nor a selection of tags.
    pub(crate) fn lists_nothing(&self) -> bool {
        self.images.is_empty() && self.selections.is_empty()
    }

    /// Finds the listed image that is most like `reference`: of the same repository, or of nearly
    /// the same name.
    pub(crate) fn nearest(&self, reference: &ImageRef) -> Option<&ImageRef> {
        let listed = || self.images.iter().map(|entry| &entry.reference);
        let same_repository = |other: &&ImageRef| {
            other.registry() == reference.registry() && other.repository() == reference.repository()
        };
        listed().find(same_repository).or_else(|| {
            let names: Vec<String> = listed().map(ToString::to_string).collect();
            let near = nearest(&reference.to_string(), names.iter().map(String::as_str))?;
            listed().zip(&names).find(|(_, name)| *name == near).map(|(near, _)| near)
        })
    }

    fn check_groups(&self, wanted: &BTreeSet<&str>) -> Result<(), InputError> {
        let unknown: Vec<&str> =
            wanted.iter().copied().filter(|group| !self.groups.contains_key(*group)).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        let nearest = nearest(first, self.groups.keys().map(String::as_str)).map(str::to_owned);
        let defined = self.groups.keys().take(50).cloned().collect();
        let names = unknown.into_iter().map(quoted::quoted).collect();
        Err(InputError::UnknownGroups { names, nearest, defined })
    }
}

/// Reads an images file.
///
/// # Errors
/// All problems of the file, in its order. Where the TOML itself is broken: what is wrong with it,
/// and those other problems that do not follow from it.
pub(crate) fn parse(text: &str, source: &Source<'_>) -> Result<ImagesFile, Problems> {
    let (tables, warnings) = read(text, source, tables::images_file)?;
    Ok(tables.into_file(warnings))
}

/// Reads a machine's `registries.toml`.
///
/// # Errors
/// All problems of the file, like those of [`parse`].
pub(crate) fn parse_machine(text: &str, source: &Source<'_>) -> Result<MachineSettings, Problems> {
    let (tables, warnings) = read(text, source, |reader, root, _| tables::machine(reader, root))?;
    Ok(tables.into_settings(warnings))
}

/// Says where the bytes of a file, called `name`, stop being text.
pub(crate) fn not_utf8(bytes: &[u8], name: &str) -> Problems {
    let text = String::from_utf8_lossy(bytes);
    // All before that place is the same in both.
    let at = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let page = Page::new(&text, name, keys::SECRETS.hidden(&text, &Tree::parse(&text)));
    let span = Span { start: at, end: at + char::REPLACEMENT_CHARACTER.len_utf8() };
    let mistake = Mistake::new(span, "invalid TOML: not UTF-8 text").hint("save the file as UTF-8");
    page.set(mistake, Severity::Error).into()
}

/// Reads a TOML file by `tables`, which gets the tree, and true if the tree has everything that the
/// text says. Returns the warnings, too.
fn read<T>(
    text: &str,
    source: &Source<'_>,
    tables: impl FnOnce(&mut Reader<'_>, &DeTable<'_>, bool) -> T,
) -> Result<(T, Vec<Problem>), Problems> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_TEXT {
        let message = format!("the file is larger than {} MiB", MAX_TEXT >> 20);
        let mistake = Mistake::new(Span::default(), message);
        return Err(Page::new("", source.name, Vec::new()).set(mistake, Severity::Error).into());
    }
    let tree = Tree::parse(text);
    let page = Page::new(text, source.name, keys::SECRETS.hidden(text, &tree));
    let mut reader = Reader::new(source, &page);
    let found = tables(&mut reader, tree.root(), tree.errors().is_empty());
    let mut mistakes = reader.into_mistakes();
    syntax::note(text, tree.errors(), &page, &mut mistakes);
    Ok((found, page.settle(mistakes)?))
}
