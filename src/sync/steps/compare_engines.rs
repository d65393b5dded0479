//! Asking engines whether they still have what was loaded into them, and hashing the files that
//! they made of it. Nothing is locked or written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Status};
use crate::digest::{Algorithm, BlobDigest, Hasher};
use crate::engine::Engines;
use crate::error::{EngineError, Error};
use crate::progress::{Event, Task};
use crate::state::{AskedNames, EngineFile, EngineListing, EngineSettings, LoadedReference};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;

/// A reference that an engine was given, and how it was found.
#[derive(Clone, Debug)]
pub struct VerifiedReference {
    /// The row of the catalog.
    pub loaded: LoadedReference,
    /// The state of the image in the engine, as it was found.
    pub found: Finding,
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
    let mut compared: BTreeMap<(PathBuf, String), Finding> = BTreeMap::new();
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
        reference.found = match word {
            Err(error) => Finding::of(Status::Blocked, error.to_string()),
            Ok((listing, wrong)) => compare_reference(&reference.loaded, listing, wrong),
        };
        for EngineFile { path, digest } in &reference.loaded.files {
            if reference.found.status != Status::Ok {
                break;
            }
            reference.found = match compared.entry((path.clone(), digest.clone())) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(new) => new.insert(compare_file(session, path, digest)?).clone(),
            };
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
) -> Finding {
    let Some(listed) = &loaded.listed else {
        return Finding::of(Status::Missing, "its last load has not ended well".to_owned());
    };
    match listing.images.get(&loaded.name) {
        None => Finding::of(Status::Missing, "the engine does not list it".to_owned()),
        Some(found) if found.contains(listed) => match wrong.get(&loaded.name) {
            None => Finding::OK,
            Some(error) => Finding::of(Status::Missing, error.to_string()),
        },
        Some(found) => {
            let found: Vec<String> = found.iter().map(BlobDigest::to_string).collect();
            let found = if found.is_empty() { "no digest".to_owned() } else { found.join(", ") };
            Finding::of(Status::Modified, format!("the engine lists {found}, not {listed}"))
        }
    }
}

/// Removes the files of microsandbox that are certainly not what they were after the load of
/// `loaded`: it takes a file that is there for a good one. Those that cannot be read stay.
pub(crate) fn remove_damaged_files(session: &Session, loaded: &LoadedReference) -> Result<(), VerbError> {
    let is_mounted = |file: &&EngineFile| file.path.extension().is_some_and(|extension| extension == "erofs");
    for EngineFile { path, digest } in loaded.files.iter().filter(is_mounted) {
        if compare_file(session, path, digest)?.status != Status::Modified {
            continue;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let removed = sys::open_own_directory(parent)
            .and_then(|directory| sys::remove_file(directory.as_fd(), name.as_bytes()));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                session.warn(format!("cannot remove {}: {error}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Compares a file of an engine with its noted digest. Of one that cannot be read nobody knows.
fn compare_file(session: &Session, path: &Path, digest: &str) -> Result<Finding, VerbError> {
    let is_stopped = || session.cancel.is_cancelled();
    let found = sys::open_regular(path)
        .and_then(|mut file| Hasher::new(Algorithm::Sha256).read(&mut file, &is_stopped));
    let place = path.display();
    Ok(match found {
        Ok(found) if found == *digest => Finding::OK,
        Ok(found) => {
            Finding::of(Status::Modified, format!("{place} is {found}, and was {digest} after the load"))
        }
        Err(_) if is_stopped() => return Err(Error::Stopped.into()),
        Err(error) => match Status::of_unread(&error) {
            Status::Missing => Finding::of(Status::Missing, format!("there is no file {place}")),
            status => Finding::of(status, format!("{place} cannot be read: {error}")),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::image_ref::ImageRef;
    use crate::state::{EngineName, Owner};

    fn loaded(files: &[&Path]) -> LoadedReference {
        let reference = ImageRef::parse("r.io/a/b:1", "r.io").unwrap();
        let digest = BlobDigest::of(Algorithm::Sha256, b"sound").to_string();
        let file = |path: &&Path| EngineFile { path: path.to_path_buf(), digest: digest.clone() };
        LoadedReference {
            owner: Owner::pull(),
            engine: EngineSettings::new(EngineName::Microsandbox),
            name: reference.to_string(),
            reference,
            manifest: BlobDigest::of(Algorithm::Sha256, b""),
            listed: None,
            former: None,
            wanted: true,
            files: files.iter().map(file).collect(),
        }
    }

    #[test]
    fn only_files_that_are_proven_to_be_damaged_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let place = |name: &str| home.path().join(name);
        let (sound, damaged, unreadable) = (place("1.erofs"), place("2.erofs"), place("3.erofs"));
        fs::write(&sound, "sound").unwrap();
        fs::write(&damaged, "damaged").unwrap();
        // The first page of a process's memory is never there: EIO.
        symlink("/proc/self/mem", &unreadable).unwrap();
        let session = Session::new(place("home"));
        let found = compare_file(&session, &unreadable, "sha256:1").unwrap();
        assert_eq!(found.status, Status::Blocked, "{found:?}");
        let loaded = loaded(&[&sound, &damaged, &unreadable]);
        session.cancel.cancel();
        let stopped = remove_damaged_files(&session, &loaded);
        assert!(matches!(stopped, Err(VerbError::Error(Error::Stopped))), "{stopped:?}");
        assert!(sound.exists() && damaged.exists(), "removed by a run that was stopped");
        remove_damaged_files(&Session::new(place("home")), &loaded).unwrap();
        assert!(sound.exists() && unreadable.is_symlink() && !damaged.exists());
    }
}
