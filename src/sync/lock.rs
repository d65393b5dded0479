//! `lock`: what every image means now, written down beside the images file.
//!
//! The lockfile is written by this verb only, and replaced as a whole ([`replace`]): a reader sees
//! the old one or the new one.

mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use self::waiting::Waits;
use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::{Loaded, load};
use super::steps::lockfile::{locked_choice, no_place};
use super::steps::lockfile_place::LockfilePlace;
use super::steps::trust::judge;
use super::steps::{registries, replace};
use super::verb_error::VerbError;
use crate::clock;
use crate::digest::BlobDigest;
use crate::error::{Error, InputError};
use crate::image_ref::ImageRef;
use crate::lockfile::{EntryChange, Lockfile};
use crate::observe::{
    Answer, Asker, ImageQuestion, Judged, Question, SignatureQuestion, Signatures, two_platforms,
};
use crate::plan::Waiting;
use crate::registry::Lookup;
use crate::state::{Action, LockedImage, LockedSelection, Permission, Platform, TagSelection, Verdict};

/// The request to `lock`.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// The images file.
    pub source: ImagesSource,
    /// The locked tags that are looked up again.
    pub upgrade: Upgrade,
    /// The user asked to write nothing, and only to tell whether the lockfile would change.
    pub check: bool,
}

/// The locked tags that `lock` looks up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// None: a locked tag never moves by itself.
    Nothing,
    /// All, and all selections of tags choose anew.
    Everything,
    /// These, which the images file has to list. A repository alone is its tag `latest`, and its
    /// selections of tags, which choose anew.
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

/// Tells whether `named` is `reference`, or the repository alone of a tag `latest`.
fn names(named: &ImageRef, reference: &ImageRef) -> bool {
    named == reference
        || (reference.tag() == Some("latest")
            && reference.digest().is_none()
            && *named == reference.repository_alone())
}

/// The report of `lock`.
#[derive(Debug)]
pub struct Relocked {
    /// The lockfile. Absolute.
    pub path: PathBuf,
    /// The lockfile, as shown.
    pub name: String,
    /// True if the lockfile changed, or would. Never so if an image failed.
    pub changed: bool,
    /// True if there was no lockfile.
    pub absent: bool,
    /// The change of each entry, by reference; images that failed are not among them.
    pub images: Vec<EntryChange>,
    /// The new digests of locked tags, and the new tags of selections, that are not taken yet.
    pub waiting: BTreeMap<ImageRef, Waiting>,
    /// Images, and repositories alone of which tags are selected, that could not be looked up. If
    /// there is one, nothing was written.
    pub failed: Vec<Unlocked>,
}

/// Resolves every image that the lockfile lacks, chooses the tags of selections that are new or
/// have another rule, drops what is not listed any more, moves the tags it is told to, and writes
/// the lockfile if that changes it. Touches neither catalog nor store.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, LockRequest, Session, Upgrade};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// // Only tells whether the lockfile would change.
/// let request = LockRequest {
///     source: ImagesSource::Path("examples/quickstart/images.toml".into()),
///     upgrade: Upgrade::Nothing,
///     check: true,
/// };
/// let relocked = sync::lock(&session, &request)?;
/// assert!(relocked.changed && relocked.failed.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; images that fail are in the result.
pub fn lock(session: &Session, request: &LockRequest) -> Result<Relocked, VerbError> {
    let loaded = load(session, &request.source)?;
    let place = loaded.lockfile.as_ref().ok_or_else(|| VerbError::Input(no_place(&loaded)))?;
    let old_text = place.read()?;
    let old = match &old_text {
        Some(text) => place.parse(text)?,
        None => Lockfile::default(),
    };
    if let Upgrade::These(references) = &request.upgrade {
        check_listed(&loaded, &old, references)?;
    }
    let registries = registries::of_file(session, &loaded, None)?;
    let parallel = loaded.file.settings.downloads;
    let judge = judge(&loaded.file.settings.trust)?;
    let signatures = Signatures::new(&judge, &registries, &session.home);
    let reporter = &*session.reporter;
    let asker =
        Asker { registries: &registries, signatures: &signatures, remembered: None, parallel, reporter };
    let mut waits = Waits::new(&loaded, &old, clock::now());
    let (selections, mut failed) = choose(&loaded, &old, &request.upgrade, &asker, &mut waits);
    let (mut entries, mut open) = split(&loaded, &old, &request.upgrade, &selections, &mut failed);
    open.leave(|reference| waits.is_gone(reference));
    open.meanings.extend(waits.take_admitted());
    open.look_up(&asker, &mut entries, &mut waits, &mut failed);
    note_signers(&asker, &mut entries, &mut failed);
    if session.cancel.is_cancelled() {
        return Err(Error::Stopped.into());
    }
    let candidates = waits.candidates(|tag| {
        entries.iter().any(|entry| entry.reference == *tag)
            || selections.iter().any(|selection| selection.repository == tag.repository_alone())
    });
    let new = Lockfile::new(entries, selections).with_candidates(candidates);
    let mut images = old.changes(&new);
    // An image that could not be looked up has not changed; nor has any tag of a repository without
    // its list.
    images.retain(|change| {
        let of_repository = change.reference.repository_alone();
        !failed.iter().any(|(reference, platform, _)| {
            *reference == change.reference && *platform == change.platform
                || change.action == Action::Remove && *reference == of_repository
        })
    });
    // How a file is written is no change: git gives some users other line ends.
    let changed = failed.is_empty() && (old_text.is_none() || old != new);
    if !request.check {
        store(place, changed.then_some(&new))?;
    }
    let (path, name) = (place.path.clone(), place.name.clone());
    let absent = old_text.is_none();
    Ok(Relocked { path, name, changed, absent, images, waiting: waits.into_waiting(), failed })
}

