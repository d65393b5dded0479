//! The output for people: plan, list, inspect, summary as text; progress as bars on a terminal, plain lines off it.

mod upkeep;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use msb_sync::digest::BlobDigest;
use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::plan::{Plan, PlannedImage};
use msb_sync::progress::{Event, Reporter};
use msb_sync::state::{Action, LayerState, Platform, size_of_layers};
use msb_sync::store::layer_path;
use msb_sync::sync::{Applied, InspectedImage, ListedImage, Relocked};

pub(crate) use upkeep::{pruned, verified};

use crate::text::{Style, bytes, duration, plural, printable, shell_word, short, table};

/// Bars redraw at most so often a second.
const REDRAWS: u8 = 12;
/// Layers shown at once; more would scroll the screen.
const MAX_BARS: usize = 12;

/// Prints to stderr what happens.
pub(crate) struct Human {
    quiet: bool,
    verbose: u8,
    json: bool,
    style: Style,
    bars: Option<Bars>,
}

struct Bars {
    multi: MultiProgress,
    state: Mutex<BarState>,
}

#[derive(Default)]
struct BarState {
    total: Option<ProgressBar>,
    spinner: Option<ProgressBar>,
    layers: HashMap<BlobDigest, LayerBar>,
    /// The line at the bottom while nothing goes on.
    status: Option<ProgressBar>,
}

struct LayerBar {
    bar: Option<ProgressBar>,
    received: u64,
    extracted: u64,
    size: u64,
}

impl Human {
    pub(crate) fn new(quiet: bool, verbose: u8, json: bool, bars: bool, style: Style) -> Self {
        let bars = bars.then(|| Bars {
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS)),
            state: Mutex::default(),
        });
        Self { quiet, verbose, json, style, bars }
    }

    /// Runs `write` while no bar is on the screen.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some(bars) => bars.multi.suspend(write),
            None => write(),
        }
    }

    /// Prints text to stderr, control characters escaped.
    pub(crate) fn lines(&self, text: &str) {
        let text = printable(text.trim_end_matches('\n'), true);
        self.suspend(|| {
            // Nobody left to read errors is no reason to fail.
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    /// Prints an error, its causes and the next step.
    pub(crate) fn error(&self, message: &str, causes: &[String], hint: Option<&str>) {
        let mut text = format!("{}: {}", self.style.red("error"), printable(message, false));
        for cause in causes {
            let _ = write!(text, "\n  caused by: {}", printable(cause, false));
        }
        if let Some(hint) = hint {
            let _ = write!(text, "\n{}: {}", self.style.bold("hint"), printable(hint, false));
        }
        self.raw(&text);
    }

    /// Prints why an image failed.
    pub(crate) fn image_error(&self, reference: &ImageRef, error: Option<&Error>) {
        let Some(error) = error else { return };
        let mut chain = error.chain();
        let message = format!("{reference}: {}", chain.remove(0));
        self.error(&message, &chain, error.hint().as_deref());
    }

    /// Whether to say more.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Whether bars and a status line are shown.
    pub(crate) fn is_live(&self) -> bool {
        self.bars.is_some()
    }

    /// Shows `text` at the bottom of the screen, until [`Human::clear`].
    pub(crate) fn status(&self, text: &str) {
        let Some(bars) = &self.bars else { return };
        self.clear();
        let bar = bars.multi.add(ProgressBar::new_spinner());
        bar.set_style(style("{wide_msg:.dim}"));
        // It is drawn when it is told, and never by itself.
        bar.set_message(printable(text, false));
        bar.tick();
        bars.lock().status = Some(bar);
    }

    fn warning(&self, message: &str) {
        self.raw(&format!("{}: {}", self.style.yellow("warning"), printable(message, true)));
    }

    /// Prints a line that has been made printable.
    fn raw(&self, text: &str) {
        self.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    /// Prints something that nobody needs to know.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.raw(&printable(text, false));
        }
    }

    /// Removes the bars: the result comes next.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.bars {
            let state = std::mem::take(&mut *bars.lock());
            if let Some(status) = state.status {
                status.finish_and_clear();
                bars.multi.remove(&status);
            }
            let _ = bars.multi.clear();
        }
    }

    /// Says that a signal ended the run.
    pub(crate) fn stopped(&self) {
        self.error(
            "stopped by a signal; everything finished so far stays, the next run goes on from there",
            &[],
            None,
        );
    }

    /// Leaves the terminal as it was.
    pub(crate) fn end(&self) {
        self.clear();
    }

    fn image_done(&self, reference: &ImageRef, action: Action) {
        let (sign, what) = match action {
            Action::Add => (self.style.green("+"), "added"),
            Action::Update => (self.style.yellow("~"), "updated"),
            Action::Repair => (self.style.yellow("!"), "repaired"),
            Action::Remove => (self.style.red("-"), "removed"),
            Action::Keep if self.verbose > 0 => (self.style.dim("="), "unchanged"),
            Action::Keep | Action::Blocked => return,
        };
        if !self.quiet && !self.json {
            self.raw(&format!("  {sign} {reference} {what}"));
        }
    }
}

