//! The changes of an image that hooks are told of, at the time when they are recorded.

use std::collections::BTreeSet;

use super::loads::Feed;
use crate::clock;
use crate::plan::{Plan, PlannedImage};
use crate::state::{Action, Hook, HookEvent, PendingHookEvent};

/// Lists, for each image of `settled`, which hooks are to be told of it: at once where neither a
/// load is to come nor an engine is out of reach, else when a run finds the image done.
pub(super) fn of_settled(
    hooks: &[Hook],
    plan: &Plan,
    settled: &BTreeSet<usize>,
    feed: &Feed<'_>,
) -> Vec<Vec<PendingHookEvent>> {
    let of = |index: &usize| {
        let image = &plan.images[*index];
        events(hooks, image, image.part_error().is_none() && feed.rows(*index).next().is_none())
    };
    settled.iter().map(of).collect()
}

/// Lists what is to be told of repairs, to be noted before anything is repaired: an image whose
/// layers are whole again shows nobody that they were not, should the run be killed before it says
/// so.
pub(super) fn of_repairs(hooks: &[Hook], plan: &Plan) -> Vec<PendingHookEvent> {
    let repairs = plan.images.iter().filter(|image| image.action == Action::Repair);
    repairs.flat_map(|image| events(hooks, image, false)).collect()
}

/// Lists, for each of `hooks` that is about it, what the plan changes of `image`: nothing, where
/// others keep it. With `is_done` nothing but the record is left to do.
pub(super) fn events(hooks: &[Hook], image: &PlannedImage, is_done: bool) -> Vec<PendingHookEvent> {
    let about = |hook: &&Hook| !image.reason.keeps_image() && hook.is_about(&image.reference, image.action);
    hooks
        .iter()
        .filter(about)
        .map(|hook| PendingHookEvent {
            hook: hook.key(),
            program: hook.program().to_owned(),
            event: HookEvent {
                time: format!("{:.3}", clock::now()),
                reference: image.reference.clone(),
                platform: image.platform.as_ref().map(ToString::to_string),
                action: image.action,
                digest: image.digest.clone().filter(|_| image.action != Action::Remove),
                previous: image.previous.clone(),
            },
            is_done,
        })
        .collect()
}
