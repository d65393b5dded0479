//! The lockfile, text ↔ values: the meaning of each listed image when `msb-sync lock` looked.
//!
//! A pure room: no file system, environment or clock. [`Lockfile::parse`] believes nothing and
//! refuses what it does not know, with the place; [`Lockfile`] prints itself deterministically, one
//! layer a line, so that a diff of two versions shows what moved. An entry counts only while it
//! [fits](Lockfile::fitting) the images file: [`Lockfile::gaps`] says where it does not.

mod line;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::diagnostic::{Page, Problem, SecretKeys, Severity, Tree};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{Action, LockedImage, LockedSelection, Platform, TagCandidate, TagRule, TagSelection};

pub(crate) use line::line_of_digest;

/// The version of the format that this program reads and writes.
pub(crate) const VERSION: u64 = 1;
/// The largest lockfile, in bytes: some 100,000 layers.
pub(crate) const MAX_TEXT: usize = 32 << 20;

/// The hint of mistakes in an images file's own lockfile that have none of their own: nobody writes
/// lockfiles by hand.
const LAST_RESORT: &str = "if nothing else helps, delete the file and run: msb-sync lock";
/// The hint of mistakes in any other file that was named as a lockfile: it may be anything.
const NO_LOCKFILE: &str = "a lockfile is what `msb-sync lock` writes, as in images.lock beside images.toml";

/// The secrets of a file that may be no lockfile at all: a lockfile has none.
const SECRETS: SecretKeys = SecretKeys {
    is_known: |key| read::KEYS.concat().contains(&key),
    headers: "headers",
    named: &[],
    references: &["reference", "repository"],
    variables: &[],
};

const HEADER: &str = "\
# Written by `msb-sync lock`; do not edit.
# `msb-sync lock` adds and drops images, `msb-sync lock --upgrade` also moves tags.
";

/// The full form of a reference, and a platform: what an entry is for.
type Key = (String, Platform);

/// A valid lockfile. Each image has one entry for a platform, by the full form of its reference,
/// and so has each moving selection of tags; each of its tags has an image's entry for the same
/// platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lockfile {
    images: BTreeMap<Key, Arc<LockedImage>>,
    selections: BTreeSet<LockedSelection>,
    /// The digests of tags that `lock --upgrade` has seen and not taken yet.
    candidates: BTreeMap<ImageRef, TagCandidate>,
}

/// A gap between a lockfile and the images file that it should cover exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// A listed image has no entry.
    Missing(ImageRef),
    /// An entry's image is not listed.
    Extra(ImageRef),
    /// An image is locked for a platform that it is not wanted for, beside others.
    ExtraPlatform {
        /// The image.
        reference: ImageRef,
        /// The platform of the entry.
        locked: Platform,
    },
    /// A listed selection of this repository's tags has no entry that fits its rule.
    MissingSelection(ImageRef),
    /// An entry's selection of this repository's tags is not listed, or not by its rule.
    ExtraSelection(ImageRef),
    /// An image is locked for other platforms only.
    Platform {
        /// The image.
        reference: ImageRef,
        /// The platform of one of its entries.
        locked: Platform,
        /// The platform that the images file wants.
        wanted: Platform,
    },
    /// An image that is pinned to a digest is locked to another one.
    Digest {
        /// The image.
        reference: ImageRef,
        /// The digest of the entry.
        locked: BlobDigest,
    },
}

impl Gap {
    /// True if a listed image or selection has no entry that fits.
    pub(crate) fn leaves_image_unlocked(&self) -> bool {
        !matches!(self, Self::Extra(_) | Self::ExtraPlatform { .. } | Self::ExtraSelection(_))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(reference) => write!(f, "{reference} (missing)"),
            Self::Extra(reference) => write!(f, "{reference} (not listed any more)"),
            Self::ExtraPlatform { reference, locked } => {
                write!(f, "{reference} (locked for {locked}, too)")
            }
            Self::MissingSelection(repository) => {
                write!(f, "tags of {repository} (not chosen yet, or by another rule)")
            }
            Self::ExtraSelection(repository) => {
                write!(f, "tags of {repository} (not selected any more, or by another rule)")
            }
            Self::Platform { reference, locked, wanted } => {
                write!(f, "{reference} (locked for {locked}, wanted for {wanted})")
            }
            Self::Digest { reference, locked } => write!(f, "{reference} (locked to {locked})"),
        }
    }
}

