//! The document of `outdated`.

use msb_sync::sync::Outdated;
use serde_json::{Value, json};

use super::{VERSION, error_value};

/// The document of `outdated`.
pub(crate) fn outdated(outdated: &Outdated) -> Value {
    let images: Vec<Value> = outdated
        .images
        .iter()
        .map(|image| {
            json!({
                "reference": image.reference.to_string(),
                "newer": image.newer,
                "latest": image.latest,
            })
        })
        .collect();
    let failed: Vec<Value> = outdated
        .failed
        .iter()
        .map(
            |(repository, error)| json!({ "reference": repository.to_string(), "error": error_value(error) }),
        )
        .collect();
    json!({ "version": VERSION, "images": images, "failed": failed })
}
