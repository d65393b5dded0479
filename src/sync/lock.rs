//! The lockfile on disk: where it lies, how it is read and replaced; the verb `lock`; and what the other verbs
//! take from it.
//!
//! The file is written by `lock` only, and replaced as a whole: a reader sees the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, ImagesSource, Loaded, Session};
use crate::error::{Error, StoreError};
use crate::image_ref::ImageRef;
use crate::lockfile::{EntryChange, Gap, Lockfile, MAX_TEXT};
use crate::observe::{self, Ask};
use crate::progress::Event;
use crate::registry::Lookup;
use crate::state::{Desired, LockedImage, Platform};

/// What `lock` is asked for.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// The images file.
    pub source: ImagesSource,
    /// Which locked tags are looked up again.
    pub upgrade: Upgrade,
    /// Write nothing; only tell whether the lockfile would change.
    pub check: bool,
}

/// Which locked tags `lock` looks up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// None: a locked tag never moves by itself.
    Nothing,
    /// All.
    Everything,
    /// These, which the images file has to list.
    These(Vec<ImageRef>),
}

impl Upgrade {
    fn includes(&self, reference: &ImageRef) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::These(references) => references.contains(reference),
        }
    }
}

/// What `lock` did, or would do.
#[derive(Debug)]
pub struct Relocked {
    /// The lockfile. Absolute.
    pub path: PathBuf,
    /// The lockfile, as shown.
    pub name: String,
    /// Whether its text changed, or would. Never so if an image failed.
    pub changed: bool,
    /// What became of each entry, by reference; images that failed are not among them.
    pub images: Vec<EntryChange>,
    /// Images that could not be looked up. If there is one, nothing was written.
    pub failed: Vec<(ImageRef, Platform, Arc<Error>)>,
}

/// Where an images file's lockfile lies.
pub(super) struct LockfilePlace {
    path: PathBuf,
    name: String,
}

impl LockfilePlace {
    /// `<stem>.lock` beside the images file `given`; none where that would be the images file itself.
    pub(super) fn beside(given: &Path, absolute: &Path) -> Option<Self> {
        let path = absolute.with_extension("lock");
        (path != absolute).then(|| Self { path, name: given.with_extension("lock").display().to_string() })
    }

    /// The absolute path.
    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }

    /// The text; `None` if there is no file.
    fn read(&self) -> Result<Option<String>, Failure> {
        let unreadable = |error: io::Error| {
            let message = format!("cannot read the lockfile {}: {error}", self.name);
            Failure::Input(Error::Usage { message, hint: None })
        };
        let other = |reason: &str| unreadable(io::Error::other(reason.to_owned()));
        match self.path.metadata() {
            // Anything else might block for ever.
            Ok(metadata) if !metadata.is_file() => return Err(other("it is not a regular file")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        }
        let mut bytes = Vec::new();
        let limit = MAX_TEXT as u64 + 1;
        File::open(&self.path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        String::from_utf8(bytes).map(Some).map_err(|_| other("it is not UTF-8 text"))
    }

    fn parse(&self, text: &str) -> Result<Lockfile, Failure> {
        Lockfile::parse(text, &self.name).map_err(|problem| Failure::Lockfile(Box::new(problem)))
    }

    /// Replaces the file at once and durably, keeping its permissions and following a symlink.
    fn write(&self, text: &str) -> Result<(), StoreError> {
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = target.parent().unwrap_or(Path::new("/"));
        let stem = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!(".{stem}.{}.tmp", std::process::id()));
        let result = write_new(&temporary, &target, text).and_then(|()| {
            fs::rename(&temporary, &target).map_err(StoreError::io("replace", &target))?;
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(StoreError::io("sync the directory", directory))
        });
        if result.is_err() {
            // Nothing more can be done about it, and the first failure is the one that counts.
            let _ = fs::remove_file(&temporary);
        }
        result
    }
}

/// Writes `temporary` with the permissions of `target`, if that exists.
fn write_new(temporary: &Path, target: &Path, text: &str) -> Result<(), StoreError> {
    // One of a killed run whose process number came again.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove", temporary)(error));
        }
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary)
        .map_err(StoreError::io("create", temporary))?;
    if let Ok(metadata) = target.metadata() {
        file.set_permissions(metadata.permissions()).map_err(StoreError::io("set the mode of", temporary))?;
    }
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(StoreError::io("write", temporary))
}

