//! Progress as bars on a terminal, drawn again and again by a thread of their own, and a status
//! line between runs.
//!
//! Events only change the counts; nobody who works waits for the terminal. The thread sleeps while
//! there is nothing to show.

use std::io;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use msb_sync::threads::{self, lock};
use terminal_size::{Height, Width, terminal_size_of};

use super::rows::{self, Room};
use super::screen::Screen;
use crate::tally::Tally;

/// The time between two draws.
const PAUSE: Duration = Duration::from_millis(100);
/// The size of a terminal that does not tell it.
const USUAL: Room = Room { columns: 80, rows: 24 };

/// Bars on the screen.
pub(crate) struct Bars {
    shared: Arc<Shared>,
    drawer: Once,
}

struct Shared {
    tally: Arc<Mutex<Tally>>,
    screen: Mutex<Screen>,
    /// The line that is shown while nothing goes on.
    status: Mutex<Option<String>>,
    /// True while there may be something to draw.
    is_live: Mutex<bool>,
    woken: Condvar,
}

impl Bars {
    pub(super) fn new(tally: Arc<Mutex<Tally>>) -> Self {
        let shared = Shared {
            tally,
            screen: Mutex::default(),
            status: Mutex::default(),
            is_live: Mutex::default(),
            woken: Condvar::new(),
        };
        Self { shared: Arc::new(shared), drawer: Once::new() }
    }

    /// Runs `write` while no bar is on the screen.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        let mut screen = lock(&self.shared.screen);
        screen.erase();
        let result = write();
        self.shared.draw(&mut screen);
        result
    }

    /// Removes all bars; what comes next may have some again. `reset` runs meanwhile.
    pub(super) fn clear(&self, reset: impl FnOnce()) {
        let mut screen = lock(&self.shared.screen);
        *lock(&self.shared.is_live) = false;
        *lock(&self.shared.status) = None;
        reset();
        screen.erase();
    }

    /// Removes all bars for good.
    pub(super) fn close(&self) {
        lock(&self.shared.screen).close();
    }

    /// Shows `text` at the bottom of an empty screen.
    pub(super) fn status(&self, text: &str) {
        let mut screen = lock(&self.shared.screen);
        *lock(&self.shared.status) = Some(text.to_owned());
        self.shared.draw(&mut screen);
    }

    /// Sees to it that the counts are shown, since they have changed.
    pub(super) fn update(&self) {
        let mut is_live = lock(&self.shared.is_live);
        if !*is_live {
            *is_live = true;
            self.shared.woken.notify_all();
        }
        drop(is_live);
        self.drawer.call_once(|| {
            let shared = Arc::clone(&self.shared);
            // Without the thread bars show with the lines that are printed: bearable.
            let _ = threads::start("bars", move || shared.draw_on());
        });
    }
}

impl Shared {
    /// Draws for ever.
    fn draw_on(&self) {
        loop {
            let mut is_live = lock(&self.is_live);
            while !*is_live {
                is_live = threads::unpoisoned(self.woken.wait(is_live));
            }
            drop(is_live);
            self.draw(&mut lock(&self.screen));
            std::thread::sleep(PAUSE);
        }
    }

    /// Draws the counts, or else the status, unless they are shown already.
    fn draw(&self, screen: &mut Screen) {
        // An event that comes from now on wakes the thread again.
        let was_live = std::mem::take(&mut *lock(&self.is_live));
        let room = room();
        let counts = if was_live { rows::rows(&lock(&self.tally), Instant::now(), room) } else { Vec::new() };
        let rows = match &*lock(&self.status) {
            Some(text) if counts.is_empty() => rows::status(text, room.columns),
            _ => counts,
        };
        if was_live && !rows.is_empty() {
            *lock(&self.is_live) = true;
        }
        if !screen.shows(&rows) {
            screen.draw(rows);
        }
    }
}

/// The room for bars: one column less than there are, since a cursor beyond the last one wraps, and
/// one row less.
fn room() -> Room {
    let room = match terminal_size_of(io::stderr()) {
        // A terminal that does not know its size says 0.
        Some((Width(columns), Height(rows))) if columns > 0 && rows > 0 => {
            Room { columns: columns.into(), rows: rows.into() }
        }
        _ => USUAL,
    };
    Room { columns: room.columns - 1, rows: room.rows.saturating_sub(1).max(1) }
}