/// Splits what is wanted into the entries that are there already, and what is looked up.
fn split(
    loaded: &Loaded,
    old: &Lockfile,
    upgrade: &Upgrade,
    selections: &[LockedSelection],
    failed: &mut Vec<Unlocked>,
) -> (Vec<Arc<LockedImage>>, Open) {
    let rechosen = |reference: &ImageRef| {
        let repository = reference.repository_alone();
        let chooses = |selection: &&LockedSelection| {
            selection.repository == repository
                && selection.tags.iter().any(|tag| reference.tag() == Some(tag))
        };
        upgrade.rechooses(&repository) && selections.iter().any(|selection| chooses(&selection))
    };
    let (mut entries, mut open) = (Vec::new(), Open::default());
    for (reference, platform) in wanted(loaded, selections, failed) {
        let locked = old.fitting(&reference, &platform);
        entries.extend(locked.map(Arc::clone));
        let moves = upgrade.includes(&reference) || rechosen(&reference);
        if !moves && locked.is_none() && reference.digest().is_none() {
            // The image means for this platform what it is locked to for another one.
            let is_other = |other: &&Arc<LockedImage>| other.platform != platform && has_index(other);
            let other = old.entries_of(&reference).find(is_other);
            open.meanings.extend(other.map(|other| (reference.clone(), other.digest.clone())));
        }
        if moves || locked.is_none() {
            open.images.entry(reference).or_default().push((platform, locked.map(Arc::clone)));
        }
    }
    // From the end: a digest that waits is not taken for a platform that has none yet either.
    for platforms in open.images.values_mut() {
        platforms.sort_by_key(|(_, locked)| locked.is_some());
    }
    (entries, open)
}

/// Writes the lockfile, if there is a new one, and sweeps what a killed run left beside it.
fn store(place: &LockfilePlace, new: Option<&Lockfile>) -> Result<(), VerbError> {
    let target = place.target()?;
    replace::sweep(&target);
    match new {
        Some(new) => Ok(replace::replace(&target, &new.to_string())?),
        None => Ok(()),
    }
}

/// A platform of an image, with the entry that the lockfile has for it.
type Locked = (Platform, Option<Arc<LockedImage>>);

/// The images that are looked up.
#[derive(Default)]
struct Open {
    /// The platforms that each is looked up for, with the entry that the lockfile has for it.
    images: BTreeMap<ImageRef, Vec<Locked>>,
    /// The digests that images are known to mean. All platforms of an image get the same one,
    /// though its tag may move while they are looked up.
    meanings: BTreeMap<ImageRef, BlobDigest>,
}

impl Open {
    /// Leaves out the entries of images of which `is_gone` says that their registry has them no
    /// more: they stay as they are.
    fn leave(&mut self, is_gone: impl Fn(&ImageRef) -> bool) {
        for (_, platforms) in self.images.iter_mut().filter(|(reference, _)| is_gone(reference)) {
            platforms.retain(|(_, locked)| locked.is_none());
        }
        self.images.retain(|_, platforms| !platforms.is_empty());
    }

