//! Loading: the images file read, and understood with the machine's settings.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::lockfile_place::LockfilePlace;
use super::machine::machine;
use super::user_file::{of_dangling, toml_text};
use crate::diagnostic::{Problem, nearest};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::{InputError, InputFile};
use crate::images_file::{self, ImagesFile, Source};
use crate::state::{Owner, Platform};
use crate::sync::request::ImagesSource;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;

/// An images file is read up to this many bytes.
const MAX_IMAGES_FILE: u64 = 8 << 20;

/// An images file, read and understood.
pub(crate) struct Loaded {
    pub(crate) file: ImagesFile,
    /// The same file for each of its `platforms`; empty where it names none.
    for_platforms: Vec<ImagesFile>,
    pub(crate) owner: Owner,
    /// The name for people: the path as it was given.
    pub(crate) name: String,
    pub(crate) lockfile: Option<LockfilePlace>,
    /// The path as it was given, if it is a file's.
    pub(crate) given: Option<PathBuf>,
    /// The digest of the file's text.
    pub(crate) digest: BlobDigest,
}

impl Loaded {
    /// Returns the file for each platform that its lockfile serves.
    pub(crate) fn for_each_platform(&self) -> &[ImagesFile] {
        if self.for_platforms.is_empty() { std::slice::from_ref(&self.file) } else { &self.for_platforms }
    }

    /// Refuses to take a file that lists no image at all for the wish to have none: a template that
    /// failed, or an editor that is about to write, leaves such a file.
    pub(crate) fn refuse_empty(&self, allow_empty: bool) -> Result<(), VerbError> {
        if allow_empty || !self.file.lists_nothing() {
            return Ok(());
        }
        Err(InputError::NothingListed { images_file: self.name.clone() }.into())
    }
}

/// Loads the images file, for a stranger's only where no symlink leads to it.
pub(crate) fn load(session: &Session, from: &ImagesSource) -> Result<Loaded, VerbError> {
    if session.untrusted
        && let ImagesSource::Path(path) = from
    {
        refuse_symlinks(path)?;
    }
    understand(session, ImagesText::read(from)?)
}

/// Understands the text of an images file, and warns of what is odd in it.
pub(crate) fn understand(session: &Session, text: ImagesText) -> Result<Loaded, VerbError> {
    let digest = text.digest();
    let (file, for_platforms) = with_surroundings(session, &text, |source| {
        let file = images_file::parse(&text.text, source).map_err(VerbError::Problems)?;
        let for_platform = |platform: &Platform| {
            let source = Source { for_platform: Some(platform.clone()), ..source.clone() };
            images_file::parse(&text.text, &source).map_err(VerbError::Problems)
        };
        let for_platforms =
            file.settings.platforms.iter().map(for_platform).collect::<Result<Vec<_>, _>>()?;
        let of_machine = source.machine.into_iter().flat_map(|machine| &machine.warnings);
        warn_of_problems(session, of_machine.chain(&file.warnings));
        Ok::<_, VerbError>((file, for_platforms))
    })??;
    let ImagesText { name, absolute, given, .. } = text;
    let lockfile = given.as_ref().and_then(|path| LockfilePlace::beside(path, &absolute));
    let owner = Owner::images_file(&absolute);
    Ok(Loaded { file, for_platforms, owner, name, lockfile, given, digest })
}

/// Calls `read` with the surroundings that the text of an images file is read in.
pub(crate) fn with_surroundings<T>(
    session: &Session,
    text: &ImagesText,
    read: impl FnOnce(&Source<'_>) -> T,
) -> Result<T, VerbError> {
    let machine = machine(session)?;
    Ok(read(&Source {
        name: &text.name,
        directory: text.absolute.parent().unwrap_or(Path::new("/")),
        home_directory: session.user_home.as_deref(),
        default_registry: session.default_registry()?,
        default_platform: Platform::of_this_machine(),
        for_platform: None,
        untrusted: session.untrusted,
        machine: Some(&machine),
    }))
}

/// Warns of problems that stop no run.
pub(crate) fn warn_of_problems<'p>(session: &Session, problems: impl IntoIterator<Item = &'p Problem>) {
    for problem in problems {
        let text = problem.to_string();
        session.warn(text.strip_prefix("warning: ").unwrap_or(&text).to_owned());
    }
}

