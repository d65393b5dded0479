//! `add` and `remove`: images are written into the images file, and taken out of it. Neither
//! catalog nor store is touched, and no registry is asked.
//!
//! The file is replaced as a whole; its mode, and a symlink that leads to it, stay. What would be
//! wrong afterwards is not written.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::{ImagesText, with_surroundings};
use super::steps::lockfile_place::LockfilePlace;
use super::steps::replace;
use super::verb_error::VerbError;
use crate::error::{Error, InputError, InputFile, StoreError};
use crate::image_ref::ImageRef;
use crate::images_file::{
    self, Addition, EditError, EditStatus, Edited, EditedGroup, Found, MAX_SOURCE, Source, UnreadLine,
};
use crate::sys;

/// The number of times that an edit is begun anew because somebody else writes the file.
const TRIES: usize = 5;

/// The request to `add`.
#[derive(Clone, Debug)]
pub struct AddRequest {
    /// The images file. Where there is none, one is made.
    pub file: PathBuf,
    /// The images that the file is to list.
    pub references: Vec<ImageRef>,
    /// Another file whose images it is to list: a compose file, Kubernetes objects, a
    /// `regsync.yml`, a Dockerfile, or one reference a line.
    pub from: Option<ImagesSource>,
    /// The group that they are to be in.
    pub group: Option<String>,
}

/// The report of `add` and `remove`.
#[derive(Debug)]
pub struct FileEdit {
    /// The images file, as shown.
    pub name: String,
    /// True if the file is new.
    pub created: bool,
    /// True if the file changed.
    pub changed: bool,
    /// True if there is no such file: nothing was to be written.
    pub absent: bool,
    /// The images, as they were asked for. A repository alone stands for a selection of its tags.
    pub images: Vec<(ImageRef, EditStatus)>,
    /// The groups that lost members.
    pub groups: Vec<EditedGroup>,
    /// The other file, as shown, with the places in it that cannot be read.
    pub unread: Vec<(String, UnreadLine)>,
    /// The lockfile beside the file, which does not fit it any more.
    pub stale_lockfile: Option<String>,
}

/// Writes images into the images file. Its comments, its order and its style stay.
///
/// ```
/// use msb_sync::sync::{self, AddRequest, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let file = directory.path().join("images.toml");
/// let references = vec![session.reference("alpine:3.20")?];
/// let request = AddRequest { file: file.clone(), references, from: None, group: None };
/// let edit = sync::add(&session, &request)?;
/// assert!(edit.created);
/// assert!(std::fs::read_to_string(file)?.contains("\"alpine:3.20\","));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The file is wrong, or would be, or has a form that is not edited, or cannot be written.
pub fn add(session: &Session, request: &AddRequest) -> Result<FileEdit, VerbError> {
    let named = request.references.iter().map(|reference| (reference.clone(), None));
    let (name, found) = match &request.from {
        Some(from) => read_source(session, from)?,
        None => (String::new(), Found::default()),
    };
    let group = request.group.as_ref();
    let addition = |(reference, platform)| Addition { reference, platform, group: group.cloned() };
    let additions: Vec<Addition> = named.chain(found.images).map(addition).collect();
    let unread = found.unread.into_iter().map(|line| (name.clone(), line)).collect();
    if additions.is_empty() {
        let (name, images, groups) = (request.file.display().to_string(), Vec::new(), Vec::new());
        let (created, changed, stale_lockfile) = (false, false, None);
        let absent = is_absent(&request.file);
        return Ok(FileEdit { name, created, changed, absent, images, groups, unread, stale_lockfile });
    }
    let add = |text: &str, source: &Source<'_>| images_file::add(text, &additions, source);
    Ok(FileEdit { unread, ..edit(session, &request.file, true, &add)? })
}

/// Reads the images of another file, and returns its name with them.
fn read_source(session: &Session, from: &ImagesSource) -> Result<(String, Found), VerbError> {
    let unreadable = |path: &Path, error| InputError::unreadable(InputFile::Source, path, error);
    let most = MAX_SOURCE as u64;
    let (name, text) = match from {
        ImagesSource::Path(path) => {
            let text = sys::read_regular_text(path, most).map_err(|error| unreadable(path, error))?;
            (path.display().to_string(), text)
        }
        ImagesSource::Stdin => {
            let mut text = String::new();
            let read = io::stdin().lock().take(most + 1).read_to_string(&mut text);
            let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "a source has at most 4 MiB");
            let read = read.and_then(|read| if read as u64 > most { Err(too_large()) } else { Ok(()) });
            read.map_err(|error| unreadable(Path::new("<stdin>"), error))?;
            ("<stdin>".to_owned(), text)
        }
    };
    let found = images_file::read_source(&name, &text, session.default_registry()?);
    Ok((name, found))
}

