//! The names of images in engines: of several images that an engine would list under one name, one
//! has the name.
//!
//! A pin `name:tag@digest` goes by `name:tag` too, which may be another listed image's own name, or
//! another pin's. Whoever were loaded last would have the name, and every run would load again. So
//! a name is that of the image whose own it is, else that of the first image; and of two files,
//! that of the one whose image has it.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{
    Desired, DesiredImage, EngineName, EngineSettings, LoadedReference, Observed, Resolution,
};

/// The reason why an engine cannot have an image beside another one of the same file.
const OF_ANOTHER_IMAGE: &str = "another listed image has that name, and the engine knows images by no other";
/// The reason why an engine cannot have an image beside one of another file.
const OF_ANOTHER_FILE: &str =
    "an image of another images file has that name there, and the engine knows images by no other";

/// The owners of all names in the engines of a run.
pub(crate) struct Names<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    owners: BTreeMap<EngineName, BTreeMap<String, &'a ImageRef>>,
}

/// The names of one image in one engine.
#[derive(Default)]
pub(crate) struct ImageNames {
    /// The names that the image has, its own first.
    pub(crate) own: Vec<String>,
    /// The names that an image of another file has.
    pub(super) of_another_file: Vec<String>,
    /// The reason why the engine cannot have the image: it has no name that is left.
    pub(super) unfit: Option<&'static str>,
}

impl<'a> Names<'a> {
    /// Finds the owners of the names of all images of `wanted`, of those that are listed elsewhere
    /// in the file, and of tags of selections that are not carried out.
    pub(crate) fn of(desired: &'a Desired, wanted: &[&'a DesiredImage], observed: &'a Observed) -> Self {
        let mut owners: BTreeMap<EngineName, BTreeMap<String, &'a ImageRef>> = BTreeMap::new();
        let unselected = unselected(desired, observed);
        for settings in &desired.targets.engines {
            let engine = settings.name;
            let is_wanted = |image: &&&DesiredImage| {
                image.engines.as_ref().is_none_or(|engines| engines.contains(&engine))
            };
            let elsewhere = desired.listed_elsewhere.iter();
            let elsewhere = elsewhere.filter(|name| name.tag().is_some() || name.digest().is_some());
            let wanted = wanted.iter().filter(is_wanted).map(|image| &image.reference);
            let unselected = unselected.iter().filter(|row| row.engine.is_same(settings));
            let unselected = unselected.map(|row| &row.reference);
            let mut images: Vec<&ImageRef> = wanted.chain(elsewhere).chain(unselected).collect();
            images.sort_unstable();
            let owners = owners.entry(engine).or_default();
            for are_own in [true, false] {
                for image in &images {
                    let own = image.to_string();
                    for name in engine.names_of(image).into_iter().filter(|name| (*name == own) == are_own) {
                        owners.entry(name).or_insert(image);
                    }
                }
            }
        }
        Self { desired, observed, owners }
    }

    /// Finds the names of the image `reference`, which means `manifest`, in `engine`.
    pub(crate) fn of_image(
        &self,
        engine: &EngineSettings,
        reference: &ImageRef,
        manifest: Option<&BlobDigest>,
    ) -> ImageNames {
        let mut names = ImageNames::default();
        for name in engine.name.names_of(reference) {
            match self.owner(engine.name, &name) {
                Some(other) if other != reference => {
                    // One image under two references needs the name once.
                    if manifest.is_none() || self.manifest(other) != manifest {
                        names.unfit.get_or_insert(OF_ANOTHER_IMAGE);
                    }
                }
                _ if self.is_of_another_file(engine, &name, reference, manifest) => {
                    names.unfit.get_or_insert(OF_ANOTHER_FILE);
                    names.of_another_file.push(name);
                }
                _ => names.own.push(name),
            }
        }
        if !names.own.is_empty() {
            names.unfit = None;
        }
        names
    }

    /// True if a listed image is to have the name of `row` in its engine, or in one that may be the
    /// same.
    pub(super) fn are_wanted(&self, row: &LoadedReference) -> bool {
        let mut engines = self.desired.targets.engines.iter().filter(|engine| engine.may_be(&row.engine));
        engines.any(|engine| self.owner(engine.name, &row.name).is_some())
    }

    fn owner(&self, engine: EngineName, name: &str) -> Option<&'a ImageRef> {
        self.owners.get(&engine)?.get(name).copied()
    }

    /// The digest of the manifest that a reference of the file means.
    fn manifest(&self, reference: &ImageRef) -> Option<&BlobDigest> {
        match self.observed.resolutions.get(reference) {
            Some(Resolution::Resolved(image)) => Some(&image.manifest.digest),
            Some(Resolution::Locked(image)) => Some(&image.manifest),
            Some(Resolution::AsRecorded | Resolution::Blocked(_)) | None => {
                self.observed.recorded.get(reference)?.manifest_digest.as_ref()
            }
        }
    }

    /// True if another owner's image has `name` in `engine`, with another manifest than that of
    /// `reference`, whose own it is not either.
    fn is_of_another_file(
        &self,
        engine: &EngineSettings,
        name: &str,
        reference: &ImageRef,
        manifest: Option<&BlobDigest>,
    ) -> bool {
        if reference.to_string() == name {
            return false;
        }
        let rows = || self.observed.loaded.named(name).iter().filter(|row| row.engine.is_same(engine));
        let is_ours = rows().any(|row| row.owner == self.desired.owner);
        let has_it = |row: &LoadedReference| {
            let is_own = row.reference.to_string() == name;
            row.reference != *reference
                && row.owner != self.desired.owner
                && row.listed.is_some()
                && Some(&row.manifest) != manifest
                && (is_own || !is_ours || row.reference < *reference)
        };
        rows().any(has_it)
    }
}

/// The tags that engines have of repositories with a selection that is not, or not yet, carried
/// out: it may want any of them.
fn unselected<'a>(desired: &'a Desired, observed: &'a Observed) -> Vec<&'a LoadedReference> {
    let selected: BTreeSet<ImageRef> =
        observed.selected.iter().map(|selected| selected.image.reference.repository_alone()).collect();
    let is_carried_out = |repository: &ImageRef| {
        let mut blocked = observed.blocked_selections.iter();
        observed.decided.contains(repository)
            || selected.contains(repository) && blocked.all(|blocked| blocked.repository != *repository)
    };
    let selections = desired.selections.iter().map(|selection| &selection.repository);
    let open = selections.filter(|repository| !is_carried_out(repository));
    let elsewhere = desired.listed_elsewhere.iter();
    let elsewhere = elsewhere.filter(|name| name.tag().is_none() && name.digest().is_none());
    let repositories: BTreeSet<&ImageRef> = open.chain(elsewhere).collect();
    let is_unselected = |row: &&LoadedReference| {
        row.owner == desired.owner
            && row.wanted
            && row.reference.digest().is_none()
            && repositories.contains(&row.reference.repository_alone())
    };
    observed.loaded.iter().filter(is_unselected).collect()
}
