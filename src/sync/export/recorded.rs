//! The stand-in for a registry that is away: what is recorded and kept here.
//!
//! A tag that was looked up means what its registry says. Where the registry gives no answer, it
//! means what it meant when it was recorded, if every blob of that is kept. An answer is an answer
//! also where it is no.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::Catalog;
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::state::{Desired, DesiredImage, Observed, PullPolicy, Resolution, Verdict};
use crate::sync::steps::run::Run;
use crate::sync::verb_error::VerbError;

/// The images that a warning names, at most.
const MAX_NAMES: usize = 8;

/// Puts what is recorded and kept in the place of what registries that are away have not said of
/// images and selections, and warns of it.
pub(super) fn stand_in(
    run: Run<'_>,
    catalog: Option<&Catalog>,
    observed: &mut Observed,
) -> Result<(), VerbError> {
    let (away, mut reasons) = of_absent_registries(run.desired, observed);
    if away.images.is_empty() && away.selections.is_empty() {
        return Ok(());
    }
    let here = run.observer(catalog).observe(&away)?;
    // The proof that a rule of trust asks for has to be here, too.
    let is_here = |reference: &ImageRef| {
        matches!(here.resolutions.get(reference), Some(Resolution::AsRecorded))
            && here.verdicts.get(reference).and_then(Verdict::error).is_none()
    };
    let mut taken: BTreeMap<String, BTreeSet<ImageRef>> = BTreeMap::new();
    let mut take = |reference: &ImageRef, observed: &mut Observed| {
        taken.entry(reference.registry().to_owned()).or_default().insert(reference.clone());
        observed.resolutions.insert(reference.clone(), Resolution::AsRecorded);
        observed.verdicts.remove(reference);
        observed.verdicts.extend(here.verdicts.get(reference).map(|one| (reference.clone(), one.clone())));
    };
    for image in away.images.iter().filter(|image| is_here(&image.reference)) {
        take(&image.reference, observed);
    }
    for repository in away.selections.iter().map(|selection| &selection.repository) {
        let chosen = here.selected.iter().filter(|one| one.image.reference.repository_alone() == *repository);
        let is_blocked = here.blocked_selections.iter().any(|blocked| blocked.repository == *repository);
        // A choice that lacks something is none.
        if is_blocked || !chosen.clone().all(|one| is_here(&one.image.reference)) {
            continue;
        }
        observed.blocked_selections.retain(|blocked| blocked.repository != *repository);
        for one in chosen {
            take(&one.image.reference, observed);
            if !observed.selected.iter().any(|other| other.image.reference == one.image.reference) {
                observed.selected.push(one.clone());
            }
        }
    }
    observed.selected.sort_by(|a, b| a.image.reference.cmp(&b.image.reference));
    for (registry, images) in taken {
        let reason = reasons.remove(&registry).unwrap_or_default();
        run.session.warn(format!("{reason}; as recorded here: {}", names(&images)));
    }
    Ok(())
}

/// Finds the images and selections that could not be looked up since their registries are away, as
/// wishes that are content with what is here; and what was said of each registry.
fn of_absent_registries(desired: &Desired, observed: &Observed) -> (Desired, BTreeMap<String, String>) {
    let mut reasons = BTreeMap::new();
    let mut is_away = |reference: &ImageRef, error: &Error| {
        let away = error.is_outage();
        if away {
            let registry = reference.registry().to_owned();
            reasons.entry(registry).or_insert_with(|| error.chain().join(": "));
        }
        away
    };
    let selected = observed.selected.iter().map(|selected| &selected.image);
    let mut images: Vec<DesiredImage> = desired.images.iter().chain(selected).cloned().collect();
    images.retain(|image| match observed.resolutions.get(&image.reference) {
        Some(Resolution::Blocked(error)) => is_away(&image.reference, error),
        _ => false,
    });
    let mut selections = desired.selections.clone();
    selections.retain(|selection| {
        let mut blocked = observed.blocked_selections.iter();
        let blocked = blocked.find(|blocked| blocked.repository == selection.repository);
        blocked.is_some_and(|blocked| is_away(&blocked.repository, &blocked.error))
    });
    for image in &mut images {
        image.pull = PullPolicy::Never;
    }
    for selection in &mut selections {
        selection.pull = PullPolicy::Never;
    }
    (Desired { images, selections, ..desired.clone() }, reasons)
}

fn names(images: &BTreeSet<ImageRef>) -> String {
    let mut shown: Vec<String> = images.iter().take(MAX_NAMES).map(ToString::to_string).collect();
    if images.len() > MAX_NAMES {
        shown.push(format!("and {} more", images.len() - MAX_NAMES));
    }
    shown.join(", ")
}
