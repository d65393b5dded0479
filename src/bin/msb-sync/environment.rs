//! The session that the environment describes, before any option of the command line.

use std::path::PathBuf;

use msb_sync::error::InputError;
use msb_sync::sync::{Environment, Session, VerbError};

/// A session on `home`, else on the home that the environment names. Nobody listens to it.
pub(crate) fn session(home: Option<PathBuf>) -> Result<Session, VerbError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let user_home = variable("HOME").map(PathBuf::from);
    let home_given = home.clone();
    let home = home.or_else(|| variable("MICROSANDBOX_HOME").map(PathBuf::from));
    let home = match (home, &user_home) {
        (Some(home), _) => home,
        (None, Some(home)) => home.join(".microsandbox"),
        (None, None) => return Err(VerbError::Input(InputError::NoHome.into())),
    };
    let home = std::path::absolute(&home)
        .map_err(|source| VerbError::Input(InputError::Home { path: home, source }.into()))?;
    Ok(Session {
        home_given,
        user_home,
        environment: Environment::from_process(),
        default_registry: variable("OCI_REGISTRY_DOMAIN")
            .map(|value| value.to_string_lossy().into_owned())
            .unwrap_or_default(),
        ..Session::new(home)
    })
}
