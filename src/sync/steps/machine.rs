//! The machine's settings on disk: `registries.toml` in the home, else in `/etc/msb-sync`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::user_file::toml_text;
use crate::error::{InputError, InputFile};
use crate::images_file::{self, MAX_TEXT, MachineSettings, Source};
use crate::state::{Platform, RegistrySettings, Settings, Targets};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;

const NAME: &str = "registries.toml";
/// The directory of the settings of all users.
const OF_THE_SYSTEM: &str = "/etc/msb-sync";

/// Returns where the machine's settings are looked for; the first one that is there counts.
pub(crate) fn machine_files(session: &Session) -> [PathBuf; 2] {
    [session.home.join(NAME), Path::new(OF_THE_SYSTEM).join(NAME)]
}

/// Reads the machine's settings, for a stranger's images file without credentials; without a file,
/// none. Its warnings are left to the caller.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub(crate) fn machine(session: &Session) -> Result<MachineSettings, VerbError> {
    for path in machine_files(session) {
        let unreadable =
            |source: io::Error| VerbError::from(InputError::unreadable(InputFile::Machine, &path, source));
        match fs::symlink_metadata(&path) {
            Ok(_) => {}
            // The home may be anything; what is wrong with it is said by whoever uses it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(unreadable(error)),
        }
        let bytes = sys::read_regular(&path, MAX_TEXT as u64).map_err(unreadable)?;
        let text = toml_text(bytes, &path.display().to_string())?;
        return parse_machine(session, &path, &text);
    }
    Ok(MachineSettings::default())
}

fn parse_machine(session: &Session, path: &Path, text: &str) -> Result<MachineSettings, VerbError> {
    let source = Source {
        name: &path.display().to_string(),
        directory: path.parent().unwrap_or(Path::new("/")),
        home_directory: session.user_home.as_deref(),
        default_registry: session.default_registry()?,
        default_platform: Platform::of_this_machine(),
        for_platform: None,
        machine: None,
        // Whoever administers the machine wrote it.
        untrusted: false,
    };
    let machine = images_file::parse_machine(text, &source).map_err(VerbError::Problems)?;
    Ok(if session.untrusted { machine.without_credentials() } else { machine })
}

/// Returns registries and settings for images that no images file speaks for.
pub(crate) fn without_file(session: &Session) -> Result<(Vec<RegistrySettings>, Settings), VerbError> {
    let MachineSettings { registries, engines, hosts_dir, .. } = machine(session)?;
    Ok((registries, Settings { hosts_dir, targets: Targets::with(engines), ..Settings::default() }))
}
