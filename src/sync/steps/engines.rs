//! The engines of this machine, as a session starts their programs.

use std::sync::Arc;

use crate::engine::{self, Context, Engines};
use crate::sync::session::Session;

/// Opens the engines for `session`. None of them is asked anything yet.
pub(crate) fn of(session: &Session) -> Engines {
    Engines::new(Context {
        environment: session.environment.variables().clone(),
        temporary: engine::temporary_in(&session.home),
        cancel: session.cancel.part(),
        reporter: Arc::clone(&session.reporter),
    })
}
