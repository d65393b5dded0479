//! The exit codes of msb-sync.

use std::process::ExitCode;

/// The end of a run, as its exit code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: everything is done, or in sync; `plan` also with changes pending.
    Done,
    /// 1: at least one image, layer or check failed or is blocked.
    Failed,
    /// 2: the command line or the images file is wrong, and nothing was touched.
    Usage,
    /// 2: changes are pending (`plan --detailed-exitcode`, `lock --check`).
    Pending,
    /// 128 and the number of the signal that stopped the run.
    Signal(i32),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage | Exit::Pending => 2,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(1),
        }
        .into()
    }
}
