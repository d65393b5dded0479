//! Editing an images file: images are added and removed, and every other byte stays as it is.
//!
//! The text is never written anew from values: a place is found by the spans of the TOML tree, and
//! a few bytes go in or out there (`splice.rs`). So comments, order, quotes, line ends and a byte
//! order mark stay, whatever they are. What comes out is read again before anybody gets it: it has
//! to mean what the file meant before, with the change that was asked for, and nothing else.

mod groups;
mod splice;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::splice::{Array, Text};
use super::listed::{Listed, Wanted};
use super::{ImagesFile, Source, parse, read, tables, values};
use crate::diagnostic::{Problems, Tree, nearest};
use crate::image_ref::{self, DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY};
use crate::state::{DesiredImage, Hook, Platform, Settings};

/// The beginning of a file that is made for its first image.
const HEADER: &str = "\
# The container images of this machine. `msb-sync plan` shows what is to be done, `msb-sync apply` does it.
";

/// An image that a file is to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    /// The image.
    pub reference: ImageRef,
    /// The platform, where it is not that of the file.
    pub platform: Option<Platform>,
    /// The group that the image is to be in.
    pub group: Option<String>,
}

/// The effect of an edit on one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditStatus {
    /// The file lists the image now.
    Added,
    /// The file listed the image before, and has it in the group now.
    Grouped,
    /// The file had the image just so.
    Listed,
    /// The file does not list the image any more.
    Removed,
}

impl EditStatus {
    /// Returns the word for scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Grouped => "grouped",
            Self::Listed => "listed",
            Self::Removed => "removed",
        }
    }
}

/// A group of `[groups]` that an edit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedGroup {
    /// The name of the group.
    pub name: String,
    /// True if nothing was left in the group, so that it is gone.
    pub is_gone: bool,
}

/// An edited images file.
#[derive(Debug)]
pub(crate) struct Edited {
    /// The whole text.
    pub text: String,
    /// The images that were asked for, in this order. A repository alone stands for a selection of
    /// its tags.
    pub images: Vec<(ImageRef, EditStatus)>,
    /// The groups that lost members.
    pub groups: Vec<EditedGroup>,
}

/// An images file that is not edited.
#[derive(Debug)]
pub(crate) enum EditError {
    /// The file is wrong as it is.
    Problems(Problems),
    /// The file does not list an image that is to go.
    Unlisted {
        /// The image.
        reference: ImageRef,
        /// The listed image, or the selection's repository, that was probably meant.
        nearest: Option<ImageRef>,
    },
    /// The file would be wrong afterwards, as the first problem says.
    WouldBreak(Problems),
    /// The file is written in a way that this editor does not know.
    TooOdd(ImageRef),
    /// The group that an image is to be in can have no such name.
    GroupName {
        /// The name, quoted.
        name: String,
        /// The fault of the name, as a fragment.
        reason: String,
        /// The next step, where there is one.
        instead: Option<String>,
    },
}

type Result<T> = std::result::Result<T, EditError>;

/// Begins a file that lists nothing.
pub(crate) fn empty() -> &'static str {
    HEADER
}

