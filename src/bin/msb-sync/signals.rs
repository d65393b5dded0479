//! SIGINT and SIGTERM end a run, in order where there is time; a file that outgrows `ulimit -f`
//! ends none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use msb_sync::cancel::Cancel;
use msb_sync::threads;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// The signal that stopped this run, or 0.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// After a signal, a run has this long to end by itself; everything is safe to be killed at any
/// time.
const GRACE: Duration = Duration::from_millis(700);
// A second is promised, with the time for the last words.
const _: () = assert!(GRACE.as_millis() <= 700, "a run ends within a second of a signal");

/// Makes a write beyond the limit of a file's size (`ulimit -f`) fail with words instead of killing
/// the process. Where no handler can be set, the kernel's way stays.
///
/// The signal is handled and not ignored: the programs that we start do not inherit handlers.
pub(crate) fn survive_file_limits() {
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// The voice of a run that a signal ends.
pub(crate) trait LastWords: Send + Sync {
    /// Hears of the signal, at once.
    fn stopping(&self);
    /// Speaks where the run has not ended in time, just before the process does.
    fn overdue(&self);
}

/// Turns SIGINT and SIGTERM into the stop switch; a second one, or no end within [`GRACE`], ends
/// the process.
pub(crate) fn watch(cancel: Cancel, words: Arc<dyn LastWords>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    threads::start("signals", move || {
        for signal in signals.forever() {
            if SIGNAL.swap(signal, Ordering::SeqCst) != 0 {
                std::process::exit(128 + signal);
            }
            cancel.cancel();
            words.stopping();
            let words = Arc::clone(&words);
            // Without a thread to spare, a second signal still ends the process.
            let _ = threads::start("grace", move || {
                std::thread::sleep(GRACE);
                words.overdue();
                std::process::exit(128 + signal);
            });
        }
    })?;
    Ok(())
}

/// The signal that stopped this run.
pub(crate) fn caught() -> Option<i32> {
    Some(SIGNAL.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}
