//! The registries of a run, opened with what session and settings say.

use std::path::Path;
use std::sync::Arc;

use crate::error::InputError;
use crate::registry::{Options, Registries};
use crate::state::{RegistrySettings, Settings};
use crate::sync::session::Session;
use crate::sync::steps::load::Loaded;
use crate::sync::verb_error::VerbError;

/// Opens the registries of an images file, or the bundle `from` in place of them all. None of them
/// is asked anything yet.
pub(crate) fn of_file(
    session: &Session,
    loaded: &Loaded,
    from: Option<&Path>,
) -> Result<Registries, VerbError> {
    from.map_or(Ok(()), |path| refuse_url("--from", path))?;
    registries(session, loaded.file.registries.clone(), &loaded.file.settings, from)
}

/// Refuses a URL as the place of a bundle.
pub(crate) fn refuse_url(option: &'static str, path: &Path) -> Result<(), InputError> {
    let is_url = path.to_str().is_some_and(|text| text.contains("://"));
    if is_url { Err(InputError::BundleUrl { option, path: path.to_owned() }) } else { Ok(()) }
}

/// Opens `registries`. None of them is asked anything yet.
pub(crate) fn open(
    session: &Session,
    settings_of: Vec<RegistrySettings>,
    settings: &Settings,
) -> Result<Registries, VerbError> {
    registries(session, settings_of, settings, None)
}

fn registries(
    session: &Session,
    registries: Vec<RegistrySettings>,
    settings: &Settings,
    from: Option<&Path>,
) -> Result<Registries, VerbError> {
    let options = Options {
        registries,
        hosts_dir: settings.hosts_dir.clone(),
        rate: settings.rate,
        limits: settings.limits,
        max_connections: settings.downloads,
        environment: session.environment.clone(),
        stored_logins: !session.untrusted,
        cancel: session.cancel.part(),
        reporter: Arc::clone(&session.reporter),
        requests: session.requests,
        rests: session.rests.clone(),
        bundle: from.map(Path::to_owned),
    };
    Registries::new(options).map_err(|error| InputError::Bundle(Box::new(error)).into())
}