/// Lists images in the file that `text` is.
pub(crate) fn add(text: &str, additions: &[Addition], source: &Source<'_>) -> Result<Edited> {
    let mut edited = Edited { text: text.to_owned(), images: Vec::new(), groups: Vec::new() };
    let Some(first) = additions.first() else { return Ok(edited) };
    let before = parse(text, source).map_err(EditError::Problems)?;
    for name in additions.iter().filter_map(|addition| addition.group.as_ref()) {
        values::group_name(name).map_err(|fault| EditError::GroupName {
            name: super::quoted::quoted(name),
            reason: fault.message,
            instead: fault.hint,
        })?;
    }
    let mut wanted: BTreeMap<ImageRef, (Platform, BTreeSet<String>)> = before
        .images
        .iter()
        .map(|image| (image.reference.clone(), (image.platform.clone(), image.groups.clone())))
        .collect();
    for addition in additions {
        let Addition { reference, platform, group } = addition;
        let status = if let Some((_, groups)) = wanted.get_mut(reference) {
            match group {
                Some(group) if groups.insert(group.clone()) => {
                    edited.text = in_group(&edited.text, reference, group, source)?;
                    EditStatus::Grouped
                }
                _ => EditStatus::Listed,
            }
        } else {
            let platform = platform.clone().unwrap_or_else(|| before.settings.platform.clone());
            wanted.insert(reference.clone(), (platform, group.iter().cloned().collect()));
            let entry = entry(addition);
            let added = listed_in(&edited.text, reference.registry(), &entry);
            edited.text = added.ok_or_else(|| EditError::TooOdd(reference.clone()))?;
            EditStatus::Added
        };
        edited.images.push((reference.clone(), status));
    }
    let after = reread(&edited.text, source, &first.reference)?;
    // An image that was listed before is as it was, but for its groups if it was named.
    let is_same = |image: &DesiredImage| {
        let was = before.images.iter().find(|was| was.reference == image.reference);
        let is_named = additions.iter().any(|addition| addition.reference == image.reference);
        was.is_none_or(|was| {
            *was == DesiredImage { groups: was.groups.clone(), ..image.clone() }
                && (is_named || was.groups == image.groups)
        })
    };
    let is_right = after.images.len() == wanted.len()
        && after.selections == before.selections
        && after.images.iter().all(|image| {
            wanted.get(&image.reference).is_some_and(|(platform, groups)| {
                *platform == image.platform && groups.is_subset(&image.groups) && is_same(image)
            })
        });
    if is_right && others_are_same(&before, &after) {
        Ok(edited)
    } else {
        Err(EditError::TooOdd(first.reference.clone()))
    }
}

/// Takes images, and selections whose repository is named alone, out of the file that `text` is.
pub(crate) fn remove(text: &str, unwanted: &[ImageRef], source: &Source<'_>) -> Result<Edited> {
    let before = parse(text, source).map_err(EditError::Problems)?;
    let (tables, _) = read(text, source, tables::images_file).map_err(EditError::Problems)?;
    let listed = tables.listed();
    let (mut leaving, mut images) = (BTreeSet::new(), Vec::new());
    for reference in unwanted {
        let found: Vec<usize> =
            (0..listed.len()).filter(|index| is_named(reference, &listed[*index])).collect();
        if found.is_empty() {
            return Err(EditError::Unlisted {
                reference: reference.clone(),
                nearest: near(&before, reference),
            });
        }
        images.extend(found.iter().map(|index| (named(&listed[*index]), EditStatus::Removed)));
        leaving.extend(found);
    }
    images.dedup();
    let Some(first) = unwanted.first() else {
        return Ok(Edited { text: text.to_owned(), images, groups: Vec::new() });
    };
    let too_odd = || EditError::TooOdd(first.clone());
    let mut edited = Text::new(text);
    let cuts = groups::cuts(&edited, listed, &leaving, source.default_registry);
    let groups = cuts.groups.clone();
    // They go from behind, so that no place moves before its turn.
    let mut elements: Vec<(Vec<String>, usize)> = cuts.elements;
    {
        let tree = Tree::parse(edited.body());
        for index in &leaving {
            let at = listed[*index].span.start;
            elements.push(place_of(tree.root(), at).ok_or_else(too_odd)?);
        }
    }
    elements.sort();
    for (path, index) in elements.iter().rev() {
        edited = edited.without_element(path, *index).ok_or_else(too_odd)?;
    }
    for name in &cuts.keys {
        edited = edited.without_key(&["groups".to_owned(), name.clone()]).ok_or_else(too_odd)?;
    }
    let text = edited.into_string();
    let after = reread(&text, source, first)?;
    let stays = |listed: &ImageRef| !images.iter().any(|(gone, _)| gone == listed);
    let is_right = after.images.iter().eq(before.images.iter().filter(|image| stays(&image.reference)))
        && after.selections.iter().eq(before.selections.iter().filter(|of| stays(&of.repository)));
    if is_right && others_are_same(&before, &after) {
        Ok(Edited { text, images, groups })
    } else {
        Err(too_odd())
    }
}