/// A change of one image's entry from one lockfile to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange {
    /// The image.
    pub reference: ImageRef,
    /// The platform of the new entry, or of the one removed.
    pub platform: Platform,
    /// The digest that the image means by the new lockfile; `None` if it is removed.
    pub digest: Option<BlobDigest>,
    /// The digest that the image meant by the old lockfile; `None` if it is added.
    pub previous: Option<BlobDigest>,
    /// The bytes of those of its layers that no entry of the old lockfile has, each counted once.
    pub new_bytes: u64,
    /// The signer by the new lockfile.
    pub signed_by: Option<String>,
    /// [`Action::Add`], [`Action::Update`], [`Action::Keep`] or [`Action::Remove`].
    pub action: Action,
}

impl Lockfile {
    /// Reads a lockfile that is an images file's own; `name` is how problems call it.
    ///
    /// # Errors
    /// The first problem: broken TOML, another version, an unknown or missing key, a value outside
    /// its grammar, an image with two entries, a chosen tag without one.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, Box<Problem>> {
        Self::parse_or_hint(text, name, LAST_RESORT)
    }

    /// Reads a file that was named as a lockfile, and that nobody may be told to delete.
    ///
    /// # Errors
    /// As for [`Lockfile::parse`].
    pub(crate) fn parse_named(text: &str, name: &str) -> Result<Self, Box<Problem>> {
        Self::parse_or_hint(text, name, NO_LOCKFILE)
    }

    fn parse_or_hint(text: &str, name: &str, hint: &str) -> Result<Self, Box<Problem>> {
        read::lockfile(text).map_err(|mistake| {
            let hidden =
                if text.len() > MAX_TEXT { Vec::new() } else { SECRETS.hidden(text, &Tree::parse(text)) };
            let page = Page::new(text, name, hidden);
            Box::new(page.set(mistake.or_hint(hint), Severity::Error))
        })
    }

    /// Makes a lockfile of images, taking the last one of two with the same reference and platform,
    /// and of selections, whose tags are among the images.
    pub(crate) fn new(
        images: impl IntoIterator<Item = Arc<LockedImage>>,
        selections: impl IntoIterator<Item = LockedSelection>,
    ) -> Self {
        Self {
            candidates: BTreeMap::new(),
            images: images.into_iter().map(|image| (key(&image.reference, &image.platform), image)).collect(),
            selections: selections.into_iter().collect(),
        }
    }

    /// Notes the digests of tags that are seen and not taken yet.
    pub(crate) fn with_candidates(self, candidates: BTreeMap<ImageRef, TagCandidate>) -> Self {
        Self { candidates, ..self }
    }

    /// The digests of tags that `lock --upgrade` has seen and not taken yet.
    pub(crate) fn candidates(&self) -> &BTreeMap<ImageRef, TagCandidate> {
        &self.candidates
    }

    /// Lists the digests of all layers, in the order of the images.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &BlobDigest> {
        self.images.values().flat_map(|image| image.layers.iter()).map(|layer| &layer.digest)
    }

    /// Counts the bytes of the layers that `other` lacks, each once.
    pub(crate) fn bytes_beside(&self, other: &Self) -> u64 {
        let there: BTreeSet<&BlobDigest> = other.layers().collect();
        let layers = self.images.values().flat_map(|image| image.layers.iter());
        let layers = layers.filter(|layer| !there.contains(&layer.digest));
        let sizes: BTreeMap<&BlobDigest, u64> = layers.map(|layer| (&layer.digest, layer.size)).collect();
        sizes.into_values().fold(0, u64::saturating_add)
    }

    /// Finds the images that `selection` means by the entry for its present rule, newest first;
    /// `None` without such an entry.
    pub(crate) fn chosen(&self, selection: &TagSelection) -> Option<Vec<Arc<LockedImage>>> {
        let entry = self.selections.iter().find(|entry| entry.is_of(selection))?;
        let image = |tag: &String| self.image_of(entry, tag).map(Arc::clone);
        entry.tags.iter().map(image).collect()
    }

    /// Finds the entry of a tag that a selection chose.
    fn image_of(&self, selection: &LockedSelection, tag: &str) -> Option<&Arc<LockedImage>> {
        let reference = selection.repository.with_tag(tag).ok()?;
        self.fitting(&reference, &selection.platform)
    }

    /// Finds the entry of `reference` for `platform`, if it is, where the reference is pinned, for
    /// its digest.
    pub(crate) fn fitting(&self, reference: &ImageRef, platform: &Platform) -> Option<&Arc<LockedImage>> {
        self.images.get(&key(reference, platform)).filter(|entry| gap(entry).is_none())
    }

    /// Lists the platforms for which selections chose among the tags of `repository`.
    pub(crate) fn platforms_of(&self, repository: &ImageRef) -> BTreeSet<Platform> {
        let entries = self.selections.iter().filter(|entry| entry.repository == *repository);
        entries.map(|entry| entry.platform.clone()).collect()
    }

    /// Lists the entries of `reference`, one a platform.
    pub(crate) fn entries_of(&self, reference: &ImageRef) -> impl Iterator<Item = &Arc<LockedImage>> {
        let name = reference.to_string();
        let first = (name.clone(), Platform::first());
        self.images.range(first..).take_while(move |((of, _), _)| *of == name).map(|(_, entry)| entry)
    }

    /// Lists the gaps between the entries and `wanted` with `selections`: sorted, the extra entries
    /// last. The images that a selection means by its entry ([`TagSelection::locked`]) are wanted
    /// too.
    pub(crate) fn gaps<'a>(
        &self,
        wanted: impl IntoIterator<Item = (&'a ImageRef, &'a Platform)>,
        selections: &'a [TagSelection],
    ) -> Vec<Gap> {
        let chosen = selections.iter().filter_map(|selection| selection.locked.as_ref()).flatten();
        let chosen = chosen.map(|image| (&image.reference, &image.platform));
        let wanted = wanted.into_iter().chain(chosen);
        let wanted: BTreeMap<Key, &ImageRef> =
            wanted.into_iter().map(|(reference, platform)| (key(reference, platform), reference)).collect();
        let names: BTreeSet<&str> = wanted.keys().map(|(name, _)| name.as_str()).collect();
        let mut named = BTreeSet::new();
        let mut unlocked = Vec::new();
        for (key, reference) in &wanted {
            let others = || self.entries_of(reference).find(|entry| !wanted.contains_key(&key_of(entry)));
            unlocked.extend(match (self.images.get(key), others()) {
                (Some(entry), _) => gap(entry),
                (None, None) => Some(Gap::Missing((*reference).clone())),
                (None, Some(other)) => {
                    named.insert(key_of(other));
                    let (locked, wanted) = (other.platform.clone(), key.1.clone());
                    Some(Gap::Platform { reference: (*reference).clone(), locked, wanted })
                }
            });
        }
        let extra = self.images.iter().filter(|(key, _)| !wanted.contains_key(*key) && !named.contains(*key));
        let extra = extra.map(|((name, _), entry)| {
            let (reference, locked) = (entry.reference.clone(), entry.platform.clone());
            if names.contains(name.as_str()) {
                Gap::ExtraPlatform { reference, locked }
            } else {
                Gap::Extra(reference)
            }
        });
        let unchosen = selections.iter().filter(|selection| selection.locked.is_none());
        let stale = self.selections.iter().filter(|entry| !selections.iter().any(|of| entry.is_of(of)));
        unlocked
            .into_iter()
            .chain(unchosen.map(|selection| Gap::MissingSelection(selection.repository.clone())))
            .chain(extra)
            .chain(stale.map(|entry| Gap::ExtraSelection(entry.repository.clone())))
            .collect()
    }

    /// Compares each entry with that of `next` for the same platform, sorted by reference.
    pub(crate) fn changes(&self, next: &Self) -> Vec<EntryChange> {
        let here: BTreeSet<&BlobDigest> = self.layers().collect();
        let keys: BTreeSet<&Key> = self.images.keys().chain(next.images.keys()).collect();
        let change = |key: &Key| {
            let (old, new) = (self.images.get(key), next.images.get(key));
            let action = match (old, new) {
                (None, _) => Action::Add,
                (_, None) => Action::Remove,
                (Some(old), Some(new)) if old == new => Action::Keep,
                _ => Action::Update,
            };
            let entry = new.or(old)?;
            let layers = new.into_iter().flat_map(|entry| &*entry.layers);
            let layers = layers.filter(|layer| !here.contains(&layer.digest));
            let sizes: BTreeMap<&BlobDigest, u64> = layers.map(|layer| (&layer.digest, layer.size)).collect();
            Some(EntryChange {
                reference: entry.reference.clone(),
                platform: entry.platform.clone(),
                digest: new.map(|entry| entry.digest.clone()),
                previous: old.map(|entry| entry.digest.clone()),
                new_bytes: sizes.into_values().fold(0, u64::saturating_add),
                signed_by: new.and_then(|entry| entry.signed_by.clone()),
                action,
            })
        };
        keys.into_iter().filter_map(change).collect()
    }
}

