//! Locking the home, and then the directories of layers that the run works on; and saying there
//! again which home it is, for a run that has nothing else to do.

use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::locked_home::LockedHome;
use crate::store::{self, Places, Store};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Locks the home, which is made where it is missing.
pub(crate) fn lock_home(session: &Session) -> Result<LockedHome, VerbError> {
    store::make_directory(&session.home, store::PRIVATE_MODE)?;
    let who = format!("msb-sync {}", session.verb);
    Ok(LockedHome::acquire(&session.home, &who, &session.cancel, Arc::clone(&session.reporter))?)
}

/// Locks `layers` too, and opens the store there. Warns where that is a directory of other things,
/// which somebody may have named by mistake.
pub(crate) fn open_store(session: &Session, home: &LockedHome, layers: &Path) -> Result<Store, VerbError> {
    let strange = Places::of(layers).other_things();
    if !strange.is_empty() {
        session.warn(format!(
            "{} is going to hold layers, and holds other things: {}",
            layers.display(),
            strange.join(", ")
        ));
    }
    Ok(Store::open(home, layers)?)
}

/// Has the home claim the layers in `layers` again where others do not find it by its claim: it was
/// moved, or somebody has taken the claim away. Else nothing is locked or written.
pub(crate) fn claim_again(session: &Session, layers: &Path) -> Result<(), VerbError> {
    if store::is_claimed(&Places::of(layers), &session.home) {
        return Ok(());
    }
    let opened = lock_home(session).and_then(|home| open_store(session, &home, layers));
    match opened {
        Err(error @ VerbError::Error(Error::Stopped)) => Err(error),
        // All that is wanted is here: on a disk that is read-only, too.
        Err(error) => {
            let layers = layers.display();
            session.warn(format!("other homes that share {layers} do not know what this one needs: {error}"));
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}
