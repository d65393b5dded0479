//! `rollback`: an earlier digest of a reference becomes the present one, and is held.
//!
//! Going back is an ordinary run for that one image, once for each of its owners, with what his
//! images file says of engines, registries and trust. The meaning of the earlier digest is in the
//! catalog, so that nothing is asked as long as the layers, or their blobs, are here; else the
//! registry is asked, by digest.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::apply::Applied;
use super::session::Session;
use super::steps::load::Loaded;
use super::steps::lock_home::lock_home;
use super::steps::machine::without_file;
use super::steps::not_recorded::not_here;
use super::steps::owners_rules::loaded_of;
use super::steps::reconcile::{reconcile, show};
use super::steps::registries;
use super::steps::run::Order;
use super::verb_error::VerbError;
use crate::catalog::{Catalog, WritableCatalog};
use crate::digest::BlobDigest;
use crate::error::RecordedError;
use crate::image_ref::ImageRef;
use crate::lockfile::line_of_digest;
use crate::plan::Plan;
use crate::progress::{Event, Reporter};
use crate::state::{
    BackTo, Desired, DesiredImage, EngineName, EngineSettings, HistoryEntry, LoadedReference, Owner,
    PullPolicy, RecordedImage, RegistrySettings, Settings, Targets,
};

/// The report of `rollback`.
#[derive(Debug)]
pub struct RolledBack {
    /// The report of the run.
    pub applied: Applied,
    /// The image, by its first name.
    pub reference: ImageRef,
    /// The digest that it is held at, if the run succeeded.
    pub digest: BlobDigest,
    /// True if it was at that digest before.
    pub was_there: bool,
}

/// Lets `reference` go back to the digest that begins with `to` (`sha256:` may be left out), or,
/// without one, to the latest that is not the present one; and holds it there, for all its owners.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let reference = session.reference("quickstart.local/hello:1")?;
/// let present = sync::history(&session, Some(&reference))?[0].entries[0].digest.to_string();
/// // Nothing changes, but from now on it stays as it is, whatever the tag comes to mean.
/// assert!(sync::rollback(&session, &reference, Some(&present))?.was_there);
/// assert!(sync::release(&session, &reference)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The image is not recorded, or pinned; it has meant no such digest; a lockfile decides about it;
/// and as for [`apply`](super::apply).
pub fn rollback(session: &Session, reference: &ImageRef, to: Option<&str>) -> Result<RolledBack, VerbError> {
    let catalog = Catalog::open_read_only(&session.home)?;
    let row = recorded(reference, catalog.as_ref())?;
    let Some(catalog) = catalog else { return Err(not_here(reference, None)) };
    let reference = row.reference.clone();
    if reference.digest().is_some() {
        return Err(failed(RecordedError::Pinned { reference }));
    }
    let mut entry = chosen(&reference, catalog.history(&reference)?.entries, to)?;
    // The images file says which platform; it may have said another one then.
    entry.platform = row.platform.clone().unwrap_or(entry.platform);
    let was_there = row.digest.as_ref() == Some(&entry.digest);
    let meaning = catalog.meaning(&reference, &entry.platform, &entry.digest)?.map(Arc::new);
    let back = BackTo { digest: entry.digest.clone(), meaning };
    let mut owners = Vec::new();
    for owner in &row.owners {
        let loaded = loaded_of(session, owner)?;
        if let Some(loaded) = &loaded {
            refuse_locked(loaded, &reference, &entry)?;
        }
        owners.push(OwnersWish::of(session, &catalog, owner, loaded, &row)?);
    }
    drop(catalog);
    // One who refuses the earlier digest decides for all: nothing is recorded before he is asked.
    let refusing = refusing(session, &owners, |wish| wish.desired(&row, &entry, &back))?;
    if let Some(refusing) = refusing {
        owners.swap(0, refusing);
        owners.truncate(1);
    }
    let mut applied: Option<Applied> = None;
    for wish in &owners {
        let desired = wish.desired(&row, &entry, &back);
        let next = carry_out(session, wish, &desired, applied.is_some())?;
        match &mut applied {
            None => applied = Some(next),
            Some(applied) => add(applied, next, &*session.reporter),
        }
    }
    // Only msb-sync's own images have histories, and these have owners.
    let Some(applied) = applied else { return Err(failed(RecordedError::NoEarlier { reference })) };
    if applied.succeeded() {
        hold(session, &reference, &entry.digest)?;
    }
    Ok(RolledBack { applied, reference, digest: entry.digest, was_there })
}

