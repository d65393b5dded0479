//! The documents of `history` and of `rollback --release`.

use msb_sync::image_ref::ImageRef;
use msb_sync::state::History;
use serde_json::{Value, json};

use super::{Document, VERSION};

/// The document of `history`.
pub(crate) fn history(histories: &[History]) -> Document<'_> {
    let images = histories.iter().map(|history| {
        let entries: Vec<Value> = history
            .entries
            .iter()
            .map(|entry| {
                json!({
                    "digest": entry.digest,
                    "platform": entry.platform,
                    "from": entry.from.to_string(),
                    "until": entry.until.map(|until| until.to_string()),
                })
            })
            .collect();
        json!({
            "reference": history.reference.to_string(),
            "held": history.held.is_some(),
            "held_since": history.held.map(|since| since.to_string()),
            "entries": entries,
        })
    });
    Document::from(json!({ "version": VERSION })).with("images", images)
}

/// The document of `rollback --release`.
pub(crate) fn released(reference: &ImageRef, was_held: bool) -> Value {
    json!({ "version": VERSION, "reference": reference.to_string(), "released": was_held })
}
