//! Lists of layers and of documents as rows: those of recorded images, and those of the meanings
//! that are remembered.

use rusqlite::{Result, ToSql, Transaction, params};

use super::rows::size;
use crate::state::{DocumentDescriptor, LayerDescriptor};

/// The image whose list it is.
#[derive(Clone, Copy)]
pub(super) enum ListOf<'a> {
    /// A recorded one, by its name.
    Image(&'a str),
    /// A remembered one, by its row.
    Meaning(i64),
}

impl ListOf<'_> {
    fn insert(&self, list: &str, column: &str) -> String {
        let (table, key) = match self {
            Self::Image(_) => ("sync_image", "reference"),
            Self::Meaning(_) => ("sync_meaning", "meaning"),
        };
        format!(
            "INSERT INTO {table}_{list} ({key}, position, {column}, digest, media_type, size_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        )
    }

    fn key(&self) -> &dyn ToSql {
        match self {
            Self::Image(name) => name,
            Self::Meaning(row) => row,
        }
    }
}

/// Has an image list these layers, where it lists none.
pub(super) fn put_layers(tx: &Transaction<'_>, of: ListOf<'_>, layers: &[LayerDescriptor]) -> Result<()> {
    let mut insert = tx.prepare_cached(&of.insert("layers", "diff_id"))?;
    for (position, layer) in (0_i64..).zip(layers) {
        let (diff_id, digest) = (layer.diff_id.text(), layer.digest.text());
        let values =
            params![of.key(), position, diff_id, digest, layer.media_type.as_str(), size(layer.size)];
        insert.execute(values)?;
    }
    Ok(())
}

/// Has an image list these documents, where it lists none.
pub(super) fn put_documents(
    tx: &Transaction<'_>,
    of: ListOf<'_>,
    documents: &[DocumentDescriptor],
) -> Result<()> {
    let mut insert = tx.prepare_cached(&of.insert("documents", "role"))?;
    for (position, document) in (0_i64..).zip(documents) {
        let (role, digest) = (document.role.as_str(), document.digest.text());
        let values =
            params![of.key(), position, role, digest, document.media_type.as_str(), size(document.size)];
        insert.execute(values)?;
    }
    Ok(())
}
