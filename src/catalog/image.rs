//! A recorded image from its rows: ours, microsandbox's, and whether they agree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result};

use super::agreement::{self, TheirLayer, their_layers};
use super::holdings::{self, holders, primary_of};
use super::rows::{
    NAMES_BETWEEN, NameRow, OUR_IMAGE, THEIR_DIFF_IDS, THEIR_IMAGE, integer, is_true, our_layers, parse_name,
    size, text,
};
use super::{rows, waiting};
use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::ImageRef;
use crate::state::{LayerDescriptor, Platform, RecordedImage, size_of_layers};

/// A longer list of layers is nobody's.
const MAX_DIFF_IDS: usize = 10_000;

/// Our own row of an image.
struct OurImage {
    platform: Platform,
    digest: BlobDigest,
    manifest_digest: BlobDigest,
    config_digest: BlobDigest,
    modified_at: String,
    created: Option<String>,
    layers_directory: Option<PathBuf>,
}

/// Adds the layers to a row of ours; without them it is none.
fn with_layers(
    conn: &Connection,
    name: &str,
    ours: Option<OurImage>,
) -> Result<Option<(OurImage, Vec<LayerDescriptor>)>> {
    let Some(ours) = ours else { return Ok(None) };
    Ok(our_layers(conn, name)?.map(|layers| (ours, layers)))
}

/// Finds out since when an image is held at its digest; a second name is held with the first.
fn held_since(conn: &Connection, image: &RecordedImage) -> Result<Option<Timestamp>> {
    let name = image.alias_of.as_ref().unwrap_or(&image.reference).to_string();
    let hold = waiting::hold(conn, &name)?;
    Ok(hold.filter(|(digest, _)| image.digest.as_ref() == Some(digest)).map(|(_, since)| since))
}

/// microsandbox's row of an image.
struct TheirRow {
    modified_at: Option<String>,
    /// True if microsandbox can read it.
    readable: bool,
    size: Option<i64>,
}

fn their_row(conn: &Connection, name: &str) -> Result<Option<TheirRow>> {
    conn.prepare_cached(THEIR_IMAGE)?
        .query_row([name], |row| {
            let (modified_at, readable, size) = (text(row, 0)?, is_true(row, 1)?, integer(row, 2)?);
            Ok(TheirRow { modified_at, readable, size })
        })
        .optional()
}

/// True if we or microsandbox know the image.
pub(super) fn is_recorded(conn: &Connection, reference: &ImageRef) -> Result<bool> {
    let name = reference.to_string();
    Ok(our_image(conn, &name)?.1.is_some() || their_row(conn, &name)?.is_some())
}

/// Reads everything recorded under one name; `None` if neither we nor microsandbox know it.
pub(super) fn image(conn: &Connection, reference: &ImageRef) -> Result<Option<RecordedImage>> {
    let name = reference.to_string();
    let (of_name, ours) = our_image(conn, &name)?;
    let theirs = their_row(conn, &name)?;
    // A garbled row of ours alone is no record: there is nothing left to be read.
    if ours.is_none() && theirs.is_none() {
        return Ok(None);
    }
    let ours = with_layers(conn, &name, ours)?;
    let own = holders(conn, &name)?;
    let first = primary_of(conn, of_name.as_ref().and_then(|of_name| of_name.alias_of.as_deref()))?;
    let second_name_of = first.as_ref().map(|(first, _)| first.clone());
    let (alias_of, holders) = match first {
        Some((first, its_holders)) if own.owners.is_empty() => (Some(first), its_holders),
        _ => (None, own),
    };
    let (their_layers, layers_readable) = their_layers(conn, &name)?;
    let known = ours.as_ref().map(|(_, layers)| &layers[..]);
    let row_readable = theirs.as_ref().is_some_and(|theirs| theirs.readable);
    let readable = layers_readable && row_readable && agreement::of_documents(conn, &name, known)?;
    let mut image = RecordedImage {
        reference: reference.clone(),
        platform: None,
        digest: None,
        manifest_digest: None,
        config_digest: None,
        layers: Arc::default(),
        documents: Arc::default(),
        owners: holders.owners,
        extracted_for: holders.extracted_for,
        blobs_kept_for: holders.blobs_kept_for,
        earlier_for: holders.earlier_for,
        held: None,
        rows_complete: false,
        alias_of,
        second_name_of,
        preexisting: of_name.as_ref().is_none_or(|of_name| of_name.preexisting),
        layers_directory: None,
        created: None,
        modified_at: String::new(),
    };
    if let Some((ours, layers)) = ours {
        image.rows_complete = readable
            && theirs.is_some_and(|theirs| theirs.size == Some(size(size_of_layers(&layers))))
            && agreement::of_layers(conn, &name, &layers, &their_layers)?;
        image.layers = layers.into();
        ours.fill(&mut image);
        image.held = held_since(conn, &image)?;
        if !image.blobs_kept_for.is_empty() {
            image.documents = holdings::documents(conn, &name)?.into();
        }
    } else {
        // A row of ours that cannot be read is one that has to be written again.
        image.rows_complete = readable && !their_layers.is_empty() && of_name.is_none();
        image.layers = in_order_of_config(conn, &name, their_layers)?.into();
        image.modified_at = theirs.and_then(|theirs| theirs.modified_at).unwrap_or_default();
    }
    Ok(Some(image))
}

