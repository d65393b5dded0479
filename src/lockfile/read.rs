//! TOML text to a lockfile, strictly: every key is known and there, every value is of its grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Key, Lockfile, MAX_TEXT, VERSION};
use crate::diagnostic::{Mistake, Tree};
use crate::digest::{BlobDigest, DiffId};
use crate::error::printable;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{
    LayerDescriptor, LockedImage, LockedSelection, MediaType, Platform, TagCandidate, TagRule,
};

const TOP: &[&str] = &["version", "selection", "image", "candidate"];
const SELECTION: &[&str] = &["repository", "platform", "semver", "match", "newest", "tags"];
const IMAGE: &[&str] = &["reference", "platform", "digest", "manifest", "signed-by", "layers"];
const CANDIDATE: &[&str] = &["reference", "digest", "since", "ahead"];
const LAYER: &[&str] = &["digest", "diff_id", "size"];
/// The longest signer, in bytes.
const MAX_SIGNER: usize = 4096;
/// The characters of a foreign key that a message repeats.
const MAX_QUOTED: usize = 60;

const UPGRADE_HINT: &str = "upgrade msb-sync; or delete the lockfile and run: msb-sync lock";
const FULL_FORM: &str = "must be an image reference in its full form, as in docker.io/library/alpine:3.20";

type Result<T> = std::result::Result<T, Mistake>;

pub(super) fn lockfile(text: &str) -> Result<Lockfile> {
    if text.len() > MAX_TEXT {
        return Err(Mistake::new(0..0, format!("the lockfile is larger than {} MiB", MAX_TEXT >> 20)));
    }
    let tree = Tree::parse(text);
    match tree.errors().first() {
        Some(error) => {
            let message = format!("invalid TOML: {}", error.message());
            Err(Mistake::new(error.span().unwrap_or_default(), message))
        }
        None => whole(&Table { entries: tree.root(), span: 0..0, what: "the lockfile" }),
    }
}

fn whole(top: &Table<'_>) -> Result<Lockfile> {
    // First, because a newer version may well have other keys.
    check_version(top.get("version")?)?;
    top.only(TOP)?;
    let mut lockfile =
        Lockfile { images: images(top)?, selections: BTreeSet::new(), candidates: candidates(top)? };
    let Some(entries) = top.entries.get("selection") else { return Ok(lockfile) };
    let mut keys = BTreeSet::new();
    for entry in array("selection", entries)? {
        let (selection, span) = selection(&Table::of(entry, "a selection")?)?;
        for tag in &selection.tags {
            if lockfile.image_of(&selection, tag).is_none() {
                let (repository, platform) = (&selection.repository, &selection.platform);
                let what = format!("{repository}:{tag} is chosen for {platform}, and has no entry for that");
                return Err(Mistake::new(span, what));
            }
        }
        let key = LockedSelection { tags: Vec::new(), ..selection.clone() };
        if !keys.insert(key) {
            return Err(Mistake::new(span, format!("{} has two entries of one rule", selection.repository)));
        }
        lockfile.selections.insert(selection);
    }
    Ok(lockfile)
}

fn images(top: &Table<'_>) -> Result<BTreeMap<Key, Arc<LockedImage>>> {
    let mut images: BTreeMap<Key, Arc<LockedImage>> = BTreeMap::new();
    // No images, no tables.
    let Some(entries) = top.entries.get("image") else { return Ok(images) };
    for entry in array("image", entries)? {
        let (image, span) = image(&Table::of(entry, "an image")?)?;
        let key = (image.reference.to_string(), image.platform.clone());
        if images.contains_key(&key) {
            return Err(Mistake::new(span, format!("{} has two entries for {}", key.0, key.1)));
        }
        images.insert(key, Arc::new(image));
    }
    Ok(images)
}

