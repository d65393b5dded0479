//! A bundle as a directory, completed in place: what is there already is compared with its digest,
//! and the index comes last.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::contents::{self, Blob, Contents};
use super::failed;
use crate::bundle::{self, Form};
use crate::digest::Verifier;
use crate::error::{InputError, StoreError};
use crate::sync::verb_error::VerbError;
use crate::sys;

/// The index for docker's classic image store.
const DOCKER_INDEX: &str = "manifest.json";
/// The bytes that are copied at once.
const BUFFER: usize = 1 << 20;

/// A directory that is, or is to be, a layout.
pub(super) struct Directory {
    path: PathBuf,
    opened: OwnedFd,
}

impl Directory {
    /// Opens the directory at `path`, or makes it.
    ///
    /// # Errors
    /// It holds other things than a layout.
    pub(super) fn open(path: &Path) -> Result<Self, VerbError> {
        fs::create_dir_all(path).map_err(StoreError::named("create", path))?;
        let mut entries = fs::read_dir(path).map_err(StoreError::named("read", path))?;
        if entries.next().is_some() && !path.join(bundle::MARKER).is_file() {
            return Err(InputError::NoLayout { path: path.to_owned() }.into());
        }
        let opened = sys::open_directory(path).map_err(StoreError::named("open", path))?;
        Ok(Self { path: path.to_owned(), opened })
    }

    /// Completes the layout with `contents`.
    pub(super) fn write(&self, contents: &Contents<'_>, form: Form) -> Result<(), VerbError> {
        self.replace(bundle::MARKER, bundle::MARKER_TEXT.as_bytes())?;
        self.blobs(contents)?;
        sys::sync_file_system(self.opened.as_fd()).map_err(StoreError::named("sync", &self.path))?;
        self.replace(contents::LOCKFILE, contents.lockfile().as_bytes())?;
        if form.docker {
            self.replace(DOCKER_INDEX, &bundle::docker_json(contents.images()))?;
        } else if let Err(error) = sys::remove_file(self.opened.as_fd(), DOCKER_INDEX.as_bytes())
            && error.kind() != io::ErrorKind::NotFound
        {
            // An older one would cost some engines the digests.
            return Err(StoreError::named("remove", self.path.join(DOCKER_INDEX))(error).into());
        }
        self.replace(bundle::INDEX, &bundle::index_json(contents.images(), form))
    }

    /// Writes the blobs that the directory has not, or not as they should be. None waits for the
    /// disk: one sync serves all, before an index names them.
    fn blobs(&self, contents: &Contents<'_>) -> Result<(), VerbError> {
        let mut opened = BTreeMap::new();
        let mut buffer = vec![0; BUFFER];
        let path_of = |blob: &Blob| self.path.join(bundle::blob_path(&blob.digest));
        contents.each(&|blob, is_stopped| !is_whole(&path_of(blob), blob, is_stopped), &mut |blob, bytes| {
            let path = path_of(blob);
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
            let directory = match opened.entry(blob.digest.algorithm()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(open_swept(parent)?),
            };
            let mut bytes = bytes.map_err(|error| failed(error, &path))?;
            let mut copy = |file: &mut File| loop {
                match bytes.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => file.write_all(&buffer[..count])?,
                }
            };
            sys::replace_file_unsynced(directory.as_fd(), name.as_bytes(), None, &mut copy)
                .map_err(|error| failed(error, &path))
        })
    }

    /// Replaces a file of the root, unless it is the same already.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), VerbError> {
        let path = self.path.join(name);
        if sys::read_regular(&path, bytes.len() as u64).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let mut fill = |file: &mut File| file.write_all(bytes);
        let written = sys::replace_file(self.opened.as_fd(), name.as_bytes(), None, &mut fill);
        Ok(written.map_err(StoreError::named("write", path))?)
    }
}

/// Opens a directory of blobs, made where it is missing, without what killed exports have left.
fn open_swept(path: &Path) -> Result<OwnedFd, StoreError> {
    fs::create_dir_all(path).map_err(StoreError::named("create", path))?;
    let directory = sys::open_directory(path).map_err(StoreError::named("open", path))?;
    sys::sweep_replacements(directory.as_fd(), &|_| true);
    Ok(directory)
}

/// True if the file at `path` is `blob`, by its digest.
fn is_whole(path: &Path, blob: &Blob, is_stopped: &dyn Fn() -> bool) -> bool {
    let is_blob = |mut file: File| {
        let has_size = file.metadata()?.len() == blob.size;
        let verifier = Verifier::new(&blob.digest, blob.size);
        Ok::<bool, io::Error>(has_size && verifier.read(&mut file, is_stopped)?.is_ok())
    };
    sys::open_regular(path).and_then(is_blob).unwrap_or(false)
}
