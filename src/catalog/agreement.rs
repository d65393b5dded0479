//! The comparison of microsandbox's rows of an image with what we have recorded of it.
//!
//! Anybody may have edited them, and a row that says something else is as bad as one that is not
//! there. But two images may want a layer called or stacked in two ways: then one of them cannot
//! have its way, no repair would end, and its rows count as right. A layer's size and `diff_id` are
//! facts about its blob, not wishes: an image that contradicts them is blocked before it is
//! recorded.
//!
//! Every run with nothing to do compares all its images here. The texts of lists are compared as
//! they are, without making lists of them. The history of a config is not: it is only shown, and
//! mostly longer than all the rest.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result, Row};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rows::{OUR_MEDIA_TYPE, THEIR_DOCUMENTS, THEIR_LAYERS, integer, is_true, json};
use super::{rows, stack};
use crate::digest::{BlobDigest, DiffId};
use crate::state::{LayerDescriptor, Platform};

/// A layer by microsandbox's rows.
pub(super) struct TheirLayer {
    pub(super) layer: LayerDescriptor,
    /// The row of the layer, by which layers are stacked.
    id: Option<i64>,
    /// The row that links the layer to the manifest.
    link: Option<i64>,
}

/// Reads the layers that microsandbox's join finds, in its order, and whether microsandbox can read
/// them all.
pub(super) fn their_layers(conn: &Connection, name: &str) -> Result<(Vec<TheirLayer>, bool)> {
    let mut statement = conn.prepare_cached(THEIR_LAYERS)?;
    let mut rows = statement.query([name])?;
    let (mut layers, mut readable) = (Vec::new(), true);
    while let Some(row) = rows.next()? {
        let (layer, id, link) = (rows::descriptor(row)?, integer(row, 5)?, integer(row, 6)?);
        readable &= layer.is_some() && is_true(row, 4)?;
        layers.extend(layer.map(|layer| TheirLayer { layer, id, link }));
    }
    layers.sort_by_key(|layer| layer.id);
    Ok((layers, readable))
}

/// Tells whether microsandbox's layers of the image `name` are the distinct ones of ours, stacked
/// in their order and listed in it; but the order is nothing to be mended where it was found to be
/// impossible. A layer that ours have twice may be listed in either place: microsandbox does not
/// read the order of the list.
pub(super) fn of_layers(
    conn: &Connection,
    name: &str,
    ours: &[LayerDescriptor],
    theirs: &[TheirLayer],
) -> Result<bool> {
    let all = ours;
    let ours = stack::stacked(all);
    let mut theirs: Vec<&TheirLayer> = theirs.iter().collect();
    let are_ours = |theirs: &[&TheirLayer]| {
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(our, their)| our.digest == their.layer.digest)
    };
    if !are_ours(&theirs) {
        if !stack::cannot_have_order(conn, name, all)? {
            return Ok(false);
        }
        let places: BTreeMap<&BlobDigest, usize> =
            ours.iter().enumerate().map(|(place, our)| (&our.digest, place)).collect();
        theirs.sort_by_key(|their| places.get(&their.layer.digest));
        if !are_ours(&theirs) {
            return Ok(false);
        }
    }
    if ours.len() == all.len() && !theirs.is_sorted_by_key(|their| their.link) {
        return Ok(false);
    }
    for (our, their) in ours.iter().zip(theirs) {
        let their = &their.layer;
        if (&our.diff_id, our.size) != (&their.diff_id, their.size) {
            return Ok(false);
        }
        if our.media_type != their.media_type {
            let anothers = (their.digest.text(), their.media_type.as_str());
            if !conn.prepare_cached(OUR_MEDIA_TYPE)?.exists(anothers)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Tells whether there is exactly one manifest with exactly one config, as microsandbox needs to
/// read them, and whether they say the same as what we have recorded, if we have: `ours` are the
/// layers of that.
pub(super) fn of_documents(conn: &Connection, name: &str, ours: Option<&[LayerDescriptor]>) -> Result<bool> {
    conn.prepare_cached(THEIR_DOCUMENTS)?.query_row([name], |row| {
        let readable = (0..4).all(|column| is_true(row, column).unwrap_or(false));
        Ok(readable && ours.is_none_or(|ours| is_our_config(row, ours) && is_our_index(row)))
    })
}

/// The kept form of a config as far as a row of microsandbox has it: lists as they are written.
#[derive(Deserialize)]
struct KeptConfig<'a> {
    #[serde(borrow)]
    media_type: Cow<'a, str>,
    created: Option<String>,
    #[serde(borrow)]
    architecture: Cow<'a, str>,
    #[serde(borrow)]
    os: Cow<'a, str>,
    variant: Option<String>,
    #[serde(borrow)]
    env: Option<&'a RawValue>,
    #[serde(borrow)]
    cmd: Option<&'a RawValue>,
    working_dir: Option<String>,
    #[serde(borrow)]
    entrypoint: Option<&'a RawValue>,
    #[serde(borrow)]
    volumes: Option<&'a RawValue>,
    #[serde(borrow)]
    exposed_ports: Option<&'a RawValue>,
    user: Option<String>,
    #[serde(borrow)]
    rootfs_type: Cow<'a, str>,
}

/// Tells whether the config in a row of [`THEIR_DOCUMENTS`] is the one that we have recorded.
fn is_our_config(row: &Row<'_>, ours: &[LayerDescriptor]) -> bool {
    let Some(kept) = text(row, 18).and_then(|json| serde_json::from_str::<KeptConfig<'_>>(json).ok()) else {
        return false;
    };
    let diff_ids: Vec<&DiffId> = ours.iter().map(|layer| &layer.diff_id).collect();
    let created = kept.created.as_deref();
    is(row, 4, Some(&*kept.media_type))
        && (is(row, 5, created) || is(row, 5, created.filter(|created| rows::is_rfc3339(created))))
        && is(row, 6, Some(&*kept.architecture))
        && is(row, 7, Some(&*kept.os))
        && is(row, 8, kept.variant.as_deref())
        && is(row, 9, kept.env.map(RawValue::get))
        && is(row, 10, kept.cmd.map(RawValue::get))
        && is(row, 11, kept.working_dir.as_deref())
        && is(row, 12, kept.entrypoint.map(RawValue::get))
        && is(row, 13, kept.volumes.map(RawValue::get))
        && is(row, 14, kept.exposed_ports.map(RawValue::get))
        && is(row, 15, kept.user.as_deref())
        && is(row, 16, Some(&*kept.rootfs_type))
        && is(row, 17, Some(&json(&diff_ids)))
}

/// Tells whether the index in a row of [`THEIR_DOCUMENTS`], if there is one, is of our platform.
fn is_our_index(row: &Row<'_>) -> bool {
    if is(row, 19, None) {
        return true;
    }
    text(row, 23).and_then(|text| Platform::parse(text).ok()).is_some_and(|platform| {
        is(row, 20, Some(platform.os()))
            && is(row, 21, Some(platform.architecture()))
            && is(row, 22, platform.variant())
    })
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Option<&'r str> {
    row.get_ref(column).ok()?.as_str().ok()
}

/// Tells whether a column is this text; `None`: whether it is NULL.
fn is(row: &Row<'_>, column: usize, expected: Option<&str>) -> bool {
    match (row.get_ref(column), expected) {
        (Ok(ValueRef::Null), None) => true,
        (Ok(ValueRef::Text(found)), Some(expected)) => found == expected.as_bytes(),
        _ => false,
    }
}