fn candidates(top: &Table<'_>) -> Result<BTreeMap<ImageRef, TagCandidate>> {
    let mut candidates = BTreeMap::new();
    let Some(entries) = top.entries.get("candidate") else { return Ok(candidates) };
    for entry in array("candidate", entries)? {
        let table = Table::of(entry, "a candidate")?;
        table.only(CANDIDATE)?;
        let (reference, span) = reference(&table)?;
        let candidate = TagCandidate {
            digest: table.digest("digest", BlobDigest::parse)?,
            since: table.parsed("since", str::parse)?,
            ahead: table.entries.get("ahead").map(|_| table.parsed("ahead", str::parse)).transpose()?,
        };
        if candidates.insert(reference.clone(), candidate).is_some() {
            return Err(Mistake::new(span, format!("{reference} has two candidates")));
        }
    }
    Ok(candidates)
}

fn reference(table: &Table<'_>) -> Result<(ImageRef, Range<usize>)> {
    let (text, span) = table.string("reference")?;
    let parsed = ImageRef::parse(text, DEFAULT_REGISTRY).ok();
    match parsed.filter(|reference| reference.to_string() == text) {
        Some(reference) => Ok((reference, span)),
        None => Err(Mistake::new(span, format!("`reference` {FULL_FORM}"))),
    }
}

fn selection(table: &Table<'_>) -> Result<(LockedSelection, Range<usize>)> {
    table.only(SELECTION)?;
    let (text, span) = table.string("repository")?;
    let repository = ImageRef::parse(text, DEFAULT_REGISTRY)
        .map(|reference| reference.repository_alone())
        .ok()
        .filter(|repository| repository.to_string() == text)
        .ok_or_else(|| {
            let what = "`repository` must be in its full form, as in docker.io/library/alpine";
            Mistake::new(span.clone(), what)
        })?;
    let optional = |key: &str| -> Result<Option<String>> {
        table.entries.get(key).map(|_| Ok(table.string(key)?.0.to_owned())).transpose()
    };
    let list = table.get("tags")?;
    let newest = table.entries.get("newest").map(|value| {
        let newest = unsigned(value).and_then(|newest| NonZeroUsize::new(usize::try_from(newest).ok()?));
        newest.ok_or_else(|| Mistake::new(value.span(), "`newest` must be a number of tags"))
    });
    let tags = array("tags", list)?.map(|value| {
        let tag = value.get_ref().as_str().filter(|tag| repository.with_tag(tag).is_ok());
        tag.map(str::to_owned).ok_or_else(|| Mistake::new(value.span(), "`tags` must be tags"))
    });
    let tags = tags.collect::<Result<Vec<_>>>()?;
    // Nothing chosen would read as: remove all of them.
    if tags.is_empty() {
        return Err(Mistake::new(list.span(), "`tags` must not be empty"));
    }
    let selection = LockedSelection {
        platform: table.parsed("platform", Platform::parse)?,
        rule: TagRule { semver: ranges(table)?, matching: optional("match")?, newest: newest.transpose()? },
        tags,
        repository,
    };
    Ok((selection, span))
}

/// Reads one range, or a list of alternatives.
fn ranges(table: &Table<'_>) -> Result<Vec<String>> {
    let Some(value) = table.entries.get("semver") else { return Ok(Vec::new()) };
    if value.get_ref().as_str().is_some() {
        return Ok(vec![table.string("semver")?.0.to_owned()]);
    }
    let wrong = |span| Mistake::new(span, "`semver` must be a range, or an array of ranges");
    let DeValue::Array(array) = value.get_ref() else { return Err(wrong(value.span())) };
    let range = |value: &Spanned<DeValue<'_>>| {
        value.get_ref().as_str().map(str::to_owned).ok_or_else(|| wrong(value.span()))
    };
    // None would read as: any tag.
    if array.is_empty() { Err(wrong(value.span())) } else { array.iter().map(range).collect() }
}

fn check_version(value: &Spanned<DeValue<'_>>) -> Result<()> {
    match unsigned(value) {
        Some(VERSION) => Ok(()),
        Some(newer) if newer > VERSION => {
            let message = format!(
                "a newer msb-sync wrote this lockfile: its version is {newer}, this one knows {VERSION}"
            );
            Err(Mistake::new(value.span(), message).hint(UPGRADE_HINT))
        }
        _ => Err(Mistake::new(value.span(), format!("`version` must be {VERSION}"))),
    }
}

