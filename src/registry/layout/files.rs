//! The files of a layout, in a directory or in a tar. Only regular files are read.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::archive::{Members, Place};
use crate::sys;

/// The place of a layout's files.
pub(super) enum Files {
    Directory(PathBuf),
    Archive { path: PathBuf, members: Members },
}

impl Files {
    /// Opens what is at `path`: a directory, or a tar.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let members = Members::read(&mut sys::open_regular(path)?)?;
        Ok(Self::Archive { path: path.to_owned(), members })
    }

    /// The path of the directory or the tar.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    /// Opens the file `name` at `offset`, or at its end, and tells the size of the whole file.
    pub(super) fn file(&self, name: &str, offset: u64) -> io::Result<(io::Take<File>, u64)> {
        let (mut file, place) = match self {
            Self::Directory(path) => {
                let file = sys::open_regular(&path.join(name))?;
                let size = file.metadata()?.len();
                (file, Place { offset: 0, size })
            }
            Self::Archive { path, members } => {
                let missing = || io::Error::new(ErrorKind::NotFound, "the tar has no such file");
                let place = members.find(name).ok_or_else(missing)?;
                (sys::open_regular(path)?, place)
            }
        };
        let offset = offset.min(place.size);
        file.seek(SeekFrom::Start(place.offset + offset))?;
        Ok((file.take(place.size - offset), place.size))
    }

    /// True if there is a regular file `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => sys::open_regular(&path.join(name)).is_ok(),
            Self::Archive { members, .. } => members.find(name).is_some(),
        }
    }
}
