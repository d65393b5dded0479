//! The names of an image layout's entries, and the entries that a reference means.
//!
//! Tools name entries in two annotations: `org.opencontainers.image.ref.name` holds whatever its
//! writer was given (a tag, `repository:tag`, the full form), `io.containerd.image.name` the full
//! form, beside a `ref.name` that is the tag alone (`docker save`, `ctr images export`). So a tag
//! alone names an entry only where nothing says more: two repositories may have the same tag. The
//! names are read once, however many references are looked up.

use std::collections::{BTreeSet, HashMap};

use crate::image_ref::{DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY, registry_name, split_registry};
use crate::registry::documents::Entry;

/// A name that says of which repository an image is.
struct Full {
    /// The position of the entry that has the name.
    entry: usize,
    registry: Option<String>,
    repository: String,
    /// `None` where there is a digest instead.
    tag: Option<String>,
    /// True if there is a digest, perhaps beside the tag: the name of a pin, which the tag alone
    /// means only where no entry has that name.
    is_pin: bool,
}

/// A name that may mean an image.
struct Fitting<'d> {
    entry: usize,
    tag: &'d str,
    quality: Fit,
    is_pin: bool,
}

/// The quality of a name's fit, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Registry and repository are those of the reference.
    Registry,
    /// The repository is, and the registry the other one of docker.io and sandboxes.io, which may
    /// mean another image of that name.
    Twin,
    /// The repository is, and there is no registry.
    Repository,
    /// The repository is, and the registry another one: the reference's is a name that the images
    /// file gave.
    OtherRegistry,
    /// Only the tag is known.
    Tag,
}

impl Full {
    fn of(text: &str, entry: usize) -> Self {
        let (name, is_pin) = text.split_once('@').map_or((text, false), |(name, _digest)| (name, true));
        let (registry, rest) = split_registry(name);
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, (!is_pin).then_some("latest")),
        };
        // One that is no registry's name is nobody's.
        let registry = registry.map(|name| registry_name(name).unwrap_or_else(|_| name.to_owned()));
        let (repository, tag) = (repository.to_owned(), tag.map(str::to_owned));
        Self { entry, registry, repository, tag, is_pin }
    }
}

/// The entries of a layout, to be found by their names.
pub(super) struct Directory {
    entries: Vec<Entry>,
    /// Names that say of which repository an image is, by repository without `library/`.
    full: HashMap<String, Vec<Full>>,
    /// The positions of entries of which only a tag is known.
    tags: Vec<usize>,
    /// The registries that names are of.
    registries: BTreeSet<String>,
    /// True if a name is of the registry that it says, whoever asks.
    registries_are_real: bool,
}

impl Directory {
    pub(super) fn of(entries: Vec<Entry>, registries_are_real: bool) -> Self {
        let (mut full, mut tags) = (HashMap::<String, Vec<Full>>::new(), Vec::new());
        let mut registries = BTreeSet::new();
        for (position, entry) in entries.iter().enumerate() {
            let ref_name = entry.ref_name().filter(|text| !text.is_empty());
            let says_more = ref_name.filter(|name| name.contains(['/', ':']));
            let containerd_name = entry.containerd_name().filter(|text| !text.is_empty());
            if containerd_name.is_none() && says_more.is_none() {
                tags.extend(ref_name.map(|_| position));
            }
            for name in [containerd_name, says_more].into_iter().flatten() {
                let name = Full::of(name, position);
                registries.extend(name.registry.clone());
                full.entry(short(&name.repository).to_owned()).or_default().push(name);
            }
        }
        Self { entries, full, tags, registries, registries_are_real }
    }

    /// The entries, in their order.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries whose name fits `reference` best; none where no name does.
    pub(super) fn find(&self, reference: &ImageRef, tag: &str) -> Vec<&Entry> {
        let fitting = || self.fits(reference).filter(|fit| fit.tag == tag);
        let quality = |fit: &Fitting<'_>| (fit.quality, fit.is_pin);
        let best = fitting().map(|fit| quality(&fit)).min();
        let found: BTreeSet<usize> =
            fitting().filter(|fit| Some(quality(fit)) == best).map(|fit| fit.entry).collect();
        found.into_iter().filter_map(|entry| self.entries.get(entry)).collect()
    }

    /// The tags of `reference`'s repository.
    pub(super) fn tags(&self, reference: &ImageRef) -> BTreeSet<&str> {
        self.fits(reference).map(|fit| fit.tag).filter(|tag| reference.with_tag(tag).is_ok()).collect()
    }

    /// Returns the name of each entry, in full where that is known.
    pub(super) fn shown(&self) -> BTreeSet<&str> {
        let names =
            self.entries.iter().filter_map(|entry| entry.containerd_name().or_else(|| entry.ref_name()));
        names.filter(|name| !name.is_empty()).collect()
    }

    /// The names that may mean an image of `reference`'s repository.
    fn fits(&self, reference: &ImageRef) -> impl Iterator<Item = Fitting<'_>> {
        let of_repository = self.full.get(short(reference.repository())).into_iter().flatten();
        let full = of_repository.filter_map(move |full| {
            let (quality, tag) = (self.fit(full, reference)?, full.tag.as_deref()?);
            Some(Fitting { entry: full.entry, tag, quality, is_pin: full.is_pin })
        });
        let tags = self.tags.iter().filter_map(|&entry| {
            let tag = self.entries.get(entry)?.ref_name()?;
            Some(Fitting { entry, tag, quality: Fit::Tag, is_pin: false })
        });
        full.chain(tags)
    }

    fn fit(&self, full: &Full, reference: &ImageRef) -> Option<Fit> {
        let (own, repository) = (reference.registry(), reference.repository());
        let public = |registry: &str| matches!(registry, DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
        let same = full.repository == repository;
        // Tools leave docker.io's `library/` out.
        let shorter = public(own) && repository.strip_prefix("library/") == Some(&full.repository);
        match full.registry.as_deref() {
            Some(other) if other == own => (same || shorter).then_some(Fit::Registry),
            Some(other) if public(own) && public(other) => (same || shorter).then_some(Fit::Twin),
            None => (same || shorter).then_some(Fit::Repository),
            // A name that some registry really has is meant, and not another one's image.
            Some(_) if self.registries_are_real || public(own) || self.registries.contains(own) => None,
            Some(other) => {
                let longer = public(other) && full.repository.strip_prefix("library/") == Some(repository);
                (same || longer).then_some(Fit::OtherRegistry)
            }
        }
    }
}

/// The part of a repository's name that all ways to write it have.
fn short(repository: &str) -> &str {
    repository.strip_prefix("library/").unwrap_or(repository)
}
