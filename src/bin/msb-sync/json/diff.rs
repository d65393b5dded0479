//! The document of `diff`.

use msb_sync::digest::BlobDigest;
use msb_sync::state::Action;
use msb_sync::sync::{EntryChange, LockfileDiff};
use serde_json::{Value, json};

use super::VERSION;

/// The document of `diff`.
pub(crate) fn diff(diff: &LockfileDiff) -> Value {
    let one = |change: &EntryChange, digest: Option<&BlobDigest>| {
        json!({
            "reference": change.reference.to_string(),
            "platform": change.platform,
            "digest": digest,
            "download_bytes": change.new_bytes,
            "signed_by": change.signed_by,
        })
    };
    let changed = |change: &EntryChange| {
        json!({
            "reference": change.reference.to_string(),
            "platform": change.platform,
            "from": change.previous,
            "to": change.digest,
            "download_bytes": change.new_bytes,
            "signed_by": change.signed_by,
        })
    };
    json!({
        "version": VERSION,
        "added": diff.of(Action::Add).map(|change| one(change, change.digest.as_ref())).collect::<Vec<_>>(),
        "removed": diff.of(Action::Remove).map(|change| one(change, change.previous.as_ref())).collect::<Vec<_>>(),
        "changed": diff.of(Action::Update).map(changed).collect::<Vec<_>>(),
        "download_bytes": diff.new_bytes,
    })
}