impl Session {
    /// Resolves every image that the lockfile lacks, drops what is not listed any more, moves the tags it is told
    /// to, and writes the lockfile if that changes it. Touches neither catalog nor store.
    ///
    /// # Errors
    /// See [`Failure`]; images that fail are in the result.
    pub fn lock_images(&self, request: &LockRequest) -> Result<Relocked, Failure> {
        let loaded = self.load(&request.source)?;
        let place = loaded.lockfile.as_ref().ok_or_else(|| Failure::Input(no_place(&loaded)))?;
        if let Upgrade::These(references) = &request.upgrade {
            check_listed(&loaded, references)?;
        }
        if let Some(error) = moving_selection(&loaded) {
            return Err(Failure::Input(error));
        }
        let old_text = place.read()?;
        let old = match &old_text {
            Some(text) => place.parse(text)?,
            None => Lockfile::default(),
        };

        let (mut entries, mut failed, mut lookups) = (Vec::new(), Vec::new(), Vec::new());
        for image in &loaded.file.images {
            let (reference, platform) = (image.reference.clone(), image.platform.clone());
            let locked = old.fitting(&reference, &platform);
            if locked.is_none() || request.upgrade.includes(&reference) {
                let known = locked.map(|locked| locked.digest.clone());
                lookups.push(Ask { reference, platform, known });
            }
            entries.extend(locked.map(Arc::clone));
        }
        let registries = self.registries_of(&loaded);
        let parallel = loaded.file.settings.downloads;
        let answers = observe::look_up(&registries, parallel, &*self.reporter, &lookups);
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped.into());
        }
        for (asked, answer) in lookups.into_iter().zip(answers) {
            match answer {
                Ok(Lookup::Same) => {}
                Ok(Lookup::Image(image)) => entries.push(Arc::new(LockedImage::of(&image))),
                Err(error) => failed.push((asked.reference, asked.platform, Arc::new(error.into()))),
            }
        }
        let new = Lockfile::new(entries);
        let mut images = old.changes(&new);
        images.retain(|change| !failed.iter().any(|(reference, ..)| *reference == change.reference));
        let text = new.to_string();
        let changed = failed.is_empty() && old_text.as_deref() != Some(&text);
        if changed && !request.check {
            place.write(&text)?;
        }
        let (path, name) = (place.path.clone(), place.name.clone());
        Ok(Relocked { path, name, changed, images, failed })
    }

    /// Gives the desired images the lockfile's words, and says which it lacks; with `strict` that is an error, and
    /// so is an entry too many.
    pub(super) fn lock_desired(
        &self,
        loaded: &Loaded,
        desired: &mut Desired,
        strict: bool,
    ) -> Result<(), Failure> {
        let Some(place) = &loaded.lockfile else {
            return if strict { Err(no_place(loaded).into()) } else { Ok(()) };
        };
        let next = format!("run: msb-sync lock {}", loaded.name);
        let not_covered = |message: String| {
            let message = format!("--locked: {message}");
            Failure::Error(Error::Usage { message, hint: Some(next.clone()) })
        };
        let Some(text) = place.read()? else {
            let missing = || not_covered(format!("there is no {}", place.name));
            return if strict { Err(missing()) } else { Ok(()) };
        };
        let lockfile = place.parse(&text)?;
        let list = |gaps: &[Gap]| gaps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if strict {
            if let Some(error) = moving_selection(loaded) {
                return Err(error.into());
            }
            let listed = loaded.file.images.iter().map(|image| (&image.reference, &image.platform));
            let gaps = lockfile.gaps(listed);
            if !gaps.is_empty() {
                let (file, which) = (&loaded.name, list(&gaps));
                return Err(not_covered(format!("{} does not cover {file} exactly: {which}", place.name)));
            }
        }
        let wanted = desired.images.iter().map(|image| (&image.reference, &image.platform));
        let mut gaps = lockfile.gaps(wanted);
        gaps.retain(Gap::leaves_image_unlocked);
        if !gaps.is_empty() {
            let which = list(&gaps);
            self.reporter.report(Event::Warning(format!("not in {}: {which}; {next}", place.name)));
        }
        for image in &mut desired.images {
            image.locked = lockfile.fitting(&image.reference, &image.platform).map(Arc::clone);
        }
        Ok(())
    }
}

fn no_place(loaded: &Loaded) -> Error {
    let message = format!("{} can have no lockfile", loaded.name);
    let hint = "the lockfile of images.toml is images.lock beside it: use a file of another name";
    Error::Usage { message, hint: Some(hint.to_owned()) }
}

fn check_listed(loaded: &Loaded, references: &[ImageRef]) -> Result<(), Failure> {
    let listed = |reference: &ImageRef| loaded.file.images.iter().any(|image| image.reference == *reference);
    let Some(unknown) = references.iter().find(|reference| !listed(reference)) else { return Ok(()) };
    let hint = match loaded.file.nearest(unknown) {
        Some(near) => format!("did you mean {near}?"),
        None => "give the reference in its full form, as `msb-sync plan` shows it".to_owned(),
    };
    let message = format!("--upgrade: {} does not list {unknown}", loaded.name);
    Err(Failure::Input(Error::Usage { message, hint: Some(hint) }))
}

/// Why a file with a moving selection of tags cannot be locked.
fn moving_selection(loaded: &Loaded) -> Option<Error> {
    let selection = loaded.file.selections.first()?;
    Some(Error::Usage {
        message: format!(
            "{}:{}: a moving selection of tags ({}/{}) cannot be locked: not supported yet",
            loaded.name, selection.line, selection.registry, selection.repository
        ),
        hint: Some("list the tags one by one, or do without the lockfile".to_owned()),
    })
}
