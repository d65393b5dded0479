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
    mut desired: Desired,
    own: &TrustPolicy,
    loaded: Option<&Loaded>,
) -> Result<Vec<(Desired, TrustPolicy)>, VerbError> {
    let file = loaded.map_or("the machine's settings", |loaded| &loaded.name);
    let owners = owners_of(session, &desired, loaded.map(|loaded| &loaded.owner))?;
    let own = Rules::new(file.into(), own.clone())?;
    let mut rules = BTreeMap::new();
    for owner in owners.values().flatten().collect::<BTreeSet<_>>() {
        // The oddities of a file are told in its own runs.
        let Some(loaded) = loaded_of(&session.quiet(), owner)? else { continue };
        let trust = loaded.file.settings.trust;
        // Keys of rules for other images may be missing.
        if owners.iter().any(|(image, owners)| owners.contains(owner) && trust.demands(image)) {
            rules.insert(owner, Rules::new(owner.file().unwrap_or_default(), trust)?);
        }
    }
    let images = std::mem::take(&mut desired.images);
    let mut parts = vec![(desired.clone(), &own)];
    let rest = Desired { selections: Vec::new(), ..desired };
    for image in images {
        let theirs = owners.get(&image.reference).into_iter().flatten();
        let theirs = theirs.filter_map(|owner| rules.get(owner));
        let decides = deciding(&image.reference, [&own].into_iter().chain(theirs))?.unwrap_or(&own);
        match parts.iter_mut().find(|(_, rules)| std::ptr::eq(*rules, decides)) {
            Some((part, _)) => part.images.push(image),
            None => parts.push((Desired { images: vec![image], ..rest.clone() }, decides)),
        }
    }
    if parts.len() > 1 {
        parts.retain(|(part, _)| !(part.images.is_empty() && part.selections.is_empty()));
    }
    Ok(parts.into_iter().map(|(part, rules)| (part, rules.trust.clone())).collect())
}

/// Finds out who owns each image of `desired`, by its own name, beside `by`: a second name that
/// others own is theirs, and is left alone.
fn owners_of(
    session: &Session,
    desired: &Desired,
    by: Option<&Owner>,
) -> Result<BTreeMap<ImageRef, BTreeSet<Owner>>, VerbError> {
    let mut owners = BTreeMap::new();
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(owners) };
    for image in &desired.images {
        let rows = catalog.recorded(std::slice::from_ref(&image.reference))?;
        let found = rows.into_iter().flat_map(|row| row.owners).filter(|owner| Some(owner) != by);
        owners.insert(image.reference.clone(), found.collect());
    }
    Ok(owners)
}

/// Finds the rules, of `all` that count for the image, which it has to obey; `None` where none asks
/// for its signature.
fn deciding<'r>(
    image: &ImageRef,
    all: impl Iterator<Item = &'r Rules>,
) -> Result<Option<&'r Rules>, VerbError> {
    let asking: Vec<&Rules> = all.filter(|rules| rules.trust.demands(image)).collect();
    let Some(&first) = asking.first() else { return Ok(None) };
    if asking.iter().any(|other| other.fingerprint(image) != first.fingerprint(image)) {
        let files = asking.iter().map(|rules| rules.file.clone()).collect();
        return Err(InputError::DifferentSignatures { reference: image.clone(), files }.into());
    }
    Ok(Some(first))
}
