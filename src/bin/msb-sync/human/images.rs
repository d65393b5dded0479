//! What `list` and `inspect` print for people.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use msb_sync::state::{LayerState, size_of_layers};
use msb_sync::store::layer_path;
use msb_sync::sync::{InspectedImage, ListedImage, Restacked};

use crate::text::{Style, age, bytes, plural, printable, short, table};

/// The catalog, as `list` prints it at `now`.
pub(crate) fn list(images: &[ListedImage], now: Timestamp, style: Style) -> String {
    if images.is_empty() {
        return "No images are recorded. Fetch some: msb-sync apply, or msb-sync pull REF\n".to_owned();
    }
    let head = ["IMAGE", "PLATFORM", "DIGEST", "LAYERS", "SIZE", "SHARED", "CREATED", "MANAGED BY"];
    let head = head.map(str::to_owned).to_vec();
    let none = || "-".to_owned();
    let rows = std::iter::once(head).chain(images.iter().map(|listed| {
        let image = &listed.image;
        let layers = match listed.absent().count() {
            0 => image.layers.len().to_string(),
            missing => format!("{} ({missing} missing)", image.layers.len()),
        };
        vec![
            image.reference.to_string(),
            listed.platform.as_ref().map_or_else(none, ToString::to_string),
            image.digest.as_ref().map_or_else(none, |digest| short(digest.as_str())),
            layers,
            bytes(size_of_layers(&image.layers)),
            bytes(listed.shared_bytes),
            listed.created.as_deref().and_then(|created| age(created, now)).unwrap_or_else(none),
            managed_by(listed),
        ]
    }));
    let text = printable(&table(&rows.collect::<Vec<_>>(), ""), true);
    match text.split_once('\n') {
        Some((head, rest)) => format!("{}\n{rest}", style.bold(head)),
        None => text,
    }
}

fn managed_by(listed: &ListedImage) -> String {
    let owners: Vec<String> = listed
        .image
        .owners
        .iter()
        .map(|owner| if listed.gone.contains(owner) { format!("{owner} (gone)") } else { owner.to_string() })
        .collect();
    if owners.is_empty() { "microsandbox".to_owned() } else { owners.join(", ") }
}

/// `text`, a point in time, and how long ago that is.
fn with_age(text: &str, shown: &str, now: Timestamp) -> String {
    match age(text, now) {
        Some(age) => format!("{shown} ({age})"),
        None => shown.to_owned(),
    }
}

/// One image, as `inspect` prints it at `now`.
pub(crate) fn inspect(inspected: &InspectedImage, now: Timestamp, style: Style) -> String {
    let listed = &inspected.listed;
    let image = &listed.image;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    row("platform", listed.platform.as_ref().map(ToString::to_string));
    row("digest", image.digest.as_ref().map(ToString::to_string));
    row("manifest", image.manifest_digest.as_ref().map(ToString::to_string));
    row("config", image.config_digest.as_ref().map(ToString::to_string));
    let recorded = Some(&image.modified_at).filter(|recorded| !recorded.is_empty());
    row("recorded", recorded.map(|at| with_age(at, &format!("{at} UTC"), now)));
    row("managed by", Some(managed_by(listed)));
    if let Some(config) = &inspected.config {
        let words = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(" "));
        row("created", config.created.as_deref().map(|at| with_age(at, at, now)));
        row("entrypoint", words(&config.entrypoint));
        row("cmd", words(&config.cmd));
        row("working dir", config.working_dir.clone());
        row("user", config.user.clone());
        row("ports", words(&config.exposed_ports));
        row("volumes", words(&config.volumes));
        row("stop signal", config.stop_signal.clone());
        for (index, pair) in config.env.iter().flatten().enumerate() {
            row(if index == 0 { "env" } else { "" }, Some(pair.clone()));
        }
        for (index, (key, value)) in config.labels.iter().enumerate() {
            row(if index == 0 { "labels" } else { "" }, Some(format!("{key}={value}")));
        }
    }
    let totals = inspected.totals;
    if totals.entries > 0 {
        row("extracted", Some(format!("{} entries, {}", totals.entries, bytes(totals.content_bytes))));
    }
    if totals.dropped_xattrs > 0 {
        row("not on disk", Some(format!("{} privileged extended attributes", totals.dropped_xattrs)));
    }
    let mut out = format!("{}\n", style.bold(&image.reference.to_string()));
    out.push_str(&printable(&table(&rows, "  "), true));
    let (layers, size) = (plural(image.layers.len(), "layer"), bytes(size_of_layers(&image.layers)));
    let shared = match listed.shared_bytes {
        0 => "shared with no other image".to_owned(),
        shared => format!("{} shared with other images", bytes(shared)),
    };
    let _ = writeln!(out, "\n  {layers}, {size}, {shared}; base first:");
    for (layer, state) in image.layers.iter().zip(&listed.states) {
        let note = match (listed.is_here(*state), state) {
            (true, _) => "",
            (false, _) if listed.is_foreign() => "   MISSING",
            (false, LayerState::Untrusted) => "   INCOMPLETE, apply repairs it",
            (false, _) => "   MISSING, apply repairs it",
        };
        let path = printable(&layer_path(&listed.layers, &layer.digest).display().to_string(), false);
        let _ = writeln!(out, "  {:>10}  {path}{note}", bytes(layer.size));
    }
    if listed.is_foreign() {
        out.push_str(
            "\n  Pulled by microsandbox itself: msb-sync has not checked it, and leaves it alone.\n",
        );
    }
    if let Some(restacked) = &inspected.stacking.restacked {
        let _ =
            writeln!(out, "\n  {}: {}", style.yellow("note"), printable(&restacked_note(restacked), false));
    }
    out
}

fn restacked_note(restacked: &Restacked) -> String {
    let order = "microsandbox 0.2 stacks layers in the order of their digests, which is not this one";
    match restacked {
        Restacked::Unknown => format!("{order}; what that changes cannot be told."),
        Restacked::Paths { count, example } => {
            let paths = usize::try_from(*count).unwrap_or(usize::MAX);
            format!("{order}: it shows {} otherwise, such as /{}.", plural(paths, "path"), example.display())
        }
    }
}

/// The value of overlayfs's option `lowerdir` for the directories of an image, which are given base first: the topmost
/// one is first there, and what separates values is escaped.
///
/// # Errors
/// The directory that cannot be written so.
pub(crate) fn lowerdir(directories: &[impl AsRef<Path>]) -> Result<String, &Path> {
    let mut out = String::new();
    for directory in directories.iter().rev() {
        let path = directory.as_ref();
        // A quote is mount(8)'s own, and nothing escapes it.
        let text = path.to_str().filter(|text| !text.contains(|c: char| c.is_control() || c == '"'));
        if !out.is_empty() {
            out.push(':');
        }
        for c in text.ok_or(path)?.chars() {
            if matches!(c, '\\' | ':' | ',') {
                out.push('\\');
            }
            out.push(c);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_are_topmost_first_and_escaped() {
        let directories = ["/l/sha256:1", "/a,b\\c/sha256:2"];
        assert_eq!(lowerdir(&directories).unwrap(), "/a\\,b\\\\c/sha256\\:2:/l/sha256\\:1");
        assert_eq!(lowerdir(&["/a\"b"]).unwrap_err(), Path::new("/a\"b"));
        assert_eq!(lowerdir(&["/a\nb"]).unwrap_err(), Path::new("/a\nb"));
    }
}
