//! An edit of the images file for people: a line each image, and the next step.

use std::fmt::Write as _;
use std::path::Path;

use msb_sync::sync::{EditStatus, FileEdit};

use crate::paint;
use crate::text::{printable, shell_word};

/// The report of `add` and `remove`.
pub(crate) fn edited(edit: &FileEdit) -> String {
    let mut out = String::new();
    for (reference, status) in &edit.images {
        let line = match status {
            EditStatus::Added => paint::green(&format!("  + {reference}")),
            EditStatus::Grouped => paint::yellow(&format!("  ~ {reference}  is in the group now")),
            EditStatus::Listed => format!("  = {reference}  is listed already"),
            EditStatus::Removed if reference.tag().is_none() && reference.digest().is_none() => {
                paint::red(&format!("  - {reference}  and its selections of tags"))
            }
            EditStatus::Removed => paint::red(&format!("  - {reference}")),
        };
        out.push_str(&line);
        out.push('\n');
    }
    for group in &edit.groups {
        let name = printable(&group.name, false);
        let line = if group.is_gone {
            paint::red(&format!("  - group {name}, in which nothing is left"))
        } else {
            paint::yellow(&format!("  ~ group {name}"))
        };
        out.push_str(&line);
        out.push('\n');
    }
    let name = printable(&edit.name, false);
    let file = shell_word(Path::new(&edit.name));
    let file = if file == crate::args::DEFAULT_FILE { String::new() } else { format!(" {file}") };
    if !out.is_empty() {
        out.push('\n');
    }
    if edit.absent {
        let _ = writeln!(out, "{name} is not made: nothing is to be written.");
        return out;
    }
    if !edit.changed {
        let _ = writeln!(out, "{name} stays as it is.");
        return out;
    }
    let head = paint::green(if edit.created { "Wrote" } else { "Changed" });
    let next = match &edit.stale_lockfile {
        Some(lockfile) => {
            format!("{} does not fit it any more: msb-sync lock{file}", printable(lockfile, false))
        }
        None => format!("Show what is to be done: msb-sync plan{file}"),
    };
    let _ = writeln!(out, "{head} {name}. {next}");
    out
}