/// Reads what an edit for `reference` has made. Where that is no TOML any more, the file was of a form
/// that the editor took for another.
fn reread(text: &str, source: &Source<'_>, reference: &ImageRef) -> Result<ImagesFile> {
    parse(text, source).map_err(|problems| {
        let body = text.strip_prefix('\u{feff}').unwrap_or(text);
        if Tree::parse(body).errors().is_empty() {
            EditError::WouldBreak(problems)
        } else {
            EditError::TooOdd(reference.clone())
        }
    })
}

/// Tells whether two files say the same of everything but images, selections and groups, wherever
/// it stands. The second one may have tables of more registries.
fn others_are_same(before: &ImagesFile, after: &ImagesFile) -> bool {
    let is_there = |registry| after.registries.contains(registry);
    before.registries.iter().all(is_there)
        && placeless_settings(before) == placeless_settings(after)
        && placeless_hooks(before) == placeless_hooks(after)
        && before.secret_variables == after.secret_variables
}

/// Returns the settings without the places of their lines.
fn placeless_settings(file: &ImagesFile) -> Settings {
    let mut settings = file.settings.clone();
    settings.trust.rules.iter_mut().for_each(|rule| rule.place.clear());
    settings.trust.refuses_unsigned = settings.trust.refuses_unsigned.map(|_| String::new());
    settings
}

/// Returns the hooks without the places of their lines.
fn placeless_hooks(file: &ImagesFile) -> Vec<Hook> {
    file.hooks.iter().map(|hook| Hook { place: String::new(), ..hook.clone() }).collect()
}

/// Tells whether `reference` means this entry; a repository alone means its selections, and its tag
/// `latest`.
fn is_named(reference: &ImageRef, entry: &Listed) -> bool {
    match &entry.wanted {
        Wanted::Image(image) => {
            image == reference
                || image.digest().is_none()
                    && image.tag() == Some("latest")
                    && image.repository_alone() == *reference
        }
        Wanted::Selection { repository, .. } => repository == reference,
    }
}

/// Returns the image of an entry, or the repository that it selects from.
fn named(entry: &Listed) -> ImageRef {
    match &entry.wanted {
        Wanted::Image(image) => image.clone(),
        Wanted::Selection { repository, .. } => repository.clone(),
    }
}

/// Finds what was probably meant by an image that the file does not list.
fn near(file: &ImagesFile, reference: &ImageRef) -> Option<ImageRef> {
    let alone = reference.repository_alone();
    let selected = || file.selections.iter().map(|of| &of.repository).find(|of| **of == alone).cloned();
    let images = || file.nearest(reference).cloned();
    let selections = || {
        let names: Vec<String> = file.selections.iter().map(|of| of.repository.to_string()).collect();
        let near = nearest(&alone.to_string(), names.iter().map(String::as_str))?;
        file.selections.iter().map(|of| &of.repository).find(|of| of.to_string() == near).cloned()
    };
    // The same image, whatever its digest, is the nearest one.
    let same = || {
        let listed = file.images.iter().map(|image| &image.reference);
        listed.clone().find(|other| other.without_digest() == reference.without_digest()).cloned()
    };
    same().or_else(selected).or_else(images).or_else(selections)
}

