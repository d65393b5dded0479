//! The names that a user may mean: for shells that complete a command line, and so quick, silent
//! and without a trace. Nothing is written, no registry is asked, and what cannot be read is left
//! out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::load;
use crate::catalog::Catalog;
use crate::image_ref::ImageRef;
use crate::state::Owner;

/// Names of images, groups and images files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The recorded images.
    pub recorded: BTreeSet<ImageRef>,
    /// The images files that have brought recorded images. Absolute.
    pub owners: BTreeSet<PathBuf>,
    /// The images that the images file lists; a repository alone is a selection of its tags.
    pub listed: BTreeSet<ImageRef>,
    /// The groups of the images file.
    pub groups: BTreeSet<String>,
}

/// Collects the names that the catalog records, and those of an images file if one is given.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// let names = sync::names(&session, Some(&file));
/// assert_eq!(names.listed.len(), 2);
/// assert!(names.recorded.is_empty() && !session.home.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn names(session: &Session, file: Option<&ImagesSource>) -> Names {
    let mut names = Names::default();
    if let Ok(Some(catalog)) = Catalog::open_read_only(&session.home) {
        names.recorded.extend(catalog.names().unwrap_or_default());
        names.owners.extend(catalog.owners().unwrap_or_default().iter().filter_map(Owner::file));
    }
    if let Some(loaded) = file.and_then(|file| load(&session.quiet(), file).ok()) {
        names.listed.extend(loaded.file.images.into_iter().map(|image| image.reference));
        names.listed.extend(loaded.file.selections.into_iter().map(|selection| selection.repository));
        names.groups.extend(loaded.file.groups.into_keys());
    }
    names
}
