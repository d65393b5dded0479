//! Images and selections that a file lists twice, in whatever registries' tables.

use std::collections::BTreeMap;

use crate::diagnostic::{Mistake, Span};
use crate::image_ref::{ImageRef, SANDBOXES_REGISTRY};
use crate::images_file::listed::{Listed, Wanted};
use crate::images_file::reader::Reader;
use crate::state::TagRule;

/// An image with its entry.
type Entry<'l> = (&'l ImageRef, &'l Listed);

/// Notes images and selections that are listed twice, and names that would be recorded for two
/// platforms.
pub(super) fn check(reader: &mut Reader<'_>, listed: &[Listed]) {
    let mut recorded: BTreeMap<ImageRef, Entry<'_>> = BTreeMap::new();
    let mut selections: Vec<(&ImageRef, &TagRule, Span)> = Vec::new();
    for entry in listed {
        match &entry.wanted {
            Wanted::Image(reference) => check_image(reader, (reference, entry), &mut recorded),
            Wanted::Selection { repository, rule } => selections.push((repository, rule, entry.span)),
        }
    }
    selections.sort();
    for pair in selections.windows(2) {
        let [(repository, rule, first), (next, next_rule, second)] = pair else { continue };
        if (repository, rule) == (next, next_rule) {
            let message = format!("the same selection of {repository} is listed twice");
            reader.error(Mistake::new(*second, message).related(*first, "first listed here"));
        }
    }
}

fn check_image<'l>(
    reader: &mut Reader<'_>,
    (reference, entry): Entry<'l>,
    recorded: &mut BTreeMap<ImageRef, Entry<'l>>,
) {
    for name in reference.recorded_names() {
        let Some((first_reference, first)) = recorded.get(&name).copied() else {
            recorded.insert(name, (reference, entry));
            continue;
        };
        let mistake = if first.platform != entry.platform {
            let (one, other) = (&first.platform, &entry.platform);
            let message = format!("{name} is wanted for two platforms: {one} and {other}");
            let mistake = Mistake::new(entry.span, message);
            if first_reference == reference {
                mistake
            } else {
                mistake.hint(format!("an image of {SANDBOXES_REGISTRY} is recorded under docker.io, too"))
            }
        } else if first_reference == reference {
            Mistake::new(entry.span, format!("{name} is listed twice")).hint("remove one of the two")
        } else {
            continue;
        };
        reader.error(mistake.related(first.span, "first listed here"));
        return;
    }
}
