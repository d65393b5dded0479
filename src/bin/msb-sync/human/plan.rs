//! The plan for people: a row a change, one for all that is kept, and what it comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use msb_sync::image_ref::ImageRef;
use msb_sync::plan::{Plan, PlannedImage, Reason, Wait};
use msb_sync::state::{Action, EngineName, Platform, size_of_layers};

use super::failures::{self, Failure};
use super::{View, trust};
use crate::paint;
use crate::table::table;
use crate::text::{bytes, plural, short, stay_for_others};

/// The beginning of the lines below a row.
const BELOW: &str = "      ";

/// The plan, as `plan` prints it.
pub(crate) fn plan(plan: &Plan, file: &Path, platform: &Platform, view: View) -> String {
    let name = if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let wanted = plan.images.iter().filter(|image| image.action != Action::Remove).count();
    let head = format!("{name} · {} · {platform}", plural(wanted, "image"));
    let mut out = view.lines(&head, "", "");
    if !plan.images.is_empty() {
        out.push('\n');
    }
    write_rows(&mut out, plan, platform, view);
    for (tag, waiting) in &plan.new_tags {
        out.push('\n');
        out.push_str(&view.lines(&format!("new tag {tag}: {waiting}"), "  ", "    "));
    }
    if !plan.unlisted.is_empty() {
        let names = failures::names(plan.unlisted.iter(), view);
        let text = format!("not listed any more, kept (--prune removes): {names}");
        out.push('\n');
        out.push_str(&view.lines(&text, "  ", "    "));
    }
    out.push('\n');
    write_total(&mut out, plan, view);
    out.extend(spared(plan).map(|text| view.lines(&text, "", "")));
    out
}

/// The sentence about earlier digests that stay for `rollback`, if there are some.
pub(super) fn spared(plan: &Plan) -> Option<String> {
    let digests = plural(plan.spared.len(), "earlier digest");
    (!plan.spared.is_empty()).then(|| format!("{digests} spared ({}).", bytes(plan.spared_bytes)))
}

/// A row of the plan, and the lines below it.
struct Row {
    action: Action,
    cells: Vec<String>,
    below: String,
}

fn write_rows(out: &mut String, plan: &Plan, platform: &Platform, view: View) {
    let rows = rows(plan, platform, view);
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells.clone()).collect();
    for (text, row) in table(&cells, "  ", view.room).into_iter().zip(&rows) {
        out.push_str(&match row.action {
            Action::Add => paint::green(&text),
            Action::Update | Action::Repair => paint::yellow(&text),
            Action::Remove | Action::Blocked => paint::red(&text),
            Action::Keep => text,
        });
        out.push('\n');
        out.push_str(&row.below);
    }
}

/// The rows: one an image that changes, one for all that is blocked in one registry for one reason,
/// one for all that is kept and has nothing more to say; removals last.
fn rows(plan: &Plan, platform: &Platform, view: View) -> Vec<Row> {
    let mut alike: BTreeMap<Vec<String>, Vec<&PlannedImage>> = BTreeMap::new();
    for image in &plan.images {
        if let Some(key) = likeness(image, plan, platform, view) {
            alike.entry(key).or_default().push(image);
        }
    }
    let (mut rows, mut kept, mut removals) = (Vec::new(), Vec::new(), Vec::new());
    for image in &plan.images {
        let key = likeness(image, plan, platform, view);
        match key.and_then(|key| alike.get(&key)).filter(|alike| alike.len() > 1) {
            // The first one stands for all.
            Some(alike) if alike[0].reference != image.reference => {}
            Some(alike) if image.action == Action::Keep => kept.push(kept_row(alike, plan, platform)),
            Some(alike) => rows.push(blocked_row(alike, plan, platform, view)),
            None if image.action == Action::Remove => removals.push(row(image, plan, platform, view)),
            None => rows.push(row(image, plan, platform, view)),
        }
    }
    rows.extend(kept);
    rows.extend(removals);
    let leaving = leaving(plan).into_iter();
    rows.extend(leaving.map(|cells| Row { action: Action::Remove, cells, below: String::new() }));
    rows
}

