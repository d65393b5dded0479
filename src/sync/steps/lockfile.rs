//! The part of a run's wishes that comes from the lockfile beside its images file.

use std::path::Path;
use std::sync::Arc;

use super::load::Loaded;
use crate::error::{Error, InputError, shell_word};
use crate::lockfile::{Gap, Lockfile};
use crate::selection::CompiledRule;
use crate::state::{Desired, LockedImage, TagSelection};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Gives the desired images the lockfile's words, and says which it lacks; with `strict` that is an
/// error, and so is an entry too many.
pub(crate) fn use_lockfile(
    session: &Session,
    loaded: &Loaded,
    desired: &mut Desired,
    strict: bool,
) -> Result<(), VerbError> {
    let Some(place) = &loaded.lockfile else {
        return if strict { Err(no_place(loaded).into()) } else { Ok(()) };
    };
    let next = format!("run: msb-sync lock {}", shell_word(Path::new(&loaded.name)));
    let (name, images_file) = (place.name.clone(), loaded.name.clone());
    let Some(text) = place.read()? else {
        let missing = InputError::LockfileMissing { lockfile: name, images_file };
        return if strict { Err(Error::from(missing).into()) } else { Ok(()) };
    };
    let lockfile = place.parse(&text)?;
    let words = |gaps: &[Gap]| gaps.iter().map(ToString::to_string).collect::<Vec<_>>();
    if strict {
        let files = loaded.for_each_platform();
        let listed = files.iter().flat_map(|file| &file.images);
        let listed = listed.map(|image| (&image.reference, &image.platform));
        let mut selections: Vec<TagSelection> =
            files.iter().flat_map(|file| &file.selections).cloned().collect();
        lock_selections(&lockfile, &mut selections);
        let mut gaps = lockfile.gaps(listed, &selections);
        // A selection with a platform of its own is in the file for each of the others.
        gaps.dedup();
        if !gaps.is_empty() {
            let gaps = words(&gaps);
            let error = InputError::LockfileGaps { lockfile: name, images_file, gaps };
            return Err(Error::from(error).into());
        }
    }
    lock_selections(&lockfile, &mut desired.selections);
    let wanted = desired.images.iter().map(|image| (&image.reference, &image.platform));
    let mut gaps = lockfile.gaps(wanted, &desired.selections);
    gaps.retain(Gap::leaves_image_unlocked);
    if !gaps.is_empty() {
        let which = words(&gaps).join(", ");
        session.warn(format!("not in {}: {which}; {next}", place.name));
    }
    for image in &mut desired.images {
        image.locked = lockfile.fitting(&image.reference, &image.platform).map(Arc::clone);
    }
    Ok(())
}

/// Returns the file's selections of tags, each with what the lockfile chose for it.
pub(crate) fn locked_selections(loaded: &Loaded) -> Result<Vec<TagSelection>, VerbError> {
    let mut selections = loaded.file.selections.clone();
    if let Some(place) = loaded.lockfile.as_ref().filter(|_| !selections.is_empty())
        && let Some(text) = place.read()?
    {
        lock_selections(&place.parse(&text)?, &mut selections);
    }
    Ok(selections)
}

fn lock_selections(lockfile: &Lockfile, selections: &mut [TagSelection]) {
    for selection in selections {
        selection.locked = locked_choice(lockfile, selection);
    }
}

/// Returns the images that the lockfile chose for `selection`, if its rule may have done so: a
/// lockfile can be edited.
pub(crate) fn locked_choice(lockfile: &Lockfile, selection: &TagSelection) -> Option<Vec<Arc<LockedImage>>> {
    let images = lockfile.chosen(selection)?;
    let allowed = CompiledRule::new(&selection.rule)
        .is_ok_and(|rule| rule.allows(images.iter().filter_map(|image| image.reference.tag())));
    allowed.then_some(images)
}

pub(crate) fn no_place(loaded: &Loaded) -> Error {
    InputError::NoLockfile { images_file: loaded.name.clone() }.into()
}
