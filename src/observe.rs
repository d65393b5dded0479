//! What is: what each reference means now, what the catalog records, which layers are complete.
//!
//! Looks only; nothing is written. A lookup that fails is data for its one image ([`Resolution::Blocked`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::extract;
use crate::image_ref::ImageRef;
use crate::progress::{Event, Reporter};
use crate::registry::{Lookup, Registries};
use crate::state::{
    Desired, DesiredImage, LayerDescriptor, LayerState, Observed, PullPolicy, RecordedImage, Resolution,
};
use crate::store;

/// Where to look, and how.
pub struct Observer<'a> {
    /// The registries.
    pub registries: &'a Registries,
    /// The catalog; `None` if there is none yet.
    pub catalog: Option<&'a Catalog>,
    /// The directory of layers.
    pub layers: &'a Path,
    /// Lookups at once.
    pub parallel: usize,
    /// Whether no registry may be asked at all.
    pub offline: bool,
    /// Who listens.
    pub reporter: &'a dyn Reporter,
    /// Ends the lookups early.
    pub cancel: &'a Cancel,
}

impl Observer<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// The catalog or the store cannot be read; a registry's failure is no error here.
    pub fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        self.look_at_catalog(desired, &mut observed)?;
        observed.resolutions = self.resolve_all(desired, &observed.recorded);
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped);
        }
        self.look_at_layers(&mut observed)?;
        Ok(observed)
    }

    /// Looks again at what another process may have changed while this one waited for the lock: the catalog
    /// and the store. What the registries said still holds.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub fn look_again(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        self.look_at_catalog(desired, observed)?;
        self.look_at_layers(observed)
    }

    fn look_at_catalog(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        observed.recorded.clear();
        let Some(catalog) = self.catalog else { return Ok(()) };
        let names: Vec<ImageRef> =
            desired.images.iter().flat_map(|image| image.reference.recorded_names()).collect();
        let rows = catalog.recorded(&names)?.into_iter().chain(catalog.owned_by(&desired.owner)?);
        observed.recorded = rows.map(|row| (row.reference.clone(), row)).collect();
        observed.needed_elsewhere = if desired.prune {
            catalog.layers_needed_outside(&observed.recorded.keys().cloned().collect())?
        } else {
            BTreeSet::new()
        };
        Ok(())
    }

    fn look_at_layers(&self, observed: &mut Observed) -> Result<(), Error> {
        let recorded = observed.recorded.values().flat_map(|row| &row.layers);
        let resolved: Vec<&LayerDescriptor> = observed
            .resolutions
            .values()
            .filter_map(|resolution| match resolution {
                Resolution::Resolved(image) => Some(&image.layers),
                _ => None,
            })
            .flatten()
            .collect();
        let digests: BTreeSet<&BlobDigest> =
            recorded.chain(resolved.iter().copied()).map(|layer| &layer.digest).collect();
        let places = store::Places::of(self.layers);
        let mut states = BTreeMap::new();
        for digest in digests {
            states.insert(digest.clone(), places.state(digest)?);
        }
        let mut facts = BTreeMap::new();
        for layer in resolved {
            if states.get(&layer.digest) != Some(&LayerState::Complete) {
                continue;
            }
            let known = File::open(places.record(&layer.digest))
                .ok()
                .and_then(|mut record| extract::read_facts(&mut record))
                .filter(|facts| facts.diff_id.algorithm() == layer.diff_id.algorithm());
            match known {
                Some(known) => {
                    facts.insert(layer.digest.clone(), known);
                }
                // What cannot be compared with what the image says is fetched and compared.
                None => {
                    states.insert(layer.digest.clone(), LayerState::Untrusted);
                }
            }
        }
        (observed.layers, observed.facts) = (states, facts);
        Ok(())
    }

    /// Resolves in a few threads; each takes the next image that nobody has taken.
    fn resolve_all(
        &self,
        desired: &Desired,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> BTreeMap<ImageRef, Resolution> {
        let mut resolutions = BTreeMap::new();
        let mut to_ask = Vec::new();
        for image in &desired.images {
            match self.without_asking(image, recorded.get(&image.reference)) {
                Some(resolution) => {
                    resolutions.insert(image.reference.clone(), resolution);
                }
                None => to_ask.push((image, known_digest(image, recorded))),
            }
        }
        if to_ask.is_empty() {
            return resolutions;
        }
        self.reporter.report(Event::Resolving { images: to_ask.len() });
        let (next, resolutions) = (AtomicUsize::new(0), Mutex::new(resolutions));
        let work = || {
            while let Some((image, known)) = to_ask.get(next.fetch_add(1, Ordering::Relaxed)) {
                let resolution =
                    match self.registries.resolve(&image.reference, &image.platform, known.as_ref()) {
                        Ok(Lookup::Same) => Resolution::AsRecorded,
                        Ok(Lookup::Image(image)) => Resolution::Resolved(Arc::new(*image)),
                        Err(error) => Resolution::Blocked(Arc::new(error.into())),
                    };
                self.reporter.report(Event::Resolved(image.reference.clone()));
                resolutions
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(image.reference.clone(), resolution);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.parallel.min(to_ask.len()) {
                scope.spawn(work);
            }
            work();
        });
        resolutions.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be said without a request: by the pull policy, or because a pinned digest cannot move.
    fn without_asking(&self, image: &DesiredImage, recorded: Option<&RecordedImage>) -> Option<Resolution> {
        let usable = recorded.is_some_and(|recorded| recorded.platform.as_ref() == Some(&image.platform));
        let complete = usable && recorded.is_some_and(|recorded| recorded.rows_complete);
        let blocked = |message: String, hint: &str| {
            Some(Resolution::Blocked(Arc::new(Error::Usage { message, hint: Some(hint.to_owned()) })))
        };
        match image.pull {
            PullPolicy::Missing | PullPolicy::Never if complete => return Some(Resolution::AsRecorded),
            PullPolicy::Never => {
                return blocked(
                    "not here, and its pull policy is \"never\"".to_owned(),
                    "set pull = \"missing\" for this image, or pull it by hand",
                );
            }
            _ => {}
        }
        if self.offline && !self.registries.is_local(&image.reference) {
            if complete {
                return Some(Resolution::AsRecorded);
            }
            return blocked(
                "not here, and --offline forbids asking its registry".to_owned(),
                "run without --offline",
            );
        }
        None
    }
}

/// The digest to compare with, if what is recorded is good enough to be kept as it is.
fn known_digest(image: &DesiredImage, recorded: &BTreeMap<ImageRef, RecordedImage>) -> Option<BlobDigest> {
    let names = image.reference.recorded_names();
    let rows: Option<Vec<&RecordedImage>> = names.iter().map(|name| recorded.get(name)).collect();
    let rows = rows?;
    let good = rows.iter().all(|row| {
        row.rows_complete && row.platform.as_ref() == Some(&image.platform) && row.digest == rows[0].digest
    });
    if good { rows[0].digest.clone() } else { None }
}
