//! Locking the home, and then the directories of layers that the run works on.

use std::path::Path;
use std::sync::Arc;

use crate::engine;
use crate::locked_home::LockedHome;
use crate::store::{self, Places, Store};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Locks the home, which is made where it is missing, and removes the temporary files that a killed
/// run's engines have left.
pub(crate) fn lock_home(session: &Session) -> Result<LockedHome, VerbError> {
    store::make_directory(&session.home, store::PRIVATE_MODE)?;
    let who = format!("msb-sync {}", session.verb);
    let home = LockedHome::acquire(&session.home, &who, &session.cancel, Arc::clone(&session.reporter))?;
    if let Err(error) = engine::sweep_temporary(&home) {
        let place = engine::temporary_in(&session.home);
        session.warn(format!("temporary files of engines stay in {}: {error}", place.display()));
    }
    Ok(home)
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
