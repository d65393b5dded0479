//! The document of `add` and `remove`.

use msb_sync::sync::FileEdit;
use serde_json::{Value, json};

use super::VERSION;

/// The document of `add` and `remove`.
pub(crate) fn edited(edit: &FileEdit) -> Value {
    let images = edit.images.iter();
    let groups = edit.groups.iter();
    json!({
        "version": VERSION,
        "file": edit.name,
        "created": edit.created,
        "changed": edit.changed,
        "images": images
            .map(|(reference, status)| json!({ "reference": reference.to_string(), "status": status.as_str() }))
            .collect::<Vec<_>>(),
        "groups": groups
            .map(|group| json!({ "name": group.name, "gone": group.is_gone }))
            .collect::<Vec<_>>(),
        "unread": edit.unread.iter()
            .map(|(source, unread)| {
                json!({
                    "file": source,
                    "line": unread.line,
                    "text": unread.text,
                    "message": unread.reason,
                })
            })
            .collect::<Vec<_>>(),
    })
}
