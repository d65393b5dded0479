//! What a run reads beside registries and its own directories: the images file's text, and all that it depends on,
//! for those who want to know when to run again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Loaded;
use super::lock::locked_selections;
use super::{Failure, ImagesSource, Session};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::{InputError, InputFile};
use crate::image_ref::ImageRef;
use crate::state::Desired;
use crate::sys;

/// An images file is read up to this many bytes.
const MAX_IMAGES_FILE: u64 = 8 << 20;
/// What [`Session::apply`] would read now. All paths are absolute, with their symlinks kept; there need be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The images file.
    pub images_file: PathBuf,
    /// Its lockfile.
    pub lockfile: Option<PathBuf>,
    /// The machine's settings, and files that they or the images file name: roots, certificates and keys, passwords, the
    /// indexes of image layouts.
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
            return Err(Failure::Input(InputError::WatchedStdin.into()));
        };
        let loaded = self.quiet().load(source)?;
        let images_file = absolute(path).map_err(|error| unreadable(path, error))?;
        let settings = loaded.file.settings;
        let mut named = BTreeSet::from(self.machine_files());
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

    /// What the images file lists now, if it, or the choice of its lockfile, is not what `desired` was made of; a
    /// selection of tags is there as its repository alone. `None`: the file cannot be used any more, or lists
    /// nothing, so nobody knows what is wanted.
    pub(super) fn listed_meanwhile(&self, loaded: &Loaded, desired: &Desired) -> Option<BTreeSet<ImageRef>> {
        // Standard input is read once.
        let Some(given) = &loaded.given else { return Some(BTreeSet::new()) };
        let text = ImagesText::read(&ImagesSource::Path(given.clone())).ok()?;
        let again = if text.digest() == loaded.digest {
            None
        } else {
            Some(self.quiet().understand(text).ok().filter(|again| !again.file.lists_nothing())?)
        };
        let mut listed = BTreeSet::new();
        if let Some(again) = &again {
            listed.extend(again.file.images.iter().map(|image| image.reference.clone()));
        }
        for selection in locked_selections(again.as_ref().unwrap_or(loaded)).ok()? {
            if again.is_some() || !desired.selections.contains(&selection) {
                listed.insert(selection.repository);
            }
        }
        Some(listed)
    }
}

/// Refuses a stranger's images file that is a symlink, or lies behind one that the path names, or whose lockfile is:
/// mistakes are shown with their lines, and these would be another file's.
pub(super) fn refuse_symlinks(path: &Path) -> Result<(), Failure> {
    let folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    for path in [path.to_owned(), path.with_extension("lock")].iter().map(PathBuf::as_path).chain(folders) {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(Failure::Input(InputError::Symlink { path: path.to_owned() }.into()));
        }
    }
    Ok(())
}

fn unreadable(path: &Path, source: io::Error) -> Failure {
    let (file, path) = (InputFile::Images, path.to_owned());
    Failure::Input(InputError::Unreadable { file, path, source }.into())
}

/// An images file, read.
pub(super) struct ImagesText {
    pub(super) text: String,
    /// As shown: the path as it was given.
    pub(super) name: String,
    pub(super) absolute: PathBuf,
    /// The path as it was given, if it is a file's.
    pub(super) given: Option<PathBuf>,
}

impl ImagesText {
    /// What tells this text from others.
    pub(super) fn digest(&self) -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, self.text.as_bytes())
    }

    pub(super) fn read(from: &ImagesSource) -> Result<Self, Failure> {
        match from {
            ImagesSource::Path(path) => {
                let absolute = absolute(path).map_err(|error| unreadable(path, error))?;
                let text =
                    sys::open_regular(path).and_then(read_text).map_err(|error| unreadable(path, error))?;
                Ok(Self { text, name: path.display().to_string(), absolute, given: Some(path.clone()) })
            }
            ImagesSource::Stdin => {
                let path = Path::new("-");
                let absolute = std::path::absolute(path).map_err(|error| unreadable(path, error))?;
                let text =
                    read_text(io::stdin().lock()).map_err(|error| unreadable(Path::new("<stdin>"), error))?;
                Ok(Self { text, name: "<stdin>".to_owned(), absolute, given: None })
            }
        }
    }
}

/// `path` made absolute, with its symlinks kept but for those before a `..`: the same file by the same name,
/// wherever it is named from.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let components: Vec<_> = absolute.components().collect();
    match components.iter().rposition(|component| *component == std::path::Component::ParentDir) {
        None => Ok(absolute),
        Some(last) => {
            let before: PathBuf = components[..=last].iter().collect();
            Ok(fs::canonicalize(before)?.join(components[last + 1..].iter().collect::<PathBuf>()))
        }
    }
}

/// As [`absolute`], for a file whose directory may be gone too: then `..` is taken away by its name alone.
pub(super) fn absolute_of_gone(path: &Path) -> io::Result<PathBuf> {
    absolute(path).or_else(|_| {
        let mut lexical = PathBuf::new();
        for component in std::path::absolute(path)?.components() {
            match component {
                // The root has no parent, and is its own.
                std::path::Component::ParentDir => drop(lexical.pop()),
                other => lexical.push(other),
            }
        }
        Ok(lexical)
    })
}

fn read_text(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    if reader.take(MAX_IMAGES_FILE + 1).read_to_string(&mut text)? as u64 > MAX_IMAGES_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an images file has at most 8 MiB"));
    }
    Ok(text)
}
