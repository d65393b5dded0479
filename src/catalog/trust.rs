//! Proofs that images are signed: who says so, by which rule, and the signatures themselves.
//!
//! A proof is of a digest, not of a name: two references that mean the same image share it. Proofs
//! of images that are not recorded go when others are written, or when images are forgotten.

use rusqlite::{Connection, OptionalExtension as _, Result, Row, Transaction, params};

use super::rows::text;
use crate::digest::BlobDigest;
use crate::state::{Candidate, Evidence, SignaturePlace};

/// The proofs of one image that are kept: as many rules may differ about the image.
const MAX_PROOFS: i64 = 8;

/// The tables of proofs.
const TABLES: [&str; 3] = ["sync_trust", "sync_trust_ends", "sync_signatures"];
/// The condition that finds one proof in each of them.
const ONE_PROOF: &str = "digest = ?1 AND manifest_digest = ?2 AND judged_by = ?3";

/// Reads the proofs of an image without the signatures, the newest first.
pub(super) fn proofs(conn: &Connection, digest: &BlobDigest, manifest: &BlobDigest) -> Result<Vec<Evidence>> {
    let mut statement = conn.prepare_cached(
        "SELECT judged_by, rule, signed_by, issuer, signed_at, form, until
           FROM sync_trust LEFT JOIN sync_trust_ends USING (digest, manifest_digest, judged_by)
          WHERE digest = ?1 AND manifest_digest = ?2 ORDER BY since DESC, judged_by",
    )?;
    let mut rows = statement.query([digest.text(), manifest.text()])?;
    let mut proofs = Vec::new();
    while let Some(row) = rows.next()? {
        proofs.extend(proof(row, digest, manifest)?);
    }
    Ok(proofs)
}

fn proof(row: &Row<'_>, digest: &BlobDigest, manifest: &BlobDigest) -> Result<Option<Evidence>> {
    let (judged_by, rule, by) = (text(row, 0)?, text(row, 1)?, text(row, 2)?);
    let (issuer, at, form) = (text(row, 3)?, row.get_ref(4)?.as_i64().ok(), text(row, 5)?);
    let until = row.get_ref(6)?.as_i64().ok();
    Ok((|| {
        Some(Evidence {
            digest: digest.clone(),
            manifest: manifest.clone(),
            by: by?,
            issuer,
            at,
            until,
            rule: rule?,
            form: form?,
            judged_by: judged_by?,
            candidates: Vec::new(),
        })
    })())
}

/// Reads the signatures of a proof. One that is garbled is none.
pub(super) fn signatures(conn: &Connection, proof: &Evidence) -> Result<Vec<Candidate>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT subject, place, artifact, artifact_manifest, layer, layer_blob, message, config_blob
           FROM sync_signatures WHERE {ONE_PROOF} ORDER BY position"
    ))?;
    let mut rows = statement.query([&*proof.digest.text(), &proof.manifest.text(), &proof.judged_by])?;
    let mut signatures = Vec::new();
    while let Some(row) = rows.next()? {
        signatures.extend(signature(row)?);
    }
    Ok(signatures)
}

fn signature(row: &Row<'_>) -> Result<Option<Candidate>> {
    let bytes = |index| row.get_ref(index).map(|value| value.as_blob().ok().map(<[u8]>::to_vec));
    let (subject, place, artifact) = (text(row, 0)?, text(row, 1)?, text(row, 2)?);
    let (manifest, layer, blob) = (bytes(3)?, row.get_ref(4)?.as_i64().ok(), bytes(5)?);
    let (message, config) = (bytes(6)?, bytes(7)?);
    Ok((|| {
        Some(Candidate {
            subject: BlobDigest::parse(&subject?).ok()?,
            place: SignaturePlace::parse(&place?)?,
            digest: BlobDigest::parse(&artifact?).ok()?,
            manifest: manifest?.into(),
            layer: usize::try_from(layer?).ok()?,
            blob: blob?,
            message,
            config,
        })
    })())
}

/// Notes a proof in place of an older one by the same rule. The oldest ones of the image go.
pub(super) fn put(tx: &Transaction<'_>, proof: &Evidence) -> Result<()> {
    let key = params![proof.digest.text(), proof.manifest.text(), proof.judged_by];
    for table in TABLES {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE {ONE_PROOF}"))?.execute(key)?;
    }
    drop_oldest(tx, proof)?;
    tx.prepare_cached(
        "INSERT INTO sync_trust (digest, manifest_digest, judged_by, rule, signed_by, issuer, signed_at, form, since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, CURRENT_TIMESTAMP)",
    )?
    .execute(params![
        proof.digest.text(),
        proof.manifest.text(),
        proof.judged_by,
        proof.rule,
        proof.by,
        proof.issuer,
        proof.at,
        proof.form,
    ])?;
    if let Some(until) = proof.until {
        tx.prepare_cached(
            "INSERT INTO sync_trust_ends (digest, manifest_digest, judged_by, until) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![proof.digest.text(), proof.manifest.text(), proof.judged_by, until])?;
    }
    let mut insert = tx.prepare_cached(
        "INSERT INTO sync_signatures (digest, manifest_digest, judged_by, position, subject, place, artifact,
             artifact_manifest, layer, layer_blob, message, config_blob)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for (position, candidate) in proof.candidates.iter().enumerate() {
        insert.execute(params![
            proof.digest.text(),
            proof.manifest.text(),
            proof.judged_by,
            i64::try_from(position).unwrap_or(i64::MAX),
            candidate.subject.text(),
            candidate.place.as_str(),
            candidate.digest.text(),
            &candidate.manifest[..],
            i64::try_from(candidate.layer).unwrap_or(i64::MAX),
            candidate.blob,
            candidate.message,
            candidate.config,
        ])?;
    }
    Ok(())
}

/// Makes room for one more proof of the same image.
fn drop_oldest(tx: &Transaction<'_>, proof: &Evidence) -> Result<()> {
    let (digest, manifest) = (proof.digest.text(), proof.manifest.text());
    loop {
        let count: i64 = tx
            .prepare_cached("SELECT count(*) FROM sync_trust WHERE digest = ?1 AND manifest_digest = ?2")?
            .query_row([digest, manifest], |row| row.get(0))?;
        if count < MAX_PROOFS {
            return Ok(());
        }
        let oldest: Option<String> = tx
            .prepare_cached(
                "SELECT judged_by FROM sync_trust WHERE digest = ?1 AND manifest_digest = ?2
                  ORDER BY since, judged_by LIMIT 1",
            )?
            .query_row([digest, manifest], |row| row.get(0))
            .optional()?;
        let Some(oldest) = oldest else { return Ok(()) };
        for table in TABLES {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE {ONE_PROOF}"))?
                .execute([&*digest, &manifest, &oldest])?;
        }
    }
}

/// Drops the proofs of images that are neither recorded nor remembered: for a way back, or since
/// they are staged.
pub(super) fn sweep(tx: &Transaction<'_>) -> Result<()> {
    for table in TABLES {
        tx.prepare_cached(&format!(
            "DELETE FROM {table} WHERE (digest, manifest_digest) NOT IN
               (SELECT digest, manifest_digest FROM sync_images
                UNION ALL SELECT digest, manifest_digest FROM sync_meanings)"
        ))?
        .execute([])?;
    }
    Ok(())
}