/// Images with the same one may share a row.
fn likeness(image: &PlannedImage, plan: &Plan, platform: &Platform, view: View) -> Option<Vec<String>> {
    let mut key = vec![image.action.as_str().to_owned()];
    match (image.action, image.part_error()) {
        (Action::Blocked, Some(error)) => key.extend(failures::key(&image.reference, error)),
        (Action::Keep, None) if !view.verbose && image.leaves.is_empty() && image.waiting.is_none() => {}
        _ => return None,
    }
    key.extend(facts(image, plan, platform));
    if image.action == Action::Keep {
        // The rules that chose them make no two rows of what is kept.
        let remark = image.chosen_by.as_ref().and_then(|_| image.remark());
        key.retain(|fact| Some(fact) != remark.as_ref() || !image.reason.is_evident());
    }
    Some(key)
}

fn kept_row(images: &[&PlannedImage], plan: &Plan, platform: &Platform) -> Row {
    let mut facts = facts(images[0], plan, platform);
    let remark = images[0].remark();
    if images.iter().any(|image| image.remark() != remark) {
        facts.retain(|fact| Some(fact) != remark.as_ref());
    }
    let signers: BTreeSet<String> =
        images.iter().filter_map(|image| trust::signatures(&image.signatures())).collect();
    facts.extend(match signers.len() {
        0 => None,
        1..=3 => Some(signers.into_iter().collect::<Vec<_>>().join(", ")),
        many => Some(format!("signed by {many} signers (-v names them)")),
    });
    let images = plural(images.len(), "image");
    let cells = vec![format!("= {images}"), Action::Keep.as_str().to_owned(), facts.join(" · ")];
    Row { action: Action::Keep, cells, below: String::new() }
}

fn blocked_row(images: &[&PlannedImage], plan: &Plan, platform: &Platform, view: View) -> Row {
    let first = row(images[0], plan, platform, view);
    let Some(error) = images[0].part_error() else { return first };
    let failure = Failure { images: images.iter().map(|image| &image.reference).collect(), error };
    let names = failure.names(view).map(|names| view.lines(&names, BELOW, BELOW)).unwrap_or_default();
    let mut cells = first.cells;
    cells[0] = format!("x {}", failure.subject());
    Row { action: Action::Blocked, cells, below: names + &first.below }
}

/// The rows of images that stay here and are taken out of engines, or are in engines alone.
fn leaving(plan: &Plan) -> Vec<Vec<String>> {
    let row = |reference: &ImageRef, engines: &BTreeSet<EngineName>, waits: Option<&Wait>| {
        let engines: Vec<&str> = engines.iter().map(|engine| engine.as_str()).collect();
        let waits = waits.map(|why| format!(" · waits {why}")).unwrap_or_default();
        vec![format!("- {reference}"), "remove".to_owned(), format!("from {}{waits}", engines.join(", "))]
    };
    let staying = plan.images.iter().filter(|image| image.action != Action::Remove);
    let staying = staying.filter(|image| !image.leaves.is_empty());
    let mut rows: Vec<Vec<String>> =
        staying.map(|image| row(&image.reference, &image.leaves, image.waits.as_ref())).collect();
    rows.extend(plan.only_in_engines().into_iter().map(|(image, engines)| row(image, &engines, None)));
    rows
}

fn write_total(out: &mut String, plan: &Plan, view: View) {
    let here = bytes(plan.present_bytes());
    let stay = plan.images.iter().filter(|image| image.reason.keeps_image() && image.waits.is_none()).count();
    let waits = plan.images.iter().any(|image| image.waits.is_some() && image.changes());
    let count = |action| match action {
        Action::Remove => {
            let changes = |image: &&PlannedImage| image.action == action && image.changes();
            plan.images.iter().filter(changes).count() - stay
        }
        _ => plan.count(action),
    };
    let mut counts: Vec<String> = [
        (Action::Add, "to add"),
        (Action::Update, "to update"),
        (Action::Repair, "to repair"),
        (Action::Remove, if waits { "to remove (waits)" } else { "to remove" }),
        (Action::Blocked, "blocked"),
    ]
    .into_iter()
    .map(|(action, what)| (count(action), what))
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .chain(stay_for_others(stay))
    .collect();
    let leaving = leaving(plan).len();
    if leaving > 0 {
        counts.push(format!("{leaving} to remove from engines"));
    }
    if counts.is_empty() {
        let rest = match plan.layers_to_remove.len() {
            0 => String::new(),
            layers => format!(" but to remove {} that nothing needs", plural(layers, "layer")),
        };
        out.push_str(&view.lines(&format!("In sync: nothing to do{rest}. {here} here."), "", ""));
    } else {
        let (counts, fetch) = (counts.join(", "), bytes(plan.download_bytes()));
        let text = view.lines(&format!("Plan: {counts}. {fetch} to fetch, {here} already here."), "", "");
        out.push_str(&text.replacen("Plan", &paint::bold("Plan"), 1));
    }
}