    /// Asks what the images mean now, a platform of each at a time, and adds the answers to the
    /// entries, or to what failed. An image that still has its known digest keeps its entry.
    fn look_up(
        mut self,
        asker: &Asker<'_>,
        entries: &mut Vec<Arc<LockedImage>>,
        waits: &mut Waits<'_>,
        failed: &mut Vec<Unlocked>,
    ) {
        while !self.images.is_empty() {
            let (mut lookups, mut indexes) = (Vec::new(), Vec::new());
            self.images.retain(|reference, platforms| {
                let Some((platform, locked)) = platforms.pop() else { return false };
                lookups.push(ImageQuestion {
                    pinned: self.meanings.get(reference).cloned(),
                    reference: reference.clone(),
                    platform,
                    is_staged: false,
                    // The first entry of an image takes what there is.
                    cooldown: locked.as_ref().and_then(|_| waits.of(reference)),
                    known: locked.as_ref().map(|locked| locked.digest.clone()),
                });
                indexes.push(locked.filter(|locked| has_index(locked)).map(|locked| locked.digest.clone()));
                !platforms.is_empty()
            });
            let answers = asker.ask_all(lookups.iter().cloned().map(Question::Image).collect());
            for ((asked, index), answer) in lookups.into_iter().zip(indexes).zip(answers) {
                let answer = match answer {
                    Answer::Image(Ok(Lookup::Image(image))) if asked.waits_for(&image.digest) => {
                        Answer::Waits(image.digest)
                    }
                    other => other,
                };
                let ImageQuestion { reference, platform, .. } = asked;
                let answer = match answer {
                    Answer::Waits(digest) => {
                        waits.note(reference.clone(), &digest);
                        Ok(Lookup::Same)
                    }
                    Answer::Image(answer) => answer,
                    // The asker answers questions in kind.
                    _ => continue,
                };
                let digest = match answer {
                    Ok(Lookup::Same) => index,
                    Ok(Lookup::Image(image)) => {
                        let image = LockedImage { reference: reference.clone(), ..LockedImage::of(&image) };
                        let digest = has_index(&image).then(|| image.digest.clone());
                        entries.push(Arc::new(image));
                        digest
                    }
                    Err(error) => {
                        failed.push((reference, platform, Arc::new(error.into())));
                        continue;
                    }
                };
                self.meanings.extend(digest.map(|digest| (reference, digest)));
            }
        }
    }
}

/// Tells whether an image comes from an index, which may have other platforms, too.
fn has_index(image: &LockedImage) -> bool {
    image.digest != image.manifest
}

/// Judges the signatures of everything that is to be locked, notes who signed, and adds what is
/// refused to what failed.
fn note_signers(asker: &Asker<'_>, entries: &mut [Arc<LockedImage>], failed: &mut Vec<Unlocked>) {
    let key = |entry: &LockedImage| (entry.reference.clone(), entry.platform.clone());
    // Of an image that was looked up again, the later entry counts.
    let last: BTreeMap<(ImageRef, Platform), Arc<LockedImage>> =
        entries.iter().map(|entry| (key(entry), Arc::clone(entry))).collect();
    let mut signers: BTreeMap<(ImageRef, Platform), String> = BTreeMap::new();
    let mut note = |image: &LockedImage, verdict: &Verdict| {
        if let Some(error) = verdict.error() {
            failed.push((image.reference.clone(), image.platform.clone(), Arc::clone(error)));
        }
        if let Some(evidence) = verdict.evidence() {
            signers.insert(key(image), evidence.by.clone());
        }
    };
    let (mut asked, mut questions) = (Vec::new(), Vec::new());
    for image in last.into_values() {
        let question = SignatureQuestion {
            reference: image.reference.clone(),
            digest: image.digest.clone(),
            manifest: image.manifest.clone(),
        };
        match asker.signatures.without_asking(&question, Permission::Granted) {
            Judged::NothingWanted => {}
            Judged::Verdict(verdict) => note(&image, &verdict),
            Judged::Ask { .. } => {
                asked.push(image);
                questions.push(question);
            }
        }
    }
    let answers = asker.ask_all(questions.iter().cloned().map(Question::Signatures).collect());
    for ((image, question), answer) in asked.into_iter().zip(questions).zip(answers) {
        // The asker answers questions in kind.
        let Answer::Signatures(verdict) = answer else { continue };
        let found = verdict.error().and_then(|_| asker.signatures.by_found(&question));
        note(&image, &found.unwrap_or(verdict));
    }
    for entry in entries {
        let signer = signers.get(&key(entry)).map(String::as_str);
        if signer.is_some() || entry.signed_by.is_some() {
            *entry = Arc::new(LockedImage::clone(entry).with_signer(signer));
        }
    }
}

