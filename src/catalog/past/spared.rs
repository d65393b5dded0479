//! The images that references meant before, and those of them, and of the staged ones, whose layers
//! and blobs are spared.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{Connection, Result};

use super::{history, staged};
use crate::catalog::holdings::{self, Holders};
use crate::catalog::rows::{integer, parse_name, text, texts};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{EarlierImage, HistoryEntry, Owner, Platform, SparedImage};

/// Reads the images that `reference` meant before, the latest first, each digest once and never
/// the present one.
pub(in crate::catalog) fn earlier(conn: &Connection, reference: &ImageRef) -> Result<Vec<EarlierImage>> {
    let name = reference.to_string();
    let mut found = Vec::new();
    for entry in earlier_entries(conn, reference)? {
        let layers = layer_sizes(conn, &name, &entry)?;
        found.push(EarlierImage { digest: entry.digest, layers });
    }
    Ok(found)
}

fn layer_sizes(conn: &Connection, name: &str, entry: &HistoryEntry) -> Result<BTreeMap<BlobDigest, u64>> {
    let mut statement = conn.prepare_cached(
        "SELECT l.digest, l.size_bytes FROM sync_meanings AS m JOIN sync_meaning_layers AS l ON l.meaning = m.id
          WHERE m.reference = ?1 AND m.platform = ?2 AND m.digest = ?3",
    )?;
    let mut rows = statement.query([name, &entry.platform.to_string(), &entry.digest.text()])?;
    let mut sizes = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let size = integer(row, 1)?.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
        sizes.extend(text(row, 0)?.and_then(|text| Some((BlobDigest::parse(&text).ok()?, size))));
    }
    Ok(sizes)
}

/// Reads which references have meant something before.
pub(in crate::catalog) fn with_past(conn: &Connection) -> Result<BTreeSet<ImageRef>> {
    let names = texts(
        conn,
        "SELECT DISTINCT reference FROM sync_history WHERE until IS NOT NULL AND reference <> ?1",
        "",
    )?;
    Ok(names.iter().filter_map(|name| parse_name(name)).collect())
}

/// Reads the layers and documents of everything that `reference` meant before.
pub(in crate::catalog) fn remembered(
    conn: &Connection,
    reference: &ImageRef,
) -> Result<BTreeSet<BlobDigest>> {
    let name = reference.to_string();
    let mut found = BTreeSet::new();
    for entry in earlier_entries(conn, reference)? {
        for sql in [LAYERS, DOCUMENTS] {
            found.extend(meaning_digests(conn, &name, (&entry.platform, &entry.digest), sql)?);
        }
    }
    Ok(found)
}

/// An owner with the number of earlier digests that he wants spared now, whatever was recorded.
pub(in crate::catalog) type Keeps<'k> = Option<(&'k Owner, u32)>;

/// Finds the images that are spared, but for those of `inside`.
pub(in crate::catalog) fn spared(
    conn: &Connection,
    inside: &BTreeSet<String>,
    (leaves, keeps): (holdings::Leaves<'_>, Keeps<'_>),
    now: Timestamp,
) -> Result<Vec<SparedImage>> {
    let ready: BTreeSet<(String, BlobDigest)> =
        staged(conn, now)?.into_iter().map(|staged| (staged.reference.to_string(), staged.digest)).collect();
    let wants = |holders: &Holders, owner: &Owner, name: &str| {
        let wanted = holders.extracted_for.contains(owner) || holders.blobs_kept_for.contains(owner);
        wanted && !leaves(owner, name)
    };
    let mut found: BTreeMap<(String, BlobDigest), BTreeSet<BlobDigest>> = BTreeMap::new();
    each_spared(conn, inside, (&wants, keeps), now, &mut |name, key| {
        let blobs = found.entry((name.to_owned(), key.1.clone())).or_default();
        for sql in [LAYERS, DOCUMENTS] {
            blobs.extend(meaning_digests(conn, name, key, sql)?);
        }
        Ok(())
    })?;
    let spared = found.into_iter().filter_map(|((name, digest), blobs)| {
        let (reference, staged) = (parse_name(&name)?, ready.contains(&(name, digest.clone())));
        Some(SparedImage { reference, digest, staged, blobs })
    });
    Ok(spared.collect())
}

/// Reads the entries of a history for digests before the present one: the latest of each.
fn earlier_entries(conn: &Connection, reference: &ImageRef) -> Result<Vec<HistoryEntry>> {
    let mut entries = history(conn, reference)?.entries;
    let mut seen = BTreeSet::new();
    entries.retain(|entry| seen.insert(entry.digest.clone()) && entry.until.is_some());
    Ok(entries)
}

