//! `forget`: named images, or all that an images file brought, whoever else lists them. No registry
//! is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::pruned::Pruned;
use super::session::Session;
use super::steps::give_up::{Removals, Wish, by_reference, give_up};
use super::steps::load::absolute_of_gone;
use super::steps::not_recorded::not_recorded;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::diagnostic::nearest;
use crate::error::{InputError, RecordedError};
use crate::image_ref::ImageRef;
use crate::plan::{self, Refusals};
use crate::state::{LoadedReference, Owner, RecordedImage};

/// Similar owners that a message names, at most.
const MAX_SIMILAR: usize = 5;

/// Forgets images, whoever owns them, and removes their layers that nobody else needs.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let reference = session.reference("quickstart.local/hello:1")?;
/// let forgotten = sync::forget(&session, &[reference], false)?;
/// println!("{} bytes freed", forgotten.freed_bytes());
/// # assert_eq!(sync::list(&session)?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; if one of `references` cannot be forgotten, none is.
pub fn forget(session: &Session, references: &[ImageRef], dry_run: bool) -> Result<Pruned, VerbError> {
    let named = Named(references.iter().cloned().collect());
    give_up(session, named, Pruned { dry_run, ..Pruned::default() })
}

/// Gives up, for the images file at `path`, all images that it brought, and removes those that
/// nobody else wants, with their layers. There need be no file any more.
///
/// # Errors
/// See [`VerbError`]; the file has brought nothing that is still recorded.
pub fn forget_owner(session: &Session, path: &Path, dry_run: bool) -> Result<Pruned, VerbError> {
    let absolute = absolute_of_gone(path)
        .map_err(|source| InputError::NoAbsolutePath { path: path.to_owned(), source })?;
    let owned = Owned { owner: Owner::images_file(&absolute), file: path };
    give_up(session, owned, Pruned { dry_run, ..Pruned::default() })
}

/// The wish that these images go.
struct Named(BTreeSet<ImageRef>);

impl Wish for Named {
    fn owner(&self) -> Option<&Owner> {
        None
    }

    fn without_catalog(&self, _session: &Session) -> Result<(), VerbError> {
        Err(not_recorded(self.0.iter(), &BTreeMap::new()))
    }

    fn unwanted(
        &self,
        catalog: &Catalog,
        leaving: &BTreeSet<&ImageRef>,
        mut loaded: Vec<LoadedReference>,
    ) -> Result<Vec<LoadedReference>, VerbError> {
        let recorded = by_reference(catalog.all()?);
        loaded.retain(|row| leaving.contains(&row.reference) || self.is_left_behind(row, &recorded));
        Ok(loaded)
    }

    fn removals(&self, catalog: &Catalog, _locked: bool) -> Result<Removals, VerbError> {
        let recorded = by_reference(catalog.all()?);
        let mut references = self.0.clone();
        for row in catalog.loaded()?.iter().filter(|row| self.is_left_behind(row, &recorded)) {
            references.retain(|reference| !is_named(row, reference) || recorded.contains_key(reference));
        }
        let images =
            plan::removals_of(&references, &recorded).map_err(|refusals| refused(refusals, &recorded))?;
        Ok(Removals { images, recorded, waiting_for: Vec::new() })
    }
}

impl Named {
    /// True if `row` is of one of the images, which was forgotten when its engine could not give it
    /// up.
    fn is_left_behind(&self, row: &LoadedReference, recorded: &BTreeMap<ImageRef, RecordedImage>) -> bool {
        !recorded.contains_key(&row.reference) && self.0.iter().any(|reference| is_named(row, reference))
    }
}

/// True if `reference` is the image of `row`, or the name by which the engine lists the image.
fn is_named(row: &LoadedReference, reference: &ImageRef) -> bool {
    row.reference == *reference || row.name == reference.to_string()
}

/// The wish that all goes that an owner has brought: the images file of this path.
struct Owned<'a> {
    owner: Owner,
    file: &'a Path,
}

impl Wish for Owned<'_> {
    fn owner(&self) -> Option<&Owner> {
        Some(&self.owner)
    }

    fn ends_owner(&self) -> bool {
        true
    }

    fn without_catalog(&self, _session: &Session) -> Result<(), VerbError> {
        Err(self.unknown(&BTreeMap::new()))
    }

    fn unwanted(
        &self,
        _catalog: &Catalog,
        _leaving: &BTreeSet<&ImageRef>,
        mut loaded: Vec<LoadedReference>,
    ) -> Result<Vec<LoadedReference>, VerbError> {
        loaded.retain(|row| row.owner == self.owner);
        Ok(loaded)
    }

    fn removals(&self, catalog: &Catalog, locked: bool) -> Result<Removals, VerbError> {
        let recorded = by_reference(catalog.all()?);
        let images = plan::removals_of_owner(&self.owner, &recorded);
        // Under the lock, somebody else may have done all.
        let has_loaded = || Ok::<_, VerbError>(catalog.loaded()?.iter().any(|row| row.owner == self.owner));
        if images.is_empty() && !locked && !has_loaded()? {
            return Err(self.unknown(&recorded));
        }
        Ok(Removals { images, recorded, waiting_for: Vec::new() })
    }
}

impl Owned<'_> {
    /// The error for an owner of nothing, with the owners that it may have been meant for: files of
    /// the same name, or of nearly the same path.
    fn unknown(&self, recorded: &BTreeMap<ImageRef, RecordedImage>) -> VerbError {
        let owner = &self.owner.0;
        let owners: BTreeSet<&str> =
            recorded.values().flat_map(|row| &row.owners).map(|other| other.0.as_str()).collect();
        let file_name = |owner: &str| owner.rsplit('/').next().map(str::to_owned);
        let mut near: Vec<&str> = nearest(owner, owners.iter().copied()).into_iter().collect();
        let namesakes = owners.iter().filter(|other| file_name(other) == file_name(owner));
        for other in namesakes {
            if !near.contains(other) {
                near.push(other);
            }
        }
        let nearest = near.into_iter().take(MAX_SIMILAR).map(str::to_owned).collect();
        VerbError::Error(RecordedError::UnknownOwner { owner: self.file.to_owned(), nearest }.into())
    }
}

/// The error for what cannot be forgotten; the unknown ones first.
fn refused(refusals: Refusals, recorded: &BTreeMap<ImageRef, RecordedImage>) -> VerbError {
    let Refusals { unknown: unknowns, refused } = refusals;
    if unknowns.is_empty() {
        return VerbError::Error(RecordedError::NotForgotten { refused }.into());
    }
    not_recorded(unknowns.iter(), recorded)
}