/// Finds the tags that each selection means: those of the lockfile, or if it has none, or has to
/// move, those chosen from the repository's list. With the repositories where that failed.
fn choose(
    loaded: &Loaded,
    old: &Lockfile,
    upgrade: &Upgrade,
    asker: &Asker<'_>,
    waits: &mut Waits<'_>,
) -> (Vec<LockedSelection>, Vec<Unlocked>) {
    let (mut chosen, mut failed) = (Vec::new(), Vec::new());
    let mut open: BTreeMap<ImageRef, Vec<&TagSelection>> = BTreeMap::new();
    for selection in loaded.for_each_platform().iter().flat_map(|file| &file.selections) {
        let locked = || locked_tags(old, selection);
        if let Some(tags) = (!upgrade.rechooses(&selection.repository)).then(locked).flatten() {
            chosen.push(LockedSelection::of(selection, tags));
            continue;
        }
        let open = open.entry(selection.repository.clone()).or_default();
        let is_same =
            |other: &&TagSelection| (&other.rule, &other.platform) == (&selection.rule, &selection.platform);
        if !open.iter().any(is_same) {
            open.push(selection);
        }
    }
    let open: Vec<(ImageRef, Vec<&TagSelection>)> = open.into_iter().collect();
    let question = |(repository, selections): &(ImageRef, Vec<_>)| Question::Tags {
        repository: repository.clone(),
        selections: selections.clone(),
        known: waits.known_tags(
            repository,
            &selections
                .iter()
                .flat_map(|selection| locked_tags(old, selection).unwrap_or_default())
                .collect(),
        ),
    };
    let answers = asker.ask_all(open.iter().map(question).collect());
    for ((repository, selections), answer) in open.into_iter().zip(answers) {
        // The asker answers questions in kind.
        let Answer::Tags(choices) = answer else { continue };
        let choices = choices.unwrap_or_else(|error| {
            let error = Arc::new(Error::from(error));
            vec![Err(error); selections.len()]
        });
        for (selection, tags) in selections.into_iter().zip(choices) {
            match tags {
                Ok(from_list) => {
                    let taken = locked_tags(old, selection).unwrap_or_default().into_iter().collect();
                    let tags = waits.choose(selection, taken, from_list, asker);
                    chosen.push(LockedSelection::of(selection, tags));
                }
                Err(error) => failed.push((repository.clone(), selection.platform.clone(), error)),
            }
        }
    }
    (chosen, failed)
}

/// Returns the tags that the lockfile has for `selection`, or for the same one of another platform.
fn locked_tags(old: &Lockfile, selection: &TagSelection) -> Option<Vec<String>> {
    let tags = |images: Vec<Arc<LockedImage>>| -> Vec<String> {
        images.iter().filter_map(|image| image.reference.tag()).map(str::to_owned).collect()
    };
    let of_platform = |platform: Platform| {
        let selection = TagSelection { platform, ..selection.clone() };
        locked_choice(old, &selection).map(tags)
    };
    of_platform(selection.platform.clone())
        .or_else(|| old.platforms_of(&selection.repository).into_iter().find_map(of_platform))
}

/// An image that could not be looked up, its platform, and the reason.
pub type Unlocked = (ImageRef, Platform, Arc<Error>);

/// Returns the images to lock, each for all its platforms: those listed by name, and the chosen
/// tags. A tag that one machine would want for two platforms has failed.
fn wanted(
    loaded: &Loaded,
    selections: &[LockedSelection],
    failed: &mut Vec<Unlocked>,
) -> BTreeSet<(ImageRef, Platform)> {
    let mut wanted = BTreeSet::new();
    for file in loaded.for_each_platform() {
        let mut names: BTreeMap<ImageRef, Platform> = BTreeMap::new();
        for image in &file.images {
            let twins = image.reference.recorded_names();
            names.extend(twins.into_iter().map(|name| (name, image.platform.clone())));
            wanted.insert((image.reference.clone(), image.platform.clone()));
        }
        for selection in selections.iter().filter(|chosen| file.selections.iter().any(|of| chosen.is_of(of)))
        {
            let platform = &selection.platform;
            // Lists and lockfiles hold only tags that parse.
            for reference in selection.tags.iter().filter_map(|tag| selection.repository.with_tag(tag).ok()) {
                let twins = reference.recorded_names();
                let other = twins.iter().find_map(|name| names.get(name)).filter(|other| *other != platform);
                if let Some(other) = other {
                    if !failed.iter().any(|(name, on, _)| *name == reference && on == platform) {
                        let error = two_platforms(reference.tag().unwrap_or_default(), other, platform);
                        failed.push((reference, platform.clone(), Arc::new(error)));
                    }
                } else {
                    names.extend(twins.into_iter().map(|name| (name, platform.clone())));
                    wanted.insert((reference, platform.clone()));
                }
            }
        }
    }
    wanted
}

fn check_listed(loaded: &Loaded, old: &Lockfile, references: &[ImageRef]) -> Result<(), VerbError> {
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
    Err(InputError::NotListed { option: "--upgrade", images_file, reference, nearest }.into())
}