fn row(image: &PlannedImage, plan: &Plan, platform: &Platform, view: View) -> Row {
    let sign = match image.action {
        Action::Add => '+',
        Action::Update => '~',
        Action::Repair => '!',
        Action::Keep => '=',
        Action::Remove => '-',
        Action::Blocked => 'x',
    };
    let mut facts = facts(image, plan, platform);
    facts.extend(trust::signatures(&image.signatures()).filter(|_| image.action != Action::Blocked));
    if let (Action::Update, Some(old), Some(new)) = (image.action, &image.previous, &image.digest)
        && old != new
    {
        facts.push(format!("{} → {}", short(&old.text()), short(&new.text())));
    }
    let refusal = trust::refusal(image.part_error().map(|error| &**error));
    let below = refusal.map(|refusal| trust::details(refusal, BELOW, view)).unwrap_or_default();
    let cells =
        vec![format!("{sign} {}", image.reference), image.action.as_str().to_owned(), facts.join(" · ")];
    Row { action: image.action, cells, below }
}

/// The last column of an image's row, but for who signed it and the digests of an update.
fn facts(image: &PlannedImage, plan: &Plan, platform: &Platform) -> Vec<String> {
    let total = image.layers.len();
    let new = total - image.layers_state().present;
    let mut facts = Vec::new();
    if let Some(other) = image.platform.as_ref().filter(|other| *other != platform) {
        facts.push(other.to_string());
    }
    match trust::refusal(image.part_error().map(|error| &**error)) {
        Some(_) => facts.extend(image.signatures().rule.map(|rule| format!("refused by {rule}"))),
        None => facts.extend(image.remark()),
    }
    match image.action {
        Action::Add | Action::Update if image.staged && new == 0 => facts.push("staged".to_owned()),
        Action::Add | Action::Update => facts.push(match new {
            0 if image.download_bytes == 0 => format!("{}, all here", plural(total, "layer")),
            // Extracted, and an engine wants the blobs.
            0 => format!("{}, {} of blobs", plural(total, "layer"), bytes(image.download_bytes)),
            _ if new == total => format!("{}, {}", plural(total, "layer"), bytes(image.download_bytes)),
            _ => format!("{new} of {} new, {}", plural(total, "layer"), bytes(image.download_bytes)),
        }),
        Action::Repair if image.download_bytes > 0 => facts.push(bytes(image.download_bytes)),
        Action::Remove if image.waits.is_some() => {}
        Action::Remove => {
            let freed: Vec<_> = image
                .layers
                .iter()
                .filter(|layer| plan.layers_to_remove.contains(&layer.digest))
                .cloned()
                .collect();
            facts.push(format!("frees the layers of {}", bytes(size_of_layers(&freed))));
            let engines: Vec<&str> = image.leaves.iter().map(|engine| engine.as_str()).collect();
            if !engines.is_empty() {
                facts.push(format!("from {}", engines.join(", ")));
            }
        }
        _ => {}
    }
    if image.action == Action::Remove {
        facts.extend(image.waits.as_ref().map(|why| format!("waits {why}")));
    }
    facts.extend(engines(image));
    facts
}

/// The engines that get the image, and those that cannot, but for what the reason says already.
fn engines(image: &PlannedImage) -> Vec<String> {
    let mut loads: Vec<&str> = image.loads().map(|state| state.engine.name.as_str()).collect();
    if matches!(image.reason, Reason::Engine { .. }) && loads.len() == 1 {
        loads.clear();
    }
    let mut facts = Vec::new();
    if !loads.is_empty() {
        facts.push(format!("into {}", loads.join(", ")));
    }
    if image.action != Action::Blocked {
        let blocked = image.engines().filter(|(_, part)| part.action() == Action::Blocked);
        facts.extend(blocked.map(|(state, part)| format!("{} blocked: {}", state.engine.name, part.reason)));
    }
    facts
}
