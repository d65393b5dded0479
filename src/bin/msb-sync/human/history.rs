//! The digests that images have meant, for people: a block an image, a row a digest.

use jiff::Timestamp;
use msb_sync::image_ref::ImageRef;
use msb_sync::state::History;
use msb_sync::sync::RolledBack;

use super::View;
use crate::paint;
use crate::table::table;
use crate::text::short;

/// The report of `history`.
pub(crate) fn history(histories: &[History], view: View) -> String {
    if histories.is_empty() {
        return "No images are recorded. Fetch some: msb-sync apply, or msb-sync pull REF\n".to_owned();
    }
    let mut out = String::new();
    for history in histories {
        if !out.is_empty() {
            out.push('\n');
        }
        let held = history.held.map(|since| format!(", held since rollback {}", minute(since)));
        let head = format!("{}{}", history.reference, held.unwrap_or_default());
        let text = view.lines(&head, "", "  ");
        out.push_str(&text.replacen(&head, &paint::bold(&head), 1));
        let differ = history.entries.iter().any(|entry| entry.platform != history.entries[0].platform);
        // People copy digests from here: none is broken.
        let rows: Vec<Vec<String>> = history
            .entries
            .iter()
            .map(|entry| {
                let until = entry.until.map_or_else(|| "now".to_owned(), minute);
                let times = format!("{} → {until}", minute(entry.from));
                let platform = differ.then(|| entry.platform.to_string());
                [Some(entry.digest.to_string()), platform, Some(times)].into_iter().flatten().collect()
            })
            .collect();
        for row in table(&rows, "  ", None) {
            out.push_str(&row);
            out.push('\n');
        }
    }
    out
}

/// The report of `rollback --release`.
pub(crate) fn released(reference: &ImageRef, was_held: bool) -> String {
    if was_held {
        format!("{reference} is held no more: the next apply follows its tag again.\n")
    } else {
        format!("{reference} was not held.\n")
    }
}

/// The line that says what becomes of an image that went back, or was there.
pub(crate) fn held(rolled: &RolledBack) -> String {
    let RolledBack { reference, digest, was_there, .. } = rolled;
    let there = if *was_there { "was at this digest before, and " } else { "" };
    format!(
        "{reference} {there}is held at {}; to let it go on: msb-sync rollback --release {reference}",
        short(&digest.text())
    )
}

/// A point in time as people want it here.
pub(super) fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
