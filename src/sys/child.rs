//! Programs that are started: apart from the terminal, and gone when this process is; and pipes
//! that are fed to them without being held up.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

/// The bytes that a pipe to a program may hold: the most that the kernel grants everybody.
const PIPE_SIZE: libc::c_int = 1 << 20;

/// Lets the program of `command` run in a session of its own, without a terminal to ask on, and
/// end, also by SIGKILL of this process, when the thread that starts the program ends.
pub(crate) fn detach(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above sends nothing.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    #[expect(unsafe_code, reason = "no safe interface runs code between fork and exec")]
    // SAFETY: between fork and exec the closure makes three system calls and compares numbers: it
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Signals the process group of the detached program `pid`, which must not have been waited for:
/// asks for its end, or forces that.
pub(crate) fn end_group(pid: u32, by_force: bool) {
    let signal = if by_force { Signal::KILL } else { Signal::TERM };
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A group that is gone is what is wanted.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Tells whether the child `pid` has ended, and leaves it to be waited for, so that its number
/// stays its own.
pub(crate) fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // One that is no child of ours any more has ended.
    waitid(WaitId::Pid(pid), look).map_or(true, |status| status.is_some())
}

/// Makes reads from, and writes to, `pipe` fail with [`io::ErrorKind::WouldBlock`] where they would
/// wait.
///
/// # Errors
/// The system's.
pub(crate) fn set_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}

/// Lets `pipe` hold more bytes, if the kernel grants that, and never fewer.
pub(crate) fn enlarge_pipe(pipe: &impl AsFd) {
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "rustix has this call behind a feature that nothing else needs")]
    // SAFETY: the descriptor is open as long as `pipe` is borrowed, and the calls take nothing but
    // numbers.
    unsafe {
        let pipe = pipe.as_fd().as_raw_fd();
        if libc::fcntl(pipe, libc::F_GETPIPE_SZ) < PIPE_SIZE {
            libc::fcntl(pipe, libc::F_SETPIPE_SZ, PIPE_SIZE);
        }
    }
}

/// Waits until something can be written into `pipe`, its reader is gone, or `patience` is over.
pub(crate) fn await_room(pipe: &impl AsFd, patience: Duration) {
    poll(&[pipe.as_fd()], libc::POLLOUT, patience);
}

/// Waits until something can be read from one of `pipes`, one has ended, or `patience` is over.
pub(crate) fn await_output(pipes: &[BorrowedFd<'_>], patience: Duration) {
    poll(pipes, libc::POLLIN, patience);
}

/// Waits for an event of one of `pipes`. Whatever the kernel answers, the caller tries to read or
/// write.
fn poll(pipes: &[BorrowedFd<'_>], events: libc::c_short, patience: Duration) {
    let of = |pipe: &BorrowedFd<'_>| libc::pollfd { fd: pipe.as_raw_fd(), events, revents: 0 };
    let mut polled: Vec<libc::pollfd> = pipes.iter().map(of).collect();
    let count = polled.len() as libc::nfds_t;
    let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
    #[expect(unsafe_code, reason = "rustix has this call behind a feature that nothing else needs")]
    // SAFETY: the call gets as many structures as it is told, which live until it returns, and
    // descriptors that are open as long as `pipes` are borrowed.
    let _ = unsafe { libc::poll(polled.as_mut_ptr(), count, milliseconds) };
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_detached_program_leads_a_session_of_its_own() {
        let mut command = Command::new("sh");
        command.args(["-c", "cut -d ' ' -f 6 /proc/$$/stat; echo $$"]).stdout(Stdio::piped());
        detach(&mut command);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<&str> = text.split_whitespace().collect();
        assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{text}");
    }

    #[test]
    fn a_full_pipe_holds_nobody_up() {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::piped());
        detach(&mut command);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        set_nonblocking(&stdin).unwrap();
        enlarge_pipe(&stdin);
        let block = vec![0; 64 << 10];
        let error = (0..1000).find_map(|_| stdin.write(&block).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        await_room(&stdin, Duration::from_millis(1));
        assert!(!has_ended(child.id()));
        end_group(child.id(), true);
        while !has_ended(child.id()) {}
        assert!(has_ended(child.id()), "it was waited for");
        assert!(!child.wait().unwrap().success());
        await_room(&stdin, Duration::from_secs(600));
        assert_eq!(stdin.write(&block).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
