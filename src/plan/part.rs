//! The parts of an image in a plan, and how they decide together what happens to the image.

use super::reason::Reason;
use crate::state::{Action, PartState};

/// The order in which the actions of an image's parts decide about the image: the first one that a
/// part has is the image's own.
const DECIDING: [Action; 6] =
    [Action::Add, Action::Update, Action::Repair, Action::Blocked, Action::Keep, Action::Remove];

/// One part of an image, with what is to be done about it.
#[derive(Clone, Debug)]
pub struct PlannedPart {
    /// The state of the part before the plan is carried out.
    pub state: PartState,
    /// The reason for what is to be done.
    pub reason: Reason,
}

impl PlannedPart {
    /// The action on this part.
    pub fn action(&self) -> Action {
        self.reason.action()
    }
}

/// The part that decides about the image; of several with one action, the first. `None` where there
/// are no parts.
pub(super) fn deciding(parts: &[PlannedPart]) -> Option<&PlannedPart> {
    DECIDING.iter().find_map(|action| parts.iter().find(|part| part.action() == *action))
}
