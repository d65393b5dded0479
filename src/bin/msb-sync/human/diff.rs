//! The changes between two lockfiles for people: a row each, or a table for a pull request.

use std::fmt::Write as _;

use msb_sync::digest::BlobDigest;
use msb_sync::state::Action;
use msb_sync::sync::LockfileDiff;

use super::{View, lock};
use crate::table::table;
use crate::text::{bytes, printable};

/// The changes, as `diff` prints them.
pub(crate) fn diff(diff: &LockfileDiff, view: View) -> String {
    let rows: Vec<Vec<String>> = diff
        .changes
        .iter()
        .map(|change| {
            let mut row = lock::row(change);
            row.extend((change.new_bytes > 0).then(|| format!("{} to fetch", bytes(change.new_bytes))));
            row
        })
        .collect();
    let mut out = String::new();
    for (text, change) in table(&rows, "  ", view.room).iter().zip(&diff.changes) {
        out.push_str(&lock::painted(text, change.action));
        out.push('\n');
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let name = printable(&diff.name, false);
    let _ = match counts(diff) {
        None => writeln!(out, "No difference: {name} means the same images."),
        Some(counts) => writeln!(out, "{name}: {counts}."),
    };
    out
}

/// The changes as a table in Markdown, for the text of a pull request.
pub(crate) fn diff_markdown(diff: &LockfileDiff) -> String {
    let Some(counts) = counts(diff) else {
        return "### Container images: no change\n".to_owned();
    };
    let mut out = format!("### Container images: {counts}\n\n");
    out.push_str("| | Image | Platform | From | To | To fetch |\n|---|---|---|---|---|---|\n");
    for change in &diff.changes {
        let what = match change.action {
            Action::Add => "added",
            Action::Remove => "removed",
            _ => "changed",
        };
        let signed = change.signed_by.as_ref().map(|by| format!("<br>signed by {}", code(by)));
        let fetched = if change.digest.is_some() { bytes(change.new_bytes) } else { String::new() };
        let _ = writeln!(
            out,
            "| {what} | {}{} | {} | {} | {} | {fetched} |",
            code(&change.reference.to_string()),
            signed.unwrap_or_default(),
            change.platform,
            digest(change.previous.as_ref()),
            digest(change.digest.as_ref()),
        );
    }
    out
}

/// A digest, short enough for a column.
fn digest(digest: Option<&BlobDigest>) -> String {
    digest.map(|digest| code(&crate::text::short(&digest.text()))).unwrap_or_default()
}

/// Text as Markdown's code in a table's cell: no character in it means anything else.
fn code(text: &str) -> String {
    format!("`{}`", printable(text, false).replace('`', "'").replace('|', "\\|"))
}

/// `1 added, 2 changed; 12.1 MiB to fetch`; `None` where nothing differs.
fn counts(diff: &LockfileDiff) -> Option<String> {
    let parts: Vec<String> =
        [(Action::Add, "added"), (Action::Update, "changed"), (Action::Remove, "removed")]
            .into_iter()
            .map(|(action, what)| (diff.of(action).count(), what))
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
    let fetched = (diff.new_bytes > 0).then(|| format!("; {} to fetch", bytes(diff.new_bytes)));
    (!parts.is_empty()).then(|| format!("{}{}", parts.join(", "), fetched.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_a_cell_or_a_piece_of_code() {
        assert_eq!(code("a`b|c\u{1b}"), "`a'b\\|c\\u{1b}`");
    }
}
