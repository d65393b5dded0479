//! Moving selections of tags: the rule, what it is for, and the choice that a lockfile keeps of it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::engine::EngineName;
use super::locked::LockedImage;
use super::platform::Platform;
use super::settings::PullPolicy;
use crate::image_ref::ImageRef;

/// The rule by which a moving selection chooses tags, as the images file writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagRule {
    /// Ranges that `semver::VersionReq` parses, of which a tag's version has to be in one; none:
    /// any tag will do.
    pub semver: Vec<String>,
    /// A pattern that `regex` compiles, already anchored as a whole: `^(?:…)$`. The text that its
    /// group `order` matches says which tag is newer.
    pub matching: Option<String>,
    /// The number of tags, the newest first; `None`: all that fit.
    pub newest: Option<NonZeroUsize>,
}

/// A moving selection of one repository's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSelection {
    /// The repository alone.
    pub repository: ImageRef,
    /// The platform of the chosen images.
    pub platform: Platform,
    /// The policy that says when to ask the registry.
    pub pull: PullPolicy,
    /// Every group that the selection is in, by its own entry or by `[groups]`, directly or through
    /// other groups.
    pub groups: BTreeSet<String>,
    /// The engines that are to have the chosen images; `None`: all of the run.
    pub engines: Option<BTreeSet<EngineName>>,
    /// The time for which a newly chosen tag has to be seen before it is taken.
    pub cooldown: Duration,
    /// The rule that chooses among the repository's tags.
    pub rule: TagRule,
    /// The images that the lockfile says were chosen, newest first.
    pub locked: Option<Vec<Arc<LockedImage>>>,
}

/// The tags that a moving selection chose when its lockfile was written. They stand for a selection
/// of the same repository, platform and rule; whoever changes one of these asks for another choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedSelection {
    /// The repository alone.
    pub repository: ImageRef,
    /// The platform of the chosen images.
    pub platform: Platform,
    /// The rule that chose.
    pub rule: TagRule,
    /// The chosen tags, newest first.
    pub tags: Vec<String>,
}

impl LockedSelection {
    /// Keeps of `selection`, which chose `tags`, everything that a lockfile has.
    pub fn of(selection: &TagSelection, tags: Vec<String>) -> Self {
        Self {
            repository: selection.repository.clone(),
            platform: selection.platform.clone(),
            rule: selection.rule.clone(),
            tags,
        }
    }

    /// True if this is the choice of `selection`, by the rule that the selection has now.
    pub fn is_of(&self, selection: &TagSelection) -> bool {
        self.repository == selection.repository
            && self.platform == selection.platform
            && self.rule == selection.rule
    }
}
