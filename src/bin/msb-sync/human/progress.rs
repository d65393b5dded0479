//! Progress while a run lasts: bars on a terminal, plain lines from time to time off it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use msb_sync::digest::BlobDigest;
use msb_sync::progress::Event;

use crate::text::{bytes, plural};

/// Bars redraw at most so often a second.
const REDRAWS: u8 = 12;
/// Layers shown at once; more would scroll the screen.
const MAX_BARS: usize = 12;
/// Lines come at most so often, but for those that tell of a finished layer.
const LINES: Duration = Duration::from_secs(2);

/// How progress is shown.
pub(crate) enum Progress {
    /// Not at all.
    Off,
    /// As bars.
    Bars(Box<Bars>),
    /// As lines.
    Lines(Mutex<Lines>),
}

impl Progress {
    pub(crate) fn bars() -> Self {
        Self::Bars(Box::new(Bars {
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS)),
            state: Mutex::default(),
        }))
    }

    pub(crate) fn lines() -> Self {
        Self::Lines(Mutex::default())
    }

    pub(super) fn is_bars(&self) -> bool {
        matches!(self, Self::Bars(_))
    }

    /// Runs `write` while no bar is on the screen.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match self {
            Self::Bars(bars) => bars.multi.suspend(write),
            Self::Off | Self::Lines(_) => write(),
        }
    }

    /// Removes the bars.
    pub(super) fn clear(&self) {
        if let Self::Bars(bars) = self {
            let state = std::mem::take(&mut *bars.lock());
            // A bar that is dropped unfinished draws itself once more.
            let layers = state.layers.into_values().filter_map(|layer| layer.bar);
            for bar in [state.status, state.spinner, state.total].into_iter().flatten().chain(layers) {
                bar.finish_and_clear();
                bars.multi.remove(&bar);
            }
            let _ = bars.multi.clear();
        }
    }

    /// Shows `text`, which must be printable, at the bottom of the screen until [`Progress::clear`].
    pub(super) fn status(&self, text: &str) {
        let Self::Bars(bars) = self else { return };
        self.clear();
        let bar = bars.multi.add(ProgressBar::new_spinner());
        bar.set_style(style("{wide_msg:.dim}"));
        // It is drawn when it is told, and never by itself.
        bar.set_message(text.to_owned());
        bar.tick();
        bars.lock().status = Some(bar);
    }

    /// Shows what happened; a line, if there is one, is for the caller to print.
    pub(super) fn update(&self, event: &Event) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Bars(bars) => {
                bars.update(event);
                None
            }
            Self::Lines(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).update(event),
        }
    }
}

/// What the lines count.
#[derive(Default)]
pub(crate) struct Lines {
    layers: usize,
    finished: usize,
    size: u64,
    /// Bytes here of each layer.
    received: HashMap<BlobDigest, u64>,
    last: Option<Instant>,
}

impl Lines {
    fn update(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Resolving { images } => return Some(format!("looking up {}", plural(*images, "image"))),
            Event::Started { layers, bytes } => {
                *self = Self { layers: *layers, size: *bytes, last: Some(Instant::now()), ..Self::default() };
            }
            Event::LayerStarted { digest, resumed, .. } => {
                self.received.insert(digest.clone(), *resumed);
            }
            Event::LayerReceived { digest, bytes } => {
                *self.received.entry(digest.clone()).or_default() += bytes;
                if self.last.is_some_and(|last| last.elapsed() >= LINES) {
                    return Some(self.line());
                }
            }
            Event::LayerFinished { .. } => {
                self.finished += 1;
                return Some(self.line());
            }
            Event::Comparing { layers, bytes: size } => {
                *self = Self { layers: *layers, last: Some(Instant::now()), ..Self::default() };
                return Some(format!("comparing {}, {} as fetched", plural(*layers, "layer"), bytes(*size)));
            }
            Event::Compared(_) => {
                self.finished += 1;
                let due = self.last.is_some_and(|last| last.elapsed() >= LINES);
                if due || self.finished == self.layers {
                    self.last = Some(Instant::now());
                    return Some(format!("  {} of {} compared", self.finished, plural(self.layers, "layer")));
                }
            }
            _ => {}
        }
        None
    }

    fn line(&mut self) -> String {
        self.last = Some(Instant::now());
        let received = self.received.values().fold(0_u64, |sum, part| sum.saturating_add(*part));
        let (finished, layers) = (self.finished, plural(self.layers, "layer"));
        format!("  {finished} of {layers} done, {} of {} here", bytes(received), bytes(self.size))
    }
}

/// Bars on the screen.
pub(crate) struct Bars {
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

impl Bars {
    fn lock(&self) -> MutexGuard<'_, BarState> {
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
                // A run whose registries do not all answer soon starts twice.
                if let Some(bar) = state.total.take() {
                    bar.finish_and_clear();
                    self.multi.remove(&bar);
                }
                let bar = self.multi.add(ProgressBar::new(*bytes));
                bar.set_style(style(
                    "  total         {bar:30} {binary_bytes:>11} of {binary_total_bytes}  {binary_bytes_per_sec}  {msg}",
                ));
                bar.set_message(plural(*layers, "layer"));
                state.total = Some(bar);
            }
            Event::Comparing { layers, .. } => {
                let bar = self.multi.add(ProgressBar::new(*layers as u64));
                bar.set_style(style("  comparing     {bar:30} {pos:>5} of {len} layers"));
                state.total = Some(bar);
            }
            Event::Compared(_) => {
                if let Some(bar) = &state.total {
                    bar.inc(1);
                    if bar.length() == Some(bar.position()) {
                        bar.finish_and_clear();
                        state.total = None;
                    }
                }
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