/// Writes an entry as the file has it: a text, or a table where there is more to say.
fn entry(addition: &Addition) -> String {
    let Addition { reference, platform, group } = addition;
    let repository = reference.repository();
    let library = matches!(reference.registry(), DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
    let official = repository.strip_prefix("library/").filter(|rest| library && !rest.contains('/'));
    let name = official.unwrap_or(repository);
    // The grammar of references knows nothing that TOML would want escaped.
    if platform.is_none() && group.is_none() {
        let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        return format!("\"{name}{tag}{digest}\"");
    }
    let mut keys = vec![format!("name = \"{name}\"")];
    keys.extend(reference.tag().map(|tag| format!("tag = \"{tag}\"")));
    keys.extend(reference.digest().map(|digest| format!("digest = \"{digest}\"")));
    keys.extend(platform.as_ref().map(|platform| format!("platform = \"{platform}\"")));
    keys.extend(group.as_ref().map(|group| format!("groups = [{}]", quoted(group))));
    format!("{{ {} }}", keys.join(", "))
}

/// Quotes a text for TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Adds `entry` to the images of `registry`; `None` where that place has an odd form.
fn listed_in(text: &str, registry: &str, entry: &str) -> Option<String> {
    let text = Text::new(text);
    let tree = Tree::parse(text.body());
    let tables = tree.root().get("registry").map(Spanned::get_ref);
    let table = match tables {
        Some(DeValue::Table(tables)) => tables
            .iter()
            .find(|(key, _)| image_ref::registry_name(key.get_ref()).is_ok_and(|name| name == registry)),
        _ => None,
    };
    let edited = match table {
        None => text.appended(&format!("[registry.\"{registry}\"]\nimages = [\n  {entry},\n]\n")),
        Some((key, table)) => {
            let DeValue::Table(entries) = table.get_ref() else { return None };
            match entries.get("images") {
                Some(images) => {
                    let DeValue::Array(array) = images.get_ref() else { return None };
                    text.with_element(&Array::of(images.span(), array), entry)
                }
                None => text.with_key(&key.span(), &table.span(), entries, &format!("images = [{entry}]"))?,
            }
        }
    };
    Some(edited.into_string())
}

/// Puts an image that the file lists into `group`, by its own entry.
fn in_group(text: &str, reference: &ImageRef, group: &str, source: &Source<'_>) -> Result<String> {
    let too_odd = || EditError::TooOdd(reference.clone());
    let (tables, _) = read(text, source, tables::images_file).map_err(EditError::WouldBreak)?;
    let mut listed = tables.listed().iter();
    let listed = listed.find(|entry| named(entry) == *reference && matches!(entry.wanted, Wanted::Image(_)));
    let at = listed.ok_or_else(too_odd)?.span.start;
    let text = Text::new(text);
    let tree = Tree::parse(text.body());
    let (path, index) = place_of(tree.root(), at).ok_or_else(too_odd)?;
    let element = splice::array_at(tree.root(), &path).and_then(|(_, array)| array.get(index));
    let element = element.ok_or_else(too_odd)?;
    let DeValue::Table(entries) = element.get_ref() else {
        let addition =
            Addition { reference: reference.clone(), platform: None, group: Some(group.to_owned()) };
        return Ok(text.replaced(element.span(), &entry(&addition)).into_string());
    };
    let edited = match entries.get("groups") {
        Some(groups) => {
            let DeValue::Array(array) = groups.get_ref() else { return Err(too_odd()) };
            text.with_element(&Array::of(groups.span(), array), &quoted(group))
        }
        None => text
            .with_key(&element.span(), &element.span(), entries, &format!("groups = [{}]", quoted(group)))
            .ok_or_else(too_odd)?,
    };
    Ok(edited.into_string())
}

/// Finds the entry of a registry's images that begins at, or holds, the byte `at`: the path of its
/// array, and its place there.
fn place_of(root: &DeTable<'_>, at: usize) -> Option<(Vec<String>, usize)> {
    let DeValue::Table(tables) = root.get("registry")?.get_ref() else { return None };
    tables.iter().find_map(|(key, table)| {
        let DeValue::Table(entries) = table.get_ref() else { return None };
        let DeValue::Array(array) = entries.get("images")?.get_ref() else { return None };
        let index = array.iter().position(|element| element.span().contains(&at))?;
        Some((vec!["registry".to_owned(), key.get_ref().to_string(), "images".to_owned()], index))
    })
}