impl OurImage {
    fn fill(self, image: &mut RecordedImage) {
        image.platform = Some(self.platform);
        image.digest = Some(self.digest);
        image.manifest_digest = Some(self.manifest_digest);
        image.config_digest = Some(self.config_digest);
        image.layers_directory = self.layers_directory;
        image.modified_at = self.modified_at;
        image.created = self.created;
    }
}

/// Reads our row of an image, as far as that can be done.
fn our_image(conn: &Connection, name: &str) -> Result<(Option<NameRow>, Option<OurImage>)> {
    let found: Option<(NameRow, Option<OurImage>)> = conn
        .prepare_cached(OUR_IMAGE)?
        .query_row([name], |row| {
            let of_name = NameRow::from_row(row)?;
            let digest = |column| {
                Ok::<_, rusqlite::Error>(text(row, column)?.and_then(|text| BlobDigest::parse(&text).ok()))
            };
            let (digest, manifest_digest, config_digest) = (digest(2)?, digest(3)?, digest(4)?);
            let platform = text(row, 5)?.and_then(|text| Platform::parse(&text).ok());
            let modified_at = text(row, 6)?;
            let layers_directory =
                row.get_ref(7)?.as_blob().ok().map(|path| PathBuf::from(OsStr::from_bytes(path)));
            let created = text(row, 8)?;
            let image = (|| {
                Some(OurImage {
                    platform: platform?,
                    digest: digest?,
                    manifest_digest: manifest_digest?,
                    config_digest: config_digest?,
                    modified_at: modified_at?,
                    created,
                    layers_directory,
                })
            })();
            Ok((of_name, image))
        })
        .optional()?;
    let (of_name, image) = found.unzip();
    Ok((of_name, image.flatten()))
}

/// Puts layers that microsandbox's rows list into the order in which the image's config names them,
/// base first. Rows have the order in which layers were first pulled, by whatever image. Where
/// config and rows do not fit each other, the order of the rows stays.
fn in_order_of_config(
    conn: &Connection,
    name: &str,
    layers: Vec<TheirLayer>,
) -> Result<Vec<LayerDescriptor>> {
    let layers: Vec<LayerDescriptor> = layers.into_iter().map(|layer| layer.layer).collect();
    let diff_ids = conn
        .prepare_cached(THEIR_DIFF_IDS)?
        .query_row([name], |row| text(row, 0))
        .optional()?
        .flatten()
        .and_then(|json| serde_json::from_str::<Vec<String>>(&json).ok())
        .unwrap_or_default();
    if diff_ids.len() > MAX_DIFF_IDS {
        return Ok(layers);
    }
    // Two blobs may unpack to the same tar; then the first place is the first row's.
    let mut unplaced: BTreeMap<&DiffId, VecDeque<&LayerDescriptor>> = BTreeMap::new();
    for layer in &layers {
        unplaced.entry(&layer.diff_id).or_default().push_back(layer);
    }
    let mut ordered = Vec::with_capacity(diff_ids.len());
    for diff_id in &diff_ids {
        let rows = DiffId::parse(diff_id).ok().and_then(|diff_id| unplaced.get_mut(&diff_id));
        let Some(rows) = rows else { return Ok(layers) };
        // The last row stays: a layer that the config names twice has one row.
        let row = if rows.len() > 1 { rows.pop_front() } else { rows.front().copied() };
        ordered.extend(row);
    }
    let placed: BTreeSet<&BlobDigest> = ordered.iter().map(|layer| &layer.digest).collect();
    if layers.iter().any(|layer| !placed.contains(&layer.digest)) {
        return Ok(layers);
    }
    Ok(ordered.into_iter().cloned().collect())
}

/// Reads the names of the images of `repository` that we or microsandbox have.
pub(super) fn names_in(conn: &Connection, repository: &ImageRef) -> Result<Vec<ImageRef>> {
    let mut statement = conn.prepare_cached(NAMES_BETWEEN)?;
    let mut names = Vec::new();
    for bounds in rows::names_in(&repository.to_string()) {
        let mut rows = statement.query(bounds)?;
        while let Some(row) = rows.next()? {
            names.extend(text(row, 0)?.as_deref().and_then(parse_name));
        }
    }
    Ok(names)
}

/// Reads every name that we or microsandbox have, sorted.
pub(super) fn all_names(conn: &Connection) -> Result<Vec<ImageRef>> {
    let mut statement =
        conn.prepare_cached("SELECT reference FROM images UNION SELECT reference FROM sync_images")?;
    let mut rows = statement.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        names.extend(text(row, 0)?.as_deref().and_then(parse_name));
    }
    names.sort();
    Ok(names)
}
