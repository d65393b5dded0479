//! The rules of trust of everybody who owns an image: whatever verb changes what the image means,
//! each of its images files may refuse that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::gone::is_gone;
use super::load::{Loaded, load};
use super::trust::judge;
use crate::catalog::Catalog;
use crate::error::InputError;
use crate::image_ref::ImageRef;
use crate::state::{Desired, Owner, TrustPolicy};
use crate::sync::request::ImagesSource;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::trust::{Demand, Judge};

/// Loads the images file of `owner`; `None` where there is none, or none any more.
pub(crate) fn loaded_of(session: &Session, owner: &Owner) -> Result<Option<Loaded>, VerbError> {
    match owner.file() {
        Some(path) if !is_gone(owner) => load(session, &ImagesSource::Path(path)).map(Some),
        _ => Ok(None),
    }
}

/// The rules of trust of one images file, which can judge.
struct Rules {
    file: PathBuf,
    trust: TrustPolicy,
    judge: Judge,
}

impl Rules {
    fn new(file: PathBuf, trust: TrustPolicy) -> Result<Self, VerbError> {
        Ok(Self { judge: judge(&trust)?, file, trust })
    }

    /// The fingerprint of the signature that the image has to have; `None`: no signature will do.
    fn fingerprint(&self, image: &ImageRef) -> Option<&str> {
        match self.judge.demand(image) {
            Demand::Signed(by) => Some(by.fingerprint()),
            Demand::Nothing | Demand::Unsigned { .. } | Demand::NoRule { .. } => None,
        }
    }
}

/// Parts the images of `desired` by the rules of trust that each of them obeys: those of the images
/// file that asks for its signature, be it an owner's or the one of the run (`own`, of `loaded`);
/// `own` where none asks. Selections obey `own`.
///
/// # Errors
/// Files ask for different signatures of one image. An owner's images file cannot be used, or a
/// file that its rules name cannot.
pub(crate) fn by_rules(
    session: &Session,
    desired: Desired,
    own: &TrustPolicy,
    loaded: Option<&Loaded>,
) -> Result<Vec<(Desired, TrustPolicy)>, VerbError> {
    let file = loaded.map_or("the machine's settings", |loaded| &loaded.name);
    let owners = owners_of(session, &desired, loaded.map(|loaded| &loaded.owner))?;
    let mut rules = BTreeMap::from([(None, Rules::new(file.into(), own.clone())?)]);
    for owner in owners.values().flatten().collect::<BTreeSet<_>>() {
        // The oddities of a file are told in its own runs.
        let Some(loaded) = loaded_of(&session.quiet(), owner)? else { continue };
        let trust = loaded.file.settings.trust;
        // Keys of rules for other images may be missing.
        if owners.iter().any(|(image, owners)| owners.contains(owner) && trust.demands(image)) {
            rules.insert(Some(owner), Rules::new(owner.file().unwrap_or_default(), trust)?);
        }
    }
    let mut parts = BTreeMap::new();
    let rest = Desired { images: Vec::new(), selections: Vec::new(), ..desired.clone() };
    let has_selections = !desired.selections.is_empty();
    if has_selections || desired.images.is_empty() {
        parts.insert(None, Desired { selections: desired.selections, ..rest.clone() });
    }
    for image in desired.images {
        let owners = owners.get(&image.reference).into_iter().flatten();
        let decides = deciding(&image.reference, owners, &rules)?;
        parts.entry(decides).or_insert_with(|| rest.clone()).images.push(image);
    }
    let with_rules = |(decides, part)| Some((part, rules.get(&decides)?.trust.clone()));
    Ok(parts.into_iter().filter_map(with_rules).collect())
}

/// Finds out who owns each image of `desired`, by any of its names, beside `by`.
fn owners_of(
    session: &Session,
    desired: &Desired,
    by: Option<&Owner>,
) -> Result<BTreeMap<ImageRef, BTreeSet<Owner>>, VerbError> {
    let mut owners = BTreeMap::new();
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(owners) };
    for image in &desired.images {
        let rows = catalog.recorded(&image.reference.recorded_names())?;
        let found = rows.into_iter().flat_map(|row| row.owners).filter(|owner| Some(owner) != by);
        owners.insert(image.reference.clone(), found.collect());
    }
    Ok(owners)
}

/// Finds out whose rules the image obeys, of its `owners` and of the run's own ones (`None`).
fn deciding<'o>(
    image: &ImageRef,
    owners: impl Iterator<Item = &'o Owner>,
    rules: &BTreeMap<Option<&'o Owner>, Rules>,
) -> Result<Option<&'o Owner>, VerbError> {
    let everybody = [None].into_iter().chain(owners.map(Some));
    let theirs = everybody.filter_map(|owner| Some((owner, rules.get(&owner)?)));
    let asking: Vec<_> = theirs.filter(|(_, rules)| rules.trust.demands(image)).collect();
    let Some((first, rules)) = asking.first() else { return Ok(None) };
    if asking.iter().any(|(_, other)| other.fingerprint(image) != rules.fingerprint(image)) {
        let files = asking.iter().map(|(_, rules)| rules.file.clone()).collect();
        return Err(InputError::DifferentSignatures { reference: image.clone(), files }.into());
    }
    Ok(*first)
}