/// Refuses a stranger's file that is a symlink, or lies behind one that the path names, or whose
/// lockfile is: mistakes are shown with their lines, and these would be another file's.
pub(crate) fn refuse_symlinks(path: &Path) -> Result<(), VerbError> {
    let folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    for path in [path.to_owned(), path.with_extension("lock")].iter().map(PathBuf::as_path).chain(folders) {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(InputError::Symlink { path: path.to_owned() }.into());
        }
    }
    Ok(())
}

/// The files beside a missing one that are looked at.
const MAX_BESIDE: usize = 1000;

/// Makes the error for an images file that the system does not let us read.
pub(crate) fn unreadable(path: &Path, source: io::Error) -> VerbError {
    let source = of_dangling(path, source);
    // A link to where no file is is there, and was meant.
    let is_absent = source.kind() == io::ErrorKind::NotFound && !path.is_symlink();
    let nearest = if is_absent { nearest_file(path) } else { None };
    InputError::Unreadable { file: InputFile::Images, path: path.to_owned(), source, nearest }.into()
}

/// Finds the TOML file beside `path` whose name is nearest to it, if one is near.
fn nearest_file(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?.take(MAX_BESIDE).flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| Path::new(name).extension() == Some("toml".as_ref())).collect();
    names.sort_unstable();
    let name = path.file_name()?.to_str()?;
    // Without the ending, too, which people leave out.
    let near = nearest(name, names.iter().map(String::as_str))
        .or_else(|| nearest(&format!("{name}.toml"), names.iter().map(String::as_str)))?;
    Some(path.with_file_name(near))
}

/// An images file, read.
pub(crate) struct ImagesText {
    pub(crate) text: String,
    /// The name for people: the path as it was given.
    pub(crate) name: String,
    pub(crate) absolute: PathBuf,
    /// The path as it was given, if it is a file's.
    pub(crate) given: Option<PathBuf>,
}

impl ImagesText {
    /// Returns the digest that tells this text from others.
    pub(crate) fn digest(&self) -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, self.text.as_bytes())
    }

    /// Makes `text` that of the file at `path`, which may be none yet.
    pub(crate) fn of(path: &Path, text: String) -> Result<Self, VerbError> {
        let absolute = absolute(path).map_err(|error| unreadable(path, error))?;
        Ok(Self { text, name: path.display().to_string(), absolute, given: Some(path.to_owned()) })
    }

    pub(crate) fn read(from: &ImagesSource) -> Result<Self, VerbError> {
        match from {
            ImagesSource::Path(path) => {
                let bytes =
                    sys::open_regular(path).and_then(read_bytes).map_err(|error| unreadable(path, error))?;
                Self::of(path, toml_text(bytes, &path.display().to_string())?)
            }
            ImagesSource::Stdin => {
                let path = Path::new("-");
                let absolute = std::path::absolute(path).map_err(|error| unreadable(path, error))?;
                let name = "<stdin>".to_owned();
                let bytes =
                    read_bytes(io::stdin().lock()).map_err(|error| unreadable(Path::new(&name), error))?;
                Ok(Self { text: toml_text(bytes, &name)?, name, absolute, given: None })
            }
        }
    }
}

/// Makes `path` absolute, with its symlinks kept but for those before a `..`: the same file by the
/// same name, wherever it is named from.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
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

/// Makes an absolute path like [`absolute`], for a file whose directory may be gone too: then `..`
/// is taken away by its name alone.
pub(crate) fn absolute_of_gone(path: &Path) -> io::Result<PathBuf> {
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

fn read_bytes(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if reader.take(MAX_IMAGES_FILE + 1).read_to_end(&mut bytes)? as u64 > MAX_IMAGES_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an images file has at most 8 MiB"));
    }
    Ok(bytes)
}
