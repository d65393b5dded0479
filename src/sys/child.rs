//! Programs that are started: apart from the terminal, and gone when this process is.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal};

/// Lets the program of `command` run in a session of its own, without a terminal to ask on, and end
/// when the thread that starts the program ends, also by SIGKILL.
pub(crate) fn detach(command: &mut Command) {
    let prepare = || -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, which allocate nothing and
    // take no lock.
    #[expect(unsafe_code, reason = "no safe interface runs code between fork and exec")]
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Signals the process group of the detached program `pid`: asks for its end, or forces that.
pub(crate) fn end_group(pid: u32, by_force: bool) {
    let signal = if by_force { Signal::KILL } else { Signal::TERM };
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A group that is gone is what is wanted.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}