/// Holds `reference` no more, so that the next run follows its tag again; tells whether it was
/// held.
///
/// # Errors
/// The image is not recorded, or the catalog cannot be read or written.
pub fn release(session: &Session, reference: &ImageRef) -> Result<bool, VerbError> {
    let catalog = Catalog::open_read_only(&session.home)?;
    let row = recorded(reference, catalog.as_ref())?;
    drop(catalog);
    if row.held.is_none() {
        return Ok(false);
    }
    let home = lock_home(session)?;
    Ok(WritableCatalog::open(&home)?.release(&row.reference)?)
}

fn failed(error: RecordedError) -> VerbError {
    VerbError::Error(error.into())
}

/// Finds the row of `reference`, or of the image of which it is the second name.
fn recorded(reference: &ImageRef, catalog: Option<&Catalog>) -> Result<RecordedImage, VerbError> {
    let find = |reference: &ImageRef| match catalog {
        Some(catalog) => Ok::<_, VerbError>(catalog.recorded(std::slice::from_ref(reference))?.pop()),
        None => Ok(None),
    };
    let row = find(reference)?;
    let first = match row.as_ref().and_then(|row| row.alias_of.as_ref()) {
        Some(first) => find(first)?,
        None => None,
    };
    first.or(row).ok_or_else(|| not_here(reference, catalog))
}

/// Chooses the entry to go back to; `entries` are the present one and those before.
fn chosen(
    reference: &ImageRef,
    entries: Vec<HistoryEntry>,
    to: Option<&str>,
) -> Result<HistoryEntry, VerbError> {
    let present = entries.iter().find(|entry| entry.until.is_none()).map(|entry| entry.digest.clone());
    let Some(asked) = to else {
        let earlier = entries.into_iter().find(|entry| Some(&entry.digest) != present.as_ref());
        return earlier.ok_or_else(|| failed(RecordedError::NoEarlier { reference: reference.clone() }));
    };
    let fits = |digest: &BlobDigest| {
        let text = digest.text();
        text == asked || text.hex().starts_with(asked) || (asked.contains(':') && text.starts_with(asked))
    };
    let mut seen = BTreeSet::new();
    let mut distinct = entries;
    distinct.retain(|entry| seen.insert(entry.digest.clone()));
    let (mut fitting, others): (Vec<_>, Vec<_>) =
        distinct.into_iter().partition(|entry| !asked.is_empty() && fits(&entry.digest));
    if fitting.len() == 1
        && let Some(entry) = fitting.pop()
    {
        return Ok(entry);
    }
    let of_several = !fitting.is_empty();
    let known = fitting.into_iter().chain(others).map(|entry| entry.digest).collect();
    let (reference, asked) = (reference.clone(), crate::error::printable(asked));
    Err(failed(RecordedError::UnknownDigest { reference, asked, of_several, known }))
}

/// Refuses to go back where a lockfile says what the image means: the next run would go forward
/// again.
fn refuse_locked(loaded: &Loaded, reference: &ImageRef, entry: &HistoryEntry) -> Result<(), VerbError> {
    let Some(place) = &loaded.lockfile else { return Ok(()) };
    let Some(text) = place.read()? else { return Ok(()) };
    let lockfile = place.parse(&text)?;
    let of_platform = lockfile.fitting(reference, &entry.platform);
    let Some(locked) = of_platform.or_else(|| lockfile.entries_of(reference).next()) else { return Ok(()) };
    let line = line_of_digest(&text, reference, &locked.platform);
    Err(failed(RecordedError::Locked {
        reference: reference.clone(),
        place: line.map_or_else(|| place.name.clone(), |line| format!("{}:{line}", place.name)),
        lockfile: place.name.clone(),
        images_file: loaded.name.clone(),
        locked: locked.digest.clone().into(),
        instead: Box::new(entry.digest.clone()),
    }))
}

