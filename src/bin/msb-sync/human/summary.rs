//! The end of a run for people: what changed, what was fetched, what stays to do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::plan::Reason;
use msb_sync::state::Action;
use msb_sync::sync::{Applied, Outcome};

use super::{View, failures, plan};
use crate::paint;
use crate::text::{bytes, duration, home_option, plural, printable, removals_wait, stay_for_others};

/// The summary that `apply` and `pull` print at the end. `home` is the value of `--home`, for the
/// commands that it suggests.
///
/// On a terminal it ends with commands to go on with, which a log has no use for.
pub(crate) fn summary(applied: &Applied, elapsed: Duration, home: Option<&Path>, view: View) -> String {
    let outcome = &applied.outcome;
    let mut out = headline(applied, &duration(elapsed));
    write_layers(&mut out, applied);
    let mut kept: BTreeMap<String, Vec<&ImageRef>> = BTreeMap::new();
    for (image, why) in &outcome.waiting {
        kept.entry(why.to_string()).or_default().push(image);
    }
    if !applied.plan.unlisted.is_empty() {
        kept.insert("(--prune removes)".to_owned(), applied.plan.unlisted.iter().collect());
    }
    for (why, images) in kept {
        let names = failures::names(images.into_iter(), view);
        out.push_str(&view.lines(&format!("Not listed any more, kept {why}: {names}."), "", ""));
    }
    if outcome.done(Action::Add) > 0 && view.room.is_some() {
        write_next(&mut out, applied, home);
    }
    out
}

/// The first line: what became of the images.
fn headline(applied: &Applied, time: &str) -> String {
    let outcome = &applied.outcome;
    let changes = changes(outcome);
    let failed_hooks = applied.failed_hooks();
    let failed = outcome.failed() > 0 || outcome.failure.is_some() || failed_hooks > 0;
    let is_any_done = !changes.is_empty() || outcome.engine_removals > 0 || applied.unchanged() > 0;
    if outcome.images.is_empty() && outcome.failure.is_none() && applied.hooks.is_empty() {
        return "Nothing to do: no images are listed.\n".to_owned();
    }
    if changes.is_empty() && !failed && outcome.engine_removals + outcome.layers_removed == 0 {
        let count = |is_so: &dyn Fn(&Reason) -> bool| {
            applied.plan.images.iter().filter(|image| is_so(&image.reason)).count()
        };
        let mut states = String::new();
        for (count, state) in [
            (count(&|reason| matches!(reason, Reason::Staged)), "staged before"),
            (count(&|reason| matches!(reason, Reason::Left(_))), "left to the next apply"),
        ] {
            if count > 0 {
                let _ = write!(states, ", {count} of them {state}");
            }
        }
        let images = plural(applied.unchanged(), "image");
        let head = if applied.plan.stages { "Ready" } else { "In sync" };
        return format!("{}: {images}{states}, nothing to do ({time}).\n", paint::green(head));
    }
    let mut parts = changes;
    if applied.unchanged() > 0 {
        parts.push(format!("{} unchanged", applied.unchanged()));
    }
    let stopped = outcome.stopped_images();
    if outcome.failed() > stopped {
        parts.push(paint::red(&format!("{} failed", outcome.failed() - stopped)));
    }
    if stopped > 0 {
        parts.push(paint::yellow(&format!("{stopped} stopped")));
    }
    if !outcome.waiting.is_empty() {
        parts.push(removals_wait(outcome.waiting.len()));
    }
    if failed_hooks > 0 {
        parts.push(paint::red(&format!("{} failed", plural(failed_hooks, "hook"))));
    }
    if let Some(failure) = &outcome.failure {
        let left = match &**failure {
            Error::Engine(error) => format!("not all removed from {}", error.engine()),
            _ => "one step failed".to_owned(),
        };
        parts.push(paint::red(&left));
    }
    let head = match (failed, is_any_done) {
        (false, _) => paint::green("Done"),
        (true, true) => paint::yellow("Partly done"),
        (true, false) => paint::red("Not done"),
    };
    format!("{head}: {} in {time}.\n", parts.join(", "))
}

fn changes(outcome: &Outcome) -> Vec<String> {
    [
        (Action::Add, "added"),
        (Action::Update, "updated"),
        (Action::Repair, "repaired"),
        (Action::Remove, "removed"),
    ]
    .into_iter()
    .filter(|(action, _)| outcome.done(*action) > 0)
    .map(|(action, what)| format!("{} {what}", outcome.done(action)))
    .chain((!outcome.staged.is_empty()).then(|| format!("{} staged", outcome.staged.len())))
    .chain(stay_for_others(outcome.kept.len()))
    .collect()
}

/// The layers that were fetched, and those that were removed.
fn write_layers(out: &mut String, applied: &Applied) {
    let outcome = &applied.outcome;
    if outcome.layers > 0 {
        let mut parts = vec![
            format!("{} fetched in {}", bytes(outcome.downloaded_bytes), plural(outcome.layers, "layer")),
            format!("{} extracted", bytes(outcome.extracted_bytes)),
        ];
        let shared = applied.plan.present_bytes();
        if shared > 0 {
            parts.push(format!("{} were here already", bytes(shared)));
        }
        let _ = writeln!(out, "{}.", parts.join(", "));
    }
    if outcome.layers == 0 && outcome.downloaded_bytes > 0 {
        let _ = writeln!(out, "{} fetched.", bytes(outcome.downloaded_bytes));
    }
    if outcome.loads > 0 {
        let _ = writeln!(out, "{} loaded into engines.", plural(outcome.loads, "reference"));
    }
    if outcome.engine_removals > 0 {
        let _ = writeln!(out, "{} removed from engines.", plural(outcome.engine_removals, "reference"));
    }
    if outcome.layers_removed > 0 {
        let _ = writeln!(out, "{} removed.", plural(outcome.layers_removed, "layer"));
    }
    out.extend(plan::spared(&applied.plan).map(|text| text + "\n"));
}

/// Commands to look at what came, and where it lies.
fn write_next(out: &mut String, applied: &Applied, home: Option<&Path>) {
    let home = home_option(home);
    let mut images = applied.outcome.images.iter();
    let first = images.find(|(_, action, error)| *action == Action::Add && error.is_none());
    if let Some((reference, ..)) = first {
        let _ = writeln!(out, "Look at them: msb-sync{home} list, msb-sync{home} inspect {reference}");
    }
    // Where no layer is extracted there is nothing to look at.
    if !applied.layers.read_dir().is_ok_and(|mut layers| layers.next().is_some()) {
        return;
    }
    let _ = writeln!(out, "Their files:  {}", printable(&applied.layers.display().to_string(), false));
}
