//! Owners want different things of their images: layers extracted, blobs kept, earlier digests
//! spared; and here are the documents of images whose blobs somebody keeps.
//!
//! Most owners want layers extracted, no blob kept and nothing earlier spared. Those have no row
//! here, as all had none before there was a choice.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Result, Row, Rows, Transaction, params};

use super::lists::{self, ListOf};
use super::rows::{integer, parse_name, text, texts};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{DocumentDescriptor, DocumentRole, MediaType, Owner};

pub(super) const HOLDERS: &str = "
    SELECT own.owner, holding.extracts, holding.keeps_blobs, keeps.earlier FROM sync_owners AS own
      LEFT JOIN sync_holdings AS holding ON holding.reference = own.reference AND holding.owner = own.owner
      LEFT JOIN sync_keeps AS keeps ON keeps.reference = own.reference AND keeps.owner = own.owner
     WHERE own.reference = ?1";

/// The owners of an image, by what they want of it.
#[derive(Default)]
pub(super) struct Holders {
    pub(super) owners: BTreeSet<Owner>,
    pub(super) extracted_for: BTreeSet<Owner>,
    pub(super) blobs_kept_for: BTreeSet<Owner>,
    /// The number of earlier digests that an owner wants spared, where he wants any.
    pub(super) earlier_for: BTreeMap<Owner, u32>,
}

/// Reads who wants what of the image `name`. What is garbled counts as not said.
pub(super) fn holders(conn: &Connection, name: &str) -> Result<Holders> {
    let mut statement = conn.prepare_cached(HOLDERS)?;
    let mut rows = statement.query([name])?;
    let mut holders = Holders::default();
    while let Some(row) = rows.next()? {
        let Some(owner) = text(row, 0)?.map(Owner) else { continue };
        if integer(row, 1)? != Some(0) {
            holders.extracted_for.insert(owner.clone());
        }
        if integer(row, 2)? == Some(1) {
            holders.blobs_kept_for.insert(owner.clone());
        }
        if let Some(count) = integer(row, 3)?.and_then(|count| u32::try_from(count).ok())
            && count > 0
        {
            holders.earlier_for.insert(owner.clone(), count);
        }
        holders.owners.insert(owner);
    }
    Ok(holders)
}

/// Finds the image of which a name is only a second name, with those who want that image.
pub(super) fn primary_of(conn: &Connection, alias_of: Option<&str>) -> Result<Option<(ImageRef, Holders)>> {
    let Some((text, primary)) = alias_of.and_then(|text| Some((text, parse_name(text)?))) else {
        return Ok(None);
    };
    let holders = holders(conn, text)?;
    Ok((!holders.owners.is_empty()).then_some((primary, holders)))
}

/// Notes what an owner wants of the image `name`.
pub(super) fn put(
    tx: &Transaction<'_>,
    name: &str,
    owner: &Owner,
    (extracts, keeps_blobs, keeps_earlier): (bool, bool, u32),
) -> Result<()> {
    if keeps_earlier == 0 {
        tx.prepare_cached("DELETE FROM sync_keeps WHERE reference = ?1 AND owner = ?2")?
            .execute([name, &owner.0])?;
    } else {
        tx.prepare_cached(
            "INSERT INTO sync_keeps (reference, owner, earlier) VALUES (?1, ?2, ?3)
             ON CONFLICT (reference, owner) DO UPDATE SET earlier = excluded.earlier",
        )?
        .execute(params![name, owner.0, keeps_earlier])?;
    }
    if extracts && !keeps_blobs {
        tx.prepare_cached("DELETE FROM sync_holdings WHERE reference = ?1 AND owner = ?2")?
            .execute([name, &owner.0])?;
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT INTO sync_holdings (reference, owner, extracts, keeps_blobs) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (reference, owner) DO UPDATE SET extracts = excluded.extracts,
             keeps_blobs = excluded.keeps_blobs",
    )?
    .execute(params![name, owner.0, extracts, keeps_blobs])?;
    Ok(())
}

/// Drops what an owner (`None`: everybody) wants of the image `name`.
pub(super) fn drop_of(tx: &Transaction<'_>, name: &str, owner: Option<&Owner>) -> Result<()> {
    for table in ["sync_holdings", "sync_keeps"] {
        let all = format!("DELETE FROM {table} WHERE reference = ?1");
        match owner {
            Some(owner) => tx.prepare_cached(&format!("{all} AND owner = ?2"))?.execute([name, &owner.0])?,
            None => tx.prepare_cached(&all)?.execute([name])?,
        };
    }
    Ok(())
}

/// The question whether an owner is about to give up the image of a name.
pub(super) type Leaves<'l> = &'l dyn Fn(&Owner, &str) -> bool;

