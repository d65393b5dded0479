//! Progress while a run lasts: bars on a terminal, plain lines from time to time off it.

mod bars;
mod lines;

use std::sync::Mutex;

use msb_sync::progress::Event;
use msb_sync::threads::lock;

use self::bars::Bars;
use self::lines::Lines;

/// The way in which progress is shown.
pub(crate) enum Meter {
    /// Nothing is shown.
    Off,
    /// Bars are, which redraw themselves.
    Bars(Box<Bars>),
    /// Lines are, each once.
    Lines(Mutex<Lines>),
}

impl Meter {
    pub(crate) fn bars() -> Self {
        Self::Bars(Box::new(Bars::new()))
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
            Self::Bars(bars) => bars.suspend(write),
            Self::Off | Self::Lines(_) => write(),
        }
    }

    /// Removes the bars.
    pub(super) fn clear(&self) {
        if let Self::Bars(bars) = self {
            bars.clear();
        }
    }

    /// Shows `text`, which must be printable, at the bottom of the screen until [`Meter::clear`].
    pub(super) fn status(&self, text: &str) {
        if let Self::Bars(bars) = self {
            bars.status(text);
        }
    }

    /// Shows an event; a line, if there is one, is for the caller to print.
    pub(super) fn update(&self, event: &Event) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Bars(bars) => {
                bars.update(event);
                None
            }
            Self::Lines(lines) => lock(lines).update(event),
        }
    }
}