const LAYERS: &str = "SELECT l.digest FROM sync_meanings AS m
    JOIN sync_meaning_layers AS l ON l.meaning = m.id
   WHERE m.reference = ?1 AND m.platform = ?2 AND m.digest = ?3";
const DOCUMENTS: &str = "SELECT d.digest FROM sync_meanings AS m
    JOIN sync_meaning_documents AS d ON d.meaning = m.id
   WHERE m.reference = ?1 AND m.platform = ?2 AND m.digest = ?3";

fn meaning_digests(
    conn: &Connection,
    name: &str,
    (platform, digest): (&Platform, &BlobDigest),
    sql: &str,
) -> Result<BTreeSet<BlobDigest>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([name, &platform.to_string(), &digest.text()])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        found.extend(text(row, 0)?.and_then(|text| BlobDigest::parse(&text).ok()));
    }
    Ok(found)
}

/// The layers, or the blobs, that are spared: each with the references for whose sake.
pub(in crate::catalog) type Spared = BTreeMap<BlobDigest, BTreeSet<String>>;

/// Finds the layers that are spared: of earlier images that owners, but for those who leave, want
/// kept and extracted, and of staged ones. Names of `inside` are left out, but for what is staged.
pub(in crate::catalog) fn spared_layers(
    conn: &Connection,
    inside: &BTreeSet<String>,
    (leaves, keeps): (holdings::Leaves<'_>, Keeps<'_>),
    now: Timestamp,
) -> Result<Spared> {
    let mut spared = Spared::new();
    let wants = |holders: &Holders, owner: &Owner, name: &str| {
        holders.extracted_for.contains(owner) && !leaves(owner, name)
    };
    each_spared(conn, inside, (&wants, keeps), now, &mut |name, key| {
        for digest in meaning_digests(conn, name, key, LAYERS)? {
            spared.entry(digest).or_default().insert(name.to_owned());
        }
        Ok(())
    })?;
    Ok(spared)
}

/// Finds the blobs that are spared, as [`spared_layers`] does: of earlier images of which such an
/// owner keeps the blobs, and all of staged ones.
pub(in crate::catalog) fn spared_blobs(
    conn: &Connection,
    inside: &BTreeSet<String>,
    (leaves, keeps): (holdings::Leaves<'_>, Keeps<'_>),
    now: Timestamp,
) -> Result<BTreeSet<BlobDigest>> {
    let mut spared = BTreeSet::new();
    let wants = |holders: &Holders, owner: &Owner, name: &str| {
        holders.blobs_kept_for.contains(owner) && !leaves(owner, name)
    };
    each_spared(conn, inside, (&wants, keeps), now, &mut |name, key| {
        for sql in [LAYERS, DOCUMENTS] {
            spared.extend(meaning_digests(conn, name, key, sql)?);
        }
        Ok(())
    })?;
    Ok(spared)
}

/// The question whether an owner wants what is spared of the image of a name.
type Wants<'w> = &'w dyn Fn(&Holders, &Owner, &str) -> bool;

/// Takes the reference, the platform and the digest of an image.
type Visit<'v> = &'v mut dyn FnMut(&str, (&Platform, &BlobDigest)) -> Result<()>;

fn each_spared(
    conn: &Connection,
    inside: &BTreeSet<String>,
    (wants, keeps): (Wants<'_>, Keeps<'_>),
    now: Timestamp,
    visit: Visit<'_>,
) -> Result<()> {
    for staged in staged(conn, now)? {
        visit(&staged.reference.to_string(), (&staged.platform, &staged.digest))?;
    }
    let mut names: BTreeSet<String> =
        texts(conn, "SELECT DISTINCT reference FROM sync_keeps WHERE earlier > ?1", "0")?
            .into_iter()
            .collect();
    if let Some((owner, _)) = keeps.filter(|(_, count)| *count > 0) {
        names.extend(texts(conn, "SELECT reference FROM sync_owners WHERE owner = ?1", &owner.0)?);
    }
    for name in names {
        let Some(reference) = parse_name(&name).filter(|_| !inside.contains(&name)) else { continue };
        let holders = holdings::holders(conn, &name)?;
        let count = |owner: &Owner| match keeps.filter(|(keeping, _)| *keeping == owner) {
            Some((_, count)) => count,
            None => holders.earlier_for.get(owner).copied().unwrap_or_default(),
        };
        let owners = holders.owners.iter().filter(|owner| wants(&holders, owner, &name));
        let most = owners.map(count).max().unwrap_or_default();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        for entry in earlier_entries(conn, &reference)?.into_iter().take(most) {
            visit(&name, (&entry.platform, &entry.digest))?;
        }
    }
    Ok(())
}
