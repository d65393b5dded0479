//! The result of a plan that was carried out, in one part or in several.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::plan::{self, Plan, Wait};
use crate::progress::{Event, Reporter};
use crate::state::{Action, EngineName};

/// An image, what was to be done about it, and the error if that failed.
type ImageResult = (ImageRef, Action, Option<Arc<Error>>);

/// The result of a plan that was carried out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Each image of the plan, in its order, with the error if it failed.
    pub images: Vec<(ImageRef, Action, Option<Arc<Error>>)>,
    /// The images among them that are ready now, and not recorded.
    pub staged: BTreeSet<ImageRef>,
    /// The images among them that the run's owner has given up and that others keep.
    pub kept: BTreeSet<ImageRef>,
    /// The number of layers that this run extracted.
    pub layers: usize,
    /// The number of references that this run loaded into engines.
    pub loads: usize,
    /// The images that engines have not taken as they should, each with the engine.
    pub engine_failures: BTreeSet<(ImageRef, EngineName)>,
    /// The number of references that this run took out of engines.
    pub engine_removals: usize,
    /// The number of layer directories that this run removed.
    pub layers_removed: usize,
    /// Images whose removal waits, each with the reason. Those that are to leave engines alone are
    /// among the images above.
    pub waiting: Vec<(ImageRef, Wait)>,
    /// The bytes of blobs received over the network.
    pub downloaded_bytes: u64,
    /// The bytes of uncompressed layers extracted.
    pub extracted_bytes: u64,
    /// True if the run was stopped before its end.
    pub stopped: bool,
    /// The first error that is no image's: of the index of the kept blobs, the removal of what
    /// nobody needs, engines, hooks. The images are as the list above says.
    pub failure: Option<Arc<Error>>,
}

impl Outcome {
    /// Makes one of the outcomes of two plans of one run; see [`Outcome::fail`].
    pub fn append(&mut self, next: Self, reporter: &dyn Reporter) {
        self.images.extend(next.images);
        self.images.sort_by(|a, b| plan::in_order((&a.0, a.1), (&b.0, b.1)));
        self.staged.extend(next.staged);
        self.kept.extend(next.kept);
        self.layers += next.layers;
        self.loads += next.loads;
        self.engine_failures.extend(next.engine_failures);
        self.engine_removals += next.engine_removals;
        self.layers_removed += next.layers_removed;
        self.waiting.extend(next.waiting);
        self.downloaded_bytes += next.downloaded_bytes;
        self.extracted_bytes += next.extracted_bytes;
        self.stopped |= next.stopped;
        if let Some(failure) = next.failure {
            self.fail(failure, reporter);
        }
    }

    /// Takes note of the removals of `plan` that wait.
    pub fn note_waiting(&mut self, plan: &Plan) {
        self.waiting.extend(plan.waiting().map(|(image, why)| (image.clone(), why.clone())));
    }

    /// Takes note of an error at the end of the run. A run has one such error; `reporter` hears of
    /// further ones.
    pub fn fail(&mut self, error: Arc<Error>, reporter: &dyn Reporter) {
        let words = |error: &Error| error.chain().join(": ");
        match &self.failure {
            None => self.failure = Some(error),
            // The same thing may fail in several parts of a run.
            Some(first) if words(first) == words(&error) => {}
            Some(_) => reporter.report(Event::Warning(words(&error))),
        }
    }

    /// Leaves out, and returns, the images that wait for blobs that were not begun; none where the
    /// run was stopped.
    pub fn take_unfinished(&mut self) -> BTreeSet<ImageRef> {
        let mut left = BTreeSet::new();
        if !self.stopped {
            self.images.retain(|(image, _, error)| {
                let unfinished = matches!(error.as_deref(), Some(Error::Stopped));
                if unfinished {
                    left.insert(image.clone());
                }
                !unfinished
            });
        }
        left
    }

    /// Counts the images with `action` that are done. Those that are only ready are not, and those
    /// that others keep are not removed.
    pub fn done(&self, action: Action) -> usize {
        let done = self.images.iter().filter(|(_, of, error)| *of == action && error.is_none());
        done.filter(|(image, ..)| !self.staged.contains(image) && !self.kept.contains(image)).count()
    }

    /// Counts the images that failed or were blocked, and those that the stop switch left undone.
    pub fn failed(&self) -> usize {
        self.images.iter().filter(|(_, _, error)| error.is_some()).count()
    }

    /// Counts those of the failed images that nothing ails: the run was stopped before their end.
    pub fn stopped_images(&self) -> usize {
        let is_stopped = |error: &Option<Arc<Error>>| matches!(error.as_deref(), Some(Error::Stopped));
        self.images.iter().filter(|(_, _, error)| is_stopped(error)).count()
    }
}

/// Finds the images that `plan` was to make ready and that are, by their `results`.
pub(super) fn staged(plan: &Plan, results: &[ImageResult]) -> BTreeSet<ImageRef> {
    let ready =
        plan.images.iter().zip(results).filter(|(image, (.., error))| image.stages && error.is_none());
    ready.map(|(image, _)| image.reference.clone()).collect()
}
