//! The wishes of an images file and its lockfile, read before the run locks the home, and again
//! inside it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::load::{ImagesText, Loaded, understand};
use super::lockfile::{locked_selections, use_lockfile};
use crate::error::InputError;
use crate::image_ref::ImageRef;
use crate::plan::{Plan, Reason};
use crate::state::{Desired, DesiredImage, Owner, PullPolicy, Stage};
use crate::sync::request::{ImagesSource, Request};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Takes from the images file, and from its lockfile, what `request` wants.
pub(crate) fn desire(session: &Session, loaded: &Loaded, request: &Request) -> Result<Desired, VerbError> {
    let settings = &loaded.file.settings;
    let layers = settings.layers.clone().unwrap_or_else(|| session.default_layers());
    let mut desired = of_groups(loaded, loaded.owner.clone(), layers, &request.groups)?;
    desired.prune |= request.prune;
    if desired.prune {
        loaded.refuse_empty(request.allow_empty)?;
    }
    use_lockfile(session, loaded, &mut desired, request.locked)?;
    if request.stage {
        stage_only(session, &mut desired, request);
    }
    if request.from.is_some() {
        // Asking a bundle costs nothing, and its word is what was asked for.
        desired.images.iter_mut().for_each(|image| image.pull = PullPolicy::Always);
        desired.selections.iter_mut().for_each(|selection| selection.pull = PullPolicy::Always);
        // Whoever carries a bundle here has chosen what is in it.
        desired.images.iter_mut().for_each(|image| image.cooldown = Duration::ZERO);
        desired.selections.iter_mut().for_each(|selection| selection.cooldown = Duration::ZERO);
    }
    take_now(session, loaded, &mut desired, &request.now)?;
    Ok(desired)
}

/// Lets the new digests of the images `now` be taken at once.
fn take_now(
    session: &Session,
    loaded: &Loaded,
    desired: &mut Desired,
    now: &[ImageRef],
) -> Result<(), VerbError> {
    for reference in now {
        let repository = reference.repository_alone();
        let is_named = |image: &DesiredImage| image.reference.recorded_names().contains(reference);
        let image = desired.images.iter_mut().find(|image| is_named(image));
        let is_selected = desired.selections.iter().any(|selection| selection.repository == repository);
        if image.is_none() && loaded.file.images.iter().any(is_named) {
            session.warn(format!("--now {reference}: the image is in none of the groups of this run"));
            continue;
        }
        if image.is_none() && !is_selected {
            let nearest = loaded.file.nearest(reference).map(ToString::to_string);
            let (images_file, reference) = (loaded.name.clone(), reference.clone());
            return Err(InputError::NotListed { option: "--now", images_file, reference, nearest }.into());
        }
        let mut reference = reference.clone();
        if let Some(image) = image {
            image.cooldown = Duration::ZERO;
            reference.clone_from(&image.reference);
            if image.locked.is_some() {
                session.warn(format!(
                    "--now {reference}: the lockfile says what it means; run: msb-sync lock --upgrade {reference}"
                ));
            }
        }
        desired.taken_now.insert(reference);
    }
    Ok(())
}

/// Tells of each image whose new digest was to be taken at once why it was not.
pub(crate) fn tell_not_taken(session: &Session, desired: &Desired, plan: &Plan) {
    for reference in &desired.taken_now {
        let image = plan.images.iter().find(|image| image.reference == *reference);
        match image.map(|image| image.held) {
            Some(Some(since)) => session.warn(format!(
                "--now {reference}: the image is {}; to let it go on: msb-sync rollback --release {reference}",
                Reason::Held { since }
            )),
            Some(None) => {}
            None => session.warn(format!("--now {reference}: the tag is not among those chosen now")),
        }
    }
}

/// Lets the run make images ready only. Engines get them later, from the kept blobs.
fn stage_only(session: &Session, desired: &mut Desired, request: &Request) {
    if request.prune {
        session.warn("--stage: nothing is removed before it is recorded what takes its place".to_owned());
    }
    let engines = std::mem::take(&mut desired.targets.engines);
    let keeps_blobs = desired.targets.keeps_blobs;
    desired.targets.keeps_blobs |= !engines.is_empty();
    (desired.stage, desired.prune) = (Some(Stage { keeps_blobs, engines }), false);
}

/// Takes the images of `groups` from the images file, or all of them where no group is named.
pub(crate) fn of_groups(
    loaded: &Loaded,
    owner: Owner,
    layers: PathBuf,
    groups: &[String],
) -> Result<Desired, VerbError> {
    Ok(loaded.file.desired(owner, layers, groups)?)
}

/// Reads the images file again, and returns what it lists now if it, or the choice of its lockfile,
/// is not what `desired` was made of; a selection of tags is there as its repository alone. `None`:
/// the file cannot be used any more, or lists nothing, so nobody knows what is wanted.
pub(crate) fn listed_meanwhile(
    session: &Session,
    loaded: &Loaded,
    desired: &Desired,
) -> Option<BTreeSet<ImageRef>> {
    // Standard input is read once.
    let Some(given) = &loaded.given else { return Some(BTreeSet::new()) };
    let text = ImagesText::read(&ImagesSource::Path(given.clone())).ok()?;
    let again = if text.digest() == loaded.digest {
        None
    } else {
        Some(understand(&session.quiet(), text).ok().filter(|again| !again.file.lists_nothing())?)
    };
    let mut listed = BTreeSet::new();
    if let Some(again) = &again {
        listed.extend(again.file.images.iter().map(|image| image.reference.clone()));
    }
    for selection in locked_selections(again.as_ref().unwrap_or(loaded)).ok()? {
        if again.is_some() || !desired.selections.contains(&selection) {
            listed.insert(selection.repository);
        }
    }
    Some(listed)
}
