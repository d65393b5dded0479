//! Work that killed runs and moved homes have left behind, for runs that have nothing else to do:
//! the temporary files of engines, the index of the kept blobs, and the claims on layers.

use std::collections::BTreeSet;
use std::path::Path;

use super::lock_home::{lock_home, open_store};
use crate::catalog::Catalog;
use crate::engine;
use crate::error::Error;
use crate::execute::{damaged_frame, has_kept_blobs, wants_kept_index, write_kept_index};
use crate::locked_home::LockedHome;
use crate::store::{self, Blobs, Places};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;

/// The consequence of an index that cannot be written.
const BEHIND: &str = "the index of the kept blobs is not up to date";

/// Removes the temporary files that a killed run's engines have left, writes the index of the kept
/// blobs where it lags behind the catalog or is spoiled, and has the home claim again those of the
/// directories `layers` in which it has layers, where other homes do not find it by its claim. A
/// run that is at work does all of it itself. Where all is in order nothing is locked or written.
///
/// # Errors
/// The run was stopped. Other failures are warnings: all that is wanted is here, on a disk that is
/// read-only, too.
pub(crate) fn catch_up<'d>(
    session: &Session,
    layers: impl IntoIterator<Item = &'d Path>,
) -> Result<(), VerbError> {
    if engine::has_left_temporary(&session.home) {
        // The one who locks the home removes them.
        let removed = unless_at_work(session, |session| lock_home(session).map(drop));
        or_warn(session, removed, "temporary files of engines stay")?;
    }
    let kept = Blobs::of(&session.home);
    if kept.is_there() && kept.wants_index() && may_keep_blobs(session) {
        put_index_back(session)?;
    }
    let is_unclaimed = |layers: &&Path| !store::is_claimed(&Places::of(layers), &session.home);
    let unclaimed: Vec<&Path> = layers.into_iter().filter(is_unclaimed).collect();
    if !unclaimed.is_empty() {
        claim(session, &unclaimed)?;
    }
    Ok(())
}

/// Writes the index of the kept blobs, and their mark, if they are not what the catalog says. A
/// look at all of it takes as long as the catalog is large.
///
/// # Errors
/// As for [`catch_up`]; the catalog cannot be read.
pub(crate) fn mend_index(session: &Session) -> Result<(), VerbError> {
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(()) };
    let is_damaged = is_index_damaged(&session.home, &catalog)?;
    drop(catalog);
    if is_damaged { put_index_back(session) } else { Ok(()) }
}

/// Does what [`mend_index`] does, in a run that has locked its `home`.
///
/// # Errors
/// The run was stopped.
pub(crate) fn mend_index_locked(
    session: &Session,
    home: &LockedHome,
    catalog: &Catalog,
) -> Result<(), VerbError> {
    let is_damaged = is_index_damaged(home.path(), catalog);
    let written = is_damaged.and_then(|is| if is { write_kept_index(home, catalog) } else { Ok(()) });
    or_warn(session, written.map_err(VerbError::from), BEHIND)
}

fn is_index_damaged(home: &Path, catalog: &Catalog) -> Result<bool, Error> {
    Ok(has_kept_blobs(home, catalog)? && damaged_frame(home, catalog)?.is_some())
}

fn put_index_back(session: &Session) -> Result<(), VerbError> {
    let written = unless_at_work(session, write_index);
    or_warn(session, written, BEHIND)
}

fn unless_at_work(
    session: &Session,
    work: impl FnOnce(&Session) -> Result<(), VerbError>,
) -> Result<(), VerbError> {
    if LockedHome::is_free(&session.home) { work(session) } else { Ok(()) }
}

/// True unless the catalog says that the index of the kept blobs is none of this home's.
fn may_keep_blobs(session: &Session) -> bool {
    let catalog = Catalog::open_read_only(&session.home);
    catalog.is_ok_and(|catalog| {
        catalog.is_some_and(|catalog| wants_kept_index(&session.home, &catalog).unwrap_or(true))
    })
}

/// Writes the index of the kept blobs, and what else their layout lacks.
pub(crate) fn write_index(session: &Session) -> Result<(), VerbError> {
    let home = lock_home(session)?;
    if let Some(catalog) = Catalog::open_read_only(home.path())? {
        write_kept_index(&home, &catalog)?;
    }
    Ok(())
}

/// Claims those of `unclaimed` that the home has ever used: the others are nothing to it.
fn claim(session: &Session, unclaimed: &[&Path]) -> Result<(), VerbError> {
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(()) };
    let ours = catalog.layers_directories()?;
    drop(catalog);
    let id = |layers: &Path| sys::directory_id(layers).ok().flatten();
    let ours: BTreeSet<_> = ours.iter().filter_map(|layers| id(layers)).collect();
    for layers in unclaimed.iter().filter(|layers| id(layers).is_some_and(|id| ours.contains(&id))) {
        let claimed =
            unless_at_work(session, |session| open_store(session, &lock_home(session)?, layers).map(drop));
        let layers = layers.display();
        or_warn(
            session,
            claimed,
            &format!("other homes that share {layers} do not know what this one needs"),
        )?;
    }
    Ok(())
}

fn or_warn(session: &Session, result: Result<(), VerbError>, consequence: &str) -> Result<(), VerbError> {
    match result {
        Err(error @ VerbError::Error(Error::Stopped)) => Err(error),
        Err(error) => {
            session.warn(format!("{consequence}: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
