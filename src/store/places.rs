//! Where things of one directory of layers lie, and what is there of a layer by its names alone.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::binding::Bound;
use super::directories;
use super::{BINDINGS, INVENTORIES, layer_path};
use crate::digest::BlobDigest;
use crate::error::{StoreError, printable};
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
            Some(beside) if one_mount && !is_directory(&inside) => beside,
            _ => inside,
        };
        Self { layers: layers.to_owned(), private }
    }

    /// The inventory of a layer.
    pub fn inventory(&self, digest: &BlobDigest) -> PathBuf {
        self.private.join(INVENTORIES).join(digest.as_str())
    }

    /// A few names of what is no layer in a directory that was never used for layers: somebody may have meant another
    /// one. Empty where it has been used, or cannot be read.
    pub fn other_things(&self) -> Vec<String> {
        let is_layer = |name: &str| {
            // What makes the root of a file system is nobody's.
            name.starts_with("sha256:")
                || name.starts_with("sha512:")
                || matches!(name, INSIDE | "lost+found")
        };
        if self.private.symlink_metadata().is_ok() {
            return Vec::new();
        }
        let entries = fs::read_dir(&self.layers).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !is_layer(name)).take(3).map(|name| printable(&name)).collect()
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
        let none = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        };
        let layers = match sys::locate_directory(&self.layers) {
            Err(error) if none(&error) => None,
            other => Some(other.map_err(StoreError::io("look into", &self.layers))?),
        };
        let find = |name: &str| match self.find_private(name) {
            Ok(directory) => Ok(Some(directory)),
            Err((_, error)) if none(&error) => Ok(None),
            Err((path, error)) => Err(StoreError::io("look into", path)(error)),
        };
        let (inventories, bindings) = (find(INVENTORIES)?, find(BINDINGS)?);
        let lasting_inodes = layers.as_ref().is_some_and(|layers| sys::has_lasting_inodes(layers.as_fd()));
        Ok(LocatedLayers { places: self, layers, inventories, bindings, lasting_inodes })
    }

    /// The directory `name` in the private one, to which no symlink leads; if there is none, at which path and why.
    pub(super) fn find_private(&self, name: &str) -> Result<OwnedFd, (PathBuf, io::Error)> {
        let (parent, own_name) = (self.private.parent(), self.private.file_name().unwrap_or_default());
        let private = sys::locate_directory(parent.unwrap_or(Path::new("/")))
            .and_then(|parent| sys::locate_own_directory_at(parent.as_fd(), own_name))
            .map_err(|error| (self.private.clone(), error))?;
        sys::locate_own_directory_at(private.as_fd(), name).map_err(|error| (self.private.join(name), error))
    }

    /// Opens the inventory of a layer.
    ///
    /// # Errors
    /// There is none, or no regular file of this user's or root's.
    pub fn open_inventory(&self, digest: &BlobDigest) -> io::Result<File> {
        let inventories = self.find_private(INVENTORIES).map_err(|(_, error)| error)?;
        sys::open_own_file(inventories.as_fd(), digest.as_str().as_bytes())
    }

    /// Opens the private directory, made inside the layers directory if it may not lie beside it.
    pub(super) fn make_private(mut self) -> Result<(Self, OwnedFd), StoreError> {
        let private = match directories::make_private(&self.private) {
            Err(error) if error.kind() == "permission" => {
                self.private = self.layers.join(INSIDE);
                directories::make_private(&self.private)?
            }
            other => other?,
        };
        Ok((self, private))
    }
}

/// Whether there is a directory at `path`, and no symlink to one.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// The directories of [`Places`], as they were when they were found; `None` where there was none.
#[derive(Debug)]
pub struct LocatedLayers<'p> {
    places: &'p Places,
    layers: Option<OwnedFd>,
    inventories: Option<OwnedFd>,
    bindings: Option<OwnedFd>,
    lasting_inodes: bool,
}

impl LocatedLayers<'_> {
    /// What is known of a layer, from what four calls say of its directory, its inventory, and the note of which
    /// directory the inventory is.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn state(&self, digest: &BlobDigest) -> Result<LayerState, StoreError> {
        let Some(layers) = &self.layers else { return Ok(LayerState::Missing) };
        let name = format!("{digest}.extracted");
        let failed = |path: PathBuf| StoreError::io("look at", path);
        let layer = sys::mark(layers.as_fd(), name.as_bytes(), self.lasting_inodes)
            .map_err(failed(layer_path(&self.places.layers, digest)))?;
        let Some((found, mark)) = layer else { return Ok(LayerState::Missing) };
        let has_inventory = match &self.inventories {
            Some(inventories) => match sys::has_own_file(inventories.as_fd(), digest.as_str().as_bytes()) {
                // What may not be an inventory is none. Who would replace it names it.
                Err(error) if sys::refusal(&error).is_some() => false,
                other => other.map_err(failed(self.places.inventory(digest)))?,
            },
            None => false,
        };
        let bound = || match &self.bindings {
            Some(bindings) => Bound::of(bindings.as_fd(), digest, &mark),
            None => Bound::Unknown,
        };
        // Whoever owns the directory may have changed all that is in it.
        let is_ours = found.kind == Kind::Directory && sys::is_own(found.owner);
        Ok(match (is_ours, has_inventory) {
            (true, true) => match bound() {
                Bound::Same => LayerState::Complete,
                Bound::Differs => LayerState::Untrusted,
                Bound::Unknown => LayerState::Unbound,
            },
            _ => LayerState::Untrusted,
        })
    }
}
