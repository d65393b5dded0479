//! The images of a plan that wait for layers, and the end of each.
//!
//! A layer that is done, or that failed, settles every image that waited for it. A settled image
//! can be recorded or reported at once, while the other layers are still on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fetcher::{Finished, WrongClaims};
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::plan::{Claim, Plan, PlannedImage};
use crate::state::Action;

/// The images of a plan, by their positions in it, with what each still waits for.
pub(super) struct Waitlist {
    images: Vec<Waiting>,
    /// The position of each reference.
    positions: BTreeMap<ImageRef, usize>,
    /// The images that wait for nothing any more, and that nobody has taken yet.
    settled: BTreeSet<usize>,
}

/// One image of the plan.
struct Waiting {
    /// The number of claims about layers that are not done.
    claims: usize,
    error: Option<Arc<Error>>,
    finished: bool,
}

impl Waitlist {
    /// Counts what each image of `plan` waits for.
    pub(super) fn new(plan: &Plan) -> Self {
        let positions: BTreeMap<ImageRef, usize> =
            plan.images.iter().enumerate().map(|(index, image)| (image.reference.clone(), index)).collect();
        let mut images: Vec<Waiting> =
            plan.images.iter().map(|_| Waiting { claims: 0, error: None, finished: false }).collect();
        for fetch in &plan.fetches {
            for reference in fetch.claims().flat_map(|claim| claim.images.iter()) {
                if let Some(&index) = positions.get(reference) {
                    images[index].claims += 1;
                }
            }
        }
        let settled = (0..images.len()).filter(|&index| images[index].claims == 0).collect();
        Self { images, positions, settled }
    }

    /// Takes the images that wait for nothing more, or cannot succeed any more: each once, in the
    /// plan's order.
    pub(super) fn take_settled(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.settled)
    }

    /// The error by which an image cannot succeed any more.
    pub(super) fn error(&self, index: usize) -> Option<Arc<Error>> {
        self.images[index].error.clone()
    }

    /// Notes the end of an image, after which nothing settles the image again.
    pub(super) fn finish(&mut self, index: usize, error: Option<Arc<Error>>) {
        self.images[index].finished = true;
        self.images[index].error = error;
    }

    /// Notes that a layer has its name; the claims that it contradicts fail.
    pub(super) fn layer_done(&mut self, plan: &Plan, fetch: usize, wrong: &WrongClaims) {
        let fetch = &plan.fetches[fetch];
        for (index, claim) in fetch.claims().enumerate() {
            match wrong.iter().find(|(claim, _)| *claim == index) {
                Some((_, error)) => self.claim_failed(claim, error),
                None => self.each(claim, |image| {
                    image.claims = image.claims.saturating_sub(1);
                    image.claims == 0 && image.error.is_none()
                }),
            }
        }
    }

    /// Notes that a blob could not be had: each claim with its own error, the rest with the blob's.
    pub(super) fn layer_failed(&mut self, plan: &Plan, finished: &Finished<'_>) {
        let fetch = &plan.fetches[finished.fetch];
        for (index, claim) in fetch.claims().enumerate() {
            for (_, error) in finished.wrong_claims.iter().filter(|(wrong, _)| *wrong == index) {
                self.claim_failed(claim, error);
            }
        }
        if let Err(error) = &finished.result {
            self.all_claims_failed(plan, finished.fetch, error);
        }
    }

    /// Notes that nobody gets a layer.
    pub(super) fn all_claims_failed(&mut self, plan: &Plan, fetch: usize, error: &Arc<Error>) {
        for claim in plan.fetches[fetch].claims() {
            self.claim_failed(claim, error);
        }
    }

    /// Notes that `images` cannot succeed, whatever becomes of their layers.
    pub(super) fn images_failed(&mut self, images: &[ImageRef], error: &Arc<Error>) {
        for reference in images {
            let Some(&index) = self.positions.get(reference) else { continue };
            let image = &mut self.images[index];
            if image.error.is_none() && !image.finished {
                image.error = Some(Arc::clone(error));
                self.settled.insert(index);
            }
        }
    }

    fn claim_failed(&mut self, claim: &Claim, error: &Arc<Error>) {
        self.each(claim, |image| {
            let first = image.error.is_none();
            image.error.get_or_insert_with(|| Arc::clone(error));
            first
        });
    }

    /// Changes the images of a claim by `settles`, which says of each whether that settles it.
    fn each(&mut self, claim: &Claim, mut settles: impl FnMut(&mut Waiting) -> bool) {
        for reference in claim.images.iter() {
            if let Some(&index) = self.positions.get(reference)
                && settles(&mut self.images[index])
                && !self.images[index].finished
            {
                self.settled.insert(index);
            }
        }
    }

    /// The images of the plan, but for removals, whose end nobody has told.
    pub(super) fn unfinished<'p>(&self, plan: &'p Plan) -> impl Iterator<Item = &'p PlannedImage> {
        let images = self.images.iter().zip(&plan.images);
        images
            .filter(|(waiting, image)| !waiting.finished && image.action != Action::Remove)
            .map(|(_, image)| image)
    }

    /// Returns the images of the plan, but for removals, with the error of each that is not done.
    pub(super) fn into_results(self, plan: &Plan) -> Vec<(ImageRef, Action, Option<Arc<Error>>)> {
        // Removals have not been begun.
        let done = |(_, image): &(Waiting, &PlannedImage)| image.action != Action::Remove;
        let result = |(waiting, image): (Waiting, &PlannedImage)| {
            // Nothing leaves an image unsettled but the stop switch, or the word that it is enough.
            let error = if waiting.finished { waiting.error } else { Some(Arc::new(Error::Stopped)) };
            (image.reference.clone(), image.action, error)
        };
        self.images.into_iter().zip(&plan.images).filter(done).map(result).collect()
    }
}
