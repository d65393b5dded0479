//! The lockfile's changes for people: a row each, then one line.

use std::fmt::Write as _;

use msb_sync::state::Action;
use msb_sync::sync::{EntryChange, Relocked};

use super::View;
use crate::paint;
use crate::table::table;
use crate::text::{plural, printable, short};

/// The result that `lock` prints; with `check` nothing was written.
pub(crate) fn relocked(relocked: &Relocked, check: bool, view: View) -> String {
    let changed: Vec<_> = relocked.images.iter().filter(|change| change.action != Action::Keep).collect();
    let rows: Vec<Vec<String>> = changed.iter().map(|change| row(change)).collect();
    let mut out = String::new();
    for (text, change) in table(&rows, "  ", view.room).iter().zip(&changed) {
        out.push_str(&painted(text, change.action));
        out.push('\n');
    }
    if !changed.is_empty() {
        out.push('\n');
    }
    for (tag, waiting) in &relocked.waiting {
        out.push_str(&view.lines(&format!("{tag}: new digest {waiting}"), "", "    "));
    }
    if !relocked.waiting.is_empty() {
        out.push('\n');
    }
    let name = printable(&relocked.name, false);
    let images = plural(relocked.images.len(), "image");
    let _ = if !relocked.failed.is_empty() {
        let (head, failed) = (paint::red("Not done"), plural(relocked.failed.len(), "image"));
        let kept = if relocked.absent { "is not written" } else { "stays as it was" };
        writeln!(out, "{head}: {name} {kept}, {failed} failed.")
    } else if !relocked.changed {
        writeln!(out, "{}: {name}, {images}.", paint::green("Up to date"))
    } else {
        let head = if check { paint::yellow("Would change") } else { paint::green("Wrote") };
        writeln!(out, "{head} {name}: {}.", counts(relocked))
    };
    out
}

/// The line of an entry, in the colour of what became of it.
pub(super) fn painted(line: &str, action: Action) -> String {
    match action {
        Action::Add => paint::green(line),
        Action::Remove => paint::red(line),
        _ => paint::yellow(line),
    }
}

/// The cells of an entry.
pub(super) fn row(change: &EntryChange) -> Vec<String> {
    let sign = match (&change.previous, &change.digest) {
        (None, _) => '+',
        (_, None) => '-',
        _ => '~',
    };
    let digests = [&change.previous, &change.digest].into_iter().flatten();
    let mut digests: Vec<String> = digests.map(|digest| short(&digest.text())).collect();
    digests.dedup();
    let signer = change.signed_by.as_ref().map(|by| format!("signed by {by}"));
    let mut row =
        vec![format!("{sign} {}", change.reference), change.platform.to_string(), digests.join(" → ")];
    row.extend(signer);
    row
}

/// The entries of the lockfile, counted by what became of them.
fn counts(relocked: &Relocked) -> String {
    let count = |action: Action| relocked.images.iter().filter(|change| change.action == action).count();
    let mut parts: Vec<String> = [
        (Action::Add, "added"),
        (Action::Update, "updated"),
        (Action::Remove, "removed"),
        (Action::Keep, "unchanged"),
    ]
    .into_iter()
    .filter(|(action, _)| count(*action) > 0)
    .map(|(action, what)| format!("{} {what}", count(action)))
    .collect();
    if count(Action::Keep) == relocked.images.len() && !relocked.waiting.is_empty() {
        // Nothing else of the file has changed but its notes.
        parts.insert(0, format!("{} noted", plural(relocked.waiting.len(), "new digest")));
    }
    if parts.is_empty() { "no images".to_owned() } else { parts.join(", ") }
}