/// The wish of one owner about the image.
struct OwnersWish {
    owner: Owner,
    settings: Settings,
    registries: Vec<RegistrySettings>,
    layers: PathBuf,
    /// The engines that are to have the image; `None`: all of the settings.
    engines: Option<BTreeSet<EngineName>>,
    /// All else that the owner lists or has brought: none of it is this run's.
    elsewhere: BTreeSet<ImageRef>,
}

impl OwnersWish {
    /// Finds out what `owner` wants: by his images file, else by what is recorded for him.
    fn of(
        session: &Session,
        catalog: &Catalog,
        owner: &Owner,
        loaded: Option<Loaded>,
        row: &RecordedImage,
    ) -> Result<Self, VerbError> {
        let mut rows = catalog.loaded()?;
        rows.retain(|row| row.owner == *owner);
        let mut elsewhere: BTreeSet<ImageRef> = rows.iter().map(|row| row.reference.clone()).collect();
        elsewhere.extend(catalog.owned_by(owner)?.into_iter().map(|row| row.reference));
        let of_image = |loaded: &&LoadedReference| loaded.reference == row.reference;
        let has: BTreeSet<&EngineSettings> =
            rows.iter().filter(of_image).map(|loaded| &loaded.engine).collect();
        let (settings, registries, engines) = if let Some(Loaded { file, .. }) = loaded {
            elsewhere.extend(file.images.iter().map(|image| image.reference.clone()));
            let listed = file.images.iter().find(|image| image.reference == row.reference);
            let repository = row.reference.repository_alone();
            let chosen = file.selections.iter().find(|selection| selection.repository == repository);
            let listed = listed.map(|image| &image.engines);
            let engines = listed.or(chosen.map(|selection| &selection.engines)).cloned();
            // An image that is listed no more stays where it is.
            let engines = engines.unwrap_or_else(|| Some(has.iter().map(|engine| engine.name).collect()));
            (file.settings, file.registries, engines)
        } else {
            let (registries, settings) = without_file(session)?;
            let targets = Targets {
                extracts: row.extracted_for.contains(owner),
                keeps_blobs: row.blobs_kept_for.contains(owner),
                keeps_earlier: row.earlier_for.get(owner).copied().unwrap_or_default(),
                engines: has.into_iter().cloned().collect(),
            };
            let layers = row.layers_directory.clone();
            (Settings { layers, targets, ..settings }, registries, None)
        };
        elsewhere.remove(&row.reference);
        let layers = settings.layers.clone().unwrap_or_else(|| session.default_layers());
        Ok(Self { owner: owner.clone(), settings, registries, layers, engines, elsewhere })
    }

    fn desired(&self, row: &RecordedImage, entry: &HistoryEntry, back: &BackTo) -> Desired {
        let image = DesiredImage {
            reference: row.reference.clone(),
            platform: entry.platform.clone(),
            pull: PullPolicy::Always,
            groups: BTreeSet::new(),
            engines: self.engines.clone(),
            cooldown: Duration::ZERO,
            locked: None,
            back_to: Some(back.clone()),
        };
        Desired {
            owner: self.owner.clone(),
            layers_directory: self.layers.clone(),
            images: vec![image],
            selections: Vec::new(),
            taken_now: BTreeSet::new(),
            listed_elsewhere: self.elsewhere.clone(),
            targets: self.settings.targets.clone(),
            prune: false,
            stage: None,
        }
    }
}

