//! An entry of a registry's `images`, as its table says it: the groups are not known yet.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::diagnostic::Span;
use crate::image_ref::ImageRef;
use crate::state::{EngineName, Platform, PullPolicy, TagRule};

/// An entry of `images`, and its place.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) span: Span,
    pub(super) wanted: Wanted,
    pub(super) platform: Platform,
    pub(super) pull: PullPolicy,
    /// The time for which a new digest has to be seen.
    pub(super) cooldown: Duration,
    /// The groups that the entry itself names.
    pub(super) own_groups: Vec<String>,
    /// The engines that are to have the image; `None`: all of the file.
    pub(super) engines: Option<BTreeSet<EngineName>>,
}

/// The image, or the images, that an entry asks for.
#[derive(Debug)]
pub(super) enum Wanted {
    Image(ImageRef),
    Selection {
        /// The repository alone.
        repository: ImageRef,
        rule: TagRule,
    },
}
