//! The layers of one directory that recorded images of this home need there.
//!
//! The catalog says where an image's layers were when somebody recorded it last. An image of two
//! owners may have them in two directories: then each owner's file says where.
//!
//! A directory of layers may have several names, one of which leads elsewhere for the moment, or
//! nowhere: a link that is gone, a disk that is not mounted, a parent that is closed. So an image
//! has a layer elsewhere only if it is seen there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::load::load;
use crate::catalog::{Catalog, GivenUp};
use crate::digest::BlobDigest;
use crate::state::Owner;
use crate::store;
use crate::sync::request::ImagesSource;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;

/// The directories in which owners have their layers, each images file read once.
pub(crate) struct NeededHere<'s> {
    session: &'s Session,
    /// `None` where nobody can say: the images file cannot be read, or there is none.
    directories: BTreeMap<Owner, Option<PathBuf>>,
}

/// The layers that are needed in a directory, or may be.
#[derive(Default)]
pub(crate) struct Needed {
    pub(crate) layers: BTreeSet<BlobDigest>,
    /// The layers among them of which nobody knows, each with the directory in which an image is to
    /// have it and in which it is not seen.
    pub(crate) in_doubt: BTreeMap<BlobDigest, PathBuf>,
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
    ) -> Result<Needed, VerbError> {
        let default = self.session.default_layers();
        let mut look =
            Look { directory, known: BTreeMap::new(), here: BTreeSet::new(), unseen: BTreeMap::new() };
        let mut is_elsewhere = |theirs: &Path, digest: &BlobDigest| look.is_elsewhere(theirs, digest);
        let mut layers = catalog.layers_needed_in((directory, &default), gone, &mut is_elsewhere)?;
        if catalog.layers_directories()?.len() > 1 {
            for row in catalog.all()? {
                let in_doubt = row.owners.len() > 1 && !gone.images.contains(&row.reference);
                let staying = row.extracted_for.iter().filter(|owner| {
                    !gone.by.is_some_and(|(by, images)| by == *owner && images.contains(&row.reference))
                });
                for owner in staying.filter(|_| in_doubt) {
                    let theirs = self.directory_of(owner);
                    let digests = row.layers.iter().map(|layer| &layer.digest);
                    let here = digests
                        .filter(|digest| theirs.is_none_or(|theirs| !look.is_elsewhere(theirs, digest)));
                    layers.extend(here.cloned());
                }
            }
        }
        let Look { here, unseen: mut in_doubt, .. } = look;
        in_doubt.retain(|digest, _| !here.contains(digest));
        Ok(Needed { layers, in_doubt })
    }

    /// Finds the directory in which an owner's file wants layers; `None` where nobody can say.
    fn directory_of(&mut self, owner: &Owner) -> Option<&Path> {
        let session = self.session;
        let found = self.directories.entry(owner.clone()).or_insert_with(|| {
            let file = owner.file().map(|path| load(&session.quiet(), &ImagesSource::Path(path)));
            let loaded = file?.ok()?;
            Some(loaded.file.settings.layers.unwrap_or_else(|| session.default_layers()))
        });
        found.as_deref()
    }
}

/// A look from one directory at those in which images have their layers.
struct Look<'d> {
    directory: &'d Path,
    /// Tells of each whether it is this one, as [`sys::is_one_directory`] does.
    known: BTreeMap<PathBuf, Option<bool>>,
    /// The layers that are certainly meant to be in this one.
    here: BTreeSet<BlobDigest>,
    /// The layers that are not seen where they are meant to be, each with that directory.
    unseen: BTreeMap<BlobDigest, PathBuf>,
}

impl Look<'_> {
    /// True if the layer is in `theirs`, and that is another directory.
    fn is_elsewhere(&mut self, theirs: &Path, digest: &BlobDigest) -> bool {
        let known = self.known.get(theirs).copied();
        let is_here = known.unwrap_or_else(|| sys::is_one_directory(self.directory, theirs));
        if known.is_none() {
            self.known.insert(theirs.to_owned(), is_here);
        }
        let is_there =
            || fs::symlink_metadata(store::layer_path(theirs, digest)).is_ok_and(|found| found.is_dir());
        match is_here {
            Some(false) if is_there() => return true,
            Some(true) => {
                self.here.insert(digest.clone());
            }
            _ => {
                self.unseen.insert(digest.clone(), theirs.to_owned());
            }
        }
        false
    }
}