/// Finds an owner of several whose rules of trust refuse what he is to get.
fn refusing(
    session: &Session,
    owners: &[OwnersWish],
    desired: impl Fn(&OwnersWish) -> Desired,
) -> Result<Option<usize>, VerbError> {
    // The run of one owner judges by itself.
    if owners.len() < 2 {
        return Ok(None);
    }
    let quiet = session.quiet();
    for (index, wish) in owners.iter().enumerate().filter(|(_, wish)| !wish.settings.trust.is_empty()) {
        let registries = registries::open(&quiet, wish.registries.clone(), &wish.settings)?;
        let desired = desired(wish);
        let plan = Order::without_file(&quiet, &desired, &registries, &wish.settings).begin(show)?;
        let mut verdicts = plan.images.iter().filter_map(|image| image.verdict.as_ref());
        if verdicts.any(|verdict| verdict.error().is_some()) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Carries out the run for one owner. Of those after the first, only failures are told.
fn carry_out(
    session: &Session,
    wish: &OwnersWish,
    desired: &Desired,
    is_next: bool,
) -> Result<Applied, VerbError> {
    let mut session = session.clone();
    if is_next {
        session.reporter = Arc::new(FailuresOnly(session.reporter));
    }
    let registries = registries::open(&session, wish.registries.clone(), &wish.settings)?;
    let order = Order::without_file(&session, desired, &registries, &wish.settings);
    let (plan, outcome) = order.begin(reconcile)?;
    let layers = desired.layers_directory.clone();
    Ok(Applied { plan, outcome, requests: registries.requests(), layers, hooks: Vec::new() })
}

/// Makes one report of those for two owners of the one image.
fn add(applied: &mut Applied, next: Applied, reporter: &dyn Reporter) {
    let Applied { plan, mut outcome, requests, .. } = next;
    outcome.images.retain(|(_, _, error)| error.is_some());
    if !outcome.images.is_empty() {
        applied.outcome.images.clear();
    }
    applied.plan.append(Plan { images: Vec::new(), ..plan });
    applied.outcome.append(outcome, reporter);
    applied.requests += requests;
}

/// Passes on everything but the end of an image that is as it should be.
struct FailuresOnly(Arc<dyn Reporter>);

impl Reporter for FailuresOnly {
    fn report(&self, event: Event) {
        if !matches!(event, Event::Image { error: None, .. }) {
            self.0.report(event);
        }
    }
}

/// Holds the image at `digest`, where the run has not done so with its record.
fn hold(session: &Session, reference: &ImageRef, digest: &BlobDigest) -> Result<(), VerbError> {
    let is_at = |catalog: &Catalog, is_held: bool| {
        let rows = catalog.recorded(std::slice::from_ref(reference))?;
        let found =
            rows.iter().any(|row| row.digest.as_ref() == Some(digest) && row.held.is_some() == is_held);
        Ok::<_, VerbError>(found)
    };
    let catalog = Catalog::open_read_only(&session.home)?;
    if catalog.as_ref().is_some_and(|catalog| is_at(catalog, true).unwrap_or_default()) {
        return Ok(());
    }
    drop(catalog);
    let home = lock_home(session)?;
    let mut catalog = WritableCatalog::open(&home)?;
    // Whoever had the lock may have gone on.
    if is_at(&catalog, false)? {
        catalog.hold(reference, digest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::error::Error;
    use crate::state::Platform;

    fn entry(version: u8, is_present: bool) -> HistoryEntry {
        let time = |second| jiff::Timestamp::from_second(second).unwrap();
        HistoryEntry {
            platform: Platform::new("linux", "amd64", None),
            digest: BlobDigest::of(Algorithm::Sha256, &[version]),
            from: time(i64::from(version)),
            until: (!is_present).then(|| time(i64::from(version) + 1)),
        }
    }

    fn choose(versions: &[u8], to: Option<&str>) -> Result<BlobDigest, String> {
        let reference = ImageRef::parse("alpine:3.20", "docker.io").unwrap();
        let entries = versions.iter().enumerate().map(|(at, version)| entry(*version, at == 0)).collect();
        chosen(&reference, entries, to).map(|entry| entry.digest).map_err(|error| match error {
            VerbError::Error(Error::Recorded(error)) => error.to_string(),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn the_latest_other_digest_is_the_way_back_unless_one_is_named() {
        let digest = |version: u8| entry(version, false).digest;
        assert_eq!(choose(&[2, 1], None), Ok(digest(1)));
        // The tag went to 2 and back: the way back from 1 is 2.
        assert_eq!(choose(&[1, 2, 1], None), Ok(digest(2)));
        assert!(choose(&[1, 1], None).unwrap_err().ends_with("has meant no other digest on this machine"));
        let of_one = digest(1).to_string();
        for asked in [&of_one[..], &of_one[..20], &of_one[7..], &of_one[7..12]] {
            assert_eq!(choose(&[2, 1, 2, 1], Some(asked)), Ok(digest(1)), "{asked}");
            assert_eq!(choose(&[1, 2], Some(asked)), Ok(digest(1)), "{asked}");
        }
        for (asked, words) in [("sha256:", "several digests"), ("", "never meant"), ("sha2", "never meant")] {
            assert!(choose(&[2, 1], Some(asked)).unwrap_err().contains(words), "{asked}");
        }
    }
}
