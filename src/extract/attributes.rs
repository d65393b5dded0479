//! Owners, modes, times and extended attributes of what a layer holds.
//!
//! The owner and mode that a tar names are for the microVM alone: they go into an xattr, from which
//! libkrun shows them. On disk everything belongs to the user who runs msb-sync, and no mode of an
//! image takes effect on the host.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::paths::{failed, refused, show};
use super::tar::Entry;
use crate::error::LayerError;
use crate::state::Ownership;
use crate::sys::{self, FileTime, ImpossibleXattr};

/// The xattr by which container tools and libkrun keep owner and mode (containers/storage
/// `override_stat`).
pub(super) const OVERRIDE_STAT: &[u8] = b"user.containers.override_stat";
/// The namespaces of `user.*` that container tools interpret; a tar must not speak to them.
const RESERVED: [&[u8]; 4] = [b"user.containers.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.vm."];

/// The file type bits of `st_mode`.
pub(super) const TYPE_FILE: u32 = 0o100_000;
pub(super) const TYPE_DIRECTORY: u32 = 0o040_000;
const STICKY: u32 = 0o1000;

/// The names and values of extended attributes.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// True if the host may have the tar's own xattr `name`.
pub(super) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

/// The owner of an entry inside the microVM, and its mode there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) type_bits: u32,
    pub(super) mode: u32,
}

impl Stat {
    /// Takes owner and mode from an entry of the tar.
    pub(super) fn of(entry: &Entry, type_bits: u32) -> Self {
        Self { uid: entry.uid, gid: entry.gid, type_bits, mode: entry.mode }
    }

    /// The value of [`OVERRIDE_STAT`].
    pub(super) fn text(self) -> String {
        format!("{}:{}:0{:o}", self.uid, self.gid, self.type_bits | self.mode)
    }

    /// The mode on disk: never setuid, setgid or sticky, always usable by the owner. A directory
    /// where the sticky bit keeps users from each other's files is not writable for others without
    /// it.
    pub(super) fn disk_mode(self) -> u32 {
        let is_directory = self.type_bits == TYPE_DIRECTORY;
        let usable = if is_directory { 0o700 } else { 0o600 };
        let shared = is_directory && self.mode & STICKY != 0;
        (self.mode & 0o777 | usable) & if shared { !0o002 } else { !0 }
    }
}

/// The things that a file has beside its content.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) stat: Stat,
    pub(super) modified: FileTime,
    pub(super) xattrs: Xattrs,
}

/// Sets the attributes of one layer's files and directories, from any thread.
#[derive(Debug)]
pub(super) struct AttributeSetter {
    ownership: Ownership,
    umask: u32,
    no_xattrs: AtomicBool,
}

impl AttributeSetter {
    /// Prepares for a layer whose owners are kept as `ownership` says, in a process with this
    /// umask.
    pub(super) fn new(ownership: Ownership, umask: u32) -> Self {
        Self { ownership, umask, no_xattrs: AtomicBool::new(false) }
    }

    /// True if the file system turned out to have no xattrs.
    pub(super) fn no_xattrs(&self) -> bool {
        self.no_xattrs.load(Ordering::Relaxed)
    }

    /// The xattrs that are on disk where an entry has these and `stat`.
    pub(super) fn on_disk(&self, stat: Stat, mut xattrs: Xattrs) -> Xattrs {
        if self.no_xattrs() {
            xattrs.clear();
        } else if self.ownership == Ownership::OverrideStat {
            xattrs.insert(0, (OVERRIDE_STAT.to_vec(), stat.text().into_bytes()));
        }
        xattrs
    }

    /// Sets xattrs and mode of a file or directory; a `fresh` one was made with its mode, less the
    /// umask.
    pub(super) fn set(
        &self,
        file: BorrowedFd<'_>,
        path: &[u8],
        stat: Stat,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        fresh: bool,
    ) -> Result<(), LayerError> {
        if !self.no_xattrs() {
            let mut supported = true;
            if self.ownership == Ownership::OverrideStat {
                supported = sys::set_xattr(file, OVERRIDE_STAT, stat.text().as_bytes())
                    .map_err(failed("set the owner xattr of", path))?;
            }
            for (name, value) in xattrs {
                supported &= sys::set_xattr(file, name, value).map_err(|source| {
                    // Not this machine is short of anything: the layer asks for what cannot be.
                    let name = show(name);
                    match sys::impossible_xattr(&source, file) {
                        Some(ImpossibleXattr::Anywhere) => {
                            refused(path, format!("its extended attribute {name:?} cannot be set: {source}"))
                        }
                        Some(ImpossibleXattr::OnFileSystem) => LayerError::Xattr { entry: show(path), name },
                        None => failed("set the extended attributes of", path)(source),
                    }
                })?;
            }
            if !supported {
                self.no_xattrs.store(true, Ordering::Relaxed);
            }
        }
        let mode = stat.disk_mode();
        if !fresh || mode & self.umask != 0 {
            sys::set_mode(file, mode).map_err(failed("set the mode of", path))?;
        }
        Ok(())
    }

    /// Gives a file that was just written all its attributes.
    pub(super) fn finish(&self, file: &File, path: &[u8], attributes: &Attributes) -> Result<(), LayerError> {
        self.set(file.as_fd(), path, attributes.stat, &attributes.xattrs, true)?;
        sys::set_times(file.as_fd(), attributes.modified).map_err(failed("set the times of", path))
    }
}
