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
        0 if outdated.compared == 0 && outdated.unanswered > 0 => {
            write!(out, "{}: nothing could be compared", paint::red("Not done"))
        }
        0 if outdated.compared == 0 => write!(out, "{}", paint::green("Nothing to compare")),
        0 if outdated.unanswered > 0 => {
            write!(out, "{}: no newer tags for {compared}", paint::red("Not done"))
        }
        0 => write!(out, "{}: no newer tags for {compared}", paint::green("Up to date")),
        1 => write!(out, "{}: 1 of {compared} has newer tags", paint::yellow("Outdated")),
        _ => write!(out, "{}: {count} of {compared} have newer tags", paint::yellow("Outdated")),
    };
    // The first one begins a sentence's list where the head says all there is before.
    let is_bare = count == 0 && outdated.compared == 0 && outdated.unanswered == 0;
    let mut parts = Vec::new();
    if outdated.unanswered > 0 {
        parts.push(format!("the tags of {} could not be had", plural(outdated.unanswered, "image")));
    }
    if outdated.unversioned > 0 {
        let has = if outdated.unversioned == 1 { "has" } else { "have" };
        parts.push(format!("{} {has} no version as tag", plural(outdated.unversioned, "image")));
    }
    for (index, part) in parts.iter().enumerate() {
        out.push_str(if is_bare && index == 0 { ": " } else { "; " });
        out.push_str(part);
    }
    out.push_str(".\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_what_was_compared_and_nothing_else() {
        for ((compared, unanswered, unversioned), expected) in [
            ((2, 0, 0), "Up to date: no newer tags for 2 images.\n"),
            ((2, 0, 1), "Up to date: no newer tags for 2 images; 1 image has no version as tag.\n"),
            ((0, 0, 2), "Nothing to compare: 2 images have no version as tag.\n"),
            ((0, 0, 0), "Nothing to compare.\n"),
            ((0, 2, 0), "Not done: nothing could be compared; the tags of 2 images could not be had.\n"),
            ((1, 1, 0), "Not done: no newer tags for 1 image; the tags of 1 image could not be had.\n"),
        ] {
            let report = Outdated { compared, unanswered, unversioned, ..Outdated::default() };
            let shown = outdated(&report, View { verbose: false, room: None });
            assert_eq!(anstream::adapter::strip_str(&shown).to_string(), expected);
        }
    }
}
