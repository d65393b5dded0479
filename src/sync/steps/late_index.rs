//! The index of kept blobs that a killed run has left behind, for runs that have nothing else to
//! do.

use super::lock_home::lock_home;
use crate::catalog::Catalog;
use crate::error::Error;
use crate::execute::write_kept_index;
use crate::locked_home::LockedHome;
use crate::store::Blobs;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Writes the index where it lags behind the catalog. A run that is at work writes it itself.
pub(crate) fn write_late_index(session: &Session) {
    let kept = Blobs::of(&session.home);
    if !kept.index_is_behind() || !LockedHome::is_free(&session.home) {
        return;
    }
    let write = || -> Result<(), VerbError> {
        let home = lock_home(session)?;
        if let Some(catalog) = Catalog::open_read_only(home.path())? {
            write_kept_index(&home, &catalog)?;
        }
        Ok(())
    };
    match write() {
        Ok(()) | Err(VerbError::Error(Error::Stopped)) => {}
        // All that is wanted is here: on a disk that is read-only, too.
        Err(error) => session.warn(format!("the index of the kept blobs is not up to date: {error}")),
    }
}
