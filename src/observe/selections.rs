//! From a selection of tags to images: by the repository's tag list, or by what is recorded where no registry may
//! be asked.
//!
//! The list is read once a run and repository, whatever number of selections draws on it, and not at all where the
//! lockfile has chosen. All of them choose while it is read, so that no list is ever whole in memory. Only a choice from
//! the list, or the lockfile's, can show that an image is not wanted any more; see [`Selected::decided`].

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::lookups::Lookups;
use crate::error::{Absent, Error, RegistryError, SelectionError};
use crate::image_ref::ImageRef;
use crate::registry::Registries;
use crate::selection::{Chooser, Chosen, CompiledRule, MAX_CHOSEN, describe};
use crate::state::{
    BlockedSelection, Desired, DesiredImage, Platform, PullPolicy, RecordedImage, SelectedImage, TagSelection,
};

/// A repository with all the selections that draw on it.
pub(super) struct Repository<'a> {
    /// The repository alone.
    pub(super) name: ImageRef,
    selections: Vec<&'a TagSelection>,
    /// The platforms of images that are listed by name.
    listed: BTreeMap<ImageRef, &'a Platform>,
}

/// What became of a repository's selections.
#[derive(Clone)]
pub(super) struct Selected {
    pub(super) repository: ImageRef,
    pub(super) images: Vec<SelectedImage>,
    pub(super) blocked: Option<BlockedSelection>,
    /// Whether all choices were made, and from the list or by the lockfile.
    pub(super) decided: bool,
}

/// The tags of one choice.
struct Choice {
    tags: Vec<String>,
    /// Whether it says what is wanted, and not only what is here.
    decides: bool,
}

impl<'a> Repository<'a> {
    /// The repositories with a selection.
    pub(super) fn all(desired: &'a Desired) -> Vec<Self> {
        let mut found: BTreeMap<ImageRef, Vec<&TagSelection>> = BTreeMap::new();
        for selection in &desired.selections {
            found.entry(selection.repository.clone()).or_default().push(selection);
        }
        let named = |name: &ImageRef| {
            let twins = name.recorded_names();
            let names = desired.images.iter().flat_map(|image| {
                image.reference.recorded_names().into_iter().map(|name| (name, &image.platform))
            });
            names.filter(|(name, _)| twins.contains(&name.repository_alone())).collect()
        };
        found.into_iter().map(|(name, selections)| Self { listed: named(&name), name, selections }).collect()
    }
}

impl Lookups<'_> {
    /// Chooses the images of all selections of `repository`.
    pub(super) fn select(
        &self,
        repository: &Repository<'_>,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> Selected {
        let list = OnceLock::new();
        let mut images: BTreeMap<ImageRef, SelectedImage> = BTreeMap::new();
        let mut errors: Vec<Arc<Error>> = Vec::new();
        let mut decided = true;
        for index in 0..repository.selections.len() {
            let selection = repository.selections[index];
            match self.choose(repository, index, recorded, &list) {
                Ok(choice) => {
                    decided &= choice.decides;
                    for tag in choice.tags {
                        if let Err(error) = add(&mut images, repository, selection, &tag) {
                            errors.push(Arc::new(error));
                        }
                    }
                }
                Err(error) if errors.iter().any(|other| Arc::ptr_eq(other, &error)) => {}
                Err(error) => errors.push(error),
            }
        }
        let error = if errors.len() > 1 { Some(Arc::new(Error::Several(errors))) } else { errors.pop() };
        Selected {
            repository: repository.name.clone(),
            images: images.into_values().collect(),
            decided: decided && error.is_none(),
            blocked: error.map(|error| BlockedSelection {
                repository: repository.name.clone(),
                platform: repository.selections[0].platform.clone(),
                error,
            }),
        }
    }

    /// The tags of the selection at `index`. The choices from the list are made when they are first needed.
    fn choose(
        &self,
        repository: &Repository<'_>,
        index: usize,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
        list: &OnceLock<Result<Choices, Arc<Error>>>,
    ) -> Result<Choice, Arc<Error>> {
        let selection = repository.selections[index];
        if let Some(locked) = &selection.locked {
            let tags = locked.iter().filter_map(|image| image.reference.tag()).map(str::to_owned).collect();
            return Ok(Choice { tags, decides: true });
        }
        let rule = rule_of(selection).map_err(Arc::new)?;
        let described = describe(&selection.rule);
        let here = rule.choose(recorded_tags(repository, selection, recorded));
        let here = || Choice { tags: here.iter().map(|tag| (*tag).to_owned()).collect(), decides: false };
        let offline = self.offline && !self.registries.is_local(&repository.name);
        if selection.pull == PullPolicy::Never || offline {
            let choice = here();
            return match (choice.tags.is_empty(), offline) {
                (false, _) => Ok(choice),
                (true, true) => Err(Arc::new(Error::Offline(Absent::Tag(described)))),
                (true, false) => Err(Arc::new(Error::NeverPulled(Absent::Tag(described)))),
            };
        }
        // Without a number, only the list can tell whether some are missing.
        if selection.pull == PullPolicy::Missing {
            let choice = here();
            if rule.newest().is_some_and(|newest| choice.tags.len() >= newest) {
                return Ok(choice);
            }
        }
        let choices = list.get_or_init(|| {
            choose_from_registry(self.registries, &repository.name, &repository.selections)
                .map_err(|error| Arc::new(error.into()))
        });
        let tags = choices.as_ref().map_err(Arc::clone)?[index].clone()?;
        Ok(Choice { tags, decides: true })
    }
}

