//! The output for machines. Every document and every event carries `"version": 1`; within it keys
//! are only added.

mod df;
mod diff;
mod document;
mod edit;
mod events;
mod failure;
mod history;
mod outdated;
mod progress;
mod trust;

use std::path::{Path, PathBuf};

use msb_sync::error::Error;
use msb_sync::plan::{self, Plan, PlannedImage};
use msb_sync::state::{Action, LayerState, SparedImage, size_of_layers};
use msb_sync::sync::{
    Exported, InspectedImage, ListedImage, Pruned, Relocked, Restacked, Verified, layer_path,
};
use serde_json::{Value, json};

pub(crate) use df::df;
pub(crate) use diff::diff;
pub(crate) use document::Document;
pub(crate) use edit::edited;
pub(crate) use events::{
    Events, Received, notice, print_event, print_failure, print_progress, stopped, summary,
};
pub(crate) use failure::{failure, misuse};
pub(crate) use history::{history, released};
pub(crate) use outdated::outdated;
pub(crate) use progress::Progress;
pub(crate) use trust::root as trust_root;

/// The JSON Schema of every document and every event: whoever changes one changes it there too.
pub(crate) const SCHEMA: &str = include_str!("json/schema.json");

const VERSION: u32 = 1;

/// Parts of a config that the catalog keeps and nobody asks for.
const KEPT_ONLY: &[&str] = &["media_type", "rootfs_type", "history_json"];

/// Adds the action on each part in an engine, where there are any.
fn add_engines(value: &mut Value, engines: impl Iterator<Item = (&'static str, Action)>) {
    let actions: serde_json::Map<String, Value> =
        engines.map(|(engine, action)| (engine.to_owned(), json!(action))).collect();
    if !actions.is_empty() {
        value["engines"] = Value::Object(actions);
    }
}

fn error_value(error: &Error) -> Value {
    json!({ "kind": error.kind(), "message": error.chain().join(": "), "hint": error.hint() })
}

/// The document of `init`.
pub(crate) fn started(file: &Path) -> Value {
    json!({ "version": VERSION, "path": path(file) })
}

/// A path as JSON text; what is not UTF-8 in it cannot be told.
fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(crate) fn plan(plan: &Plan) -> Document<'_> {
    let document = json!({
        "version": VERSION,
        "changes": plan.changes(),
        "download_bytes": plan.download_bytes(),
        "new_tags": new_tags(plan.new_tags.iter().map(|(tag, waiting)| (tag, waiting))),
        "spared": plan.spared.iter().map(|(reference, digest)| {
            json!({ "reference": reference.to_string(), "digest": digest })
        }).collect::<Vec<_>>(),
        "spared_bytes": plan.spared_bytes,
        "engine_removals": plan.engine_removals.iter().map(|row| {
            json!({ "engine": row.engine.name, "reference": row.name })
        }).collect::<Vec<_>>(),
    });
    Document::from(document)
        .with("images", plan.images.iter().map(planned))
        .with("layers_to_remove", plan.layers_to_remove.iter().map(|digest| json!(digest)))
}

fn planned(image: &PlannedImage) -> Value {
    let mut value = json!({
        "reference": image.reference.to_string(),
        "platform": image.platform,
        "action": image.action,
        "digest": image.digest,
        "previous": image.previous,
        "reason": image.remark().or_else(|| words_of_evident(&image.reason)),
        "reason_code": image.reason.code(),
        "layers": { "total": image.layers.len(), "present": image.layers_state().present },
        "download_bytes": image.download_bytes,
        "waits": image.waits.is_some(),
        "candidate": image.waiting.as_ref().map(candidate),
        "staged": image.staged,
        "trust": trust::signatures(&image.signatures()),
        "error": image.part_error().map(|error| error_value(error)),
    });
    add_engines(&mut value, image.engine_actions().map(|(engine, action)| (engine.as_str(), action)));
    value
}

/// A new digest that is not taken yet.
fn candidate(waiting: &plan::Waiting) -> Value {
    json!({
        "digest": waiting.digest,
        "since": waiting.since.to_string(),
        "until": waiting.until.to_string(),
    })
}

/// New digests that are not taken yet, each with its tag.
fn new_tags<'w>(
    tags: impl IntoIterator<Item = (&'w msb_sync::image_ref::ImageRef, &'w plan::Waiting)>,
) -> Vec<Value> {
    let tags = tags.into_iter().map(|(tag, waiting)| {
        let mut value = candidate(waiting);
        value["reference"] = tag.to_string().into();
        value
    });
    tags.collect()
}

/// The words of a reason that the action says too: for what changes, a machine that shows the
/// reason gets some.
fn words_of_evident(reason: &plan::Reason) -> Option<String> {
    (reason.action() != Action::Keep).then(|| reason.to_string())
}