/// A query for the images of which an owner has a wish, with the owner.
macro_rules! images_with {
    ($wish:literal) => {
        concat!(
            "SELECT own.reference, own.owner FROM sync_holdings AS holding
               JOIN sync_owners AS own ON own.reference = holding.reference AND own.owner = holding.owner
              WHERE ",
            $wish
        )
    };
}

const UNEXTRACTED: &str = images_with!("holding.extracts = 0");
const KEEPING: &str = images_with!("holding.keeps_blobs = 1");

/// Tells whether somebody keeps the blobs of an image.
pub(super) fn keeps_blobs(conn: &Connection) -> Result<bool> {
    conn.prepare_cached(KEEPING)?.exists([])
}

/// Lists the images that have owners of whom none wants the layers, but perhaps one who leaves.
pub(super) fn unextracted(conn: &Connection, leaves: Leaves<'_>) -> Result<BTreeSet<String>> {
    let wishes = all_wishes(conn, UNEXTRACTED)?;
    let names: BTreeSet<String> = wishes.into_iter().map(|(name, _)| name).collect();
    let mut found = BTreeSet::new();
    for name in names {
        if holders(conn, &name)?.extracted_for.iter().all(|owner| leaves(owner, &name)) {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Lists the blobs, documents and layers, of all images outside `inside` that somebody keeps who
/// does not leave.
pub(super) fn kept_blobs_outside(
    conn: &Connection,
    inside: &BTreeSet<String>,
    leaves: Leaves<'_>,
) -> Result<BTreeSet<BlobDigest>> {
    let wishes = all_wishes(conn, KEEPING)?.into_iter();
    let names: BTreeSet<String> =
        wishes.filter(|(name, owner)| !leaves(owner, name)).map(|(name, _)| name).collect();
    let mut needed = BTreeSet::new();
    for name in names.difference(inside) {
        for sql in [
            "SELECT digest FROM sync_image_documents WHERE reference = ?1",
            "SELECT digest FROM sync_image_layers WHERE reference = ?1",
        ] {
            let digests = texts(conn, sql, name)?;
            needed.extend(digests.iter().filter_map(|digest| BlobDigest::parse(digest).ok()));
        }
    }
    Ok(needed)
}

/// Reads images, each with an owner. Rows that are garbled are nobody's.
fn all_wishes(conn: &Connection, sql: &str) -> Result<Vec<(String, Owner)>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(text(row, 0)?.zip(text(row, 1)?.map(Owner)));
    }
    Ok(found)
}

/// Reads the documents of the image `name`, top first, as [`documents_in`] does.
pub(super) fn documents(conn: &Connection, name: &str) -> Result<Vec<DocumentDescriptor>> {
    let mut statement = conn.prepare_cached(
        "SELECT role, digest, media_type, size_bytes, position FROM sync_image_documents
          WHERE reference = ?1 ORDER BY position",
    )?;
    documents_in(&mut statement.query([name])?)
}

/// Reads documents from rows of role, digest, media type, size and position, in their order; none
/// where one of them is garbled or out of place.
pub(super) fn documents_in(rows: &mut Rows<'_>) -> Result<Vec<DocumentDescriptor>> {
    let mut documents = Vec::new();
    while let Some(row) = rows.next()? {
        let in_place = integer(row, 4)? == i64::try_from(documents.len()).ok();
        match document(row)? {
            Some(document) if in_place => documents.push(document),
            _ => return Ok(Vec::new()),
        }
    }
    Ok(documents)
}

fn document(row: &Row<'_>) -> Result<Option<DocumentDescriptor>> {
    let (role, digest, media_type, size) = (text(row, 0)?, text(row, 1)?, text(row, 2)?, integer(row, 3)?);
    Ok((|| {
        Some(DocumentDescriptor {
            role: role_of(&role?)?,
            digest: BlobDigest::parse(&digest?).ok()?,
            media_type: MediaType::from(&*media_type?),
            size: u64::try_from(size?).ok()?,
        })
    })())
}

fn role_of(text: &str) -> Option<DocumentRole> {
    let roles = [DocumentRole::Index, DocumentRole::Manifest, DocumentRole::Config];
    roles.into_iter().find(|role| role.as_str() == text)
}

/// Has the rows of the image `name` name these documents.
pub(super) fn put_documents(
    tx: &Transaction<'_>,
    name: &str,
    documents: &[DocumentDescriptor],
) -> Result<()> {
    drop_documents(tx, name)?;
    lists::put_documents(tx, ListOf::Image(name), documents)
}

/// Drops the documents of the image `name`.
pub(super) fn drop_documents(tx: &Transaction<'_>, name: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_image_documents WHERE reference = ?1")?.execute([name])?;
    Ok(())
}
