//! Events, one a line, each with the time at which it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msb_sync::digest::BlobDigest;
use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::{Event, Reporter};
use msb_sync::state::{Action, TrustStatus};
use msb_sync::sync::Applied;
use msb_sync::threads::lock;
use msb_sync::watch::{Notice, Trigger};
use serde_json::{Value, json};

use super::{Progress, VERSION, add_engines, error_value, failure, path, trust};
use crate::human::Human;
use crate::streams;
use msb_sync::clock::now;

/// Prints an event a line to stdout as it happens; the human reporter tells the rest on stderr.
pub(crate) struct Events {
    human: Arc<Human>,
    received: Received,
    progress: Option<Progress>,
}

impl Events {
    /// Prints how far the run is, too, if `progress` is given.
    pub(crate) fn new(human: Arc<Human>, progress: Option<Progress>) -> Self {
        Self { human, received: Received::default(), progress }
    }
}

impl Reporter for Events {
    fn report(&self, event: Event) {
        print_event(&event, &self.received, &self.human);
        self.human.report(event);
        print_progress(self.progress.as_ref(), &self.human);
    }
}

/// The bytes received of each layer, on behalf of the first image that needs the layer: so those
/// of all images are those of the run.
#[derive(Default)]
pub(crate) struct Received(Mutex<BTreeMap<BlobDigest, (ImageRef, u64)>>);

impl Received {
    fn note(&self, event: &Event) {
        match event {
            Event::LayerStarted { digest, image, .. } => {
                lock(&self.0).entry(digest.clone()).or_insert_with(|| (image.clone(), 0));
            }
            Event::LayerReceived { digest, bytes } => {
                if let Some((_, sum)) = lock(&self.0).get_mut(digest) {
                    *sum += bytes;
                }
            }
            _ => {}
        }
    }

    /// Takes out the sum of an image.
    fn take(&self, image: &ImageRef) -> u64 {
        let mut received = lock(&self.0);
        let mut sum = 0;
        received.retain(|_, (of, bytes)| {
            let other = of != image;
            sum += if other { 0 } else { *bytes };
            other
        });
        sum
    }
}

/// Prints the event of an image or a hook, beside the bars of `human`; others only add to
/// `received`.
pub(crate) fn print_event(event: &Event, received: &Received, human: &Human) {
    match event {
        Event::Image { .. } => {
            if let Some(value) = image(event, received) {
                human.suspend(|| print(value));
            }
        }
        Event::Hook { rule, program, changes, exit_code, error } => {
            let value = json!({
                "event": "hook",
                "rule": rule,
                "program": program,
                "changes": changes,
                "status": status(error.is_none()),
                "exit_code": exit_code,
                "error": error.as_deref().map(error_value),
            });
            human.suspend(|| print(value));
        }
        _ => received.note(event),
    }
}

fn status(is_done: bool) -> &'static str {
    if is_done { "done" } else { "failed" }
}

/// The event of an image; `None` for other events, and where nothing was done: others keep the
/// image, and no engine has given it up.
fn image(event: &Event, received: &Received) -> Option<Value> {
    let Event::Image {
        reference,
        platform,
        action,
        digest,
        previous,
        reason,
        candidate,
        held: _,
        engines,
        signatures,
        staged,
        stays,
        error,
    } = event
    else {
        return None;
    };
    if *stays && engines.is_empty() && error.is_none() {
        return None;
    }
    let mut value = json!({
        "event": "image",
        "reference": reference.to_string(),
        "platform": platform,
        "action": action,
        "status": status(error.is_none()),
        "digest": digest,
        "previous": previous,
        "reason": Some(reason).filter(|reason| !reason.is_empty()),
        "candidate": candidate.as_deref().map(super::candidate),
        "downloaded_bytes": received.take(reference),
        "trust": trust::signatures(signatures),
        "staged": staged,
        "error": error.as_deref().map(error_value),
    });
    add_engines(&mut value, engines.iter().copied());
    Some(value)
}

/// The event of an image that a run was stopped before, and of which nothing else is known yet.
pub(crate) fn stopped(reference: &ImageRef) -> Value {
    stamped(json!({
        "event": "image",
        "reference": reference.to_string(),
        "platform": null,
        "action": Action::Blocked,
        "status": status(false),
        "digest": null,
        "previous": null,
        "reason": null,
        "candidate": null,
        "downloaded_bytes": 0,
        "trust": trust::signatures(&TrustStatus::NotAsked.report()),
        "staged": false,
        "error": error_value(&Error::Stopped),
    }))
}

/// Prints how far the run of `human` is, where `progress` says that it is time.
pub(crate) fn print_progress(progress: Option<&Progress>, human: &Human) {
    if let Some(event) = progress.and_then(|progress| progress.due(human)) {
        human.suspend(|| print(event));
    }
}

/// Prints an event with its version and its time.
fn print(event: Value) {
    streams::print(&format!("{}\n", stamped(event)));
}

/// Prints the document of a failure as the last event.
pub(crate) fn print_failure(mut document: Value) {
    document["event"] = json!("error");
    print(document);
}

fn stamped(mut event: Value) -> Value {
    event["version"] = json!(VERSION);
    event["time"] = json!(format!("{:.3}", now()));
    event
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A notice of `watch` beside the events of its runs.
pub(crate) fn notice(notice: &Notice<'_>) -> Value {
    stamped(match notice {
        Notice::Watching { file, interval, metrics, poll } => json!({
            "event": "watching",
            "file": path(file),
            "interval_ms": milliseconds(*interval),
            "metrics": metrics.map(|address| address.to_string()),
            "poll_ms": poll.map(milliseconds),
        }),
        Notice::Triggered(reasons) => json!({
            "event": "triggered",
            "reasons": reasons.iter().map(Trigger::as_str).collect::<Vec<_>>(),
            "details": reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Notice::Applied { applied, elapsed, next } => {
            let mut value = summary(applied, *elapsed);
            value["next_ms"] = json!(milliseconds(*next));
            value
        }
        Notice::Failed { failure: reason, again, next } => {
            let mut value = failure(reason);
            value["event"] = json!("error");
            value["again"] = json!(again);
            value["next_ms"] = json!(milliseconds(*next));
            value
        }
        Notice::Stopping => json!({ "event": "stopping" }),
    })
}

/// The last event of a run.
pub(crate) fn summary(applied: &Applied, elapsed: Duration) -> Value {
    let outcome = &applied.outcome;
    stamped(json!({
        "event": "summary",
        "added": outcome.done(Action::Add),
        "updated": outcome.done(Action::Update),
        "staged": outcome.staged.len(),
        "repaired": outcome.done(Action::Repair),
        "removed": outcome.done(Action::Remove),
        "removals_waiting": outcome.waiting.len(),
        "unchanged": outcome.done(Action::Keep),
        "failed": outcome.failed(),
        "downloaded_bytes": outcome.downloaded_bytes,
        "extracted_bytes": outcome.extracted_bytes,
        "engine_loads": outcome.loads,
        "engine_removals": outcome.engine_removals,
        "hooks_run": applied.hooks.len(),
        "hooks_failed": applied.failed_hooks(),
        "requests": applied.requests,
        "duration_ms": milliseconds(elapsed),
        "error": outcome.failure.as_deref().map(error_value),
    }))
}
