//! What `plan`, `lock` and `apply` print for people.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use msb_sync::plan::{Plan, PlannedImage};
use msb_sync::state::{Action, Platform, size_of_layers};
use msb_sync::sync::{Applied, Relocked};

use crate::text::{Style, bytes, duration, plural, printable, removals_wait, shell_word, short, table};

/// The plan, as `plan` prints it.
pub(crate) fn plan(plan: &Plan, file: &Path, platform: &Platform, style: Style) -> String {
    let name = if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let wanted = plan.images.iter().filter(|image| image.action != Action::Remove).count();
    let mut out = format!("{} · {} · {platform}\n", printable(&name, false), plural(wanted, "image"));
    if !plan.images.is_empty() {
        out.push('\n');
    }
    let rows: Vec<Vec<String>> = plan.images.iter().map(|image| plan_row(image, plan, platform)).collect();
    let text = table(&rows, "  ");
    for (line, image) in text.lines().zip(&plan.images) {
        let line = printable(line, false);
        out.push_str(&match image.action {
            Action::Add => style.green(&line),
            Action::Update | Action::Repair => style.yellow(&line),
            Action::Remove | Action::Blocked => style.red(&line),
            Action::Keep => line,
        });
        out.push('\n');
    }
    if !plan.unlisted.is_empty() {
        let names: Vec<String> = plan.unlisted.iter().map(ToString::to_string).collect();
        let _ = write!(out, "\n  not listed any more, kept (--prune removes): {}\n", names.join(", "));
    }
    let counts: Vec<String> = [
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
    out.push('\n');
    if counts.is_empty() {
        let _ = writeln!(out, "In sync: nothing to do. {} here.", bytes(plan.present_bytes()));
    } else {
        let (fetch, here) = (bytes(plan.download_bytes()), bytes(plan.present_bytes()));
        let _ = writeln!(
            out,
            "{}: {}. {fetch} to fetch, {here} already here.",
            style.bold("Plan"),
            counts.join(", ")
        );
    }
    out
}

fn plan_row(image: &PlannedImage, plan: &Plan, platform: &Platform) -> Vec<String> {
    let sign = match image.action {
        Action::Add => '+',
        Action::Update => '~',
        Action::Repair => '!',
        Action::Keep => '=',
        Action::Remove => '-',
        Action::Blocked => 'x',
    };
    let total = image.layers.len();
    let new = total - image.layers_present;
    let mut facts = Vec::new();
    if let Some(other) = image.platform.as_ref().filter(|other| *other != platform) {
        facts.push(other.to_string());
    }
    if !image.reason.is_empty() {
        facts.push(image.reason.clone());
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
        }
        _ => {}
    }
    if let (Action::Update, Some(old), Some(new)) = (image.action, &image.previous, &image.digest)
        && old != new
    {
        facts.push(format!("{} → {}", short(old.as_str()), short(new.as_str())));
    }
    vec![format!("{sign} {}", image.reference), image.action.as_str().to_owned(), facts.join(" · ")]
}

/// What became of the lockfile, as `lock` prints it: what changes, then one line.
pub(crate) fn relocked(relocked: &Relocked, check: bool, style: Style) -> String {
    let mut out = String::new();
    let changed: Vec<_> = relocked.images.iter().filter(|change| change.action != Action::Keep).collect();
    let rows: Vec<Vec<String>> = changed
        .iter()
        .map(|change| {
            let sign = if change.previous.is_none() {
                '+'
            } else if change.digest.is_none() {
                '-'
            } else {
                '~'
            };
            let digests = [&change.previous, &change.digest].into_iter().flatten();
            let mut digests: Vec<String> = digests.map(|digest| short(digest.as_str())).collect();
            digests.dedup();
            let name = format!("{sign} {}", change.reference);
            vec![name, change.platform.to_string(), digests.join(" → ")]
        })
        .collect();
    for (line, change) in table(&rows, "  ").lines().zip(&changed) {
        out.push_str(&match change.action {
            Action::Add => style.green(line),
            Action::Remove => style.red(line),
            _ => style.yellow(line),
        });
        out.push('\n');
    }
    if !changed.is_empty() {
        out.push('\n');
    }
    let name = printable(&relocked.name, false);
    let count = |action: Action| relocked.images.iter().filter(|change| change.action == action).count();
    let parts: Vec<String> = [
        (Action::Add, "added"),
        (Action::Update, "updated"),
        (Action::Remove, "removed"),
        (Action::Keep, "unchanged"),
    ]
    .into_iter()
    .filter(|(action, _)| count(*action) > 0)
    .map(|(action, what)| format!("{} {what}", count(action)))
    .collect();
    let parts = if parts.is_empty() { "no images".to_owned() } else { parts.join(", ") };
    let head = match (relocked.changed, check) {
        _ if !relocked.failed.is_empty() => {
            let failed = plural(relocked.failed.len(), "image");
            let _ = writeln!(out, "{}: {name} stays as it was, {failed} failed.", style.red("Not done"));
            return out;
        }
        (false, _) => {
            let images = plural(relocked.images.len(), "image");
            let _ = writeln!(out, "{}: {name}, {images}.", style.green("Up to date"));
            return out;
        }
        (true, true) => style.yellow("Would change"),
        (true, false) => style.green("Wrote"),
    };
    let _ = writeln!(out, "{head} {name}: {parts}.");
    out
}