impl Reporter for Human {
    fn report(&self, event: Event) {
        match &event {
            Event::Warning(message) => self.warning(message),
            Event::Detail(message) if self.verbose > 0 => self.raw(&printable(message, false)),
            Event::Waiting(who) if !self.quiet => {
                let text = format!("waiting for {who}, which works on the same directories");
                self.raw(&printable(&text, false));
            }
            Event::Image { reference, error: Some(error), .. } if !matches!(**error, Error::Stopped) => {
                self.image_error(reference, Some(error));
            }
            Event::Image { reference, action, error: None } => self.image_done(reference, *action),
            Event::LayerStarted { digest, size, resumed, image }
                if self.bars.is_none() && self.verbose > 0 =>
            {
                let rest =
                    if *resumed > 0 { format!(", {} already here", bytes(*resumed)) } else { String::new() };
                self.note(&format!("    {} {} for {image}{rest}", short(digest.as_str()), bytes(*size)));
            }
            Event::Started { layers, bytes: count } if self.bars.is_none() => {
                self.note(&format!("fetching {}, {}", plural(*layers, "layer"), bytes(*count)));
            }
            _ => {}
        }
        if let Some(bars) = &self.bars {
            bars.update(&event);
        }
    }
}

impl Bars {
    fn lock(&self) -> std::sync::MutexGuard<'_, BarState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, event: &Event) {
        let mut state = self.lock();
        match event {
            Event::Resolving { images } => {
                if let Some(bar) = &state.spinner {
                    bar.inc_length(*images as u64);
                    return;
                }
                // A bar draws at once what it is told, so it joins the others first.
                let bar = self.multi.add(ProgressBar::new(*images as u64));
                bar.set_style(style("{spinner} looking up {pos} of {len} images"));
                bar.enable_steady_tick(Duration::from_millis(120));
                state.spinner = Some(bar);
            }
            Event::Resolved(_) => {
                if let Some(bar) = &state.spinner {
                    bar.inc(1);
                    if bar.length() == Some(bar.position()) {
                        bar.finish_and_clear();
                        state.spinner = None;
                    }
                }
            }
            Event::Started { bytes, layers } => {
                let bar = self.multi.add(ProgressBar::new(*bytes));
                bar.set_style(style(
                    "  total         {bar:30} {binary_bytes:>11} of {binary_total_bytes}  {binary_bytes_per_sec}  {msg}",
                ));
                bar.set_message(plural(*layers, "layer"));
                state.total = Some(bar);
            }
            Event::LayerStarted { digest, size, resumed, .. } => {
                // A layer that is tried again has its bar already.
                if let Some(LayerBar { bar: Some(bar), .. }) = state.layers.remove(digest) {
                    self.multi.remove(&bar);
                }
                let shown = state.layers.values().filter(|layer| layer.bar.is_some()).count() < MAX_BARS;
                let bar = shown.then(|| {
                    let bar = ProgressBar::new(*size);
                    let bar = match &state.total {
                        Some(total) => self.multi.insert_before(total, bar),
                        None => self.multi.add(bar),
                    };
                    bar.set_style(style(
                        "  {prefix:.dim}  {bar:30} {binary_bytes:>11} of {binary_total_bytes}  {msg}",
                    ));
                    bar.set_prefix(digest.hex().get(..12).unwrap_or_default().to_owned());
                    bar
                });
                let layer = LayerBar { bar, received: *resumed, extracted: 0, size: *size };
                layer.show();
                if let Some(total) = &state.total {
                    total.inc(*resumed);
                }
                state.layers.insert(digest.clone(), layer);
            }
            Event::LayerReceived { digest, bytes } => {
                if let Some(total) = &state.total {
                    total.inc(*bytes);
                }
                if let Some(layer) = state.layers.get_mut(digest) {
                    layer.received += bytes;
                    layer.show();
                }
            }
            Event::LayerExtracted { digest, bytes } => {
                if let Some(layer) = state.layers.get_mut(digest) {
                    layer.extracted += bytes;
                    layer.show();
                }
            }
            Event::LayerFinished { digest, .. } => {
                if let Some(LayerBar { bar: Some(bar), .. }) = state.layers.remove(digest) {
                    bar.finish_and_clear();
                    self.multi.remove(&bar);
                }
            }
            _ => {}
        }
    }
}

