//! `history`: the digests that recorded references have meant, and when. Nothing is written, no
//! registry is asked.

use super::session::Session;
use super::steps::not_recorded::not_here;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::image_ref::ImageRef;
use crate::state::History;

/// Shows what `reference` has meant on this machine; without one, all recorded images that
/// msb-sync has brought, sorted. A second name has the history of its first one.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let reference = session.reference("quickstart.local/hello:1")?;
/// for entry in &sync::history(&session, Some(&reference))?[0].entries {
///     println!("{} since {}", entry.digest, entry.from);
/// }
/// # assert_eq!(sync::history(&session, None)?.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The catalog cannot be read, or does not record `reference`.
pub fn history(session: &Session, reference: Option<&ImageRef>) -> Result<Vec<History>, VerbError> {
    let catalog = Catalog::open_read_only(&session.home)?;
    let Some(reference) = reference else {
        let Some(catalog) = catalog else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        catalog.each(&mut |row| {
            if row.alias_of.is_none() && row.digest.is_some() {
                names.push(row.reference);
            }
        })?;
        return names.iter().map(|name| Ok(catalog.history(name)?)).collect();
    };
    let row = match &catalog {
        Some(catalog) => catalog.recorded(std::slice::from_ref(reference))?.pop().map(|row| (catalog, row)),
        None => None,
    };
    let Some((catalog, row)) = row else { return Err(not_here(reference, catalog.as_ref())) };
    let first = row.alias_of.as_ref().unwrap_or(&row.reference);
    Ok(vec![catalog.history(first)?])
}
