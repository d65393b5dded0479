//! The lockfile on disk: where it lies, how it is read and replaced; the verb `lock`; and what the other verbs
//! take from it.
//!
//! The file is written by `lock` only, and replaced as a whole ([`replace`]): a reader sees the old one or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, ImagesSource, Loaded, Session, replace};
use crate::error::{Error, InputError, InputFile, StoreError};
use crate::image_ref::ImageRef;
use crate::lockfile::{EntryChange, Gap, Lockfile, MAX_TEXT};
use crate::observe::{self, Ask};
use crate::progress::Event;
use crate::registry::{Lookup, Registries};
use crate::selection::CompiledRule;
use crate::state::{Action, Desired, LockedImage, LockedSelection, Platform, TagSelection};
use crate::sys;

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
    /// All, and all selections of tags choose anew.
    Everything,
    /// These, which the images file has to list. A repository alone is its tag `latest`, and its selections of
    /// tags, which choose anew.
    These(Vec<ImageRef>),
}

impl Upgrade {
    fn includes(&self, reference: &ImageRef) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::These(references) => references.iter().any(|named| names(named, reference)),
        }
    }

    fn rechooses(&self, repository: &ImageRef) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::These(references) => references.contains(repository),
        }
    }
}

/// Whether `named` is `reference`, or the repository alone of a tag `latest`.
fn names(named: &ImageRef, reference: &ImageRef) -> bool {
    named == reference
        || (reference.tag() == Some("latest")
            && reference.digest().is_none()
            && *named == reference.repository_alone())
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
    /// Images, and repositories alone of which tags are selected, that could not be looked up. If there is one,
    /// nothing was written.
    pub failed: Vec<Unlocked>,
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
        let unreadable = |source: io::Error| {
            let (file, path) = (InputFile::Lockfile, PathBuf::from(&self.name));
            Failure::Input(InputError::Unreadable { file, path, source }.into())
        };
        match sys::read_regular_text(&self.path, MAX_TEXT as u64) {
            Ok(text) => Ok(Some(text)),
            // A symlink to where no file is: whoever made it wants a lockfile, and there is none.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.is_symlink() => {
                Err(unreadable(io::Error::new(error.kind(), "it is a symbolic link to where no file is")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn parse(&self, text: &str) -> Result<Lockfile, Failure> {
        Lockfile::parse(text, &self.name).map_err(Failure::Lockfile)
    }

    /// The file to replace: where a symlink of this user leads to a file of his, that one.
    fn target(&self) -> Result<PathBuf, StoreError> {
        if self.path.is_symlink() {
            sys::find_own_regular(&self.path).map_err(StoreError::io("write", &self.path))
        } else {
            Ok(self.path.clone())
        }
    }
}

impl Session {
    /// Resolves every image that the lockfile lacks, chooses the tags of selections that are new or have another rule,
    /// drops what is not listed any more, moves the tags it is told to, and writes the lockfile if that changes it. Touches neither catalog nor store.
    ///
    /// # Errors
    /// See [`Failure`]; images that fail are in the result.
    pub fn lock_images(&self, request: &LockRequest) -> Result<Relocked, Failure> {
        let loaded = self.load(&request.source)?;
        let place = loaded.lockfile.as_ref().ok_or_else(|| Failure::Input(no_place(&loaded)))?;
        let old_text = place.read()?;
        let old = match &old_text {
            Some(text) => place.parse(text)?,
            None => Lockfile::default(),
        };
        if let Upgrade::These(references) = &request.upgrade {
            check_listed(&loaded, &old, references)?;
        }
        let registries = self.registries_of(&loaded);
        let (selections, mut failed) = self.choose(&loaded, &old, &request.upgrade, &registries);
        let rechosen = |reference: &ImageRef| {
            let repository = reference.repository_alone();
            request.upgrade.rechooses(&repository)
                && selections.iter().any(|selection| {
                    selection.repository == repository
                        && selection.tags.iter().any(|tag| reference.tag() == Some(tag))
                })
        };
        let (mut entries, mut lookups) = (Vec::new(), Vec::new());
        for (reference, platform) in wanted(&loaded, &selections, &mut failed) {
            let locked = old.fitting(&reference, &platform);
            entries.extend(locked.map(Arc::clone));
            if locked.is_none() || request.upgrade.includes(&reference) || rechosen(&reference) {
                let known = locked.map(|locked| locked.digest.clone());
                lookups.push(Ask { reference, platform, known });
            }
        }
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
        let new = Lockfile::new(entries, selections);
        let mut images = old.changes(&new);
        // What could not be looked up has not changed; nor has any tag of a repository without its list.
        images.retain(|change| {
            let of_repository = change.reference.repository_alone();
            !failed.iter().any(|(reference, ..)| {
                *reference == change.reference
                    || change.action == Action::Remove && *reference == of_repository
            })
        });
        // How a file is written is no change: git gives some users other line ends.
        let changed = failed.is_empty() && (old_text.is_none() || old != new);
        if !request.check {
            let target = place.target()?;
            replace::sweep(&target);
            if changed {
                replace::replace(&target, &new.to_string())?;
            }
        }
        let (path, name) = (place.path.clone(), place.name.clone());
        Ok(Relocked { path, name, changed, images, failed })
    }

    /// The tags that each selection means: those of the lockfile, or if it has none, or has to move, those chosen from
    /// the repository's list. With the repositories where that failed.
    fn choose(
        &self,
        loaded: &Loaded,
        old: &Lockfile,
        upgrade: &Upgrade,
        registries: &Registries,
    ) -> (Vec<LockedSelection>, Vec<Unlocked>) {
        let (mut chosen, mut failed) = (Vec::new(), Vec::new());
        let mut open: BTreeMap<ImageRef, Vec<&TagSelection>> = BTreeMap::new();
        for selection in &loaded.file.selections {
            match locked_choice(old, selection).filter(|_| !upgrade.rechooses(&selection.repository)) {
                Some(images) => {
                    let tags = images.iter().filter_map(|image| image.reference.tag());
                    let tags = tags.map(str::to_owned).collect();
                    chosen.push(LockedSelection::of(selection, tags));
                }
                None => open.entry(selection.repository.clone()).or_default().push(selection),
            }
        }
        let open: Vec<(ImageRef, Vec<&TagSelection>)> = open.into_iter().collect();
        let parallel = loaded.file.settings.downloads;
        let answers = observe::choose_tags(registries, parallel, &*self.reporter, &open);
        for ((repository, selections), choices) in open.into_iter().zip(answers) {
            let choices = choices.unwrap_or_else(|error| {
                let error = Arc::new(Error::from(error));
                vec![Err(error); selections.len()]
            });
            for (selection, tags) in selections.into_iter().zip(choices) {
                match tags {
                    Ok(tags) => chosen.push(LockedSelection::of(selection, tags)),
                    Err(error) => failed.push((repository.clone(), selection.platform.clone(), error)),
                }
            }
        }
        (chosen, failed)
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
        let (name, images_file) = (place.name.clone(), loaded.name.clone());
        let Some(text) = place.read()? else {
            let missing = InputError::LockfileMissing { lockfile: name, images_file };
            return if strict { Err(Error::from(missing).into()) } else { Ok(()) };
        };
        let lockfile = place.parse(&text)?;
        let words = |gaps: &[Gap]| gaps.iter().map(ToString::to_string).collect::<Vec<_>>();
        if strict {
            let listed = loaded.file.images.iter().map(|image| (&image.reference, &image.platform));
            let mut selections = loaded.file.selections.clone();
            lock_selections(&lockfile, &mut selections);
            let gaps = lockfile.gaps(listed, &selections);
            if !gaps.is_empty() {
                let gaps = words(&gaps);
                let error = InputError::LockfileGaps { lockfile: name, images_file, gaps };
                return Err(Error::from(error).into());
            }
        }
        lock_selections(&lockfile, &mut desired.selections);
        let wanted = desired.images.iter().map(|image| (&image.reference, &image.platform));
        let mut gaps = lockfile.gaps(wanted, &desired.selections);
        gaps.retain(Gap::leaves_image_unlocked);
        if !gaps.is_empty() {
            let which = words(&gaps).join(", ");
            self.reporter.report(Event::Warning(format!("not in {}: {which}; {next}", place.name)));
        }
        for image in &mut desired.images {
            image.locked = lockfile.fitting(&image.reference, &image.platform).map(Arc::clone);
        }
        Ok(())
    }
}

/// The file's selections of tags, each with what the lockfile chose for it.
pub(super) fn locked_selections(loaded: &Loaded) -> Result<Vec<TagSelection>, Failure> {
    let mut selections = loaded.file.selections.clone();
    if let Some(place) = loaded.lockfile.as_ref().filter(|_| !selections.is_empty())
        && let Some(text) = place.read()?
    {
        lock_selections(&place.parse(&text)?, &mut selections);
    }
    Ok(selections)
}

/// What could not be looked up, for which platform, and why.
pub type Unlocked = (ImageRef, Platform, Arc<Error>);

/// The images to lock: those listed by name, and the chosen tags. A tag that is wanted for two platforms has failed.
fn wanted(
    loaded: &Loaded,
    selections: &[LockedSelection],
    failed: &mut Vec<Unlocked>,
) -> BTreeMap<ImageRef, Platform> {
    let listed = loaded.file.images.iter().map(|image| (image.reference.clone(), image.platform.clone()));
    let mut wanted: BTreeMap<ImageRef, Platform> = listed.collect();
    let mut names: BTreeMap<ImageRef, Platform> = BTreeMap::new();
    for (reference, platform) in &wanted {
        names.extend(reference.recorded_names().into_iter().map(|name| (name, platform.clone())));
    }
    for selection in selections {
        let platform = &selection.platform;
        // Lists and lockfiles hold only tags that parse.
        for reference in selection.tags.iter().filter_map(|tag| selection.repository.with_tag(tag).ok()) {
            let twins = reference.recorded_names();
            let other = twins.iter().find_map(|name| names.get(name)).filter(|other| *other != platform);
            if let Some(other) = other {
                let error = observe::two_platforms(reference.tag().unwrap_or_default(), other, platform);
                failed.push((reference, platform.clone(), Arc::new(error)));
            } else {
                names.extend(twins.into_iter().map(|name| (name, platform.clone())));
                wanted.insert(reference, platform.clone());
            }
        }
    }
    wanted
}

fn lock_selections(lockfile: &Lockfile, selections: &mut [TagSelection]) {
    for selection in selections {
        selection.locked = locked_choice(lockfile, selection);
    }
}

/// What the lockfile chose for `selection`, if its rule may have done so: a lockfile can be edited.
fn locked_choice(lockfile: &Lockfile, selection: &TagSelection) -> Option<Vec<Arc<LockedImage>>> {
    let images = lockfile.chosen(selection)?;
    let allowed = CompiledRule::new(&selection.rule)
        .is_ok_and(|rule| rule.allows(images.iter().filter_map(|image| image.reference.tag())));
    allowed.then_some(images)
}

fn no_place(loaded: &Loaded) -> Error {
    InputError::NoLockfile { images_file: loaded.name.clone() }.into()
}

fn check_listed(loaded: &Loaded, old: &Lockfile, references: &[ImageRef]) -> Result<(), Failure> {
    let file = &loaded.file;
    let repositories: BTreeSet<&ImageRef> =
        file.selections.iter().map(|selection| &selection.repository).collect();
    let chosen: Vec<_> =
        file.selections.iter().filter_map(|selection| locked_choice(old, selection)).flatten().collect();
    let listed = |named: &ImageRef| {
        repositories.contains(named)
            || file.images.iter().any(|image| names(named, &image.reference))
            || chosen.iter().any(|image| names(named, &image.reference))
    };
    let Some(unknown) = references.iter().find(|reference| !listed(reference)) else { return Ok(()) };
    let nearest = file.nearest(unknown).map(ToString::to_string);
    let (images_file, reference) = (loaded.name.clone(), unknown.clone());
    Err(Failure::Input(InputError::NotListed { images_file, reference, nearest }.into()))
}
