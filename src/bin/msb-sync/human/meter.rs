//! Progress while a run lasts: bars on a terminal, plain lines from time to time off it.

mod bars;
mod lines;
mod rows;
mod screen;
mod words;

use std::sync::{Arc, Mutex};

use msb_sync::progress::Event;
use msb_sync::threads::lock;

use self::bars::Bars;
use self::lines::Lines;
use crate::tally::Tally;

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
    pub(crate) fn bars(tally: &Arc<Mutex<Tally>>) -> Self {
        Self::Bars(Box::new(Bars::new(Arc::clone(tally))))
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

    /// Removes the bars, and runs `reset` before there may be others.
    pub(super) fn clear(&self, reset: impl FnOnce()) {
        match self {
            Self::Bars(bars) => bars.clear(reset),
            Self::Off | Self::Lines(_) => reset(),
        }
    }

    /// Removes the bars for good.
    pub(super) fn close(&self) {
        if let Self::Bars(bars) = self {
            bars.close();
        }
    }

    /// Shows `text`, which must be printable, at the bottom of the screen until [`Meter::clear`].
    pub(super) fn status(&self, text: &str) {
        if let Self::Bars(bars) = self {
            bars.status(text);
        }
    }

    /// Shows an event that `tally` has counted; a line, if there is one, is for the caller to
    /// print.
    pub(super) fn update(&self, event: &Event, tally: &Mutex<Tally>) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Bars(bars) => {
                bars.update();
                None
            }
            Self::Lines(lines) => lock(lines).update(event, &lock(tally)),
        }
    }
}
