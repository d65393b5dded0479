//! From selections of tags to images: by the lockfile, by what is recorded, or by the list of the
//! repository's tags.
//!
//! The list is read once a run and repository, whatever number of selections draws on it, and not
//! at all where none needs it. Only a choice from the list, or the lockfile's, can show that an
//! image is not wanted any more; see
//! [`Selected::decided`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chooser::{Choices, FromList, compile, two_platforms};
use crate::digest::BlobDigest;
use crate::error::{Absent, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::selection::describe;
use crate::state::{
    BlockedSelection, Desired, DesiredImage, NewTag, Owner, Platform, PullPolicy, RecordedImage,
    SelectedImage, TagSelection,
};

/// A repository with all the selections that draw on it.
pub(super) struct Repository<'a> {
    /// The repository alone.
    pub(super) name: ImageRef,
    selections: Vec<&'a TagSelection>,
    /// The images that are listed by name.
    listed: BTreeMap<&'a ImageRef, &'a Platform>,
    /// The platforms of all names under which these may be recorded.
    platforms: BTreeMap<ImageRef, &'a Platform>,
    /// The owner whose selections these are.
    owner: &'a Owner,
}

/// The result of a repository's selections.
#[derive(Clone)]
pub(super) struct Selected {
    pub(super) repository: ImageRef,
    pub(super) images: Vec<SelectedImage>,
    pub(super) blocked: Option<BlockedSelection>,
    /// The tags that would be chosen, were they not new.
    pub(super) new_tags: Vec<NewTag>,
    /// The digests of newly chosen tags that have waited, by which they are asked for.
    pub(super) admitted: BTreeMap<ImageRef, BlobDigest>,
    /// True if all choices were made, and from the list or by the lockfile.
    pub(super) decided: bool,
}

/// The tags of one choice.
struct Choice {
    tags: Vec<String>,
    /// True if the choice says what is wanted, and not only what is here.
    decides: bool,
    /// See [`FromList::gone`].
    gone: Vec<String>,
}

impl<'a> Repository<'a> {
    /// Gathers the repositories with a selection.
    pub(super) fn all(desired: &'a Desired) -> Vec<Self> {
        let mut found: BTreeMap<ImageRef, Vec<&TagSelection>> = BTreeMap::new();
        for selection in &desired.selections {
            found.entry(selection.repository.clone()).or_default().push(selection);
        }
        if found.is_empty() {
            return Vec::new();
        }
        let mut listed: BTreeMap<ImageRef, BTreeMap<&ImageRef, &Platform>> = BTreeMap::new();
        let mut platforms: BTreeMap<ImageRef, &Platform> = BTreeMap::new();
        for DesiredImage { reference, platform, .. } in &desired.images {
            listed.entry(reference.repository_alone()).or_default().insert(reference, platform);
            platforms.extend(reference.recorded_names().into_iter().map(|name| (name, platform)));
        }
        let repository = |(name, selections): (ImageRef, _)| {
            let twins = name.recorded_names();
            let of_twins = twins.iter().flat_map(|twin| ImageRef::all_of(twin, &platforms));
            Self {
                listed: listed.remove(&name).unwrap_or_default(),
                platforms: of_twins.map(|(name, platform)| (name.clone(), *platform)).collect(),
                name,
                selections,
                owner: &desired.owner,
            }
        };
        found.into_iter().map(repository).collect()
    }
}

/// A repository whose selections are decided as far as that needs no list of its tags.
pub(super) struct Deciding<'a> {
    repository: Repository<'a>,
    /// The choices in the order of the selections; `None` where only the list can tell.
    choices: Vec<Option<Result<Choice, Arc<Error>>>>,
    /// The tags that selections have chosen and that are held, each with its selection: they stay
    /// until they are released, whatever is chosen now.
    held: Vec<(&'a TagSelection, String)>,
}

