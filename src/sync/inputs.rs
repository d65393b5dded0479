//! The files that a run for an images file depends on, for those who want to know when to run
//! again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::{absolute, load, unreadable};
use super::steps::lockfile_place::LockfilePlace;
use super::steps::machine::machine_files;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::error::InputError;

/// The files that [`apply`](super::apply) would read now. All paths are absolute, with their
/// symlinks kept; there need be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The images file.
    pub images_file: PathBuf,
    /// The lockfile of the images file.
    pub lockfile: Option<PathBuf>,
    /// The machine's settings, and files that they or the images file name: roots, certificates and
    /// keys, passwords, keys and roots of signers, the indexes of image layouts.
    pub named: BTreeSet<PathBuf>,
    /// The directory of containerd's hosts files.
    pub hosts_dir: Option<PathBuf>,
    /// The directory of layers.
    pub layers: PathBuf,
    /// True if layers are extracted there, so that one which is gone is missed.
    pub extracts: bool,
    /// The catalog.
    pub catalog: PathBuf,
    /// The time after which tags are looked up again.
    pub interval: Duration,
}

/// Lists the files that a run for `source` would read. Warnings are left to the run.
///
/// # Errors
/// The images file cannot be read or is wrong, or is standard input, which is read once.
pub fn inputs(session: &Session, source: &ImagesSource) -> Result<Inputs, VerbError> {
    let ImagesSource::Path(path) = source else {
        return Err(InputError::WatchedStdin.into());
    };
    let loaded = load(&session.quiet(), source)?;
    let images_file = absolute(path).map_err(|error| unreadable(path, error))?;
    let settings = loaded.file.settings;
    let mut named = BTreeSet::from(machine_files(session));
    for registry in loaded.file.registries {
        let files = [registry.ca, registry.client_cert, registry.client_key, registry.password_file];
        named.extend(files.into_iter().flatten());
        named.extend(registry.layout.map(|layout| layout.join("index.json")));
    }
    named.extend(settings.trust.files().into_iter().map(Path::to_owned));
    Ok(Inputs {
        images_file,
        lockfile: loaded.lockfile.map(LockfilePlace::into_path),
        named,
        hosts_dir: settings.hosts_dir,
        layers: settings.layers.unwrap_or_else(|| session.default_layers()),
        extracts: settings.targets.extracts,
        catalog: Catalog::path_in(&session.home),
        interval: settings.interval,
    })
}
