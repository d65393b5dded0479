//! The images that `prune` and `forget` give up: the decision, from the catalog's word alone.

use std::collections::{BTreeMap, BTreeSet};

use super::leaving::Leaving;
use super::reason::Reason;
use super::wait::Wait;
use super::{Plan, plan};
use crate::error::Unforgettable;
use crate::image_ref::ImageRef;
use crate::state::{Action, Desired, Observed, Owner, RecordedImage};

/// An image to be forgotten by one owner, or by all.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The image.
    pub reference: ImageRef,
    /// The names under which the image is recorded, its own first.
    pub names: Vec<ImageRef>,
    /// The reason, and who keeps the image all the same.
    pub reason: Reason,
    /// The names that will not be recorded any more as they are, so that nobody needs their layers
    /// for them.
    pub gone: BTreeSet<ImageRef>,
    /// The reason why the removal is put off; `None` if it is not.
    pub waits: Option<Wait>,
}

/// The images that were named to be forgotten and cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The images that nobody has recorded.
    pub unknown: Vec<ImageRef>,
    /// The recorded images, each with its reason.
    pub refused: Vec<Unforgettable>,
}

/// True if nothing of ours is left of a row when `owner` (`None`: everybody) gives it up. A row
/// that microsandbox had before us stays, with its layers.
pub(super) fn goes(row: &RecordedImage, owner: Option<&Owner>) -> bool {
    !row.preexisting && owner.is_none_or(|owner| row.owners.iter().all(|other| other == owner))
}

/// True if nobody wants the layers of a row any more when `owner` gives it up.
pub(super) fn leaves_layers(row: &RecordedImage, owner: &Owner) -> bool {
    !row.preexisting && row.extracted_for.iter().all(|other| other == owner)
}

/// Plans to give up all that the owner of `desired` has recorded and does not list any more, sorted
/// by reference. With `waits`, all of that is put off: something that is listed is not here. Of
/// `observed`, only
/// [`Observed::recorded`] counts.
pub fn removals(desired: &Desired, observed: &Observed, waits: bool) -> Vec<Removal> {
    let Plan { images, .. } = plan(&Desired { prune: true, ..desired.clone() }, observed);
    let removal = |image: super::PlannedImage| {
        let row = |name: &ImageRef| observed.recorded.get(name);
        let gone =
            image.names.iter().filter(|name| row(name).is_some_and(|row| goes(row, Some(&desired.owner))));
        let gone = gone.cloned().collect();
        let waits = if waits { Some(Wait::Images) } else { image.waits };
        Removal { reference: image.reference, reason: image.reason, gone, names: image.names, waits }
    };
    images.into_iter().filter(|image| image.action == Action::Remove).map(removal).collect()
}

/// Plans to forget `references`, whoever owns them. `recorded` is the whole catalog.
///
/// # Errors
/// Some references cannot be forgotten; then none is to be.
pub fn removals_of(
    references: &BTreeSet<ImageRef>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
) -> Result<Vec<Removal>, Refusals> {
    let (mut removals, mut refusals) = (Vec::new(), Refusals::default());
    let leaving = Leaving::of(None, references, recorded);
    for reference in references {
        match recorded.get(reference) {
            None => refusals.unknown.push(reference.clone()),
            Some(row) => match &row.alias_of {
                Some(first) if references.contains(first) => {}
                Some(first) => {
                    refusals.refused.push(Unforgettable::SecondName(reference.clone(), first.clone()));
                }
                None if row.owners.is_empty() && row.digest.is_none() => {
                    refusals.refused.push(Unforgettable::Foreign(reference.clone()));
                }
                None => removals.push(removal_of(row, &leaving, None)),
            },
        }
    }
    if refusals == Refusals::default() { Ok(removals) } else { Err(refusals) }
}

/// Plans to forget all that `owner` wants, sorted by reference. `recorded` is the whole catalog.
pub fn removals_of_owner(owner: &Owner, recorded: &BTreeMap<ImageRef, RecordedImage>) -> Vec<Removal> {
    let owned = |row: &&RecordedImage| row.alias_of.is_none() && row.owners.contains(owner);
    let rows: Vec<&RecordedImage> = recorded.values().filter(owned).collect();
    let leaving = Leaving::of(Some(owner), rows.iter().map(|row| &row.reference), recorded);
    rows.iter().map(|row| removal_of(row, &leaving, Some(owner))).collect()
}

/// Plans to forget one image for `owner`; for everybody, where that is `None`.
fn removal_of(row: &RecordedImage, leaving: &Leaving<'_>, owner: Option<&Owner>) -> Removal {
    let rows = || std::iter::once(row).chain(leaving.second_names(&row.reference).iter().copied());
    let wanted_by = if owner.is_none() { row.owners.iter().cloned().collect() } else { Vec::new() };
    // A second name that stays means what its first one means, which needs its own layers itself.
    let gone = rows().filter(|row| goes(row, owner));
    Removal {
        reference: row.reference.clone(),
        reason: Reason::AskedFor { wanted_by, remains: leaving.remains(row) },
        gone: gone.map(|row| row.reference.clone()).collect(),
        names: rows().map(|row| row.reference.clone()).collect(),
        waits: None,
    }
}
