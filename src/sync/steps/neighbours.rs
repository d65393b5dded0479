//! The needs of other homes: of a directory of layers that they share with this one.

use std::collections::BTreeSet;

use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::state::{Desired, Observed};
use crate::store::{self, Places};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Layers that others need.
pub(crate) enum Needed {
    /// Whatever is there, recorded or not: nobody knows what a home needs that cannot be asked.
    All,
    /// These.
    These(BTreeSet<BlobDigest>),
}

impl Needed {
    pub(crate) fn contains(&self, digest: &BlobDigest) -> bool {
        match self {
            Self::All => true,
            Self::These(layers) => layers.contains(digest),
        }
    }
}

/// Takes note of what other homes with the same directory of layers need of it.
pub(crate) fn look_at_other_homes(
    session: &Session,
    desired: &Desired,
    observed: &mut Observed,
    tell: bool,
) -> Result<(), VerbError> {
    if desired.prune {
        let places = Places::of(&desired.layers_directory);
        match needed_by_other_homes(session, &places, tell)? {
            Needed::These(layers) => observed.needed_elsewhere.extend(layers),
            Needed::All => {
                // A plan removes no others.
                let recorded = observed.recorded.values().flat_map(|row| &*row.layers);
                let recorded = recorded.map(|layer| layer.digest.clone());
                observed.needed_elsewhere.extend(recorded.chain(observed.released.iter().cloned()));
            }
        }
    }
    Ok(())
}

/// Asks the catalogs of other homes for the layers that they need: all, if one of them cannot be
/// found or read, which is said if `tell`.
pub(crate) fn needed_by_other_homes(
    session: &Session,
    places: &Places,
    tell: bool,
) -> Result<Needed, VerbError> {
    let mut needed = BTreeSet::new();
    for claim in store::claims_of_others(places, &session.home)? {
        let is_found = claim.is_found();
        let catalog = if is_found { Catalog::open_read_only(&claim.home) } else { Ok(None) };
        let layers = catalog.and_then(|catalog| {
            let catalog = catalog.filter(Catalog::is_ours);
            catalog.map(|catalog| catalog.layers_needed_outside(&BTreeSet::new())).transpose()
        });
        let why = match layers {
            Ok(Some(layers)) => {
                needed.extend(layers);
                continue;
            }
            // A first run may have been killed before it made one.
            Ok(None) if is_found => {
                "has recorded nothing yet, or lost what its catalog recorded: run apply there first"
                    .to_owned()
            }
            Ok(None) if claim.leads_to(&session.home) => format!(
                "has the path of this one (it is of another container or machine, or this one has replaced it); \
                 if it is gone for good, remove {}",
                claim.path.display()
            ),
            Ok(None) => format!(
                "is not there (not mounted, moved, replaced, or of another machine); if it was moved, run apply with it \
                 where it is now; if it is gone for good, remove {}",
                claim.path.display()
            ),
            Err(error) => format!("cannot be asked: {error}"),
        };
        if tell {
            let home = claim.home.display();
            let text = format!("no layers are removed: the home {home}, which uses them too, {why}");
            session.warn(text);
        }
        return Ok(Needed::All);
    }
    Ok(Needed::These(needed))
}
