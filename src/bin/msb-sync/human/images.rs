//! Recorded images for people: all in a table, or one with everything about it.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use msb_sync::state::{ConfigRecord, LayerState, size_of_layers};
use msb_sync::sync::{InspectedImage, ListedImage, Restacked, layer_path};
use unicode_width::UnicodeWidthStr as _;

use super::history::minute;
use super::{View, trust};
use crate::paint;
use crate::table::{self, table};
use crate::text::{age, bytes, count, plural, printable, short};

/// The columns of `list`, each with a name, and a letter by which it is left out where the terminal
/// is too narrow for it: `a` first, the ones without any never.
const COLUMNS: [(&str, Option<char>); 9] = [
    ("IMAGE", None),
    ("PLATFORM", Some('c')),
    ("DIGEST", Some('d')),
    ("LAYERS", Some('e')),
    ("SIZE", None),
    ("SHARED", Some('a')),
    ("CREATED", Some('b')),
    ("MANAGED BY", Some('f')),
    ("SIGNED BY", Some('g')),
];

/// The catalog, as `list` prints it at `now`.
pub(crate) fn list(images: &[ListedImage], now: Timestamp, view: View) -> String {
    if images.is_empty() {
        return "No images are recorded. Fetch some: msb-sync apply, or msb-sync pull REF\n".to_owned();
    }
    let mut rows: Vec<Vec<String>> = vec![COLUMNS.map(|(name, _)| name.to_owned()).to_vec()];
    rows.extend(images.iter().map(|listed| list_row(listed, now).to_vec()));
    let mut letters: Vec<Option<char>> = COLUMNS.map(|(_, letter)| letter).to_vec();
    if images.iter().all(|listed| listed.proof().is_none()) {
        leave_out(&mut rows, &mut letters, 'g');
    }
    let left_out = fit(&mut rows, &mut letters, view.room);
    let mut texts = table(&rows, "", view.room).into_iter();
    let head = texts.next().unwrap_or_default();
    let mut out = format!("{}\n", paint::bold(&head));
    texts.for_each(|text| out.extend([text, "\n".to_owned()]));
    if !left_out.is_empty() {
        let text = format!("No room for {}: --json, or a wider terminal, shows all.", left_out.join(", "));
        out.push('\n');
        out.push_str(&view.lines(&text, "", ""));
    }
    out
}

/// The names of the images, one a line, as `list --quiet` prints them.
pub(crate) fn names(images: &[ListedImage]) -> String {
    images.iter().flat_map(|listed| [listed.image.reference.to_string(), "\n".to_owned()]).collect()
}

/// Leaves out columns until the rows fit, and returns the names of those.
fn fit(rows: &mut [Vec<String>], letters: &mut Vec<Option<char>>, room: Option<usize>) -> Vec<String> {
    let mut names = Vec::new();
    // A reference that is too long has a line of its own.
    let is_short = |row: &&Vec<String>| room.is_none_or(|room| row[0].width() <= room / 2);
    for letter in 'a'..='f' {
        let usual: Vec<Vec<String>> = rows.iter().filter(is_short).cloned().collect();
        if room.is_none_or(|room| table::width(&usual, "") <= room) {
            break;
        }
        names.extend(leave_out(rows, letters, letter));
    }
    names
}

/// Leaves out the column of `letter`, and returns its name.
fn leave_out(rows: &mut [Vec<String>], letters: &mut Vec<Option<char>>, letter: char) -> Option<String> {
    let column = letters.iter().position(|other| *other == Some(letter))?;
    letters.remove(column);
    let mut cells = rows.iter_mut().map(|row| row.remove(column));
    let name = cells.next();
    cells.for_each(drop);
    name
}

