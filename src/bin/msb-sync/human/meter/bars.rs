//! Progress as bars on a terminal: one a layer, the total below them, and a status line between
//! runs.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use msb_sync::digest::BlobDigest;
use msb_sync::progress::Event;
use msb_sync::threads::lock;

use crate::streams;
use crate::text::{bytes, plural};

/// Bars redraw at most so often a second.
const REDRAWS: u8 = 12;
/// Layers that have a bar at once; more would scroll the screen.
const MAX_BARS: usize = 12;

const LOOKING_UP: &str = "{spinner} looking up {pos} of {len} images";
const TOTAL: &str =
    "  total         {bar:30} {binary_bytes:>11} of {binary_total_bytes}  {binary_bytes_per_sec}  {msg}";
const COMPARING: &str = "  comparing     {bar:30} {pos:>5} of {len} layers";
const LAYER: &str = "  {prefix:.dim}  {bar:30} {binary_bytes:>11} of {binary_total_bytes}  {msg}";
const STATUS: &str = "{wide_msg:.dim}";

/// Bars on the screen.
pub(crate) struct Bars {
    screen: MultiProgress,
    shown: Mutex<Shown>,
}

/// The bars that are on the screen now.
#[derive(Default)]
struct Shown {
    total: Option<ProgressBar>,
    /// The images that are being looked up.
    spinner: Option<ProgressBar>,
    layers: HashMap<BlobDigest, LayerBar>,
    /// The line at the bottom while nothing goes on.
    status: Option<ProgressBar>,
}

/// A layer on its way; beyond [`MAX_BARS`] it is counted and not shown.
struct LayerBar {
    bar: Option<ProgressBar>,
    received: u64,
    extracted: u64,
    size: u64,
}

impl Bars {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
        Self { screen: MultiProgress::with_draw_target(target), shown: Mutex::default() }
    }

    /// Runs `write` while no bar is on the screen.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.screen.suspend(write)
    }

    /// Removes all bars.
    pub(super) fn clear(&self) {
        let shown = std::mem::take(&mut *lock(&self.shown));
        let layers = shown.layers.into_values().filter_map(|layer| layer.bar);
        for bar in [shown.status, shown.spinner, shown.total].into_iter().flatten().chain(layers) {
            self.remove(&bar);
        }
        let _ = self.screen.clear();
    }

    /// Shows `text` at the bottom of an empty screen.
    pub(super) fn status(&self, text: &str) {
        self.clear();
        let bar = self.add(ProgressBar::new_spinner(), STATUS);
        // The line is drawn when it is told, and never by itself.
        bar.set_message(text.to_owned());
        bar.tick();
        lock(&self.shown).status = Some(bar);
    }

    pub(super) fn update(&self, event: &Event) {
        let shown = &mut *lock(&self.shown);
        match event {
            Event::Resolving { images } => self.look_up(shown, *images as u64),
            Event::Resolved(_) => advance(&mut shown.spinner),
            Event::Started { bytes, layers } => self.start(shown, *bytes, *layers),
            Event::Comparing { layers, .. } => {
                shown.total = Some(self.add(ProgressBar::new(*layers as u64), COMPARING));
            }
            Event::Compared(_) => advance(&mut shown.total),
            Event::LayerStarted { digest, size, resumed, .. } => {
                self.start_layer(shown, digest, *size, *resumed);
            }
            Event::LayerReceived { digest, bytes } => {
                if let Some(total) = &shown.total {
                    total.inc(*bytes);
                }
                shown.change(digest, |layer| layer.received += bytes);
            }
            Event::LayerExtracted { digest, bytes } => shown.change(digest, |layer| layer.extracted += bytes),
            Event::LayerFinished { digest, .. } => {
                if let Some(LayerBar { bar: Some(bar), .. }) = shown.layers.remove(digest) {
                    self.remove(&bar);
                }
            }
            _ => {}
        }
    }

    /// Shows that so many more images are being looked up.
    fn look_up(&self, shown: &mut Shown, images: u64) {
        if let Some(bar) = &shown.spinner {
            bar.inc_length(images);
            return;
        }
        let bar = self.add(ProgressBar::new(images), LOOKING_UP);
        bar.enable_steady_tick(Duration::from_millis(120));
        shown.spinner = Some(bar);
    }

    /// Shows the total. A run whose registries do not all answer soon starts twice.
    fn start(&self, shown: &mut Shown, bytes: u64, layers: usize) {
        if let Some(bar) = shown.total.take() {
            self.remove(&bar);
        }
        let bar = self.add(ProgressBar::new(bytes), TOTAL);
        bar.set_message(plural(layers, "layer"));
        shown.total = Some(bar);
    }

    /// Shows a layer above the total. One that is tried again has its bar already.
    fn start_layer(&self, shown: &mut Shown, digest: &BlobDigest, size: u64, resumed: u64) {
        if let Some(LayerBar { bar: Some(bar), .. }) = shown.layers.remove(digest) {
            self.screen.remove(&bar);
        }
        let has_room = shown.layers.values().filter(|layer| layer.bar.is_some()).count() < MAX_BARS;
        let bar = has_room.then(|| {
            let bar = ProgressBar::new(size);
            let bar = match &shown.total {
                Some(total) => self.screen.insert_before(total, bar),
                None => self.screen.add(bar),
            };
            bar.set_style(style(LAYER));
            bar.set_prefix(digest.hex().get(..12).unwrap_or_default().to_owned());
            bar
        });
        let layer = LayerBar { bar, received: resumed, extracted: 0, size };
        layer.show();
        if let Some(total) = &shown.total {
            total.inc(resumed);
        }
        shown.layers.insert(digest.clone(), layer);
    }

    /// Adds a bar below the others. A bar draws at once what it is told, so it joins the others
    /// first.
    fn add(&self, bar: ProgressBar, template: &str) -> ProgressBar {
        let bar = self.screen.add(bar);
        bar.set_style(style(template));
        bar
    }

    /// Takes a bar off the screen. One that is dropped unfinished draws itself once more.
    fn remove(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.screen.remove(bar);
    }
}

/// Counts one more on a bar, and takes it off the screen where that was the last one.
fn advance(shown: &mut Option<ProgressBar>) {
    let Some(bar) = shown else { return };
    bar.inc(1);
    if bar.length() == Some(bar.position()) {
        bar.finish_and_clear();
        *shown = None;
    }
}

impl Shown {
    fn change(&mut self, digest: &BlobDigest, change: impl FnOnce(&mut LayerBar)) {
        if let Some(layer) = self.layers.get_mut(digest) {
            change(layer);
            layer.show();
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

/// A bar's look. The templates are fixed, so a wrong one shows in every run; the default look would
/// do too.
fn style(template: &str) -> ProgressStyle {
    let plain = template.replace(".dim", "");
    ProgressStyle::with_template(if streams::errors_are_colored() { template } else { &plain })
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}
