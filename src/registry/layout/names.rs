//! The names of an image layout's entries, and the entries that a reference means.
//!
//! Tools name entries in two annotations: `org.opencontainers.image.ref.name` holds whatever its
//! writer was given (a tag, `repository:tag`, the full form), `io.containerd.image.name` the full
//! form, beside a `ref.name` that is the tag alone (`docker save`, `ctr images export`). So a tag
//! alone names an entry only where nothing says more: two repositories may have the same tag.

use std::collections::BTreeSet;

use crate::image_ref::{DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY, registry_name, split_registry};
use crate::registry::documents::Entry;

/// The names of one entry.
pub(crate) enum Names<'i> {
    /// A repository, perhaps with its registry and a tag; by both annotations there may be two.
    Full(Vec<Full<'i>>),
    /// A tag of whatever repository.
    Tag(&'i str),
    Nothing,
}

/// A name that says of which repository an image is.
pub(super) struct Full<'i> {
    registry: Option<String>,
    repository: &'i str,
    /// `None` where there is a digest instead.
    tag: Option<&'i str>,
}

/// The quality of a name's fit, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Registry and repository are those of the reference.
    Registry,
    /// The repository is, and there is no registry.
    Repository,
    /// The repository is, and the registry another one: the reference's is a name that the images
    /// file gave.
    OtherRegistry,
    /// Only the tag is known.
    Tag,
}

impl<'i> Names<'i> {
    pub(crate) fn of(entry: &'i Entry) -> Self {
        let ref_name = entry.ref_name().filter(|text| !text.is_empty());
        let says_more = ref_name.filter(|name| name.contains(['/', ':']));
        let full: Vec<_> = entry
            .containerd_name()
            .filter(|text| !text.is_empty())
            .into_iter()
            .chain(says_more)
            .map(Full::of)
            .collect();
        match ref_name {
            _ if !full.is_empty() => Self::Full(full),
            Some(tag) => Self::Tag(tag),
            None => Self::Nothing,
        }
    }
}

impl<'i> Full<'i> {
    fn of(text: &'i str) -> Self {
        let (name, has_digest) = text.split_once('@').map_or((text, false), |(name, _digest)| (name, true));
        let (registry, rest) = split_registry(name);
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, (!has_digest).then_some("latest")),
        };
        // One that is no registry's name is nobody's.
        let registry = registry.map(|name| registry_name(name).unwrap_or_else(|_| name.to_owned()));
        Self { registry, repository, tag }
    }
}

/// All names of a layout, to be compared with references.
pub(crate) struct Directory<'i> {
    entries: Vec<(&'i Entry, Names<'i>)>,
    /// The registries that names are of.
    registries: BTreeSet<String>,
    /// True if a name is of the registry that it says, whoever asks.
    registries_are_real: bool,
}

impl<'i> Directory<'i> {
    pub(crate) fn of(entries: &'i [Entry], registries_are_real: bool) -> Self {
        let entries: Vec<_> = entries.iter().map(|entry| (entry, Names::of(entry))).collect();
        let full = entries.iter().filter_map(|(_, names)| match names {
            Names::Full(full) => Some(full),
            Names::Tag(_) | Names::Nothing => None,
        });
        let registries = full.flatten().filter_map(|full| full.registry.clone()).collect();
        Self { entries, registries, registries_are_real }
    }

    /// The entries whose name fits `reference` best; none where no name does.
    pub(crate) fn find(&self, reference: &ImageRef, tag: &str) -> Vec<&'i Entry> {
        let fitting: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(entry, names)| {
                let best = self.fits(names, reference).into_iter();
                let best = best.filter(|(_, own)| *own == tag).map(|(fit, _)| fit).min()?;
                Some((best, *entry))
            })
            .collect();
        let best = fitting.iter().map(|(fit, _)| *fit).min();
        fitting.into_iter().filter(|(fit, _)| Some(*fit) == best).map(|(_, entry)| entry).collect()
    }

    /// The tags of `reference`'s repository.
    pub(crate) fn tags(&self, reference: &ImageRef) -> BTreeSet<&'i str> {
        self.entries
            .iter()
            .flat_map(|(_, names)| self.fits(names, reference))
            .map(|(_, tag)| tag)
            .filter(|tag| reference.with_tag(tag).is_ok())
            .collect()
    }

    /// Returns the name of each entry, in full where that is known.
    pub(crate) fn shown(&self) -> BTreeSet<&'i str> {
        let name = |(entry, _): &(&'i Entry, Names<'i>)| {
            let entry: &'i Entry = entry;
            entry.containerd_name().or_else(|| entry.ref_name())
        };
        self.entries.iter().filter_map(name).filter(|name| !name.is_empty()).collect()
    }

    /// The tags by which `names` may mean an image of `reference`'s repository, and how well.
    fn fits(&self, names: &Names<'i>, reference: &ImageRef) -> Vec<(Fit, &'i str)> {
        match names {
            Names::Full(full) => {
                full.iter().filter_map(|full| Some((self.fit(full, reference)?, full.tag?))).collect()
            }
            Names::Tag(tag) => vec![(Fit::Tag, *tag)],
            Names::Nothing => Vec::new(),
        }
    }

    fn fit(&self, full: &Full<'i>, reference: &ImageRef) -> Option<Fit> {
        let (own, repository) = (reference.registry(), reference.repository());
        let public = |registry: &str| matches!(registry, DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
        let same = full.repository == repository;
        // Tools leave docker.io's `library/` out.
        let shorter = public(own) && repository.strip_prefix("library/") == Some(full.repository);
        match full.registry.as_deref() {
            Some(other) if other == own || (public(own) && public(other)) => {
                (same || shorter).then_some(Fit::Registry)
            }
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
