//! Metrics in the format of Prometheus, and the health of the watch.
//!
//! Counters go up as things happen, from the events of the run; the state of the images is that of
//! the last run. Registries are labelled with the names that the images file uses, so that no
//! server can invent labels.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::notice::Trigger;
use super::results::{engines_after, errors_of};
use super::status::{ImageState, Verdict};
use crate::error::Error;
use crate::progress::{Event, Reporter};
use crate::state::{Action, EngineName, TrustStatus};
use crate::sync::{Applied, VerbError};
use crate::threads::lock;

/// A run that shows no sign of life for so long hangs. Each single wait in it is far shorter.
const SILENCE: Duration = Duration::from_secs(30 * 60);

/// Looking at files takes milliseconds. What takes so long hangs.
const LOOK: Duration = Duration::from_secs(10);

const TRUST_STATES: [TrustStatus; 4] =
    [TrustStatus::Verified, TrustStatus::Unsigned, TrustStatus::Refused, TrustStatus::NotAsked];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EngineLabels {
    engine: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoadLabels {
    engine: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    registry: String,
    /// `2xx` and so on; `none` where no answer came.
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TriggerLabel {
    reason: &'static str,
}

/// Counts, and knows whether all is well.
pub(super) struct Metrics {
    registry: Registry,
    images: Family<StateLabel, Gauge>,
    /// By the state of their signatures.
    signatures: Family<StateLabel, Gauge>,
    in_engines: Family<EngineLabels, Gauge>,
    loads: Family<LoadLabels, Counter>,
    hooks: Family<ResultLabel, Counter>,
    changes: Family<ActionLabel, Counter>,
    failures: Family<KindLabel, Counter>,
    requests: Family<RequestLabels, Counter>,
    runs: Family<ResultLabel, Counter>,
    triggers: Family<TriggerLabel, Counter>,
    durations: Histogram,
    downloaded: Counter,
    extracted: Counter,
    last_run: Gauge<f64, AtomicU64>,
    last_success: Gauge<f64, AtomicU64>,
    healthy: Gauge,
    health: Mutex<Health>,
}

struct Health {
    /// The trouble that the last run left; `None`: all is well.
    trouble: Option<String>,
    /// In one line, for people.
    summary: String,
    /// The last sign of life of the run that is going on.
    running: Option<Instant>,
    /// The run waits for another process or a hook, however long that takes.
    waiting: bool,
    /// Since when the loop has been looking at files, if it is.
    looking: Option<Instant>,
}

impl Health {
    /// The health of a watch whose first run has not ended yet.
    fn starting() -> Self {
        Self {
            trouble: Some("the first run has not ended yet".to_owned()),
            summary: "starting".to_owned(),
            running: None,
            waiting: false,
            looking: None,
        }
    }
}

/// Adds a metric without a unit.
fn counted<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Adds a metric in `unit`, which becomes the end of its name.
fn measured<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str, unit: Unit) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("msb_sync");
        let r = &mut registry;
        r.register("build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let images: Family<StateLabel, Gauge> =
            counted(r, "images", "Images by their state after the last run");
        for state in ImageState::ALL.map(ImageState::as_str) {
            images.get_or_create(&StateLabel { state }).set(0);
        }
        let seconds = Histogram::new(exponential_buckets(0.01, 4.0, 10));
        r.register_with_unit("run_duration", "How long runs take", Unit::Seconds, seconds.clone());
        Self {
            images,
            signatures: counted(
                r,
                "image_signatures",
                "Images by the state of their signatures after the last run",
            ),
            in_engines: counted(
                r,
                "engine_images",
                "Images of each engine by their state after the last run",
            ),
            loads: counted(r, "engine_loads", "Images that an engine was to take, by what came of it"),
            hooks: counted(r, "hooks", "Hooks that were run, by their result"),
            changes: counted(r, "changes", "Images that were changed, by what was done"),
            failures: counted(r, "image_failures", "Images that failed, by the kind of error"),
            requests: counted(
                r,
                "requests",
                "Requests sent for a registry, by the class of the answer's status",
            ),
            runs: counted(r, "runs", "Runs that have ended, by their result"),
            triggers: counted(r, "triggers", "Why runs were started"),
            durations: seconds,
            downloaded: measured(r, "downloaded", "Bytes of layers received", Unit::Bytes),
            extracted: measured(r, "extracted", "Bytes of layers unpacked, uncompressed", Unit::Bytes),
            last_run: measured(r, "last_run_timestamp", "When the last run ended", Unit::Seconds),
            last_success: measured(
                r,
                "last_success_timestamp",
                "When the last run ended that left everything as the images file says",
                Unit::Seconds,
            ),
            healthy: counted(r, "healthy", "Whether the last run left everything as it should be"),
            health: Mutex::new(Health::starting()),
            registry,
        }
    }

    /// A reporter that counts, and passes everything on.
    pub(super) fn listen(self: &Arc<Self>, next: Arc<dyn Reporter>) -> Arc<dyn Reporter> {
        Arc::new(Counting { metrics: Arc::clone(self), next })
    }

    pub(super) fn started(&self, reasons: &[Trigger]) {
        for reason in reasons {
            self.triggers.get_or_create(&TriggerLabel { reason: reason.as_str() }).inc();
        }
        let mut health = self.health();
        health.running = Some(Instant::now());
        health.waiting = false;
    }

    /// The run that was started found nothing that it could begin with.
    pub(super) fn put_off(&self) {
        self.health().running = None;
    }

    /// Counts a run that has ended, and says how.
    pub(super) fn finished(&self, result: &Result<Applied, VerbError>, elapsed: Duration) -> Verdict {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.durations.observe(elapsed.as_secs_f64());
        self.last_run.set(now);
        let hint = result.as_ref().err().and_then(hint);
        let (result, trouble, summary) = match result {
            Ok(applied) => self.outcome(applied),
            Err(failure) => {
                let text = in_one_line(failure);
                ("error", Some(text.clone()), text)
            }
        };
        let verdict = Verdict { result, summary: summary.clone(), hint };
        self.runs.get_or_create(&ResultLabel { result }).inc();
        self.healthy.set(i64::from(trouble.is_none()));
        if trouble.is_none() {
            self.last_success.set(now);
        }
        let mut health = self.health();
        *health = Health { trouble, summary, running: None, waiting: false, looking: health.looking };
        verdict
    }

    fn outcome(&self, applied: &Applied) -> (&'static str, Option<String>, String) {
        let (mut in_sync, mut blocked, mut failed, mut first) = (0_usize, 0_usize, 0_usize, None);
        for (reference, action, error) in &applied.outcome.images {
            if let Some(error) = error {
                self.failures.get_or_create(&KindLabel { kind: error.kind() }).inc();
                first = first.or_else(|| Some(format!("{reference}: {error}")));
                if *action == Action::Blocked {
                    blocked += 1;
                } else {
                    failed += 1;
                }
                continue;
            }
            if !matches!(action, Action::Keep | Action::Blocked) && !applied.outcome.kept.contains(reference)
            {
                self.changes.get_or_create(&ActionLabel { action: action.as_str() }).inc();
            }
            in_sync += usize::from(*action != Action::Remove);
        }
        self.extracted.inc_by(applied.outcome.extracted_bytes);
        self.note_engines(applied);
        self.note_signatures(applied);
        let (unlisted, waiting) = (applied.plan.unlisted.len(), applied.outcome.waiting.len());
        let states = [("in_sync", in_sync), ("failed", failed), ("blocked", blocked)];
        for (state, count) in states.into_iter().chain([("unlisted", unlisted), ("waiting", waiting)]) {
            self.images.get_or_create(&StateLabel { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let all = in_sync + blocked + failed;
        let hook = applied.hooks.iter().find_map(|hook| hook.error.as_ref());
        let failure = applied.outcome.failure.as_ref().map(|failure| failure.chain().join(": "));
        match (first, hook.map(ToString::to_string).or(failure)) {
            (None, None) => {
                let images = if in_sync == 1 { "image" } else { "images" };
                ("ok", None, format!("{in_sync} {images} in sync"))
            }
            (None, Some(text)) => ("failed", Some(text.clone()), text),
            (Some(first), _) => {
                let text = format!("{} of {all} images failed; {first}", blocked + failed);
                ("failed", Some(text.clone()), text)
            }
        }
    }

    /// Counts the images by the state of their signatures.
    fn note_signatures(&self, applied: &Applied) {
        let mut counts = TRUST_STATES.map(|state| (state.as_str(), 0_i64));
        for image in applied.plan.images.iter().filter(|image| image.action != Action::Remove) {
            let status = image.signatures().status;
            for (_, count) in counts.iter_mut().filter(|(state, _)| *state == status) {
                *count += 1;
            }
        }
        for (state, count) in counts {
            self.signatures.get_or_create(&StateLabel { state }).set(count);
        }
    }

    /// Counts the images of each engine.
    fn note_engines(&self, applied: &Applied) {
        let errors = errors_of(applied);
        let mut counts: BTreeMap<(&'static str, &'static str), i64> = BTreeMap::new();
        for image in &applied.plan.images {
            let error = errors.get(&image.reference).copied().flatten();
            for (engine, state) in engines_after(image, error, &applied.outcome) {
                *counts.entry((engine.as_str(), state.as_str())).or_default() += 1;
            }
        }
        for engine in EngineName::ALL.map(EngineName::as_str) {
            let is_wanted = counts.keys().any(|(other, _)| *other == engine);
            for state in [ImageState::InSync, ImageState::Failed, ImageState::Blocked].map(ImageState::as_str)
            {
                let labels = EngineLabels { engine, state };
                if is_wanted {
                    let count = counts.get(&(engine, state)).copied().unwrap_or_default();
                    self.in_engines.get_or_create(&labels).set(count);
                } else {
                    self.in_engines.remove(&labels);
                }
            }
        }
    }

    /// The state of things, in one line.
    pub(super) fn summary(&self) -> String {
        self.health().summary.clone()
    }

    /// The loop begins, or has ended, to look at the files that a run reads.
    pub(super) fn looking(&self, begins: bool) {
        self.health().looking = begins.then(Instant::now);
    }

    /// No run is going on, or the one that is has shown a sign of life lately.
    pub(super) fn is_alive(&self) -> bool {
        let health = self.health();
        health.waiting || health.running.is_none_or(|last| last.elapsed() < SILENCE)
    }

    /// The trouble there is, if any.
    pub(super) fn trouble(&self) -> Option<String> {
        let looking = self.health().looking;
        if looking.is_some_and(|since| since.elapsed() >= LOOK) {
            return Some("the files that a run reads do not answer".to_owned());
        }
        if !self.is_alive() {
            return Some("the run that is going on has shown no sign of life for a long time".to_owned());
        }
        self.health().trouble.clone()
    }

    /// All metrics as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    fn note(&self, event: &Event) {
        match event {
            Event::Request { registry, status, .. } => {
                let status = match status {
                    None => "none",
                    Some(200..=299) => "2xx",
                    Some(300..=399) => "3xx",
                    Some(400..=499) => "4xx",
                    Some(500..=599) => "5xx",
                    Some(_) => "other",
                };
                self.requests.get_or_create(&RequestLabels { registry: registry.clone(), status }).inc();
            }
            Event::Loaded { engine, images, failed } => {
                for (result, count) in [("done", *images), ("failed", *failed)] {
                    let labels = LoadLabels { engine, result };
                    self.loads.get_or_create(&labels).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
                }
            }
            Event::LayerReceived { bytes, .. } => {
                self.downloaded.inc_by(*bytes);
            }
            Event::Hook { error, .. } => {
                let result = if error.is_none() { "done" } else { "failed" };
                self.hooks.get_or_create(&ResultLabel { result }).inc();
            }
            _ => {}
        }
        let mut health = self.health();
        // A hook may write nothing in all its time, which is bounded.
        let is_hook = matches!(event, Event::HookStarted { .. } | Event::HookOutput { .. });
        health.waiting = is_hook || matches!(event, Event::Waiting(_));
        if let Some(last) = &mut health.running {
            *last = Instant::now();
        }
    }
}

/// The reason why a run could not be carried out, in one line.
fn in_one_line(failure: &VerbError) -> String {
    match failure {
        VerbError::Problems(problems) => match problems.iter().next() {
            // The images file, or the machine's settings.
            Some(problem) => {
                format!("{} is wrong, line {}: {}", problem.file(), problem.line(), problem.message())
            }
            None => failure.to_string(),
        },
        VerbError::Lockfile(problem) => {
            format!("the lockfile is wrong, line {}: {}", problem.line(), problem.message())
        }
        VerbError::Error(error) | VerbError::Input(error) => Error::chain(error).join(": "),
    }
}

/// The next step after such a failure, where there is one.
fn hint(failure: &VerbError) -> Option<String> {
    match failure {
        VerbError::Problems(problems) => problems.iter().next()?.hint().map(str::to_owned),
        VerbError::Lockfile(problem) => problem.hint().map(str::to_owned),
        VerbError::Error(error) | VerbError::Input(error) => error.hint(),
    }
}

/// Counts the events of a run.
struct Counting {
    metrics: Arc<Metrics>,
    next: Arc<dyn Reporter>,
}

impl Reporter for Counting {
    fn report(&self, event: Event) {
        self.metrics.note(&event);
        self.next.report(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn requests_are_counted_by_registry_and_class() {
        let metrics = Arc::new(Metrics::new());
        let reporter = metrics.listen(Arc::new(Silent));
        for status in [Some(200), Some(206), Some(404), Some(503), None] {
            reporter.report(Event::Request { registry: "r.io".to_owned(), status, exchange: None });
        }
        let text = metrics.text();
        for line in [
            r#"msb_sync_requests_total{registry="r.io",status="2xx"} 2"#,
            r#"msb_sync_requests_total{registry="r.io",status="4xx"} 1"#,
            r#"msb_sync_requests_total{registry="r.io",status="none"} 1"#,
            r#"msb_sync_images{state="in_sync"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(metrics.trouble().is_some(), "nothing has been applied yet");
    }
}
