//! Rules about images, `[[trust]]` and `[[on-change]]`: arrays of tables, and the images that they
//! name.

use crate::diagnostic::{Mistake, Span};
use crate::images_file::reader::{Node, Reader};
use crate::images_file::values::signers;

/// The most patterns of images that all rules of a kind together may have: each image is held to
/// each.
const MAX_PATTERNS: usize = 1_000;

/// The hint for a rule that names no image.
pub(super) const IMAGES_HINT: &str =
    "name them as in images = [\"ghcr.io/acme/*\"], or images = [\"*\"] for all";

/// Lists the tables of an array of tables, in the order of the file.
pub(super) fn tables<'t>(reader: &mut Reader<'_>, node: Option<Node<'t>>) -> Vec<Node<'t>> {
    let Some(node) = node else { return Vec::new() };
    if node.value.is_table() {
        let name = node.called();
        let bare = name.trim_matches('`');
        let hint = format!("write [[{bare}]] in double brackets: each such table is a rule");
        reader.error(Mistake::new(node.key_span, format!("{name} must be an array of tables")).hint(hint));
        return Vec::new();
    }
    reader.array(node).collect()
}

/// The patterns that the rules of a kind may still have.
pub(super) struct Patterns {
    /// The name of the tables.
    table: &'static str,
    left: usize,
}

impl Patterns {
    pub(super) fn new(table: &'static str) -> Self {
        Self { table, left: MAX_PATTERNS }
    }

    /// Reads the patterns in `list`, each with its place.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, list: Node<'_>) -> Vec<(String, Span)> {
        let mut images = Vec::new();
        let table = self.table;
        if list.value.as_array().is_some_and(|list| list.is_empty()) {
            let message = format!("`images` of {table} names no image");
            reader.error(Mistake::new(list.span, message).hint(IMAGES_HINT));
        }
        for node in reader.array(list) {
            let Some(text) = reader.string(node) else { continue };
            if self.left == 0 {
                let message = format!("{table} names more than {MAX_PATTERNS} images");
                let hint = "one `*` can stand for many: \"ghcr.io/acme/*\"";
                reader.error(Mistake::new(node.span, message).hint(hint));
                break;
            }
            self.left -= 1;
            let pattern = signers::image_pattern(text, reader.source.default_registry);
            images.extend(reader.checked(node, pattern).map(|pattern| (pattern, node.span)));
        }
        images
    }
}
