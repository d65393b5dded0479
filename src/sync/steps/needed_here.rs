//! The layers of one directory that recorded images of this home need there.
//!
//! The catalog says where an image's layers were when somebody recorded it last. An image of two
//! owners may have them in two directories: then each owner's file says where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::candidates::{DirectoryId, directory_id};
use super::load::load;
use crate::catalog::{Catalog, GivenUp};
use crate::digest::BlobDigest;
use crate::state::Owner;
use crate::sync::request::ImagesSource;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// The directories in which owners have their layers, each images file read once.
pub(crate) struct NeededHere<'s> {
    session: &'s Session,
    directories: BTreeMap<Owner, OwnersDirectory>,
}

enum OwnersDirectory {
    /// Nobody can say: the images file cannot be read, or there is none.
    Unknown,
    /// The directory, if it is there.
    At(Option<DirectoryId>),
}

impl<'s> NeededHere<'s> {
    pub(crate) fn new(session: &'s Session) -> Self {
        Self { session, directories: BTreeMap::new() }
    }

    /// Returns the layers in `directory`, which exists, that an image which is not `gone` needs
    /// there.
    pub(crate) fn layers(
        &mut self,
        catalog: &Catalog,
        directory: &Path,
        gone: GivenUp<'_>,
    ) -> Result<BTreeSet<BlobDigest>, VerbError> {
        let mut needed = catalog.layers_needed_in(directory, &self.session.default_layers(), gone)?;
        if catalog.layers_directories()?.len() < 2 {
            return Ok(needed);
        }
        let here = directory_id(directory);
        for row in catalog.all()? {
            let in_doubt = row.owners.len() > 1 && !gone.images.contains(&row.reference);
            let mut staying = row.extracted_for.iter().filter(|owner| {
                !gone.by.is_some_and(|(by, images)| by == *owner && images.contains(&row.reference))
            });
            if in_doubt && staying.any(|owner| self.may_have_layers_in(owner, here)) {
                needed.extend(row.layers.iter().map(|layer| layer.digest.clone()));
            }
        }
        Ok(needed)
    }

    fn may_have_layers_in(&mut self, owner: &Owner, directory: Option<DirectoryId>) -> bool {
        let session = self.session;
        let found = self.directories.entry(owner.clone()).or_insert_with(|| {
            let file = owner.file().map(|path| load(&session.quiet(), &ImagesSource::Path(path)));
            match file {
                Some(Ok(loaded)) => {
                    let layers = loaded.file.settings.layers;
                    let layers = layers.unwrap_or_else(|| session.default_layers());
                    OwnersDirectory::At(directory_id(&layers))
                }
                Some(Err(_)) | None => OwnersDirectory::Unknown,
            }
        });
        match found {
            OwnersDirectory::Unknown => true,
            OwnersDirectory::At(found) => *found == directory,
        }
    }
}