fn list_row(listed: &ListedImage, now: Timestamp) -> [String; 9] {
    let none = || "-".to_owned();
    let image = &listed.image;
    let layers = match listed.absent().count() {
        _ if !listed.is_extracted() => format!("{} (not extracted)", image.layers.len()),
        0 => image.layers.len().to_string(),
        missing => format!("{} ({missing} missing)", image.layers.len()),
    };
    [
        image.reference.to_string(),
        listed.platform.as_ref().map_or_else(none, ToString::to_string),
        image.digest.as_ref().map_or_else(none, |digest| {
            format!("{}{}", short(&digest.text()), if image.held.is_some() { " (held)" } else { "" })
        }),
        layers,
        bytes(size_of_layers(&image.layers)),
        bytes(listed.shared_bytes),
        listed.created.as_deref().and_then(|created| age(created, now)).unwrap_or_else(none),
        managed_by(listed),
        listed.proof().map_or_else(none, |proof| proof.by.clone()),
    ]
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

/// `shown`, followed by the age of the point in time `text`.
fn with_age(text: &str, shown: &str, now: Timestamp) -> String {
    match age(text, now) {
        Some(age) => format!("{shown} ({age})"),
        None => shown.to_owned(),
    }
}

/// One image, as `inspect` prints it at `now`.
pub(crate) fn inspect(inspected: &InspectedImage, now: Timestamp) -> String {
    let reference = &inspected.listed.image.reference;
    let mut out = format!("{}\n", paint::bold(&reference.to_string()));
    let mut facts = Facts::default();
    facts.of_record(&inspected.listed, now);
    if let Some(config) = &inspected.config {
        facts.of_config(config, now);
    }
    facts.of_content(inspected);
    // People copy digests and paths from here: none is broken.
    for row in table(&facts.rows, "  ", None) {
        let _ = writeln!(out, "{row}");
    }
    write_layers(&mut out, &inspected.listed);
    if inspected.listed.is_foreign() {
        out.push_str(
            "\n  Pulled by microsandbox itself: msb-sync has not checked it, and leaves it alone.\n",
        );
    }
    if let Some(restacked) = &inspected.stacking.restacked {
        let (head, note) = (paint::yellow("note"), restacked_note(restacked));
        let _ = writeln!(out, "\n  {head}: {}", printable(&note, false));
    }
    out
}

/// The facts of an image: a name and a value each.
#[derive(Default)]
struct Facts {
    rows: Vec<Vec<String>>,
}

impl Facts {
    /// Adds a fact, unless there is none.
    fn add(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.rows.push(vec![name.to_owned(), value]);
        }
    }

    /// Adds a fact of many values, one a line.
    fn add_lines(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        for (index, value) in values.into_iter().enumerate() {
            self.add(if index == 0 { name } else { "" }, Some(value));
        }
    }

    fn of_record(&mut self, listed: &ListedImage, now: Timestamp) {
        let image = &listed.image;
        self.add("platform", listed.platform.as_ref().map(ToString::to_string));
        self.add("digest", image.digest.as_ref().map(ToString::to_string));
        self.add("manifest", image.manifest_digest.as_ref().map(ToString::to_string));
        self.add("config", image.config_digest.as_ref().map(ToString::to_string));
        let recorded = Some(&image.modified_at).filter(|recorded| !recorded.is_empty());
        self.add("recorded", recorded.map(|at| with_age(at, &format!("{at} UTC"), now)));
        let held = image.held.map(|since| format!("since rollback {}", minute(since)));
        self.add("held", held);
        self.add("managed by", Some(managed_by(listed)));
        let engines = listed.engines.iter().map(|row| format!("{} as {}", row.engine.name, row.name));
        self.add_lines("engines", engines);
        for proof in &listed.proofs {
            self.add_lines("signed by", trust::proof(proof, now));
        }
    }

    fn of_config(&mut self, config: &ConfigRecord, now: Timestamp) {
        let words = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(" "));
        self.add("created", config.created.as_deref().map(|at| with_age(at, at, now)));
        self.add("entrypoint", words(&config.entrypoint));
        self.add("cmd", words(&config.cmd));
        self.add("working dir", config.working_dir.clone());
        self.add("user", config.user.clone());
        self.add("ports", words(&config.exposed_ports));
        self.add("volumes", words(&config.volumes));
        self.add("stop signal", config.stop_signal.clone());
        self.add_lines("env", config.env.iter().flatten().cloned());
        self.add_lines("labels", config.labels.iter().map(|(key, value)| format!("{key}={value}")));
    }

    fn of_content(&mut self, inspected: &InspectedImage) {
        let totals = inspected.totals;
        let entries = count(totals.entries, "entry", "entries");
        let extracted = format!("{entries}, {}", bytes(totals.content_bytes));
        self.add("extracted", Some(extracted).filter(|_| totals.entries > 0));
        let kept = inspected.blobs.iter().map(|blob| blob.size).sum();
        let kept = format!("{}, {}", plural(inspected.blobs.len(), "blob"), bytes(kept));
        self.add("kept", Some(kept).filter(|_| !inspected.blobs.is_empty()));
        let dropped =
            count(totals.dropped_xattrs, "privileged extended attribute", "privileged extended attributes");
        self.add("not on disk", Some(dropped).filter(|_| totals.dropped_xattrs > 0));
    }
}

/// The layers of an image, base first, each with its directory.
fn write_layers(out: &mut String, listed: &ListedImage) {
    let image = &listed.image;
    let (layers, size) = (plural(image.layers.len(), "layer"), bytes(size_of_layers(&image.layers)));
    let shared = match listed.shared_bytes {
        0 => "shared with no other image".to_owned(),
        shared => format!("{} shared with other images", bytes(shared)),
    };
    let _ = writeln!(out, "\n  {layers}, {size}, {shared}; base first:");
    for (layer, state) in image.layers.iter().zip(&listed.states) {
        let note = match (listed.is_here(*state), state) {
            (true, _) => "",
            (false, _) if !listed.is_extracted() => "   not extracted",
            (false, _) if listed.is_foreign() => "   MISSING",
            (false, LayerState::Untrusted) => "   INCOMPLETE, apply repairs it",
            (false, _) => "   MISSING, apply repairs it",
        };
        let path = printable(&layer_path(&listed.layers, &layer.digest).display().to_string(), false);
        let _ = writeln!(out, "  {:>10}  {path}{note}", bytes(layer.size));
    }
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

/// The value of overlayfs's option `lowerdir` for the directories of an image, which are given base
/// first: the topmost one is first there, and the separators of values are escaped.
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