/// What the summary may suggest next.
pub(crate) struct Next<'a> {
    /// `--home`, if it was given.
    pub(crate) home: Option<&'a Path>,
}

/// What happened, as `apply` and `pull` print it at the end.
pub(crate) fn summary(applied: &Applied, elapsed: Duration, next: &Next<'_>, style: Style) -> String {
    let outcome = &applied.outcome;
    let time = duration(elapsed);
    let changes: Vec<String> = [
        (Action::Add, "added"),
        (Action::Update, "updated"),
        (Action::Repair, "repaired"),
        (Action::Remove, "removed"),
    ]
    .into_iter()
    .filter(|(action, _)| outcome.done(*action) > 0)
    .map(|(action, what)| format!("{} {what}", outcome.done(action)))
    .collect();
    let unchanged = applied.unchanged();
    let mut out = String::new();
    if outcome.images.is_empty() && outcome.failure.is_none() {
        out.push_str("Nothing to do: no images are listed.\n");
    } else if changes.is_empty() && outcome.failed() == 0 && outcome.failure.is_none() {
        let _ = writeln!(
            out,
            "{}: {}, nothing to do ({time}).",
            style.green("In sync"),
            plural(unchanged, "image")
        );
    } else {
        let mut parts = changes.clone();
        if unchanged > 0 {
            parts.push(format!("{unchanged} unchanged"));
        }
        if outcome.failed() > 0 {
            parts.push(style.red(&format!("{} failed", outcome.failed())));
        }
        if !outcome.waiting.is_empty() {
            parts.push(removals_wait(outcome.waiting.len()));
        }
        if outcome.failure.is_some() {
            parts.push(style.red("unneeded layers not removed"));
        }
        let done = outcome.failed() == 0 && outcome.failure.is_none();
        let head = if done { style.green("Done") } else { style.red("Not done") };
        let _ = writeln!(out, "{head}: {} in {time}.", parts.join(", "));
    }
    if outcome.layers > 0 {
        let shared = applied.plan.present_bytes();
        let mut parts = vec![
            format!("{} fetched in {}", bytes(outcome.downloaded_bytes), plural(outcome.layers, "layer")),
            format!("{} extracted", bytes(outcome.extracted_bytes)),
        ];
        if shared > 0 {
            parts.push(format!("{} were here already", bytes(shared)));
        }
        let _ = writeln!(out, "{}.", parts.join(", "));
    }
    if outcome.layers_removed > 0 {
        let _ = writeln!(out, "{} removed.", plural(outcome.layers_removed, "layer"));
    }
    if !outcome.waiting.is_empty() {
        let names: Vec<String> = outcome.waiting.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            out,
            "Not listed any more, kept until every listed image is here: {}.",
            names.join(", ")
        );
    }
    if !applied.plan.unlisted.is_empty() {
        let names: Vec<String> = applied.plan.unlisted.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "Not listed any more, kept (--prune removes): {}.", names.join(", "));
    }
    if outcome.done(Action::Add) > 0 {
        let home = next.home.map(|home| format!(" --home {}", shell_word(home))).unwrap_or_default();
        let first =
            outcome.images.iter().find(|(_, action, error)| *action == Action::Add && error.is_none());
        if let Some((reference, ..)) = first {
            let _ = writeln!(out, "Look at them: msb-sync{home} list, msb-sync{home} inspect {reference}");
        }
        let _ = writeln!(out, "Their files:  {}", printable(&applied.layers.display().to_string(), false));
    }
    out
}
