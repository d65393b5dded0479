//! Where things of one directory of layers lie, and what is there of a layer by its names alone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{RECORDS, layer_path, make_directories};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::state::LayerState;
use crate::sys::{self, Kind};

/// The private directory, where it is inside the layers directory.
const INSIDE: &str = ".msb-sync";

/// Where things of one directory of layers lie. Looks at directories once; nothing is opened or written.
#[derive(Clone, Debug)]
pub struct Places {
    pub(super) layers: PathBuf,
    pub(super) private: PathBuf,
}

impl Places {
    /// The places that belong to `layers`. The same directory by another name has the same places.
    pub fn of(layers: &Path) -> Self {
        // A directory that is not there yet will be made where its name says.
        let real = fs::canonicalize(layers).unwrap_or_else(|_| layers.to_owned());
        let inside = real.join(INSIDE);
        let beside = real.file_name().map(|name| {
            let mut private = std::ffi::OsString::from(".");
            private.push(name);
            private.push(".msb-sync");
            real.with_file_name(private)
        });
        let parent = real.parent().and_then(sys::mount_of);
        let one_mount = sys::mount_of(&real).is_none_or(|mount| parent == Some(mount));
        let private = match beside {
            Some(beside) if one_mount && !inside.is_dir() => beside,
            _ => inside,
        };
        Self { layers: layers.to_owned(), private }
    }

    /// The record of a layer.
    pub fn record(&self, digest: &BlobDigest) -> PathBuf {
        self.private.join(RECORDS).join(digest.as_str())
    }

    /// What is known of a layer.
    ///
    /// # Errors
    /// The directories cannot be looked at.
    pub fn state(&self, digest: &BlobDigest) -> Result<LayerState, StoreError> {
        self.locate()?.state(digest)
    }

    /// Finds the directories once, to look at many layers.
    ///
    /// # Errors
    /// The directories cannot be looked at.
    pub fn locate(&self) -> Result<LocatedLayers<'_>, StoreError> {
        let locate = |path: &Path| match sys::locate_directory(path) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(StoreError::io("look into", path)(error)),
        };
        let (layers, records) = (locate(&self.layers)?, locate(&self.private.join(RECORDS))?);
        Ok(LocatedLayers { places: self, layers, records })
    }

    /// Makes the private directory, inside the layers directory if it may not lie beside it.
    pub(super) fn make_private(mut self) -> Result<Self, StoreError> {
        match make_directories(&self.private) {
            Err(error) if error.kind() == "permission" => {
                self.private = self.layers.join(INSIDE);
                make_directories(&self.private)?;
            }
            other => other?,
        }
        Ok(self)
    }
}

/// The directories of [`Places`], as they were when they were found; `None` where there was none.
#[derive(Debug)]
pub struct LocatedLayers<'p> {
    places: &'p Places,
    layers: Option<OwnedFd>,
    records: Option<OwnedFd>,
}

impl LocatedLayers<'_> {
    /// What is known of a layer, from two `stat` calls.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn state(&self, digest: &BlobDigest) -> Result<LayerState, StoreError> {
        let kind = |directory: &Option<OwnedFd>, name: &str, path: &dyn Fn() -> PathBuf| match directory {
            Some(directory) => sys::metadata(directory.as_fd(), name.as_bytes())
                .map(|found| found.map(|found| found.kind))
                .map_err(|error| StoreError::io("look at", path())(error)),
            None => Ok(None),
        };
        let name = format!("{digest}.extracted");
        let layer = kind(&self.layers, &name, &|| layer_path(&self.places.layers, digest))?;
        if layer.is_none() {
            return Ok(LayerState::Missing);
        }
        let record = kind(&self.records, digest.as_str(), &|| self.places.record(digest))?;
        if layer == Some(Kind::Directory) && record == Some(Kind::File) {
            Ok(LayerState::Complete)
        } else {
            Ok(LayerState::Untrusted)
        }
    }
}
