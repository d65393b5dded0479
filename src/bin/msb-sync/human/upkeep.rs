//! The results of `verify`, `prune` and `forget` for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use msb_sync::image_ref::ImageRef;
use msb_sync::sync::{LayerStatus, PartStatus, Pruned, Verified, VerifiedLayer};

use crate::paint;
use crate::text::{bytes, plural, printable, removals_wait, short};

/// Names of images that one line shows.
const MAX_NAMES: usize = 3;

/// The findings of `verify`: damaged and repaired layers, and with `verbose` the others too.
pub(crate) fn verified(verified: &Verified, repair: bool, verbose: bool) -> String {
    let mut out = String::new();
    for layer in &verified.layers {
        let sign = match layer.status {
            LayerStatus::Ok if layer.repaired => paint::yellow("!"),
            LayerStatus::Ok if !verbose => continue,
            LayerStatus::Ok => paint::dim("="),
            _ => paint::red("x"),
        };
        let status = if layer.repaired { "repaired" } else { layer.status.as_str() };
        let detail = printable(layer.detail.as_deref().unwrap_or_default(), false);
        let _ = write!(out, "  {sign} {}  {status:<10}", layer.digest);
        let _ = writeln!(out, "  {}", images(layer));
        if !detail.is_empty() {
            let _ = writeln!(out, "      {detail}");
        }
    }
    for blob in &verified.blobs {
        let found = Line { status: blob.status, repaired: blob.repaired, detail: blob.detail.as_deref() };
        let _ = write!(out, "{}", found.show(&format!("blob {}", blob.digest), &some(&blob.images), verbose));
    }
    for reference in &verified.engines {
        let (status, repaired) = (reference.status, reference.repaired);
        let found = Line { status, repaired, detail: reference.detail.as_deref() };
        let engine = format!("in {}", reference.loaded.engine.name);
        let _ = write!(out, "{}", found.show(&printable(&reference.loaded.name, false), &engine, verbose));
    }
    for image in &verified.unproven {
        let (sign, rule) = (paint::yellow("?"), printable(&image.rule, false));
        let _ = writeln!(
            out,
            "  {sign} {}  no proof of the signature that {rule} asks for: apply checks it",
            image.reference
        );
    }
    if !out.is_empty() {
        out.push('\n');
    }
    if verified.layers.is_empty() && verified.blobs.is_empty() && verified.engines.is_empty() {
        out.push_str("Nothing to verify: msb-sync has recorded no images.\n");
        return out;
    }
    let (checked, counts) = (checked(verified), counts(verified));
    if verified.succeeded() {
        let how = if counts.is_empty() { "all as recorded".to_owned() } else { counts.join(", ") };
        let _ = writeln!(out, "{}: {checked}, {how}.", paint::green("Intact"));
    } else {
        let next = if repair { "" } else { " Fetch these again: msb-sync verify --repair" };
        let _ = writeln!(out, "{}: {checked}, {}.{next}", paint::red("Damaged"), counts.join(", "));
    }
    out
}

/// Says how much was compared.
fn checked(verified: &Verified) -> String {
    let all: BTreeSet<_> = verified.layers.iter().flat_map(|layer| &layer.images).collect();
    let mut checked =
        format!("{} of {} compared", plural(verified.layers.len(), "layer"), plural(all.len(), "image"));
    if !verified.blobs.is_empty() {
        let _ = write!(checked, ", {} read", plural(verified.blobs.len(), "kept blob"));
    }
    if !verified.engines.is_empty() {
        let _ = write!(checked, ", {} looked up", plural(verified.engines.len(), "engine reference"));
    }
    checked
}

/// Counts what is damaged, and what was repaired.
fn counts(verified: &Verified) -> Vec<String> {
    let repaired = verified.layers.iter().filter(|layer| layer.repaired).count()
        + verified.blobs.iter().filter(|blob| blob.repaired).count()
        + verified.engines.iter().filter(|reference| reference.repaired).count();
    let count = |status: LayerStatus| {
        let parts = verified.blobs.iter().map(|blob| blob.status);
        let parts = parts.chain(verified.engines.iter().map(|reference| reference.status));
        verified.count(status) + parts.filter(|part| part.as_str() == status.as_str()).count()
    };
    let mut counts: Vec<String> = [LayerStatus::Missing, LayerStatus::Incomplete, LayerStatus::Modified]
        .into_iter()
        .filter(|status| count(*status) > 0)
        .map(|status| format!("{} {}", count(status), status.as_str()))
        .collect();
    let blocked = verified.engines.iter().filter(|reference| reference.status == PartStatus::Blocked).count();
    if blocked > 0 {
        counts.push(format!("{blocked} blocked"));
    }
    if repaired > 0 {
        counts.push(format!("{repaired} repaired"));
    }
    counts
}

/// A blob, or an image in an engine, as it was found.
struct Line<'a> {
    status: PartStatus,
    repaired: bool,
    detail: Option<&'a str>,
}

