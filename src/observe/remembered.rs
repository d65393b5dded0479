//! The meanings of digests that the catalog has kept: of those that references meant before, and of
//! what is staged. A digest that a registry names need not be fetched then.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::locked::confirm;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::registry::Lookup;
use crate::state::{DesiredImage, LockedImage, Platform, Resolution, ResolvedImage};
use crate::threads;

/// The digests of images that are ready to be recorded.
pub(super) type StagedDigests = BTreeMap<(ImageRef, Platform), BlobDigest>;

/// Finds the digest of an image that is ready and not recorded, or recorded without the documents
/// that are needed.
pub(super) fn staged_digest(
    image: &DesiredImage,
    staged: &StagedDigests,
    is_recorded: bool,
) -> Option<BlobDigest> {
    if staged.is_empty() || is_recorded {
        return None;
    }
    staged.get(&(image.reference.clone(), image.platform.clone())).cloned()
}

/// Whoever knows the meanings of digests.
pub(crate) struct Remembered<'a> {
    home: &'a Path,
    /// True if a meaning is of use only with the documents that lead to it.
    documents_too: bool,
    /// The catalog, opened once more: lookups are not on the thread of the run.
    catalog: Mutex<Option<Catalog>>,
}

impl<'a> Remembered<'a> {
    /// Makes whoever knows what the catalog of `home` has kept. Nothing is opened yet.
    pub(crate) fn new(home: &'a Path, documents_too: bool) -> Self {
        Self { home, documents_too, catalog: Mutex::default() }
    }

    /// Finds the meaning of `reference` by `digest`; one that cannot be read is fetched like any
    /// other.
    pub(super) fn find(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        digest: &BlobDigest,
    ) -> Option<ResolvedImage> {
        let mut opened = threads::lock(&self.catalog);
        if opened.is_none() {
            *opened = Catalog::open_read_only(self.home).ok()?;
        }
        let found = opened.as_ref()?.meaning(reference, platform, digest).ok()??;
        (!self.documents_too || !found.documents.is_empty()).then_some(found)
    }

    /// Finds the meaning of a locked image that was staged or recorded before, so that nobody need
    /// be asked.
    pub(super) fn locked(&self, image: &DesiredImage, locked: &LockedImage) -> Option<Resolution> {
        let found = self.find(&image.reference, &image.platform, &locked.digest)?;
        Some(match confirm(locked, Ok(Lookup::Image(Box::new(found)))) {
            Ok(resolved) => Resolution::Resolved(Arc::new(resolved)),
            Err(error) => Resolution::Blocked(Arc::new(error)),
        })
    }
}
