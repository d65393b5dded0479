//! The registries of a run, opened with what session and settings say.

use std::sync::Arc;

use crate::registry::{Options, Registries};
use crate::state::{RegistrySettings, Settings};
use crate::sync::session::Session;
use crate::sync::steps::load::Loaded;

/// Opens the registries of an images file. None of them is asked anything yet.
pub(crate) fn of_file(session: &Session, loaded: &Loaded) -> Registries {
    open(session, loaded.file.registries.clone(), &loaded.file.settings)
}

/// Opens `registries`. None of them is asked anything yet.
pub(crate) fn open(session: &Session, registries: Vec<RegistrySettings>, settings: &Settings) -> Registries {
    Registries::new(Options {
        registries,
        hosts_dir: settings.hosts_dir.clone(),
        limits: settings.limits,
        max_connections: settings.downloads,
        environment: session.environment.clone(),
        stored_logins: !session.untrusted,
        cancel: session.cancel.part(),
        reporter: Arc::clone(&session.reporter),
        rests: session.rests.clone(),
    })
}