impl Line<'_> {
    /// Tells of damage and repairs, and with `verbose` of what is in order too.
    fn show(&self, what: &str, beside: &str, verbose: bool) -> String {
        let sign = match self.status {
            PartStatus::Ok if self.repaired => paint::yellow("!"),
            PartStatus::Ok if !verbose => return String::new(),
            PartStatus::Ok => paint::dim("="),
            _ => paint::red("x"),
        };
        let status = if self.repaired { "repaired" } else { self.status.as_str() };
        let mut out = format!("  {sign} {what}  {status:<10}  {beside}\n");
        if let Some(detail) = self.detail {
            let _ = writeln!(out, "      {}", printable(detail, false));
        }
        out
    }
}

/// Some of the images that a layer is part of.
fn images(layer: &VerifiedLayer) -> String {
    some(&layer.images)
}

/// Some of many names.
fn some<'a>(images: impl IntoIterator<Item = &'a ImageRef>) -> String {
    let mut images = images.into_iter();
    let mut names: Vec<String> = images.by_ref().take(MAX_NAMES).map(ToString::to_string).collect();
    match images.count() {
        0 => {}
        more => names.push(format!("{more} more")),
    }
    names.join(", ")
}

/// The removals of `prune` and `forget`, or of a dry run those to come.
pub(crate) fn pruned(pruned: &Pruned) -> String {
    let mut out = rows(pruned);
    if !out.is_empty() {
        out.push('\n');
    }
    let waiting = pruned.waiting().count();
    if waiting > 0 {
        let (head, names) = (paint::yellow(&removals_wait(waiting)), some(&pruned.waiting_for));
        let _ = writeln!(
            out,
            "{head}: listed, but not here: {names}. Bring what is listed first: msb-sync apply"
        );
    }
    if pruned.is_empty() {
        out.push_str(if pruned.kept.is_empty() && pruned.engines_kept.is_empty() {
            "Nothing to remove.\n"
        } else {
            "Nothing else to remove. End what keeps the above, then prune again.\n"
        });
        return out;
    }
    let (images, layers) =
        (plural(pruned.images.len() - waiting, "image"), plural(pruned.layers.len(), "layer"));
    let mut parts = vec![images, layers];
    for (count, what) in [
        (pruned.blobs.len(), "kept blob"),
        (pruned.engines.len(), "engine reference"),
        (pruned.downloads.len(), "partial download"),
    ] {
        if count > 0 {
            parts.push(plural(count, what));
        }
    }
    let last = parts.pop().unwrap_or_default();
    let what = format!("{} and {last}", parts.join(", "));
    let freed = bytes(pruned.freed_bytes());
    let _ = if pruned.dry_run {
        writeln!(out, "{}: {what} to remove, {freed}. Nothing was changed.", paint::bold("Dry run"))
    } else {
        writeln!(out, "{}: {what} removed, {freed} freed.", paint::green("Done"))
    };
    out
}

/// A line for each image, layer and partial download.
fn rows(pruned: &Pruned) -> String {
    let mut out = String::new();
    for image in &pruned.images {
        let goes = image.gone.contains(&image.reference) && !image.waits;
        let sign = if goes { paint::red("-") } else { paint::dim("=") };
        let waits = if image.waits { "; waits" } else { "" };
        let _ = writeln!(
            out,
            "  {sign} {}  {}{waits}",
            image.reference,
            printable(&image.reason.to_string(), false)
        );
    }
    for layer in &pruned.layers {
        let (size, reason) = (bytes(layer.size), printable(&layer.reason, false));
        let _ =
            writeln!(out, "  {} layer {}  {size}, {reason}", paint::red("-"), short(layer.digest.as_str()));
    }
    for layer in &pruned.kept {
        let reason = printable(&layer.reason, false);
        let _ = writeln!(out, "  {} layer {}  kept: {reason}", paint::yellow("="), layer.digest);
    }
    for blob in &pruned.blobs {
        let (size, digest) = (bytes(blob.size), short(blob.digest.as_str()));
        let _ = writeln!(out, "  {} kept blob {digest}  {size}, no image needs it any more", paint::red("-"));
    }
    for removed in &pruned.engines {
        let name = printable(&removed.name, false);
        let _ = writeln!(out, "  {} {name}  in {}", paint::red("-"), removed.engine);
    }
    for kept in &pruned.engines_kept {
        let (name, reason) = (printable(&kept.name, false), printable(&kept.reason, false));
        let _ = writeln!(out, "  {} {name}  in {}  kept: {reason}", paint::yellow("="), kept.engine);
    }
    for download in &pruned.downloads {
        let (digest, size) = (short(download.digest.as_str()), bytes(download.size));
        let sign = paint::red("-");
        let _ =
            writeln!(out, "  {sign} partial download of {digest}  {size}, left by a run that did not end");
    }
    out
}
