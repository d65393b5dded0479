//! The part of an image in one engine: whether it has to be loaded, and what is to be noted of
//! references that are in the engine as they should be.

use std::sync::Arc;

use super::names::{ImageNames, Names};
use super::part::PlannedPart;
use super::reason::Reason;
use crate::digest::BlobDigest;
use crate::error::{Defect, EngineError, Error};
use crate::image_ref::ImageRef;
use crate::state::{
    EngineListing, EngineSettings, EngineState, LoadedReference, LoadedReferences, Observed, Owner, PartState,
};

/// The reason why docker's classic image store cannot have an image by its digest.
const WITHOUT_TAG: &str =
    "its image store knows no digests; write the tag before the digest, name:tag@digest";

/// A change of what is noted about a reference in an engine, while the engine is told nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// The reference is this row's now: another owner has had it loaded, the engine is the same
    /// with other settings, or lists the same image by another digest.
    Note(LoadedReference),
    /// The reference is ours no more: somebody else has put another image in its place.
    Drop(LoadedReference),
}

/// An image as an engine is to have it.
pub(super) struct Meaning<'a> {
    pub(super) owner: &'a Owner,
    pub(super) reference: &'a ImageRef,
    pub(super) digest: Option<&'a BlobDigest>,
    pub(super) manifest: Option<&'a BlobDigest>,
    pub(super) config: Option<&'a BlobDigest>,
    /// The reason why nothing can be done for the image.
    pub(super) error: Option<&'a Arc<Error>>,
}

/// Plans the part of `engine`.
pub(super) fn plan_engine(
    engine: &EngineSettings,
    image: &Meaning<'_>,
    names: &Names<'_>,
    observed: &Observed,
) -> (PlannedPart, Vec<RowChange>) {
    let none = EngineListing::default();
    let (listing, blocked) = match observed.engines.get(&engine.name) {
        Some(Ok(listing)) => (&**listing, None),
        Some(Err(error)) => (&none, Some(Arc::clone(error))),
        None => (&none, Some(Arc::new(Defect::NotLookedUp.into()))),
    };
    let ImageNames { own, of_another_file, unfit } = names.of_image(engine, image.reference, image.manifest);
    let knows_tags_alone = listing.by_config && image.reference.tag().is_none();
    let unfit = unfit.or(knows_tags_alone.then_some(WITHOUT_TAG)).map(|reason| {
        let (engine, name) = (engine.name.as_str(), image.reference.to_string());
        Arc::new(Error::from(EngineError::Unfit { engine, name, reason }))
    });
    // A config's digest means an image where the engine knows images by configs, and there alone.
    let digests: Vec<&BlobDigest> = if listing.by_config {
        image.config.into_iter().collect()
    } else {
        image.digest.into_iter().chain(image.manifest).collect()
    };
    let state = EngineState::of(engine, own, &digests, listing, (image.owner, &observed.loaded));
    let mut rows = Vec::new();
    let reason = if let Some(error) = image.error.cloned().or(blocked).or(unfit) {
        Reason::Blocked(error)
    } else if let Some(to_load) = state.to_load {
        Reason::Engine { engine: engine.name, to_load }
    } else {
        let noted = |name: &String| note(name, engine, image, (&digests, listing), &observed.loaded);
        rows.extend(state.names.iter().flat_map(noted));
        Reason::InSync
    };
    let lost = of_another_file.iter().flat_map(|name| observed.loaded.named(name));
    let lost = lost.filter(|row| row.owner == *image.owner && row.engine.is_same(engine));
    rows.extend(lost.cloned().map(RowChange::Drop));
    (PlannedPart { state: PartState::Engine(Box::new(state)), reason }, rows)
}

/// Finds out what is to be noted of `name`, under which the engine has the image.
fn note(
    name: &str,
    engine: &EngineSettings,
    image: &Meaning<'_>,
    (digests, listing): (&[&BlobDigest], &EngineListing),
    loaded: &LoadedReferences,
) -> Vec<RowChange> {
    let Some(found) = listing.images.get(name) else { return Vec::new() };
    let rows = loaded.named(name).iter().filter(|row| row.engine.is_same(engine));
    let (own, others): (Vec<_>, Vec<_>) = rows.partition(|row| row.owner == *image.owner);
    let is_listed =
        |row: &&&LoadedReference| row.listed.as_ref().is_some_and(|digest| found.contains(digest));
    let is_right = |row: &&&LoadedReference| Some(&row.manifest) == image.manifest;
    let by_another_digest = |row: &&LoadedReference| LoadedReference {
        listed: digests.iter().find(|digest| found.contains(**digest)).map(|&digest| digest.clone()),
        former: None,
        ..(*row).clone()
    };
    let row = own
        .iter()
        .find(is_listed)
        .map(|row| (*row).clone())
        .or_else(|| own.iter().find(is_right).map(by_another_digest))
        .or_else(|| others.iter().find(is_listed).map(|row| (*row).clone()));
    let Some(row) = row else {
        return own.into_iter().cloned().map(RowChange::Drop).collect();
    };
    let (owner, reference) = (image.owner.clone(), image.reference.clone());
    let row = LoadedReference { owner, reference, engine: engine.clone(), wanted: true, ..row };
    if own == [&row] { Vec::new() } else { vec![RowChange::Note(row)] }
}