fn key(reference: &ImageRef, platform: &Platform) -> Key {
    (reference.to_string(), platform.clone())
}

fn key_of(image: &LockedImage) -> Key {
    key(&image.reference, &image.platform)
}

/// Says how an entry fails the image that it is for.
fn gap(entry: &LockedImage) -> Option<Gap> {
    let moved = entry.reference.digest().is_some_and(|pinned| *pinned != entry.digest);
    moved.then(|| Gap::Digest { reference: entry.reference.clone(), locked: entry.digest.clone() })
}

/// Quotes a text for TOML.
fn quoted(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

/// Prints the text of the file. But for ranges, patterns and signers none of the values can hold a
/// quote or a backslash: their grammars forbid it.
impl fmt::Display for Lockfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}version = {VERSION}")?;
        for selection in &self.selections {
            let LockedSelection { repository, platform, rule, tags } = selection;
            let TagRule { semver, matching, newest } = rule;
            write!(f, "\n[[selection]]\nrepository = \"{repository}\"\nplatform = \"{platform}\"\n")?;
            match &semver[..] {
                [] => {}
                [range] => writeln!(f, "semver = {}", quoted(range))?,
                ranges => {
                    let ranges: Vec<String> = ranges.iter().map(|range| quoted(range).to_string()).collect();
                    writeln!(f, "semver = [{}]", ranges.join(", "))?;
                }
            }
            if let Some(pattern) = matching {
                writeln!(f, "match = {}", quoted(pattern))?;
            }
            if let Some(newest) = newest {
                writeln!(f, "newest = {newest}")?;
            }
            f.write_str("tags = [\n")?;
            for tag in tags {
                writeln!(f, "  \"{tag}\",")?;
            }
            f.write_str("]\n")?;
        }
        for ((reference, platform), image) in &self.images {
            let LockedImage { digest, manifest, layers, signed_by, .. } = &**image;
            write!(f, "\n[[image]]\nreference = \"{reference}\"\nplatform = \"{platform}\"\n")?;
            write!(f, "digest = \"{digest}\"\nmanifest = \"{manifest}\"\n")?;
            if let Some(signer) = signed_by {
                writeln!(f, "signed-by = {}", quoted(signer))?;
            }
            if layers.is_empty() {
                f.write_str("layers = []\n")?;
                continue;
            }
            f.write_str("layers = [\n")?;
            for layer in &**layers {
                let (digest, diff_id, size) = (&layer.digest, &layer.diff_id, layer.size);
                writeln!(f, "  {{ digest = \"{digest}\", diff_id = \"{diff_id}\", size = {size} }},")?;
            }
            f.write_str("]\n")?;
        }
        for (reference, TagCandidate { digest, since, ahead }) in &self.candidates {
            write!(f, "\n[[candidate]]\nreference = \"{reference}\"\ndigest = \"{digest}\"\n")?;
            writeln!(f, "since = \"{since}\"")?;
            ahead.iter().try_for_each(|ahead| writeln!(f, "ahead = \"{ahead}\""))?;
        }
        Ok(())
    }
}