/// Takes images out of the images file, and out of its groups. A repository alone stands for the
/// selections of its tags, and for its tag `latest`. Comments on other lines stay.
///
/// ```
/// use msb_sync::sync::{self, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let file = directory.path().join("images.toml");
/// std::fs::write(&file, "[registry.\"docker.io\"]\nimages = [\"alpine:3.20\", \"redis:7.2\"]\n")?;
/// sync::remove(&session, &file, &[session.reference("redis:7.2")?])?;
/// assert!(std::fs::read_to_string(file)?.ends_with("[\"alpine:3.20\"]\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As for [`add`], and: the file does not list one of the images. Then none is taken out.
pub fn remove(session: &Session, file: &Path, references: &[ImageRef]) -> Result<FileEdit, VerbError> {
    edit(session, file, false, &|text, source| images_file::remove(text, references, source))
}

/// Edits the file by `change`. Where there is none and `may_create`, one is made.
fn edit(
    session: &Session,
    file: &Path,
    may_create: bool,
    change: &dyn Fn(&str, &Source<'_>) -> Result<Edited, EditError>,
) -> Result<FileEdit, VerbError> {
    for _ in 0..TRIES {
        let (before, created) = text_of(file, may_create)?;
        let name = before.name.clone();
        let edited = with_surroundings(session, &before, |source| change(&before.text, source))?
            .map_err(|error| failure(&name, error))?;
        let changed = edited.text != before.text;
        // Another editor may have been at work meanwhile: its words are not overwritten.
        let (now, still_absent) = text_of(file, may_create)?;
        if (&now.text, still_absent) != (&before.text, created) {
            continue;
        }
        if changed {
            store(file, &before.absolute, &edited.text)?;
        }
        let lockfile = LockfilePlace::beside(file, &before.absolute);
        let stale = lockfile.filter(|place| changed && place.path.exists()).map(|place| place.name);
        return Ok(FileEdit {
            name,
            created,
            changed,
            absent: false,
            images: edited.images,
            groups: edited.groups,
            unread: Vec::new(),
            stale_lockfile: stale,
        });
    }
    let reason = "another program writes it again and again".to_owned();
    Err(InputError::NotEdited { images_file: file.display().to_string(), reason }.into())
}

/// Reads the file, or begins one; true if there is none.
fn text_of(file: &Path, may_create: bool) -> Result<(ImagesText, bool), VerbError> {
    if !may_create || !is_absent(file) {
        return Ok((ImagesText::read(&ImagesSource::Path(file.to_owned()))?, false));
    }
    Ok((ImagesText::of(file, images_file::empty().to_owned())?, true))
}

fn is_absent(file: &Path) -> bool {
    file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Replaces the file, or where a symlink of this user leads to a file of his, that one.
fn store(file: &Path, absolute: &Path, text: &str) -> Result<(), VerbError> {
    let target = if absolute.is_symlink() {
        sys::find_own_regular(absolute).map_err(StoreError::named("write", file))?
    } else {
        absolute.to_owned()
    };
    replace::sweep(&target);
    Ok(replace::replace(&target, text)?)
}

fn failure(name: &str, error: EditError) -> VerbError {
    let images_file = name.to_owned();
    match error {
        EditError::Problems(problems) => VerbError::Problems(problems),
        EditError::Unlisted { reference, nearest } => {
            let nearest = nearest.map(|near| near.to_string());
            InputError::NotListed { option: "remove", images_file, reference, nearest }.into()
        }
        EditError::WouldBreak(problems) => {
            let first =
                problems.iter().next().map_or_else(String::new, |problem| problem.message().to_owned());
            VerbError::Input(Error::from(InputError::NotEdited {
                images_file,
                reason: format!("it would be wrong then: {first}"),
            }))
        }
        EditError::TooOdd(reference) => InputError::OddForm { images_file, reference }.into(),
        EditError::GroupName { name, reason, instead } => {
            InputError::GroupName { name, reason, instead }.into()
        }
    }
}
