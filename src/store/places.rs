//! The places of one directory of layers: where things lie, and what is there, by their names
//! alone. Only the private directory itself is made here, for a store that is being opened; all
//! else looks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::binding::{Bindings, Bound};
use super::directories;
use super::names::{
    BINDINGS, INVENTORIES, LOCK, STAGING, UNNEEDED, layer_name, layer_path, leftover_digest, staged_digest,
};
use crate::digest::BlobDigest;
use crate::error::{StoreError, printable};
use crate::locked_home;
use crate::state::LayerState;
use crate::sys::{self, Kind, UnsyncedNames};
use crate::threads;

/// The private directory, where it is inside the layers directory.
const INSIDE: &str = ".msb-sync";

/// The places where things of one directory of layers lie. Looks at directories once.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(super) layers: PathBuf,
    pub(super) private: PathBuf,
}

impl Places {
    /// Finds the places that belong to `layers`. The same directory by another name has the same
    /// places.
    pub(crate) fn of(layers: &Path) -> Self {
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

    /// The path of a layer's inventory.
    pub(crate) fn inventory(&self, digest: &BlobDigest) -> PathBuf {
        self.private.join(INVENTORIES).join(digest.text())
    }

    /// Lists a few names of what is no layer in a directory that was never used for layers:
    /// somebody may have meant another one. Empty where it has been used, or cannot be read.
    pub(crate) fn other_things(&self) -> Vec<String> {
        let is_layer = |name: &str| {
            // The names in the root of a fresh file system are nobody's.
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

    /// Tells what is known of a layer.
    ///
    /// # Errors
    /// The directories cannot be looked at.
    pub(crate) fn state(&self, digest: &BlobDigest) -> Result<LayerState, StoreError> {
        self.locate()?.state(digest)
    }

    /// Finds the directories once, to look at many layers.
    ///
    /// # Errors
    /// The directories cannot be looked at.
    pub(crate) fn locate(&self) -> Result<LocatedLayers<'_>, StoreError> {
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
        let (inventories, bindings) = (find(INVENTORIES)?, find(BINDINGS)?.map(Bindings::new));
        let lasting_inodes = layers.as_ref().is_some_and(|layers| sys::has_lasting_inodes(layers.as_fd()));
        Ok(LocatedLayers { places: self, layers, inventories, bindings, lasting_inodes })
    }

    /// Finds the directory `name` in the private one, to which no symlink leads; if there is none,
    /// tells at which path and why.
    pub(super) fn find_private(&self, name: &str) -> Result<OwnedFd, (PathBuf, io::Error)> {
        let (parent, own_name) = (self.private.parent(), self.private.file_name().unwrap_or_default());
        let private = sys::locate_directory(parent.unwrap_or(Path::new("/")))
            .and_then(|parent| sys::locate_own_directory_at(parent.as_fd(), own_name))
            .map_err(|error| (self.private.clone(), error))?;
        sys::locate_own_directory_at(private.as_fd(), name).map_err(|error| (self.private.join(name), error))
    }

    fn open_inventory(&self, digest: &BlobDigest) -> io::Result<File> {
        let inventories = self.find_private(INVENTORIES).map_err(|(_, error)| error)?;
        sys::open_own_file(inventories.as_fd(), digest.text().as_bytes())
    }

    /// Opens a layer and its inventory; neither is ever a symlink.
    pub(crate) fn open(&self, digest: &BlobDigest) -> OpenedLayer {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let tree = sys::open_directory(&self.layers)
            .and_then(|layers| sys::open_directory_beneath(layers.as_fd(), &layer_name(digest)));
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) if missing(&error) => return OpenedLayer::Missing,
            Err(error) => {
                let found = fs::symlink_metadata(layer_path(&self.layers, digest));
                return OpenedLayer::Incomplete(match found.map(|found| found.file_type()) {
                    Ok(kind) if kind.is_symlink() => "a symlink is in the place of its directory".to_owned(),
                    Ok(kind) if !kind.is_dir() => {
                        "something else is in the place of its directory".to_owned()
                    }
                    _ => format!("its directory cannot be opened: {error}"),
                });
            }
        };
        match self.open_inventory(digest) {
            Ok(inventory) => OpenedLayer::Complete { tree, inventory },
            Err(error) if missing(&error) => OpenedLayer::Incomplete("there is no record of it".to_owned()),
            Err(error) => {
                let path = self.inventory(digest);
                OpenedLayer::Incomplete(format!("its record {} cannot be used: {error}", path.display()))
            }
        }
    }