impl<'a> Repository<'a> {
    /// Decides the selections that need no list: those of the lockfile, and those whose pull policy
    /// is content with what is `recorded`, or has to be because the registry must not be asked.
    pub(super) fn decide(self, recorded: &BTreeMap<ImageRef, RecordedImage>, may_ask: bool) -> Deciding<'a> {
        let choices =
            self.selections.iter().map(|selection| self.without_list(selection, recorded, may_ask)).collect();
        let unlocked = self.selections.iter().filter(|selection| selection.locked.is_none());
        let held = unlocked.flat_map(|selection| {
            let held = self.held_tags(selection, recorded).into_iter();
            held.map(|tag| (*selection, tag))
        });
        Deciding { held: held.collect(), repository: self, choices }
    }

    /// Lists the owner's tags that are held and that the rule of `selection` may choose.
    fn held_tags(
        &self,
        selection: &TagSelection,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> Vec<String> {
        let is_held = |row: &&RecordedImage| {
            row.held_itself().is_some()
                && row.owners.contains(self.owner)
                && row.reference.digest().is_none()
                && row.platform.as_ref() == Some(&selection.platform)
        };
        let rows = ImageRef::all_of(&self.name, recorded).map(|(_, row)| row);
        let tags: Vec<&str> = rows.filter(is_held).filter_map(|row| row.reference.tag()).collect();
        if tags.is_empty() {
            return Vec::new();
        }
        let Ok(rule) = compile(selection) else { return Vec::new() };
        tags.into_iter().filter(|&tag| rule.allows([tag])).map(str::to_owned).collect()
    }

    fn without_list(
        &self,
        selection: &TagSelection,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
        may_ask: bool,
    ) -> Option<Result<Choice, Arc<Error>>> {
        if let Some(locked) = &selection.locked {
            let tags = locked.iter().filter_map(|image| image.reference.tag()).map(str::to_owned).collect();
            return Some(Ok(Choice { tags, decides: true, gone: Vec::new() }));
        }
        let rule = match compile(selection) {
            Ok(rule) => rule,
            Err(error) => return Some(Err(Arc::new(error))),
        };
        let here = || {
            let tags = rule.choose(recorded_tags(&self.name, selection, recorded));
            let tags = tags.into_iter().map(str::to_owned).collect();
            Choice { tags, decides: false, gone: Vec::new() }
        };
        if selection.pull == PullPolicy::Never || !may_ask {
            let choice = here();
            let absent = Absent::Tag(describe(&selection.rule));
            return Some(match (choice.tags.is_empty(), may_ask) {
                (false, _) => Ok(choice),
                (true, false) => Err(Arc::new(Error::Offline(absent))),
                (true, true) => Err(Arc::new(Error::NeverPulled(absent))),
            });
        }
        // Without a number, only the list can tell whether some are missing.
        let newest = rule.newest().filter(|_| selection.pull == PullPolicy::Missing)?;
        let choice = here();
        (choice.tags.len() >= newest).then_some(Ok(choice))
    }
}

impl<'a> Deciding<'a> {
    /// Returns the repository alone.
    pub(super) fn name(&self) -> &ImageRef {
        &self.repository.name
    }

    /// Lists the tags of the repository that are listed by name, each with its platform.
    pub(super) fn listed_tags(&self) -> impl Iterator<Item = (&str, &Platform)> {
        let listed = self.repository.listed.iter().filter(|(name, _)| name.digest().is_none());
        listed.filter_map(|(name, platform)| Some((name.tag()?, *platform)))
    }

