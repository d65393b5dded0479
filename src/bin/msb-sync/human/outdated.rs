//! Newer tags for people: a row an image, then one line.

use std::fmt::Write as _;

use msb_sync::sync::Outdated;

use super::View;
use crate::paint;
use crate::table::table;
use crate::text::plural;

/// The report of `outdated`.
pub(crate) fn outdated(outdated: &Outdated, view: View) -> String {
    let rows: Vec<Vec<String>> = outdated
        .images
        .iter()
        .map(|image| {
            let mut row = vec![image.reference.to_string(), format!("→ {}", image.latest)];
            let more = image.newer.len() - 1;
            let other = image.newer.iter().find(|tag| **tag != image.latest);
            row.extend(other.map(|other| match more {
                1 => format!("also {other}"),
                _ => format!("also {other} and {} more", more - 1),
            }));
            row
        })
        .collect();
    let mut out = table(&rows, "  ", view.room).join("\n");
    if !out.is_empty() {
        out.push_str("\n\n");
    }
    let (count, compared) = (outdated.images.len(), plural(outdated.compared, "image"));
    let _ = match count {
        0 => write!(out, "{}: no newer tags for {compared}", paint::green("Up to date")),
        1 => write!(out, "{}: 1 of {compared} has newer tags", paint::yellow("Outdated")),
        _ => write!(out, "{}: {count} of {compared} have newer tags", paint::yellow("Outdated")),
    };
    if outdated.unversioned > 0 {
        let _ = write!(
            out,
            "; {} no version",
            match outdated.unversioned {
                1 => "1 tag is".to_owned(),
                count => format!("{count} tags are"),
            }
        );
    }
    out.push_str(".\n");
    out
}
