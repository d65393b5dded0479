//! What a run reads beside registries and its own directories, for those who want to know when to run again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Failure, ImagesSource, Session};
use crate::error::Error;
use crate::progress::Silent;

/// What [`Session::apply`] would read now. All paths are absolute, with their symlinks kept; there need be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The images file.
    pub images_file: PathBuf,
    /// Its lockfile.
    pub lockfile: Option<PathBuf>,
    /// Files that the images file names: roots, certificates and keys, passwords, the indexes of image layouts.
    pub named: BTreeSet<PathBuf>,
    /// The directory of containerd's hosts files.
    pub hosts_dir: Option<PathBuf>,
    /// The directory of layers.
    pub layers: PathBuf,
    /// The catalog.
    pub catalog: PathBuf,
    /// How often tags are looked up again.
    pub interval: Duration,
}

impl Session {
    /// What a run for `source` would read. Warnings are left to the run.
    ///
    /// # Errors
    /// The images file cannot be read or is wrong, or is standard input, which is read once.
    pub fn inputs(&self, source: &ImagesSource) -> Result<Inputs, Failure> {
        let ImagesSource::Path(path) = source else {
            return Err(Failure::Input(Error::Usage {
                message: "standard input cannot be watched: it is read once".to_owned(),
                hint: Some("write it to a file, and watch that: msb-sync watch images.toml".to_owned()),
            }));
        };
        let quiet = Self { reporter: Arc::new(Silent), ..self.clone() };
        let loaded = quiet.load(source)?;
        let images_file = super::absolute(path).map_err(|error| {
            let message = format!("cannot read {}: {error}", path.display());
            Failure::Input(Error::Usage { message, hint: None })
        })?;
        let settings = loaded.file.settings;
        let mut named = BTreeSet::new();
        for registry in loaded.file.registries {
            let files = [registry.ca, registry.client_cert, registry.client_key, registry.password_file];
            named.extend(files.into_iter().flatten());
            named.extend(registry.layout.map(|layout| layout.join("index.json")));
        }
        Ok(Inputs {
            images_file,
            lockfile: loaded.lockfile.map(super::LockfilePlace::into_path),
            named,
            hosts_dir: settings.hosts_dir,
            layers: settings.layers.unwrap_or_else(|| self.default_layers()),
            catalog: self.catalog_path(),
            interval: settings.interval,
        })
    }
}
