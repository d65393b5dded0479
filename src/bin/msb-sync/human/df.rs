//! The bytes on disk for people: by kind, by image, and what could be freed.

use std::fmt::Write as _;

use msb_sync::sync::DiskUse;

use super::View;
use crate::paint;
use crate::table::table;
use crate::text::{bytes, plural, shell_word};

/// The report of `df`.
pub(crate) fn df(disk: &DiskUse, view: View) -> String {
    let row = |name: &str, size: u64, what: String| vec![name.to_owned(), bytes(size), what];
    let rows = [
        row("layers", disk.layers_bytes, plural(disk.layers, "layer")),
        row("blobs", disk.blobs_bytes, plural(disk.blobs, "kept blob")),
        row("downloads", disk.downloads_bytes, String::new()),
        row("staging", disk.staging_bytes, String::new()),
    ];
    let lines = |rows: &[Vec<String>]| table(rows, "", view.room).join("\n") + "\n";
    let mut out = lines(&rows);
    if disk.spared_bytes > 0 {
        let spared = bytes(disk.spared_bytes);
        out.push_str(&view.lines(&format!("{spared} of these stay for rollback, or are staged."), "", ""));
    }
    if !disk.images.is_empty() {
        let head = ["IMAGE", "ON DISK", "SHARED"].map(str::to_owned).to_vec();
        let rows = disk
            .images
            .iter()
            .map(|image| vec![image.reference.to_string(), bytes(image.bytes), bytes(image.shared_bytes)]);
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let images = lines(&rows);
        let (head, rest) = images.split_once('\n').unwrap_or((&images, ""));
        let _ = write!(out, "\n{}\n{rest}", paint::bold(head));
    }
    let _ = match (disk.reclaimable_bytes, &disk.reclaimed_by[..]) {
        (0, _) => writeln!(out, "\nNothing could be freed."),
        (freed, []) => writeln!(out, "\n{} could be freed: msb-sync prune", bytes(freed)),
        (freed, files) => {
            let commands = files.iter().map(|file| format!("msb-sync prune {}", shell_word(file)));
            let commands: Vec<String> = commands.collect();
            writeln!(out, "\n{} could be freed: {}", bytes(freed), commands.join(", "))
        }
    };
    out
}