    /// Lists the layers here, of those that are `asked` about, that are msb-sync's to remove: those
    /// with an inventory, and those that it could not remove before. So many `threads` look.
    ///
    /// # Errors
    /// The directories cannot be read; ones that do not exist hold nothing.
    pub(crate) fn removable(
        &self,
        threads: usize,
        asked: impl Fn(&BlobDigest) -> bool,
    ) -> Result<BTreeSet<BlobDigest>, StoreError> {
        let is_there = |digest: &BlobDigest| {
            let found = fs::symlink_metadata(layer_path(&self.layers, digest));
            found.is_ok_and(|metadata| metadata.is_dir())
        };
        let unneeded = self.private_names(STAGING)?;
        let unneeded = unneeded.iter().filter_map(|name| staged_digest(name.as_bytes(), UNNEEDED));
        let mut found: BTreeSet<BlobDigest> = unneeded.filter(|it| asked(it) && is_there(it)).collect();
        let names = self.private_names(INVENTORIES)?;
        let Ok(inventories) = self.find_private(INVENTORIES) else { return Ok(found) };
        let recorded = names.iter().filter_map(|name| BlobDigest::parse(name).ok().filter(&asked));
        let recorded: Vec<BlobDigest> = recorded.collect();
        let is_removable = threads::each_with_files("look", threads, &recorded, |digest| {
            // A thing that may not be an inventory says nothing of the layer, and stays.
            let name = digest.text();
            sys::has_own_file(inventories.as_fd(), name.as_bytes()).unwrap_or(false) && is_there(digest)
        });
        found.extend(recorded.into_iter().zip(is_removable).filter(|(_, is)| *is).map(|(digest, _)| digest));
        Ok(found)
    }

    /// True if no run is at work here.
    pub(crate) fn is_idle(&self) -> bool {
        locked_home::is_free(&self.private.join(LOCK))
    }

    /// Lists the things in staging: while no run is at work here, those that one which ended early
    /// has left.
    ///
    /// # Errors
    /// The directory cannot be read; one that does not exist holds nothing.
    pub(crate) fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let staging = self.private.join(STAGING);
        let leftover = |name: String| {
            let digest = leftover_digest(name.as_bytes())?;
            let size = sys::open_directory(&staging)
                .and_then(|staging| sys::size_of_tree(staging.as_fd(), name.as_bytes()));
            Some(Leftover { digest, path: staging.join(name), size: size.unwrap_or_default() })
        };
        Ok(self.private_names(STAGING)?.into_iter().filter_map(leftover).collect())
    }

    /// True if there are [leftovers](Places::leftovers); they are not measured.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn has_leftovers(&self) -> Result<bool, StoreError> {
        Ok(self.private_names(STAGING)?.iter().any(|name| leftover_digest(name.as_bytes()).is_some()))
    }

    /// Measures the files of a layer that has no inventory; 0 where they cannot be looked at.
    pub(crate) fn size_of(&self, digest: &BlobDigest) -> u64 {
        let size = |layers: OwnedFd| sys::size_of_tree(layers.as_fd(), &layer_name(digest));
        sys::open_directory(&self.layers).and_then(size).unwrap_or_default()
    }

    /// Measures all that is in staging; 0 where it cannot be looked at.
    pub(crate) fn size_of_staging(&self) -> u64 {
        let size = |private: OwnedFd| sys::size_of_tree(private.as_fd(), STAGING.as_bytes());
        sys::open_directory(&self.private).and_then(size).unwrap_or_default()
    }

    /// Lists the names in the directory `name` of the private one; one that does not exist holds
    /// nothing.
    pub(super) fn private_names(&self, name: &str) -> Result<BTreeSet<String>, StoreError> {
        let missing = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        };
        let directory = match self.find_private(name) {
            Ok(directory) => directory,
            Err((_, error)) if missing(&error) => return Ok(BTreeSet::new()),
            Err((path, error)) => return Err(StoreError::io("read", path)(error)),
        };
        let mut names = BTreeSet::new();
        sys::open_directory_beneath(directory.as_fd(), b"")
            .and_then(|directory| {
                sys::each_entry(directory.as_fd(), |name, _| {
                    names.extend(String::from_utf8(name.to_vec()));
                    true
                })
            })
            .map_err(StoreError::io("read", self.private.join(name)))?;
        Ok(names)
    }

    /// Opens the private directory, made inside the layers directory if it may not lie beside it;
    /// its name lasts once `unsynced` is synced.
    pub(super) fn make_private(
        mut self,
        unsynced: &mut UnsyncedNames,
    ) -> Result<(Self, OwnedFd), StoreError> {
        let private = match directories::make_private(&self.private, unsynced) {
            Err(error) if error.kind() == "permission" => {
                self.private = self.layers.join(INSIDE);
                directories::make_private(&self.private, unsynced)?
            }
            other => other?,
        };
        Ok((self, private))
    }
}

