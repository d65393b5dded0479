//! The results of `verify`, `prune` and `forget` for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use msb_sync::image_ref::ImageRef;
use msb_sync::plan::{Removal, Wait};
use msb_sync::sync::{Finding, Pruned, Status, Verified, VerifiedLayer};

use super::View;
use crate::args::DEFAULT_FILE;
use crate::paint;
use crate::table::table;
use crate::text::{bytes, home_option, plural, removals_wait, shell_word, short, stay_for_others};

/// Names of images that one line shows.
const MAX_NAMES: usize = 3;

/// A row of what was found or is removed, and the text below it.
struct Row {
    paint: fn(&str) -> String,
    cells: Vec<String>,
    detail: String,
}

impl Row {
    fn new(sign: char, cells: &[&str], detail: &str) -> Self {
        let paint: fn(&str) -> String = match sign {
            'x' | '-' => paint::red,
            '!' | '?' => paint::yellow,
            _ => str::to_owned,
        };
        let mut cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        if let Some(first) = cells.first_mut() {
            first.insert_str(0, &format!("{sign} "));
        }
        Self { paint, cells, detail: detail.to_owned() }
    }
}

/// Sets `rows` in columns, with an empty line behind them.
fn shown(rows: &[Row], view: View) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells.clone()).collect();
    let mut out = String::new();
    for (text, row) in table(&cells, "  ", view.room).into_iter().zip(rows) {
        out.push_str(&(row.paint)(&text));
        out.push('\n');
        if !row.detail.is_empty() {
            out.push_str(&view.lines(&row.detail, "      ", "      "));
        }
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// The findings of `verify`: damaged and repaired layers, and with `-v` the others too.
pub(crate) fn verified(verified: &Verified, repair: bool, view: View) -> String {
    let mut rows = Vec::new();
    for layer in &verified.layers {
        rows.extend(found(&layer.found, &layer.digest.to_string(), &some(&layer.images), view));
    }
    for blob in &verified.blobs {
        rows.extend(found(&blob.found, &format!("blob {}", blob.digest), &some(&blob.images), view));
    }
    for reference in &verified.engines {
        let engine = format!("in {}", reference.loaded.engine.name);
        rows.extend(found(&reference.found, &reference.loaded.name, &engine, view));
    }
    for image in &verified.unproven {
        let why = format!("no proof of the signature that {} asks for: apply checks it", image.rule);
        rows.push(Row::new('?', &[&image.reference.to_string(), &why], ""));
    }
    let mut out = shown(&rows, view);
    if verified.layers.is_empty() && verified.blobs.is_empty() && verified.engines.is_empty() {
        out.push_str("Nothing to verify: msb-sync has recorded no images.\n");
        return out;
    }
    let (checked, counts) = (checked(verified), counts(verified));
    if verified.is_intact() && (repair || verified.failures.is_empty()) {
        let how = if counts.is_empty() { "all as recorded".to_owned() } else { counts.join(", ") };
        let failed = if verified.succeeded() { "" } else { ", one step failed" };
        let _ = writeln!(out, "{}: {checked}, {how}{failed}.", paint::green("Intact"));
    } else if verified.is_intact() {
        let how = "all as recorded, but one file is not. Put it right: msb-sync verify --repair";
        let _ = writeln!(out, "{}: {checked}, {how}", paint::red("Damaged"));
    } else {
        let of_microsandbox =
            |layer: &&VerifiedLayer| layer.of_microsandbox && layer.found.status.is_damaged();
        let theirs = verified.layers.iter().filter(of_microsandbox).count();
        let damaged = verified.findings().filter(|found| found.status.is_damaged()).count();
        let mut next = String::new();
        if damaged > theirs && !repair {
            next.push_str(" Fetch these again: msb-sync verify --repair");
        }
        if theirs > 0 {
            let separator = if next.is_empty() { "" } else { "." };
            let _ = write!(next, "{separator} Let microsandbox pull its own images again: msb pull");
        }
        let head = if damaged > 0 { "Damaged" } else { "Not verified" };
        let _ = writeln!(out, "{}: {checked}, {}.{next}", paint::red(head), counts.join(", "));
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
    let repaired = verified.findings().filter(|found| found.repaired).count();
    let statuses = [Status::Missing, Status::Incomplete, Status::Modified, Status::Blocked];
    let counted = statuses.map(|status| (verified.count(status), status.as_str()));
    let counted = counted.into_iter().chain([(repaired, "repaired")]).filter(|(count, _)| *count > 0);
    counted.map(|(count, word)| format!("{count} {word}")).collect()
}

/// Tells of damage and repairs of `what`, and with `-v` of what is in order too.
fn found(found: &Finding, what: &str, beside: &str, view: View) -> Option<Row> {
    let sign = match (found.status, found.repaired) {
        (Status::Ok, true) => '!',
        (Status::Ok, false) if !view.verbose => return None,
        (Status::Ok, false) => '=',
        _ => 'x',
    };
    let status = if found.repaired { "repaired" } else { found.status.as_str() };
    Some(Row::new(sign, &[what, status, beside], found.detail.as_deref().unwrap_or_default()))
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

/// The removals of `prune` and `forget`, or of a dry run those to come; `file` is the images file
/// by whose wish they are, and `home` the value of `--home`, for the commands that this suggests.
pub(crate) fn pruned(pruned: &Pruned, file: Option<&Path>, home: Option<&Path>, view: View) -> String {
    let mut out = shown(&rows(pruned), view);
    write_waiting(&mut out, pruned, (file, home));
    let tail = spared(pruned);
    if pruned.is_empty() {
        out.push_str(if pruned.kept.is_empty() && pruned.engines_kept.is_empty() {
            "Nothing to remove.\n"
        } else {
            "Nothing else to remove. End what keeps the above, then prune again.\n"
        });
        return out + &tail;
    }
    let gone = pruned.images.iter().filter(|image| goes(image)).count();
    let mut parts = vec![plural(gone, "image"), plural(pruned.layers.len(), "layer")];
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
    let stay = stay_for_others(pruned.images.len() - pruned.waiting().count() - gone);
    let stay = stay.map_or_else(String::new, |stay| format!(" {stay}, named above."));
    let _ = if pruned.dry_run {
        writeln!(out, "{}: {what} to remove, {freed}.{stay} Nothing was changed.", paint::bold("Dry run"))
    } else {
        let done = if pruned.error.is_none() { paint::green("Done") } else { paint::yellow("Partly done") };
        writeln!(out, "{done}: {what} removed, {freed} freed.{stay}")
    };
    out + &tail
}

/// The removals that wait, and what brings an end to that.
fn write_waiting(out: &mut String, pruned: &Pruned, (file, home): (Option<&Path>, Option<&Path>)) {
    let file = file.filter(|file| *file != Path::new(DEFAULT_FILE));
    let file = file.map_or_else(String::new, |file| format!(" {}", shell_word(file)));
    let apply = format!("msb-sync{} apply{file}", home_option(home));
    let mut reasons: BTreeMap<&Wait, usize> = BTreeMap::new();
    for why in pruned.waiting().filter_map(|image| image.waits.as_ref()) {
        *reasons.entry(why).or_default() += 1;
    }
    for (why, count) in reasons {
        let head = paint::yellow(&removals_wait(count));
        let _ = match why {
            Wait::SecondName(_) => writeln!(out, "{head} {why}: {apply}"),
            Wait::Images | Wait::ImagesFile => {
                let names = some(&pruned.waiting_for);
                writeln!(out, "{head}: listed, but not here: {names}. Bring what is listed first: {apply}")
            }
        };
    }
}

/// The line about what stays though nobody needs it now.
fn spared(pruned: &Pruned) -> String {
    let staged = pruned.spared.iter().filter(|image| image.staged).count();
    let counts = [(pruned.spared.len() - staged, "earlier digest"), (staged, "staged image")];
    let counts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| plural(count, what)).collect();
    if counts.is_empty() {
        return String::new();
    }
    format!("{} spared ({}).\n", counts.join(" and "), bytes(pruned.spared_bytes))
}

/// Tells whether nobody has recorded the image any more.
fn goes(image: &Removal) -> bool {
    !image.reason.keeps_image() && image.waits.is_none()
}

/// The rows of images, layers, kept blobs, engines and partial downloads.
fn rows(pruned: &Pruned) -> Vec<Row> {
    let mut rows = Vec::new();
    for image in &pruned.images {
        let sign = if goes(image) { '-' } else { '=' };
        let why = format!("{}{}", image.reason, if image.waits.is_some() { "; waits" } else { "" });
        rows.push(Row::new(sign, &[&image.reference.to_string(), &why], ""));
    }
    for layer in &pruned.layers {
        let what = format!("layer {}", short(&layer.digest.text()));
        rows.push(Row::new('-', &[&what, &format!("{}, {}", bytes(layer.size), layer.reason)], ""));
    }
    for layer in &pruned.kept {
        let (what, why) = (format!("layer {}", layer.digest), format!("kept: {}", layer.reason));
        rows.push(Row::new('=', &[&what, &why], ""));
    }
    for blob in &pruned.blobs {
        let what = format!("kept blob {}", short(&blob.digest.text()));
        let why = format!("{}, no image needs it any more", bytes(blob.size));
        rows.push(Row::new('-', &[&what, &why], ""));
    }
    for removed in &pruned.engines {
        rows.push(Row::new('-', &[&removed.name, &format!("in {}", removed.engine)], ""));
    }
    for kept in &pruned.engines_kept {
        let why = format!("in {}, kept: {}", kept.engine, kept.reason);
        rows.push(Row::new('=', &[&kept.name, &why], ""));
    }
    for download in &pruned.downloads {
        let what = format!("partial download of {}", short(&download.digest.text()));
        let why = format!("{}, left by a run that did not end", bytes(download.size));
        rows.push(Row::new('-', &[&what, &why], ""));
    }
    rows
}

#[cfg(test)]
mod tests {
    use msb_sync::digest::BlobDigest;
    use msb_sync::plan::{Reason, Remains};
    use msb_sync::state::Owner;
    use msb_sync::sync::RemovedLayer;
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    fn forgotten(name: &str, stays_for: Option<&str>) -> Removal {
        let reference = ImageRef::parse(name, "docker.io").unwrap();
        let remains = stays_for.map(|owner| Remains::For(vec![Owner(owner.to_owned())]));
        let reason = Reason::AskedFor { wanted_by: Vec::new(), remains: remains.into_iter().collect() };
        let gone = stays_for.is_none().then(|| reference.clone()).into_iter().collect();
        Removal { names: vec![reference.clone()], reference, reason, gone, waits: None }
    }

    #[test]
    fn what_stays_for_others_is_not_counted_as_removed() {
        let digest = BlobDigest::parse(&format!("sha256:{:064x}", 1)).unwrap();
        let long = format!("registry.corp:5000/{}:v1", "a-long-name/".repeat(8).trim_end_matches('/'));
        let pruned_by = Pruned {
            images: vec![forgotten(&long, None), forgotten("alpine:3.20", Some("/srv/b/images.toml"))],
            layers: vec![RemovedLayer { digest, path: "l".into(), size: 5 << 20, reason: "r".repeat(50) }],
            ..Pruned::default()
        };
        let text = pruned(&pruned_by, None, None, View::default());
        assert!(text.contains("- registry.corp") && text.contains("= docker.io/library/alpine"), "{text}");
        assert!(text.contains("/srv/b/images.toml"), "{text}");
        let end = ": 1 image and 1 layer removed, 5.0 MiB freed. 1 image stays for others, named above.\n";
        assert!(text.ends_with(end), "{text}");
        for room in [30, 50, 80] {
            let text = pruned(&pruned_by, None, None, View { room: Some(room), ..View::default() });
            let rows = text.lines().take_while(|line| !line.is_empty());
            let width = |row: &str| anstream::adapter::strip_str(row).to_string().width();
            assert!(rows.clone().all(|row| width(row) <= room) && rows.count() > 3, "{room}: {text}");
        }
    }
}
