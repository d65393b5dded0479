//! The request to a run for an images file.

use std::path::PathBuf;

use crate::image_ref::ImageRef;

/// The place that a file which the user names comes from.
#[derive(Clone, Debug)]
pub enum ImagesSource {
    /// A file.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// The request to `plan` and `apply`.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Request {
    /// The images file.
    pub source: ImagesSource,
    /// The groups whose images alone count; empty: all images count.
    pub groups: Vec<String>,
    /// The user asked to remove what is no longer listed, also if the file does not say so.
    pub prune: bool,
    /// The user asked to do that for a file that lists no image at all, too.
    pub allow_empty: bool,
    /// The user forbids asking any registry.
    pub offline: bool,
    /// The user demands that the lockfile covers the images file exactly.
    pub locked: bool,
    /// A bundle, a directory or a tar, that stands for all registries: nothing else is asked.
    pub from: Option<PathBuf>,
    /// The user lets the hooks of the images file run.
    pub hooks: bool,
    /// The images whose new digests are taken at once, whatever their cooldown.
    pub now: Vec<ImageRef>,
    /// The user asked to make images ready only: nothing is recorded, loaded or removed.
    pub stage: bool,
}

impl Request {
    /// Asks for all images of `source`, with no option set.
    pub fn of(source: ImagesSource) -> Self {
        Self {
            source,
            groups: Vec::new(),
            prune: false,
            allow_empty: false,
            offline: false,
            locked: false,
            from: None,
            hooks: false,
            now: Vec::new(),
            stage: false,
        }
    }
}
