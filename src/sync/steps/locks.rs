//! Locks: the home first, then the directories of layers that it works on.

use std::path::Path;

use crate::error::Error;
use crate::store::{self, Lock, Places, Store};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Locks the home, then the layers, which several homes may share. Always in this order, and directories
/// in theirs.
pub(crate) fn lock<'a>(
    session: &Session,
    layers: impl IntoIterator<Item = &'a Path>,
) -> Result<Vec<Lock>, VerbError> {
    store::make_directory(&session.home, store::PRIVATE_MODE)?;
    let mut locks = vec![acquire(session, &session.lock_path())?];
    for layers in layers {
        lock_layers(session, layers, &mut locks)?;
    }
    Ok(locks)
}

/// Locks one more directory of layers, unless one of `locks` is its lock: whoever has a lock would wait for
/// himself.
pub(crate) fn lock_layers(session: &Session, layers: &Path, locks: &mut Vec<Lock>) -> Result<(), VerbError> {
    let strange = Places::of(layers).other_things();
    if !strange.is_empty() {
        session.warn(format!(
            "{} is going to hold layers, and holds other things: {}",
            layers.display(),
            strange.join(", ")
        ));
    }
    let path = Store::lock_path(layers)?;
    if !locks.iter().any(|lock| lock.is_at(&path)) {
        locks.push(acquire(session, &path)?);
    }
    Ok(())
}

fn acquire(session: &Session, path: &Path) -> Result<Lock, VerbError> {
    let who = format!("msb-sync {}", session.verb);
    let lock = Lock::acquire(path, &who, &session.cancel, &*session.reporter)?;
    lock.ok_or(VerbError::Error(Error::Stopped))
}