/// An image that could not be looked up is `blocked`, as in a plan; then nothing changed.
pub(crate) fn relocked(relocked: &Relocked) -> Value {
    let changes = relocked.images.iter().map(|change| {
        json!({
            "reference": change.reference.to_string(),
            "platform": change.platform,
            "digest": change.digest,
            "previous": change.previous,
            "action": change.action,
            "signed_by": change.signed_by,
        })
    });
    let failed = relocked.failed.iter().map(|(reference, platform, error)| {
        json!({
            "reference": reference.to_string(),
            "platform": platform,
            "digest": null,
            "previous": null,
            "action": Action::Blocked,
            "signed_by": null,
            "error": error_value(error),
        })
    });
    json!({
        "version": VERSION,
        "changed": relocked.changed,
        "candidates": new_tags(&relocked.waiting),
        "path": path(&relocked.path),
        "images": changes.chain(failed).collect::<Vec<_>>(),
    })
}

pub(crate) fn list(images: &[ListedImage]) -> Document<'_> {
    Document::from(json!({ "version": VERSION })).with("images", images.iter().map(listed))
}

fn listed(listed: &ListedImage) -> Value {
    let image = &listed.image;
    let layers: Vec<Value> = image
        .layers
        .iter()
        .zip(&listed.states)
        .map(|(layer, state)| {
            // A directory that nobody makes is no place to look at.
            let is_place = listed.is_extracted() || *state != LayerState::Missing;
            json!({
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "media_type": layer.media_type,
                "size": layer.size,
                "path": is_place.then(|| path(&layer_path(&listed.layers, &layer.digest))),
            })
        })
        .collect();
    json!({
        "reference": image.reference.to_string(),
        "platform": image.platform,
        "digest": image.digest,
        "manifest_digest": image.manifest_digest,
        "config_digest": image.config_digest,
        "size": size_of_layers(&image.layers),
        "shared_size": listed.shared_bytes,
        "created": listed.created,
        "engines": listed.engines.iter().map(|row| {
            json!({ "engine": row.engine.name, "reference": row.name, "digest": row.listed })
        }).collect::<Vec<_>>(),
        "managed_by": image.owners.first(),
        "owners": image.owners,
        "owner_gone": !listed.gone.is_empty(),
        "held": image.held.is_some(),
        "held_since": image.held.map(|since| since.to_string()),
        "trust": trust::signatures(&trust::of_proof(listed.proof())),
        "modified_at": image.modified_at,
        "layers": layers,
    })
}

pub(crate) fn inspect(image: &InspectedImage) -> Value {
    let mut value = listed(&image.listed);
    let config = image.config.as_ref().map(|config| json!(config));
    if let (Some(entry), Some(Value::Object(config))) = (value.as_object_mut(), config) {
        for (key, field) in config.into_iter().filter(|(key, _)| !KEPT_ONLY.contains(&key.as_str())) {
            entry.entry(key).or_insert(field);
        }
        entry.insert("entries".to_owned(), json!(image.totals.entries));
        entry.insert("extracted_size".to_owned(), json!(image.totals.content_bytes));
        entry.insert("dropped_xattrs".to_owned(), json!(image.totals.dropped_xattrs));
        let blobs: Vec<Value> = image
            .blobs
            .iter()
            .map(|blob| json!({ "digest": blob.digest, "size": blob.size, "path": path(&blob.path) }))
            .collect();
        entry.insert("blobs_size".to_owned(), json!(image.blobs.iter().map(|blob| blob.size).sum::<u64>()));
        entry.insert("blobs".to_owned(), json!(blobs));
        let evidence: Vec<Value> = image.listed.proofs.iter().map(trust::evidence).collect();
        entry.insert("evidence".to_owned(), json!(evidence));
        entry.insert("whiteouts".to_owned(), json!(image.stacking.whiteouts));
        entry
            .insert("restacked".to_owned(), image.stacking.restacked.as_ref().map_or(Value::Null, restacked));
    }
    json!({ "version": VERSION, "image": value })
}

/// The paths that microsandbox 0.2 shows otherwise, since it stacks layers by digest; null where
/// that cannot be told.
fn restacked(restacked: &Restacked) -> Value {
    match restacked {
        Restacked::Paths { count, example } => json!({ "paths": count, "example": path(example) }),
        Restacked::Unknown => json!({ "paths": null, "example": null }),
    }
}

/// The directories of an image, base first.
pub(crate) fn rootfs(directories: &[PathBuf]) -> Value {
    json!({ "version": VERSION, "rootfs": directories.iter().map(|directory| path(directory)).collect::<Vec<_>>() })
}

