//! Asking engines whether they still have what was loaded into them, and hashing the files that
//! they made of it. Nothing is locked or written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::compare_blobs::PartStatus;
use crate::digest::{Algorithm, BlobDigest, Hasher};
use crate::engine::Engines;
use crate::error::{EngineError, Error};
use crate::progress::{Event, Task};
use crate::state::{AskedNames, EngineFile, EngineListing, EngineSettings, LoadedReference};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// A reference that an engine was given, and how it was found.
#[derive(Clone, Debug)]
pub struct VerifiedReference {
    /// The row of the catalog.
    pub loaded: LoadedReference,
    /// The state of the image in the engine now.
    pub status: PartStatus,
    /// The damage that is or was found, for people.
    pub detail: Option<String>,
    /// True if the image was damaged and is in order now.
    pub repaired: bool,
}

/// An engine's word about the references that it was given: the listing, and what is wrong with
/// those that it lists and has not whole. One that cannot be asked says nothing of what it has.
type Word = Result<(EngineListing, BTreeMap<String, EngineError>), EngineError>;

/// Compares what engines list, and the files whose digests were noted, with what was loaded.
pub(crate) fn compare_engines(
    session: &Session,
    engines: &Engines,
    references: Vec<&mut VerifiedReference>,
) -> Result<(), VerbError> {
    let mut names: BTreeMap<EngineSettings, BTreeSet<String>> = BTreeMap::new();
    for VerifiedReference { loaded, .. } in references.iter().map(|reference| &**reference) {
        names.entry(loaded.engine.clone()).or_default().insert(loaded.name.clone());
    }
    let mut words: BTreeMap<EngineSettings, Word> = BTreeMap::new();
    // Images share most of their files: each is read once.
    let mut compared: BTreeMap<(PathBuf, String), Option<(PartStatus, String)>> = BTreeMap::new();
    let task = Task::CompareEngines;
    if !references.is_empty() {
        session.reporter.report(Event::Begun { task, things: references.len(), bytes: 0 });
    }
    for reference in references {
        let settings = &reference.loaded.engine;
        let word = words.entry(settings.clone()).or_insert_with(|| ask(engines, settings, &names[settings]));
        if session.cancel.is_cancelled() {
            return Err(Error::Stopped.into());
        }
        (reference.status, reference.detail) = match word {
            Err(error) => (PartStatus::Blocked, Some(error.to_string())),
            Ok((listing, wrong)) => compare_reference(&reference.loaded, listing, wrong),
        };
        if reference.status == PartStatus::Ok {
            let found = reference.loaded.files.iter().find_map(|file| {
                let compared = compared.entry((file.path.clone(), file.digest.clone()));
                compared.or_insert_with(|| compare_file(session, &file.path, &file.digest)).clone()
            });
            if let Some((status, detail)) = found {
                (reference.status, reference.detail) = (status, Some(detail));
            }
        }
        session.reporter.report(Event::Advanced { task, things: 1, bytes: 0 });
        if session.cancel.is_cancelled() {
            return Err(Error::Stopped.into());
        }
    }
    Ok(())
}

/// Asks an engine for `names`, and whether those that it lists are whole: a listing alone may have
/// what is not there.
fn ask(engines: &Engines, settings: &EngineSettings, names: &BTreeSet<String>) -> Word {
    let engine = engines.of(settings);
    let listing = engine.list(&AskedNames::of(names))?;
    let listed: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| listing.images.contains_key(*name)).collect();
    let checked = engine.check(&listed)?;
    let wrong =
        listed.into_iter().zip(checked).filter_map(|(name, checked)| Some((name.to_owned(), checked.err()?)));
    let wrong = wrong.collect();
    Ok((listing, wrong))
}

fn compare_reference(
    loaded: &LoadedReference,
    listing: &EngineListing,
    wrong: &BTreeMap<String, EngineError>,
) -> (PartStatus, Option<String>) {
    let Some(listed) = &loaded.listed else {
        return (PartStatus::Missing, Some("its last load has not ended well".to_owned()));
    };
    match listing.images.get(&loaded.name) {
        None => (PartStatus::Missing, Some("the engine does not list it".to_owned())),
        Some(found) if found.contains(listed) => match wrong.get(&loaded.name) {
            None => (PartStatus::Ok, None),
            Some(error) => (PartStatus::Missing, Some(error.to_string())),
        },
        Some(found) => {
            let found: Vec<String> = found.iter().map(BlobDigest::to_string).collect();
            let found = if found.is_empty() { "no digest".to_owned() } else { found.join(", ") };
            (PartStatus::Modified, Some(format!("the engine lists {found}, not {listed}")))
        }
    }
}

/// Removes the files of microsandbox that are not what they were after the load of `loaded`: it
/// takes a file that is there for a good one.
pub(crate) fn remove_damaged_files(session: &Session, loaded: &LoadedReference) {
    let is_damaged = |file: &&EngineFile| {
        file.path.extension().is_some_and(|extension| extension == "erofs")
            && compare_file(session, &file.path, &file.digest).is_some()
    };
    for file in loaded.files.iter().filter(is_damaged) {
        let (Some(parent), Some(name)) = (file.path.parent(), file.path.file_name()) else { continue };
        let removed = sys::open_own_directory(parent)
            .and_then(|directory| sys::remove_file(directory.as_fd(), name.as_bytes()));
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                session.warn(format!("cannot remove {}: {error}", file.path.display()));
            }
            _ => {}
        }
    }
}

/// Compares a file of an engine with its noted digest; `None` where it is the same.
fn compare_file(session: &Session, path: &Path, digest: &str) -> Option<(PartStatus, String)> {
    let mut file = match sys::open_regular(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some((PartStatus::Missing, format!("there is no file {}", path.display())));
        }
        Err(error) => {
            return Some((PartStatus::Modified, format!("{} cannot be read: {error}", path.display())));
        }
        Ok(file) => file,
    };
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    while !session.cancel.is_cancelled() {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Some((PartStatus::Modified, format!("{} cannot be read: {error}", path.display())));
            }
        }
    }
    let found = BlobDigest::from_hasher(hasher);
    (found.text() != *digest).then(|| {
        (PartStatus::Modified, format!("{} is {found}, and was {digest} after the load", path.display()))
    })
}