fn image(table: &Table<'_>) -> Result<(LockedImage, Range<usize>)> {
    table.only(IMAGE)?;
    let (reference, span) = reference(table)?;
    let layers = array("layers", table.get("layers")?)?
        .map(|value| layer(&Table::of(value, "a layer")?))
        .collect::<Result<Vec<_>>>()?;
    let plain = |text: &str| printable(text) == text && text.len() <= MAX_SIGNER;
    let signed_by = match table.entries.get("signed-by") {
        Some(_) => {
            let (text, span) = table.string("signed-by")?;
            let signer = Some(text.to_owned()).filter(|text| plain(text));
            Some(signer.ok_or_else(|| Mistake::new(span, "`signed-by` must be a short, plain text"))?)
        }
        None => None,
    };
    let image = LockedImage {
        reference,
        platform: table.parsed("platform", Platform::parse)?,
        digest: table.digest("digest", BlobDigest::parse)?,
        manifest: table.digest("manifest", BlobDigest::parse)?,
        layers: layers.into(),
        signed_by,
    };
    Ok((image, span))
}

fn layer(table: &Table<'_>) -> Result<LayerDescriptor> {
    table.only(LAYER)?;
    let size = table.get("size")?;
    Ok(LayerDescriptor {
        digest: table.digest("digest", BlobDigest::parse)?,
        diff_id: table.digest("diff_id", DiffId::parse)?,
        media_type: MediaType::UNKNOWN,
        size: unsigned(size).ok_or_else(|| Mistake::new(size.span(), "`size` must be a number of bytes"))?,
    })
}

/// A table with its place, and its name in messages.
struct Table<'t> {
    entries: &'t DeTable<'t>,
    span: Range<usize>,
    what: &'static str,
}

impl<'t> Table<'t> {
    fn of(value: &'t Spanned<DeValue<'t>>, what: &'static str) -> Result<Self> {
        match value.get_ref() {
            DeValue::Table(entries) => Ok(Self { entries, span: value.span(), what }),
            _ => Err(Mistake::new(value.span(), format!("{what} must be a table"))),
        }
    }

    /// Refuses keys that are not in `known`.
    fn only(&self, known: &[&str]) -> Result<()> {
        let unknown = self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => {
                let shown: String = key.get_ref().chars().take(MAX_QUOTED).collect();
                Err(Mistake::new(key.span(), format!("unknown key {shown:?} in {}", self.what)))
            }
        }
    }

    fn get(&self, key: &str) -> Result<&'t Spanned<DeValue<'t>>> {
        let missing = || Mistake::new(self.span.clone(), format!("{} has no `{key}`", self.what));
        self.entries.get(key).ok_or_else(missing)
    }

    fn string(&self, key: &str) -> Result<(&'t str, Range<usize>)> {
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Ok((text, value.span())),
            None => Err(Mistake::new(value.span(), format!("`{key}` must be a string"))),
        }
    }

    fn parsed<T, E: fmt::Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<T> {
        let (text, span) = self.string(key)?;
        parse(text).map_err(|error| Mistake::new(span, format!("`{key}`: {error}")))
    }

    fn digest<T>(
        &self,
        key: &str,
        parse: fn(&str) -> std::result::Result<T, crate::digest::DigestError>,
    ) -> Result<T> {
        self.parsed(key, |text| parse(text).map_err(|error| error.reason()))
    }
}

fn array<'t>(
    key: &str,
    value: &'t Spanned<DeValue<'t>>,
) -> Result<impl Iterator<Item = &'t Spanned<DeValue<'t>>>> {
    match value.get_ref() {
        DeValue::Array(array) => Ok(array.iter()),
        _ => Err(Mistake::new(value.span(), format!("`{key}` must be an array"))),
    }
}

fn unsigned(value: &Spanned<DeValue<'_>>) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
