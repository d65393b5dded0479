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
/// The keys of all tables.
pub(super) const KEYS: &[&[&str]] = &[TOP, SELECTION, IMAGE, CANDIDATE, LAYER];
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
    match in_pieces(text) {
        Some(lockfile) => Ok(lockfile),
        None => at_once(text),
    }
}

/// Reads a lockfile of any layout, and says what is wrong with it. The tree takes some fifteen
/// times the memory of the text.
pub(super) fn at_once(text: &str) -> Result<Lockfile> {
    let tree = Tree::parse(text);
    if let Some(error) = tree.errors().first() {
        let message = format!("invalid TOML: {}", error.message());
        return Err(Mistake::new(error.span().unwrap_or_default(), message));
    }
    let top = Table { entries: tree.root(), span: 0..0, what: "the lockfile" };
    // First, because a newer version may well have other keys.
    check_version(top.get("version")?)?;
    top.only(TOP)?;
    let mut entries = Entries::default();
    entries.add(&top)?;
    entries.finish()
}

/// Reads a lockfile entry by entry, so that only one of them is a tree at a time; `None` where that
/// fails for whatever reason.
///
/// The text is cut before each line that starts an entry. A piece that is valid TOML by itself and
/// has nothing but its one entry means the same there as in the whole: a cut within a string or an
/// array leaves a piece that is broken.
pub(super) fn in_pieces(text: &str) -> Option<Lockfile> {
    let mut cuts = text.match_indices("\n[[").map(|(at, _)| at + 1);
    let head = cuts.next()?;
    let mut entries = Entries::default();
    let tree = Tree::parse(&text[..head]);
    let version =
        tree.root().get("version").filter(|_| tree.errors().is_empty() && tree.root().len() == 1)?;
    check_version(version).ok()?;
    let mut start = head;
    for end in cuts.chain([text.len()]) {
        let tree = Tree::parse(&text[start..end]);
        let top = Table { entries: tree.root(), span: 0..0, what: "the lockfile" };
        let is_whole = tree.errors().is_empty() && top.entries.len() == 1 && top.only(TOP).is_ok();
        (is_whole && entries.add(&top).is_ok()).then_some(())?;
        start = end;
    }
    entries.finish().ok()
}

/// The entries of a lockfile that have been read so far.
#[derive(Default)]
struct Entries {
    lockfile: Lockfile,
    /// The selections with their places.
    selections: Vec<(LockedSelection, Range<usize>)>,
}

impl Entries {
    /// Adds all entries of a table.
    fn add(&mut self, top: &Table<'_>) -> Result<()> {
        add_images(top, &mut self.lockfile.images)?;
        add_candidates(top, &mut self.lockfile.candidates)?;
        let Some(entries) = top.entries.get("selection") else { return Ok(()) };
        for entry in array("selection", entries)? {
            self.selections.push(selection(&Table::of(entry, "a selection")?)?);
        }
        Ok(())
    }

    /// Compares the selections with the images, and makes the lockfile.
    fn finish(self) -> Result<Lockfile> {
        let Self { mut lockfile, selections } = self;
        let mut keys = BTreeSet::new();
        for (selection, span) in selections {
            for tag in &selection.tags {
                if lockfile.image_of(&selection, tag).is_none() {
                    let (repository, platform) = (&selection.repository, &selection.platform);
                    let what =
                        format!("{repository}:{tag} is chosen for {platform}, and has no entry for that");
                    return Err(Mistake::new(span, what));
                }
            }
            let key = LockedSelection { tags: Vec::new(), ..selection.clone() };
            if !keys.insert(key) {
                return Err(Mistake::new(
                    span,
                    format!("{} has two entries of one rule", selection.repository),
                ));
            }
            lockfile.selections.insert(selection);
        }
        Ok(lockfile)
    }
}

fn add_images(top: &Table<'_>, images: &mut BTreeMap<Key, Arc<LockedImage>>) -> Result<()> {
    // No images, no tables.
    let Some(entries) = top.entries.get("image") else { return Ok(()) };
    for entry in array("image", entries)? {
        let (image, span) = image(&Table::of(entry, "an image")?)?;
        let key = (image.reference.to_string(), image.platform.clone());
        if images.contains_key(&key) {
            return Err(Mistake::new(span, format!("{} has two entries for {}", key.0, key.1)));
        }
        images.insert(key, Arc::new(image));
    }
    Ok(())
}

fn add_candidates(top: &Table<'_>, candidates: &mut BTreeMap<ImageRef, TagCandidate>) -> Result<()> {
    let Some(entries) = top.entries.get("candidate") else { return Ok(()) };
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
    Ok(())
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
