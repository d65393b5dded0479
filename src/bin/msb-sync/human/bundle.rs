//! `export` for people.

use std::fmt::Write as _;
use std::path::Path;

use msb_sync::sync::Exported;

use crate::paint;
use crate::text::{bytes, plural, printable};

/// Tells people about a bundle, and about the layers that its receiver must have.
pub(crate) fn exported(exported: &Exported, output: &Path) -> String {
    let mut out = String::new();
    let images = plural(exported.images.len(), "image");
    if !exported.failed.is_empty() {
        let failed = plural(exported.failed.len(), "image");
        let _ = writeln!(out, "Failed: {failed} cannot be had; the bundle is not complete.");
        return out;
    }
    // A line beside a stream is told like any other, where control characters are escaped.
    let to_stream = output == Path::new("-");
    let done = if to_stream { "Done".to_owned() } else { paint::green("Done") };
    let to = if to_stream {
        "standard output".to_owned()
    } else {
        printable(&output.display().to_string(), false)
    };
    let _ = writeln!(
        out,
        "{done}: {images} in {}, {}, to {to}.",
        plural(exported.blobs, "blob"),
        bytes(exported.bytes),
    );
    if exported.downloaded_bytes > 0 {
        let _ =
            writeln!(out, "{} fetched; kept blobs would have saved that.", bytes(exported.downloaded_bytes));
    }
    if !exported.left_out.is_empty() {
        let _ = writeln!(
            out,
            "{} of {} left out: the receiver must have them already.",
            plural(exported.left_out.len(), "layer"),
            bytes(exported.left_out_bytes),
        );
    }
    out
}
