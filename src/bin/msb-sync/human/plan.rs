//! The plan for people: a row an image, and what it comes to.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use msb_sync::image_ref::ImageRef;
use msb_sync::plan::{Plan, PlannedImage, Reason};
use msb_sync::state::{Action, EngineName, Platform, size_of_layers};

use super::trust;
use crate::paint;
use crate::text::{bytes, plural, printable, short, table};

/// The plan, as `plan` prints it.
pub(crate) fn plan(plan: &Plan, file: &Path, platform: &Platform) -> String {
    let name = if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let wanted = plan.images.iter().filter(|image| image.action != Action::Remove).count();
    let mut out = format!("{} · {} · {platform}\n", printable(&name, false), plural(wanted, "image"));
    if !plan.images.is_empty() {
        out.push('\n');
    }
    write_rows(&mut out, plan, platform);
    if !plan.unlisted.is_empty() {
        let names: Vec<String> = plan.unlisted.iter().map(ToString::to_string).collect();
        let _ = write!(out, "\n  not listed any more, kept (--prune removes): {}\n", names.join(", "));
    }
    out.push('\n');
    write_total(&mut out, plan);
    out
}

fn write_rows(out: &mut String, plan: &Plan, platform: &Platform) {
    let rows: Vec<Vec<String>> = plan.images.iter().map(|image| row(image, plan, platform)).collect();
    let leaving = leaving(plan);
    let images = plan.images.iter().map(|image| (image.action, Some(image)));
    let images = images.chain(leaving.iter().map(|_| (Action::Remove, None)));
    let rows: Vec<Vec<String>> = rows.into_iter().chain(leaving.iter().cloned()).collect();
    for (line, (action, image)) in table(&rows, "  ").lines().zip(images) {
        let line = printable(line, false);
        out.push_str(&match action {
            Action::Add => paint::green(&line),
            Action::Update | Action::Repair => paint::yellow(&line),
            Action::Remove | Action::Blocked => paint::red(&line),
            Action::Keep => line,
        });
        out.push('\n');
        if let Some(refusal) =
            trust::refusal(image.and_then(|image| image.part_error()).map(|error| &**error))
        {
            out.push_str(&trust::details(refusal, "      "));
        }
    }
}

/// The rows of images that stay here and are taken out of engines, or are in engines alone.
fn leaving(plan: &Plan) -> Vec<Vec<String>> {
    let row = |reference: &ImageRef, engines: &BTreeSet<EngineName>, waits: bool| {
        let engines: Vec<&str> = engines.iter().map(|engine| engine.as_str()).collect();
        let waits = if waits { " · waits until nothing is blocked" } else { "" };
        vec![format!("- {reference}"), "remove".to_owned(), format!("from {}{waits}", engines.join(", "))]
    };
    let staying = plan.images.iter().filter(|image| image.action != Action::Remove);
    let staying = staying.filter(|image| !image.leaves.is_empty());
    let mut rows: Vec<Vec<String>> =
        staying.map(|image| row(&image.reference, &image.leaves, image.waits)).collect();
    rows.extend(plan.only_in_engines().into_iter().map(|(image, engines)| row(image, &engines, false)));
    rows
}

fn write_total(out: &mut String, plan: &Plan) {
    let here = bytes(plan.present_bytes());
    let mut counts: Vec<String> = [
        (Action::Add, "to add"),
        (Action::Update, "to update"),
        (Action::Repair, "to repair"),
        (Action::Remove, "to remove"),
        (Action::Blocked, "blocked"),
    ]
    .into_iter()
    .filter(|(action, _)| plan.count(*action) > 0)
    .map(|(action, what)| {
        let waits = if action == Action::Remove && plan.waiting().next().is_some() { " (waits)" } else { "" };
        format!("{} {what}{waits}", plan.count(action))
    })
    .collect();
    let leaving = leaving(plan).len();
    if leaving > 0 {
        counts.push(format!("{leaving} to remove from engines"));
    }
    let _ = if counts.is_empty() {
        writeln!(out, "In sync: nothing to do. {here} here.")
    } else {
        let (head, counts, fetch) = (paint::bold("Plan"), counts.join(", "), bytes(plan.download_bytes()));
        writeln!(out, "{head}: {counts}. {fetch} to fetch, {here} already here.")
    };
}

fn row(image: &PlannedImage, plan: &Plan, platform: &Platform) -> Vec<String> {
    let sign = match image.action {
        Action::Add => '+',
        Action::Update => '~',
        Action::Repair => '!',
        Action::Keep => '=',
        Action::Remove => '-',
        Action::Blocked => 'x',
    };
    let facts = facts(image, plan, platform).join(" · ");
    vec![format!("{sign} {}", image.reference), image.action.as_str().to_owned(), facts]
}

/// The last column of an image's row.
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
        Action::Add | Action::Update => facts.push(match new {
            0 => format!("{}, all here", plural(total, "layer")),
            _ if new == total => format!("{}, {}", plural(total, "layer"), bytes(image.download_bytes)),
            _ => format!("{new} of {} new, {}", plural(total, "layer"), bytes(image.download_bytes)),
        }),
        Action::Remove if image.waits => facts.push("waits until nothing is blocked".to_owned()),
        Action::Repair if image.download_bytes > 0 => facts.push(bytes(image.download_bytes)),
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
    facts.extend(engines(image));
    facts.extend(trust::signatures(&image.signatures()).filter(|_| image.action != Action::Blocked));
    if let (Action::Update, Some(old), Some(new)) = (image.action, &image.previous, &image.digest)
        && old != new
    {
        facts.push(format!("{} → {}", short(old.as_str()), short(new.as_str())));
    }
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
