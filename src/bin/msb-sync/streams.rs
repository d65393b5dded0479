//! Standard output, which carries results, and standard error, which carries everything else: each
//! with colours or without, and with what became of the writing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::{AutoStream, ColorChoice};
use terminal_size::{Width, terminal_size_of};

use crate::args::When;

/// The narrowest terminal that tables are made for.
const MIN_ROOM: usize = 30;

/// The colours of standard output and of standard error.
static COLORS: OnceLock<(ColorChoice, ColorChoice)> = OnceLock::new();
/// A part of the result could not be written.
static LOST: AtomicBool = AtomicBool::new(false);
/// Standard output has refused a write.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// Decides, once and for all, which streams show colours: `--color` does; in doubt terminals do,
/// unless `NO_COLOR` or `TERM=dumb` forbids it.
pub(crate) fn color(when: When) {
    let set =
        |name: &str, wrong: fn(&OsStr) -> bool| std::env::var_os(name).is_some_and(|value| wrong(&value));
    let plain = set("NO_COLOR", |value| !value.is_empty()) || set("TERM", |value| value == "dumb");
    let choice = |is_terminal: bool| match when {
        When::Always => ColorChoice::AlwaysAnsi,
        When::Auto if is_terminal && !plain => ColorChoice::AlwaysAnsi,
        When::Auto | When::Never => ColorChoice::Never,
    };
    let _ = COLORS.set((choice(io::stdout().is_terminal()), choice(io::stderr().is_terminal())));
}

/// Standard error shows colours.
pub(crate) fn errors_are_colored() -> bool {
    colors().1 != ColorChoice::Never
}

/// The columns of the terminal that shows results, if one does.
pub(crate) fn room() -> Option<usize> {
    room_of(io::stdout().as_fd())
}

/// The columns of the terminal that shows everything but results, if one does.
pub(crate) fn errors_room() -> Option<usize> {
    room_of(io::stderr().as_fd())
}

fn room_of(stream: BorrowedFd<'_>) -> Option<usize> {
    let (Width(columns), _) = terminal_size_of(stream)?;
    // A terminal that does not know its size says 0.
    (columns > 0).then(|| usize::from(columns).max(MIN_ROOM))
}

/// Whoever reads results reads everything else too: both are terminals, or one file.
pub(crate) fn are_one() -> bool {
    let file = |stream: BorrowedFd<'_>| {
        let metadata = File::from(stream.try_clone_to_owned().ok()?).metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let (stdout, stderr) = (io::stdout(), io::stderr());
    stdout.is_terminal() && stderr.is_terminal()
        || file(stdout.as_fd()).is_some_and(|one| file(stderr.as_fd()) == Some(one))
}

fn colors() -> (ColorChoice, ColorChoice) {
    *COLORS.get().unwrap_or(&(ColorChoice::Never, ColorChoice::Never))
}

/// Prints `text` to standard output. A reader that has gone away (`| head`) is no error; any other
/// failure is remembered.
pub(crate) fn print(text: &str) {
    print_by(|stdout| AutoStream::new(stdout, colors().0).write_all(text.as_bytes()));
}

/// Prints what `write` writes to standard output, as it is; see [`print`].
pub(crate) fn print_by(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = write(&mut stdout).and_then(|()| stdout.flush()) {
        UNREAD.store(true, Ordering::Relaxed);
        if error.kind() != io::ErrorKind::BrokenPipe {
            LOST.store(true, Ordering::Relaxed);
        }
    }
}

/// Prints a line to standard error. With nobody left to read errors, the run goes on all the same.
pub(crate) fn tell(line: &str) {
    let _ = AutoStream::new(io::stderr().lock(), colors().1).write_all(format!("{line}\n").as_bytes());
}

/// Writes `text`, which moves the cursor of a terminal, to standard error as it is.
pub(crate) fn draw(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Standard output takes nothing any more, for whatever reason.
pub(crate) fn nobody_reads() -> bool {
    UNREAD.load(Ordering::Relaxed)
}

/// A part of what [`print`] was given was lost.
pub(crate) fn output_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}
