//! File descriptors: how many this process may have, and waiting where there is none left.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

/// The time that an open waits for a file descriptor that another thread gives back, and how often.
const DESCRIPTOR_PATIENCE: (Duration, u32) = (Duration::from_millis(10), 100);

/// Opens by `open`, and waits a moment where this process or the system has no file descriptor
/// left.
pub(super) fn patiently<T>(mut open: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let (pause, mut tries) = DESCRIPTOR_PATIENCE;
    loop {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(pause);
            }
            other => return other,
        }
    }
}

/// True if an open was refused because this process or the system has no file descriptor left.
pub(crate) fn is_descriptor_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Counts the files that this process may have open.
pub(crate) fn open_files_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Lets this process open as many files as it may ever open: shells and service managers give less
/// at first.
pub fn raise_open_files_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // A limit that cannot be raised is still enough for what is usual.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
