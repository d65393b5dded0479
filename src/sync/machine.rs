//! The machine's settings on disk: `registries.toml` in the home, else in `/etc/msb-sync`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Failure, Session};
use crate::error::{InputError, InputFile};
use crate::images_file::{self, MAX_TEXT, MachineSettings, Source};
use crate::state::{Platform, RegistrySettings, Settings};
use crate::sys;

const NAME: &str = "registries.toml";
/// Where the settings of all users are.
const OF_THE_SYSTEM: &str = "/etc/msb-sync";

impl Session {
    /// Where the machine's settings are looked for; the first one that is there counts.
    pub(super) fn machine_files(&self) -> [PathBuf; 2] {
        [self.home.join(NAME), Path::new(OF_THE_SYSTEM).join(NAME)]
    }

    /// The machine's settings, for a stranger's images file without credentials; without a file, none. Its warnings are left to the caller.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong.
    pub(super) fn machine(&self) -> Result<MachineSettings, Failure> {
        for path in self.machine_files() {
            let unreadable = |source: io::Error| {
                let (file, path) = (InputFile::Machine, path.clone());
                Failure::Input(InputError::Unreadable { file, path, source }.into())
            };
            match fs::symlink_metadata(&path) {
                Ok(_) => {}
                // The home may be anything; what is wrong with it is said by whoever uses it.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(unreadable(error)),
            }
            let text = sys::read_regular_text(&path, MAX_TEXT as u64).map_err(unreadable)?;
            return self.parse_machine(&path, &text);
        }
        Ok(MachineSettings::default())
    }

    fn parse_machine(&self, path: &Path, text: &str) -> Result<MachineSettings, Failure> {
        let source = Source {
            name: &path.display().to_string(),
            directory: path.parent().unwrap_or(Path::new("/")),
            home_directory: self.user_home.as_deref(),
            default_registry: self.default_registry()?,
            default_platform: Platform::of_this_machine(),
            machine: None,
            // Whoever administers the machine wrote it.
            untrusted: false,
        };
        let machine = images_file::parse_machine(text, &source).map_err(Failure::Problems)?;
        Ok(if self.untrusted { machine.without_credentials() } else { machine })
    }

    /// Registries and settings for images that no images file speaks for.
    pub(super) fn without_file(&self) -> Result<(Vec<RegistrySettings>, Settings), Failure> {
        let MachineSettings { registries, hosts_dir, .. } = self.machine()?;
        Ok((registries, Settings { hosts_dir, ..Settings::default() }))
    }
}
