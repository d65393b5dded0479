//! The last runs on the page, the newest first, each with what it changed.

use jiff::Timestamp;

use super::html::Html;
use crate::state::Action;
use crate::watch::status::{Change, Reason, RunStatus, Status};
use crate::watch::words::{ago, bytes, counted, duration, grouped, short};

/// Changes of one run that are shown at once; of more, they are shown when asked for.
const FEW: usize = 5;

/// Adds the last runs.
pub(super) fn runs(html: &mut Html, status: &Status, now: Timestamp) {
    html.tags("<section class=\"card\" aria-labelledby=\"runs-title\"><div class=\"head\">");
    html.tags("<h2 id=\"runs-title\">Last runs</h2></div>\n");
    if status.runs.is_empty() {
        html.tags("<p class=\"empty\">No run has ended yet.</p>");
    } else {
        html.tags("<ol class=\"runs\">");
        for status in &status.runs {
            run(html, status, now);
        }
        html.tags("</ol>");
    }
    html.tags("</section>\n");
}

fn run(html: &mut Html, run: &RunStatus, now: Timestamp) {
    let (class, sign) = match run.verdict.result {
        "ok" if run.is_quiet() => ("quiet-run", "·"),
        "ok" => ("ok", "✓"),
        _ => ("bad", "✗"),
    };
    html.tags("<li class=\"").tags(class).tags("\"><span class=\"sign\" aria-hidden=\"true\">").tags(sign);
    html.tags("</span><span>");
    html.time(run.ended, ago(run.ended, now));
    html.tags("</span><div>").text(&run.verdict.summary);
    html.tags("<span class=\"sub\">");
    html.text(told(run));
    reasons(html, &run.reasons);
    html.tags("</span>");
    changes(html, run);
    html.tags("</div></li>\n");
}

/// The figures of a run in words.
fn told(run: &RunStatus) -> String {
    let mut parts = Vec::new();
    match run.changes.len() + run.more_changes {
        0 if run.repeats > 0 => parts.push(format!("nothing changed, {} times in a row", run.repeats + 1)),
        0 => parts.push("nothing changed".to_owned()),
        count => parts.push(format!("{} changed", counted(count, "image"))),
    }
    if run.downloaded_bytes > 0 {
        parts.push(format!("{} fetched", bytes(run.downloaded_bytes)));
    }
    parts.push(format!("took {}", duration(run.elapsed)));
    parts.join(" · ")
}

/// Adds why a run was started, where something is known.
pub(super) fn reasons(html: &mut Html, reasons: &[Reason]) {
    let mut between = " · because ";
    for reason in reasons {
        html.tags(between).text(&reason.text);
        between = ", ";
    }
}

fn changes(html: &mut Html, run: &RunStatus) {
    if run.changes.is_empty() {
        return;
    }
    let is_long = run.changes.len() > FEW;
    if is_long {
        html.tags("<details><summary>").text(counted(run.changes.len() + run.more_changes, "change"));
        html.tags("</summary>");
    }
    html.tags("<ul class=\"changes\">");
    run.changes.iter().for_each(|status| change(html, status));
    html.tags("</ul>");
    if run.more_changes > 0 {
        html.tags("<p class=\"quiet\">and ").text(grouped(run.more_changes)).tags(" more</p>");
    }
    html.tags(if is_long { "</details>" } else { "" });
}

fn change(html: &mut Html, change: &Change) {
    let (class, sign) = match change.action {
        Action::Add => ("add", "+"),
        Action::Update => ("update", "~"),
        Action::Repair => ("repair", "!"),
        Action::Remove => ("remove", "−"),
        Action::Keep | Action::Blocked => ("keep", "="),
    };
    html.tags("<li class=\"").tags(class).tags("\"><b aria-hidden=\"true\">").tags(sign).tags("</b>");
    html.breakable(&change.reference).tags(" <span class=\"quiet\">").tags(done(change.action));
    if let (Action::Update, Some(from), Some(to)) = (change.action, &change.from, &change.to) {
        let digests = [(" ", from), (" → ", to)];
        for (before, digest) in digests.into_iter().filter(|_| from != to) {
            html.tags(before).tags("<span class=\"digest\" title=\"").text(digest.text()).tags("\">");
            html.text(short(&digest.text())).tags("</span>");
        }
    }
    for (before, is_meant) in [(" · into ", false), (" · out of ", true)] {
        let mut between = before;
        for (engine, _) in change.engines.iter().filter(|(_, action)| (*action == Action::Remove) == is_meant)
        {
            html.tags(between).text(engine);
            between = ", ";
        }
    }
    html.tags("</span></li>");
}

/// The word for what was done.
fn done(action: Action) -> &'static str {
    match action {
        Action::Add => "added",
        Action::Update => "updated",
        Action::Repair => "repaired",
        Action::Remove => "removed",
        Action::Keep => "kept",
        Action::Blocked => "blocked",
    }
}