/// A layer, opened to be compared with its inventory.
#[derive(Debug)]
pub(crate) enum OpenedLayer {
    /// There is no directory.
    Missing,
    /// Directory and inventory cannot both be opened; the text says why.
    Incomplete(String),
    /// Both are there.
    Complete {
        /// The directory of the layer.
        tree: OwnedFd,
        /// The inventory of the layer.
        inventory: File,
    },
}

impl OpenedLayer {
    /// Identifies this directory and inventory among others that may have taken their names
    /// meanwhile.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub(crate) fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        let Self::Complete { tree, inventory } = self else { return Ok(None) };
        Ok(Some((sys::metadata_of(tree.as_fd())?.inode, sys::metadata_of(inventory.as_fd())?.inode)))
    }
}

/// A thing that a run which ended early has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The layer that it was about.
    pub digest: BlobDigest,
    /// The place where it lies.
    pub path: PathBuf,
    /// The bytes of the files in it.
    pub size: u64,
}

/// True if there is a directory at `path`, and no symlink to one.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// The directories of [`Places`], as they were when they were found; `None` where there was none.
#[derive(Debug)]
pub(crate) struct LocatedLayers<'p> {
    places: &'p Places,
    layers: Option<OwnedFd>,
    inventories: Option<OwnedFd>,
    bindings: Option<Bindings>,
    lasting_inodes: bool,
}

impl LocatedLayers<'_> {
    /// Opens the inventory of a layer.
    ///
    /// # Errors
    /// There is none, or no regular file of this user's or root's.
    pub(crate) fn open_inventory(&self, digest: &BlobDigest) -> io::Result<File> {
        let Some(inventories) = &self.inventories else { return Err(io::ErrorKind::NotFound.into()) };
        sys::open_own_file(inventories.as_fd(), digest.text().as_bytes())
    }

    /// True if there is a thing by the name of the layer.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    pub(crate) fn has(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        let Some(layers) = &self.layers else { return Ok(false) };
        let found = sys::metadata(layers.as_fd(), &layer_name(digest));
        let found = found.map_err(StoreError::io("look at", layer_path(&self.places.layers, digest)))?;
        Ok(found.is_some())
    }

    /// Tells what is known of a layer, from what four calls say of its directory, its inventory,
    /// and the note of which directory the inventory is.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(crate) fn state(&self, digest: &BlobDigest) -> Result<LayerState, StoreError> {
        let Some(layers) = &self.layers else { return Ok(LayerState::Missing) };
        let failed = |path: PathBuf| StoreError::io("look at", path);
        let layer = sys::mark(layers.as_fd(), &layer_name(digest), self.lasting_inodes)
            .map_err(failed(layer_path(&self.places.layers, digest)))?;
        let Some((found, mark)) = layer else { return Ok(LayerState::Missing) };
        let has_inventory = match &self.inventories {
            Some(inventories) => match sys::has_own_file(inventories.as_fd(), digest.text().as_bytes()) {
                // A thing that may not be an inventory is none. Whoever would replace it names it.
                Err(error) if sys::refusal(&error).is_some() => false,
                other => other.map_err(failed(self.places.inventory(digest)))?,
            },
            None => false,
        };
        let bound = || match &self.bindings {
            Some(bindings) => bindings.bound(digest, &mark),
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