impl LayerBar {
    fn show(&self) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(self.received);
        bar.set_message(if self.extracted >= self.size {
            "writing to disk".to_owned()
        } else {
            format!("extracted {}", bytes(self.extracted))
        });
    }
}

/// A bar's look. The templates are fixed, so a wrong one shows in every run; the default look would do too.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

// ------------------------------------------------------------------------------------------------- results

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
    .map(|(action, what)| format!("{} {what}", plan.count(action)))
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
    if outcome.images.is_empty() {
        out.push_str("Nothing to do: no images are listed.\n");
    } else if changes.is_empty() && outcome.failed() == 0 {
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
        let head = if outcome.failed() == 0 { style.green("Done") } else { style.red("Not done") };
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

/// The catalog, as `list` prints it.
pub(crate) fn list(images: &[ListedImage], style: Style) -> String {
    if images.is_empty() {
        return "No images are recorded. Fetch some: msb-sync apply, or msb-sync pull REF\n".to_owned();
    }
    let head = ["IMAGE", "PLATFORM", "DIGEST", "LAYERS", "SIZE", "MANAGED BY"].map(str::to_owned).to_vec();
    let rows = std::iter::once(head).chain(images.iter().map(|listed| {
        let image = &listed.image;
        let missing = listed.states.iter().filter(|state| **state != LayerState::Complete).count();
        let layers = match missing {
            0 => image.layers.len().to_string(),
            _ => format!("{} ({missing} missing)", image.layers.len()),
        };
        let owners: Vec<&str> = image.owners.iter().map(|owner| owner.0.as_str()).collect();
        vec![
            image.reference.to_string(),
            image.platform.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            image.digest.as_ref().map_or_else(|| "-".to_owned(), |digest| short(digest.as_str())),
            layers,
            bytes(size_of_layers(&image.layers)),
            if owners.is_empty() { "microsandbox".to_owned() } else { owners.join(", ") },
        ]
    }));
    let text = printable(&table(&rows.collect::<Vec<_>>(), ""), true);
    match text.split_once('\n') {
        Some((head, rest)) => format!("{}\n{rest}", style.bold(head)),
        None => text,
    }
}

/// One image, as `inspect` prints it.
pub(crate) fn inspect(inspected: &InspectedImage, style: Style) -> String {
    let listed = &inspected.listed;
    let image = &listed.image;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    row("platform", image.platform.as_ref().map(ToString::to_string));
    row("digest", image.digest.as_ref().map(ToString::to_string));
    row("manifest", image.manifest_digest.as_ref().map(ToString::to_string));
    row("config", image.config_digest.as_ref().map(ToString::to_string));
    row("recorded", Some(format!("{} UTC", image.modified_at)));
    let owners: Vec<&str> = image.owners.iter().map(|owner| owner.0.as_str()).collect();
    row("managed by", Some(if owners.is_empty() { "microsandbox".to_owned() } else { owners.join(", ") }));
    if let Some(config) = &inspected.config {
        let words = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(" "));
        row("created", config.created.clone());
        row("entrypoint", words(&config.entrypoint));
        row("cmd", words(&config.cmd));
        row("working dir", config.working_dir.clone());
        row("user", config.user.clone());
        row("ports", words(&config.exposed_ports));
        row("volumes", words(&config.volumes));
        row("stop signal", config.stop_signal.clone());
        for (index, pair) in config.env.iter().flatten().enumerate() {
            row(if index == 0 { "env" } else { "" }, Some(pair.clone()));
        }
        for (index, (key, value)) in config.labels.iter().enumerate() {
            row(if index == 0 { "labels" } else { "" }, Some(format!("{key}={value}")));
        }
    }
    let totals = inspected.totals;
    if totals.entries > 0 {
        row("extracted", Some(format!("{} entries, {}", totals.entries, bytes(totals.content_bytes))));
    }
    if totals.dropped_xattrs > 0 {
        row("not on disk", Some(format!("{} privileged extended attributes", totals.dropped_xattrs)));
    }
    let mut out = format!("{}\n", style.bold(&image.reference.to_string()));
    out.push_str(&printable(&table(&rows, "  "), true));
    let _ = writeln!(
        out,
        "\n  {}, {}, base first:",
        plural(image.layers.len(), "layer"),
        bytes(size_of_layers(&image.layers))
    );
    for (layer, state) in image.layers.iter().zip(&listed.states) {
        let missing = if *state == LayerState::Complete { "" } else { "   MISSING, apply repairs it" };
        let path = layer_path(&listed.layers, &layer.digest);
        let _ = writeln!(
            out,
            "  {:>10}  {}{missing}",
            bytes(layer.size),
            printable(&path.display().to_string(), false)
        );
    }
    out
}
