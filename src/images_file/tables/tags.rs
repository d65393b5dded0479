//! `tags = { … }` of an entry: the rule of a moving selection of tags.

use std::num::NonZeroUsize;

use toml::de::DeValue;

use crate::diagnostic::Mistake;
use crate::images_file::keys;
use crate::images_file::reader::{Node, Reader};
use crate::images_file::values::{Fault, ranges};
use crate::state::TagRule;

/// Reads the rule.
pub(super) fn rule(reader: &mut Reader<'_>, node: Node<'_>) -> Option<TagRule> {
    let table = reader.table(node, &keys::TAGS)?;
    if table.has_no_key() {
        let hint = "say which tags: `semver`, `match` or `newest`";
        reader.error(Mistake::new(node.span, "an empty selection of tags").hint(hint));
    }
    let semver = table.get("semver").map(|node| alternatives(reader, node)).unwrap_or_default();
    let matching = table.get("match").and_then(|node| {
        let text = reader.string(node)?;
        let whole = reader.patterns.whole(text);
        reader.checked(node, whole)
    });
    let newest = reader.number(table, "newest", 1, u64::from(u32::MAX));
    let newest = newest.and_then(|newest| NonZeroUsize::new(usize::try_from(newest).ok()?));
    Some(TagRule { semver, matching, newest })
}

/// Reads a range of versions, or a list of them, as alternatives.
fn alternatives(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<String> {
    let DeValue::Array(array) = node.value else {
        if node.value.as_str().is_none() {
            reader.wrong_type(node, "a string or an array of strings");
            return Vec::new();
        }
        return range(reader, node);
    };
    if array.is_empty() {
        let hint = "leave it out to take any tag";
        reader.error(Mistake::new(node.span, "`semver` lists no range").hint(hint));
    }
    let nodes: Vec<Node<'_>> = reader.array(node).collect();
    nodes.into_iter().flat_map(|node| range(reader, node)).collect()
}

fn range(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<String> {
    let Some(text) = reader.string(node) else { return Vec::new() };
    let ranges = ranges::alternatives(text).map_err(|reason| {
        let message = format!("is not a range of versions: {reason}");
        Fault::with_hint(message, "a range is written as in \">=7, <8\" or \"~1.25\"")
    });
    reader.checked(node, ranges).unwrap_or_default()
}