pub(crate) fn verified(verified: &Verified) -> Document<'_> {
    let layers = verified.layers.iter().map(|layer| {
        json!({
            "digest": layer.digest,
            "status": layer.found.status.as_str(),
            "detail": layer.found.detail,
            "repaired": layer.found.repaired,
            "path": path(&layer_path(&layer.directory, &layer.digest)),
            "images": layer.images.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let blobs = verified.blobs.iter().map(|blob| {
        json!({
            "digest": blob.digest,
            "status": blob.found.status.as_str(),
            "detail": blob.found.detail,
            "repaired": blob.found.repaired,
            "path": path(&blob.path),
            "images": blob.images.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let engines: Vec<Value> = verified
        .engines
        .iter()
        .map(|reference| {
            json!({
                "engine": reference.loaded.engine.name,
                "reference": reference.loaded.name,
                "status": reference.found.status.as_str(),
                "detail": reference.found.detail,
                "repaired": reference.found.repaired,
            })
        })
        .collect();
    let unproven: Vec<Value> = verified
        .unproven
        .iter()
        .map(|image| json!({ "reference": image.reference.to_string(), "rule": image.rule }))
        .collect();
    let document = json!({
        "version": VERSION,
        "engines": engines,
        "unproven": unproven,
        "error": verified.failures.first().map(|error| error_value(error)),
    });
    Document::from(document).with("layers", layers).with("blobs", blobs)
}

/// The references that were taken out of engines, and those that stay.
fn out_of_engines(pruned: &Pruned) -> (Vec<Value>, Vec<Value>) {
    let engines: Vec<Value> = pruned
        .engines
        .iter()
        .map(|removed| json!({ "engine": removed.engine, "reference": removed.name }))
        .collect();
    let engines_kept: Vec<Value> = pruned
        .engines_kept
        .iter()
        .map(|kept| json!({ "engine": kept.engine, "reference": kept.name, "reason": kept.reason }))
        .collect();
    (engines, engines_kept)
}

/// The document of `export`.
pub(crate) fn exported(exported: &Exported) -> Value {
    let images: Vec<Value> = exported
        .images
        .iter()
        .map(|(reference, digest)| json!({ "reference": reference.to_string(), "digest": digest }))
        .collect();
    let failed: Vec<Value> = exported
        .failed
        .iter()
        .map(|(reference, error)| json!({ "reference": reference.to_string(), "error": error_value(error) }))
        .collect();
    json!({
        "version": VERSION,
        "images": images,
        "failed": failed,
        "blobs": exported.blobs,
        "bytes": exported.bytes,
        "downloaded_bytes": exported.downloaded_bytes,
        "left_out": exported.left_out,
        "left_out_bytes": exported.left_out_bytes,
        "requests": exported.requests,
    })
}

/// The images that stay though nobody needs them now.
fn spared(pruned: &Pruned) -> Vec<Value> {
    let image = |image: &SparedImage| json!({ "reference": image.reference.to_string(), "digest": image.digest, "staged": image.staged });
    pruned.spared.iter().map(image).collect()
}

pub(crate) fn pruned(pruned: &Pruned) -> Document<'_> {
    let images = pruned.images.iter().map(|image| {
        json!({
            "reference": image.reference.to_string(),
            "reason": image.reason.to_string(),
            "reason_code": image.reason.code(),
            "stays": image.waits.is_some() || image.reason.keeps_image(),
            "waits": image.waits.is_some(),
        })
    });
    let layers = pruned.layers.iter().map(|layer| {
        json!({ "digest": layer.digest, "size": layer.size, "reason": layer.reason, "path": path(&layer.path) })
    });
    let kept = pruned
        .kept
        .iter()
        .map(|layer| json!({ "digest": layer.digest, "reason": layer.reason, "path": path(&layer.path) }));
    let downloads: Vec<Value> = pruned
        .downloads
        .iter()
        .map(|download| {
            json!({ "digest": download.digest, "size": download.size, "path": path(&download.path) })
        })
        .collect();
    let blobs = pruned
        .blobs
        .iter()
        .map(|blob| json!({ "digest": blob.digest, "size": blob.size, "path": path(&blob.path) }));
    let (engines, engines_kept) = out_of_engines(pruned);
    let document = json!({
        "version": VERSION,
        "dry_run": pruned.dry_run,
        "engines": engines,
        "engines_kept": engines_kept,
        "error": pruned.error.as_deref().map(error_value),
        "downloads": downloads,
        "freed_bytes": pruned.freed_bytes(),
        "spared": spared(pruned),
        "spared_bytes": pruned.spared_bytes,
        "removals_waiting": pruned.waiting().count(),
        "waiting_for": pruned.waiting_for.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    Document::from(document)
        .with("blobs", blobs)
        .with("images", images)
        .with("layers", layers)
        .with("kept", kept)
}
