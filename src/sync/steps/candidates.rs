//! The directories of layers that a run which removes looks into, and what it finds there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::image_ref::ImageRef;
use crate::state::RecordedImage;
use crate::store;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys::{self, DirectoryId};

/// The reason of a layer that only images which leave have needed.
const GIVEN_UP: &str = "no image needs it any more";

/// A directory of layers that may hold something to remove; it exists.
pub(crate) struct Candidate {
    /// One of its names.
    pub(crate) directory: PathBuf,
    /// True if the run is about this directory: it is locked whatever is found there, and `prune`
    /// fails where it cannot be used.
    pub(crate) is_essential: bool,
    /// The layers that nobody may need, with the reason.
    pub(crate) layers: BTreeMap<BlobDigest, &'static str>,
}

impl Candidate {
    /// Lists the layers that nobody needs by `is_needed`, with the reason.
    pub(crate) fn unneeded(
        &self,
        is_needed: impl Fn(&BlobDigest) -> bool,
    ) -> Vec<(BlobDigest, &'static str)> {
        let layers = self.layers.iter().filter(|(digest, _)| !is_needed(digest));
        layers.map(|(digest, reason)| (digest.clone(), *reason)).collect()
    }

    /// Says which layers stay here though nobody is seen to need them here. Layers that are no
    /// candidates are none of the run's, unless `all` are.
    pub(crate) fn stay_in_doubt(
        &self,
        all: bool,
        mut in_doubt: BTreeMap<BlobDigest, PathBuf>,
    ) -> Option<String> {
        let may_go = |digest: &BlobDigest| all || self.layers.contains_key(digest);
        in_doubt.retain(|digest, _| may_go(digest) && store::layer_path(&self.directory, digest).exists());
        let layers = match in_doubt.len() {
            0 => return None,
            1 => format!("1 layer in {} stays", self.directory.display()),
            many => format!("{many} layers in {} stay", self.directory.display()),
        };
        let places: BTreeSet<String> =
            in_doubt.into_values().map(|path| path.display().to_string()).collect();
        let places = places.into_iter().collect::<Vec<_>>().join(", ");
        Some(format!(
            "{layers}: images need the same from {places}, where it is not seen now (not mounted, not readable, or gone); \
             apply their images file, or forget them"
        ))
    }
}

/// All candidates of a run, each once, in the order of their locks.
#[derive(Default)]
pub(crate) struct Candidates(pub(crate) BTreeMap<DirectoryId, Candidate>);

impl Candidates {
    /// Lists the directories to look into, and says which of them cannot be looked at: those of the
    /// images `recorded`, which leave their owner or are `gone`, and where `own` is given, in which
    /// all layers may go, that one and all former ones.
    ///
    /// # Errors
    /// The directory `own` cannot be looked at, or the catalog not read.
    pub(crate) fn of(
        session: &Session,
        catalog: &Catalog,
        own: Option<&Path>,
        (recorded, gone): (&BTreeMap<ImageRef, RecordedImage>, &BTreeSet<ImageRef>),
    ) -> Result<(Self, Vec<String>), VerbError> {
        let (mut candidates, mut warnings) = (Self::default(), Vec::new());
        let mut directories: BTreeSet<PathBuf> =
            recorded.values().map(|row| session.layers_of(row)).collect();
        if let Some(own) = own {
            if let Some(own) = candidates.entry(own)? {
                own.is_essential = true;
            }
            directories.extend(catalog.layers_directories()?);
            directories.remove(own);
        }
        // A directory of which nothing is to go is passed over.
        let leaves_layers = |directory: &Path| {
            let mut rows = recorded.values().filter(|row| gone.contains(&row.reference));
            own.is_none()
                && rows.any(|row| {
                    let has_layers = !row.extracted_for.is_empty() && !row.layers.is_empty();
                    has_layers && session.layers_of(row) == directory
                })
        };
        for directory in directories {
            match candidates.entry(&directory) {
                Ok(Some(candidate)) => candidate.is_essential |= own.is_none(),
                // One that no file names any more may be gone for good.
                Ok(None) if leaves_layers(&directory) => {
                    let why = "it is not there (not mounted, or removed)";
                    warnings.push(left_out(own, &directory, why));
                }
                Err(error) if own.is_some() || leaves_layers(&directory) => {
                    warnings.push(left_out(own, &directory, &error.to_string()));
                }
                Ok(None) | Err(_) => {}
            }
        }
        Ok((candidates, warnings))
    }

    /// Adds the layers of the images that leave.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) fn add_layers(
        &mut self,
        session: &Session,
        catalog: &Catalog,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> Result<(), VerbError> {
        for row in recorded.values() {
            let Ok(Some(candidate)) = self.entry(&session.layers_of(row)) else { continue };
            let digests = row.layers.iter().map(|layer| layer.digest.clone());
            candidate.layers.extend(digests.map(|digest| (digest, GIVEN_UP)));
            // The layers of what its reference meant before are nobody else's either.
            let earlier = catalog.remembered(&row.reference)?.into_iter();
            candidate.layers.extend(earlier.map(|digest| (digest, GIVEN_UP)));
        }
        Ok(())
    }

    /// Returns the candidate at `directory`, by whatever name it became one; `None` where there is
    /// no directory.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    fn entry(&mut self, directory: &Path) -> Result<Option<&mut Candidate>, StoreError> {
        let id = sys::directory_id(directory).map_err(StoreError::io("look into", directory))?;
        let new =
            || Candidate { directory: directory.to_owned(), is_essential: false, layers: BTreeMap::new() };
        Ok(id.map(|id| self.0.entry(id).or_insert_with(new)))
    }
}

/// Says what becomes of a directory of layers that cannot be used, of which only the layers of
/// images may go, or all where `own` is given.
pub(crate) fn left_out(own: Option<&Path>, directory: &Path, why: &str) -> String {
    let layers = directory.display();
    if own.is_none() {
        format!("the layers in {layers} stay until a prune can remove them: {why}")
    } else {
        format!("the former layers directory {layers} is left out: {why}")
    }
}
