//! The machine's settings for all images files, from its `registries.toml`.
//!
//! All images files of a machine need the same knowledge of registries and engines: none of them
//! has to say it, and `pull`, which has no images file, has it too. A table of the same name in an
//! images file is taken in place of the machine's, as a whole; a registry's only if it has more
//! than `images`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Problem;
use crate::state::{EngineSettings, PullPolicy, RegistrySettings};

/// The machine's settings for all images files.
#[derive(Clone, Debug, Default)]
pub(crate) struct MachineSettings {
    /// The machine's registries, in the order of the file.
    pub registries: Vec<RegistrySettings>,
    /// The machine's engines, in the order of [`EngineName::ALL`](crate::state::EngineName::ALL).
    pub engines: Vec<EngineSettings>,
    /// A directory of containerd `hosts.toml` files. Absolute.
    pub hosts_dir: Option<PathBuf>,
    /// Problems that are doubtful but do not stop the run.
    pub warnings: Vec<Problem>,
    /// The words of registries' tables for their images.
    pub(super) for_images: BTreeMap<String, ForImages>,
}

/// The words of a registry's table for those of its images that say nothing themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ForImages {
    pub(super) pull: Option<PullPolicy>,
    pub(super) cooldown: Option<Duration>,
}

impl MachineSettings {
    /// Finds the settings of the registry `name`, and the words for its images that go with them.
    pub(super) fn registry(&self, name: &str) -> Option<(&RegistrySettings, ForImages)> {
        let settings = self.registries.iter().find(|settings| settings.name == name)?;
        Some((settings, self.for_images.get(name).copied().unwrap_or_default()))
    }

    /// Drops, for a stranger's images file, all that opens the private parts of registries: logins,
    /// headers, client certificates, and hosts files, which may have headers.
    #[must_use]
    pub(crate) fn without_credentials(mut self) -> Self {
        self.hosts_dir = None;
        for registry in &mut self.registries {
            registry.headers.clear();
            (registry.username, registry.password_env, registry.password_file) = (None, None, None);
            (registry.client_cert, registry.client_key) = (None, None);
        }
        self
    }
}
