//! Looking at a store without a lock and without writing: what it holds, who shares it, what was left behind,
//! and one layer with its inventory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::{INVENTORIES, Lock, Places, REMOVED, REMOVING, STAGING, UNNEEDED, layer_path, staged_digest};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::sys;

/// A layer, opened to be compared with its inventory.
#[derive(Debug)]
pub enum OpenedLayer {
    /// No directory.
    Missing,
    /// No directory and inventory of which both can be opened; the text says why.
    Incomplete(String),
    /// Both.
    Complete {
        /// The layer's directory.
        tree: OwnedFd,
        /// Its inventory.
        inventory: File,
    },
}

impl OpenedLayer {
    /// What tells this directory and inventory from others that may have taken their names meanwhile.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        let Self::Complete { tree, inventory } = self else { return Ok(None) };
        Ok(Some((sys::metadata_of(tree.as_fd())?.inode, sys::metadata_of(inventory.as_fd())?.inode)))
    }
}

/// What a run that ended early has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The layer that it was about.
    pub digest: BlobDigest,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of the files in it.
    pub size: u64,
}

impl Places {
    /// Opens a layer and its inventory; neither is ever a symlink.
    pub fn open(&self, digest: &BlobDigest) -> OpenedLayer {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let tree = sys::open_directory(&self.layers).and_then(|layers| {
            sys::open_directory_beneath(layers.as_fd(), format!("{digest}.extracted").as_bytes())
        });
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) if missing(&error) => return OpenedLayer::Missing,
            Err(error) => return OpenedLayer::Incomplete(format!("its directory cannot be opened: {error}")),
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

    /// The layers here that are msb-sync's to remove: those with an inventory, and those that it could not remove before.
    ///
    /// # Errors
    /// The directories cannot be read; ones that do not exist hold nothing.
    pub fn removable(&self) -> Result<BTreeSet<BlobDigest>, StoreError> {
        let is_there = |digest: &BlobDigest| {
            let found = fs::symlink_metadata(layer_path(&self.layers, digest));
            found.is_ok_and(|metadata| metadata.is_dir())
        };
        let unneeded = self.private_names(STAGING)?;
        let unneeded = unneeded.iter().filter_map(|name| staged_digest(name.as_bytes(), UNNEEDED));
        let mut found: BTreeSet<BlobDigest> = unneeded.filter(is_there).collect();
        let names = self.private_names(INVENTORIES)?;
        let Ok(inventories) = self.find_private(INVENTORIES) else { return Ok(found) };
        for name in names {
            let Some(digest) = BlobDigest::parse(&name).ok() else { continue };
            // What may not be an inventory says nothing of the layer, and stays.
            let is_inventory = sys::has_own_file(inventories.as_fd(), name.as_bytes()).unwrap_or(false);
            if is_inventory && is_there(&digest) {
                found.insert(digest);
            }
        }
        Ok(found)
    }

    /// Whether no run is at work here.
    pub fn is_idle(&self) -> bool {
        Lock::is_free(&self.private.join("lock"))
    }

    /// What is staged: while no run is at work here, that is what one that ended early has left.
    ///
    /// # Errors
    /// The directory cannot be read; one that does not exist holds nothing.
    pub fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let staging = self.private.join(STAGING);
        let leftover = |name: String| {
            let digest =
                ["", REMOVED, REMOVING].iter().find_map(|prefix| staged_digest(name.as_bytes(), prefix))?;
            let size = sys::open_directory(&staging)
                .and_then(|staging| sys::size_of_tree(staging.as_fd(), name.as_bytes()));
            Some(Leftover { digest, path: staging.join(name), size: size.unwrap_or_default() })
        };
        Ok(self.private_names(STAGING)?.into_iter().filter_map(leftover).collect())
    }
}

impl Places {
    /// The names in the directory `name` of the private one; one that does not exist holds nothing.
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
}