fn rule_of(selection: &TagSelection) -> Result<CompiledRule, Error> {
    CompiledRule::new(&selection.rule).map_err(|reason| SelectionError::Rule { reason }.into())
}

/// What each of several selections chooses, newest first; or why it chooses nothing.
pub(crate) type Choices = Vec<Result<Vec<String>, Arc<Error>>>;

/// What each of `selections` chooses from the tags of `repository`, in their order.
///
/// # Errors
/// The list cannot be read to its end.
pub(crate) fn choose_from_registry(
    registries: &Registries,
    repository: &ImageRef,
    selections: &[&TagSelection],
) -> Result<Choices, RegistryError> {
    let begin = || -> Vec<Result<Chooser, Arc<Error>>> {
        let rules = selections.iter().map(|selection| rule_of(selection));
        rules.map(|rule| rule.map(CompiledRule::chooser).map_err(Arc::new)).collect()
    };
    let choosers = registries.fold_tags(repository, begin, |choosers, tag| {
        choosers.iter_mut().flatten().for_each(|chooser| chooser.add(tag));
    })?;
    let choices = selections.iter().zip(choosers);
    Ok(choices.map(|(selection, chooser)| judge(selection, chooser?.finish()).map_err(Arc::new)).collect())
}

/// The chosen tags, if they are some and not too many.
fn judge(selection: &TagSelection, chosen: Chosen) -> Result<Vec<String>, Error> {
    let rule = describe(&selection.rule);
    match chosen.count {
        0 => Err(SelectionError::NoTagFits { of: chosen.of, rule }.into()),
        1..=MAX_CHOSEN => Ok(chosen.tags),
        count => Err(SelectionError::TooManyTags { rule, count, most: MAX_CHOSEN }.into()),
    }
}

/// Why a tag cannot be wanted for both platforms.
pub(crate) fn two_platforms(tag: &str, one: &Platform, other: &Platform) -> Error {
    let (tag, one, other) = (tag.to_owned(), one.to_string(), other.to_string());
    SelectionError::TwoPlatforms { tag, one, other }.into()
}

/// The tags of `repository` that are recorded in full for the selection's platform.
fn recorded_tags<'r>(
    repository: &'r Repository<'_>,
    selection: &'r TagSelection,
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
) -> impl Iterator<Item = &'r str> {
    recorded
        .values()
        .filter(|row| {
            row.reference.digest().is_none()
                && row.rows_complete
                && row.platform.as_ref() == Some(&selection.platform)
                && row.reference.repository_alone() == repository.name
        })
        .filter_map(|row| row.reference.tag())
}

/// Adds the image of `tag`, unless it is listed by name.
fn add(
    images: &mut BTreeMap<ImageRef, SelectedImage>,
    repository: &Repository<'_>,
    selection: &TagSelection,
    tag: &str,
) -> Result<(), Error> {
    // Lists hold only tags that parse, and so does the catalog.
    let Ok(reference) = repository.name.with_tag(tag) else { return Ok(()) };
    let names = reference.recorded_names();
    let taken = names.iter().find_map(|name| repository.listed.get(name).copied());
    let taken = taken.or_else(|| images.get(&reference).map(|other| &other.image.platform));
    if let Some(other) = taken.filter(|other| **other != selection.platform) {
        return Err(two_platforms(tag, other, &selection.platform));
    }
    if repository.listed.contains_key(&reference) {
        return Ok(());
    }
    let mut locked = selection.locked.iter().flatten();
    let locked = locked.find(|locked| locked.reference == reference).map(Arc::clone);
    let chosen = images.entry(reference.clone()).or_insert_with(|| SelectedImage {
        image: DesiredImage {
            reference,
            platform: selection.platform.clone(),
            pull: selection.pull,
            groups: selection.groups.clone(),
            locked: None,
        },
        rule: describe(&selection.rule),
    });
    chosen.image.locked = chosen.image.locked.take().or(locked);
    chosen.image.groups.extend(selection.groups.iter().cloned());
    Ok(())
}