    /// Lists the tags that the owner has of the repository: those that a selection may have chosen
    /// before. The tags of others are no choice of the selection.
    pub(super) fn taken_tags<'r>(
        &'r self,
        selection: &'r TagSelection,
        recorded: &'r BTreeMap<ImageRef, RecordedImage>,
    ) -> impl Iterator<Item = &'r str> {
        let Repository { name, owner, .. } = &self.repository;
        let is_ours = move |tag: &&str| {
            let row = name.with_tag(tag).ok().and_then(|reference| recorded.get(&reference));
            row.is_some_and(|row| row.alias_of.is_none() && row.owners.contains(owner))
        };
        recorded_tags(name, selection, recorded).filter(is_ours)
    }

    /// Returns the selections that only the list can decide.
    pub(super) fn open(&self) -> Vec<&'a TagSelection> {
        let selections = self.repository.selections.iter().zip(&self.choices);
        selections.filter(|(_, choice)| choice.is_none()).map(|(selection, _)| *selection).collect()
    }

    /// Turns the choices into images, with `from_list` in the places of the open selections.
    pub(super) fn finish(self, from_list: Result<Choices, RegistryError>) -> Selected {
        let Self { repository, choices, held } = self;
        let (mut from_list, unlisted) = match from_list {
            Ok(choices) => (choices.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(Arc::new(Error::from(error)))),
        };
        let mut images: BTreeMap<ImageRef, SelectedImage> = BTreeMap::new();
        let mut errors: Vec<Arc<Error>> = Vec::new();
        let mut decided = true;
        for (selection, choice) in repository.selections.iter().zip(choices) {
            let choice = choice.unwrap_or_else(|| {
                let tags = match &unlisted {
                    Some(error) => Err(Arc::clone(error)),
                    // The asker answers for every open selection.
                    None => from_list.next().unwrap_or_else(|| Ok(FromList::default())),
                };
                tags.map(|FromList { tags, gone, .. }| Choice { tags, decides: true, gone })
            });
            match choice {
                Ok(choice) => {
                    decided &= choice.decides;
                    for tag in choice.tags.iter().chain(&choice.gone) {
                        match add(&mut images, &repository, selection, tag) {
                            // Nobody is asked for what the registry has not.
                            Ok(Some(image)) if choice.gone.contains(tag) => image.pull = PullPolicy::Missing,
                            Ok(_) => {}
                            Err(error) => errors.push(Arc::new(error)),
                        }
                    }
                }
                Err(error) if errors.iter().any(|other| Arc::ptr_eq(other, &error)) => {}
                Err(error) => errors.push(error),
            }
        }
        for (selection, tag) in held {
            if let Err(error) = add(&mut images, &repository, selection, &tag) {
                errors.push(Arc::new(error));
            }
        }
        let error = if errors.len() > 1 { Some(Arc::new(Error::Several(errors))) } else { errors.pop() };
        Selected {
            repository: repository.name.clone(),
            images: images.into_values().collect(),
            decided: decided && error.is_none(),
            new_tags: Vec::new(),
            admitted: BTreeMap::new(),
            blocked: error.map(|error| BlockedSelection {
                repository: repository.name.clone(),
                platform: repository.selections[0].platform.clone(),
                error,
            }),
        }
    }
}

/// Returns the tags of `repository` that are recorded in full for the selection's platform.
fn recorded_tags<'r>(
    repository: &'r ImageRef,
    selection: &'r TagSelection,
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
) -> impl Iterator<Item = &'r str> {
    ImageRef::all_of(repository, recorded)
        .filter(|(name, row)| {
            name.digest().is_none() && row.rows_complete && row.platform.as_ref() == Some(&selection.platform)
        })
        .filter_map(|(name, _)| name.tag())
}

/// Adds the image of `tag`, unless it is listed by name, and returns it.
fn add<'i>(
    images: &'i mut BTreeMap<ImageRef, SelectedImage>,
    repository: &Repository<'_>,
    selection: &TagSelection,
    tag: &str,
) -> Result<Option<&'i mut DesiredImage>, Error> {
    // Lists hold only tags that parse, and so does the catalog.
    let Ok(reference) = repository.name.with_tag(tag) else { return Ok(None) };
    let names = reference.recorded_names();
    let taken = names.iter().find_map(|name| repository.platforms.get(name).copied());
    let taken = taken.or_else(|| images.get(&reference).map(|other| &other.image.platform));
    if let Some(other) = taken.filter(|other| **other != selection.platform) {
        return Err(two_platforms(tag, other, &selection.platform));
    }
    if repository.listed.contains_key(&reference) {
        return Ok(None);
    }
    let mut locked = selection.locked.iter().flatten();
    let locked = locked.find(|locked| locked.reference == reference).map(Arc::clone);
    let chosen = images.entry(reference.clone()).or_insert_with(|| SelectedImage {
        image: DesiredImage {
            reference,
            platform: selection.platform.clone(),
            pull: selection.pull,
            groups: selection.groups.clone(),
            engines: selection.engines.clone(),
            cooldown: selection.cooldown,
            locked: None,
            back_to: None,
        },
        rule: describe(&selection.rule),
    });
    chosen.image.locked = chosen.image.locked.take().or(locked);
    chosen.image.cooldown = chosen.image.cooldown.max(selection.cooldown);
    chosen.image.groups.extend(selection.groups.iter().cloned());
    // Of two selections that chose the image, one without a word means all engines.
    chosen.image.engines = match (chosen.image.engines.take(), &selection.engines) {
        (Some(mut engines), Some(others)) => {
            engines.extend(others);
            Some(engines)
        }
        _ => None,
    };
    Ok(Some(&mut chosen.image))
}
