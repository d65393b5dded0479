//! A child process that is hostile and fragile: it may hang, flood, die halfway, or ask on a
//! terminal. Engines' programs and hooks are such children.
//!
//! The child has no terminal and ends with this process. One thread tends it: drains both of its
//! outputs, keeps a bounded part of them, and ends the whole process group where the run is
//! stopped, the child makes no progress, or its output is too long. Who feeds it never waits in
//! vain: pipes do not block, so nobody who has inherited one can hold the run up.

mod lines;

use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use self::lines::{Lines, shown};
use crate::cancel::Cancel;
use crate::sys;
use crate::threads::{lock, start_in};

/// The longest time between two looks at a child.
const LOOK: Duration = Duration::from_millis(20);
/// The time that a child gets to end after it was asked to.
const GRACE: Duration = Duration::from_millis(400);
/// The time that is waited for the kernel to end a child that was killed.
const KILLING: Duration = Duration::from_millis(400);
/// The bytes that are read of an output between two looks, and the bytes of one read.
const READ_AT_ONCE: usize = 4 << 20;
const READ: usize = 64 << 10;
/// The bytes of input that are handed over at once.
const WRITE: usize = 128 << 10;
/// The number of times that a program is started which somebody is writing.
const TRIES: u32 = 20;

/// Takes the output of a child, piece by piece as it comes.
pub(crate) type Output<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// Writes what a child is to read.
pub(crate) type Input<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// The things that a child must keep to.
pub(crate) struct Rules<'a> {
    /// The switch that ends it.
    pub(crate) cancel: &'a Cancel,
    /// The time that it may make no progress; for one that is not fed, the time that it gets.
    pub(crate) patience: Duration,
    /// The time that one that is fed gets in all; `None`: as long as it makes progress.
    pub(crate) limit: Option<Duration>,
    /// The bytes of its output after which it is ended; `None`: it may write for ever.
    pub(crate) output: Option<usize>,
    /// The listener to each line that it writes to stderr, escaped and cut.
    pub(crate) line: &'a (dyn Fn(&str) + Sync),
}

/// A child that has ended.
pub(crate) struct Ended {
    pub(crate) how: How,
    /// The last lines of stderr, escaped and cut.
    pub(crate) words: String,
}

/// The way in which a child ended.
#[derive(Debug)]
pub(crate) enum How {
    /// By itself.
    Exited(ExitStatus),
    /// The run was stopped.
    Stopped,
    /// The child made no progress, or its time was over.
    Hung,
    /// The output is too long.
    Flooded,
    /// The child ended by itself, and had not taken all that it was to get.
    TookPart(ExitStatus),
    /// There was no more for it to get.
    Abandoned(io::Error),
}

/// Runs `command` without input, and hands what it writes to `output`.
///
/// # Errors
/// The program cannot be started.
pub(crate) fn run(command: Command, rules: &Rules<'_>, output: Output<'_>) -> io::Result<Ended> {
    let mut tended = Tended::start(command, Stdio::null(), rules, output)?;
    let progress = Progress { waits_since: Mutex::new(Some(Instant::now())), ..Progress::default() };
    let how = tended.tend(&progress);
    Ok(tended.ended(how))
}

/// Runs `command`, lets `input` write what it reads, and hands what it writes to `output`. Where
/// `input` fails the child is ended before its input is: no part of that passes for the whole.
///
/// # Errors
/// The program cannot be started.
pub(crate) fn feed(
    command: Command,
    rules: &Rules<'_>,
    input: Input<'_>,
    output: Output<'_>,
) -> io::Result<Ended> {
    let mut tended = Tended::start(command, Stdio::piped(), rules, output)?;
    let Some(stdin) = tended.child.stdin.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    if let Err(error) = sys::set_nonblocking(&stdin) {
        tended.end();
        return Err(error);
    }
    sys::enlarge_pipe(&stdin);
    let progress = Progress::default();
    let (how, tended) = std::thread::scope(|scope| {
        let tending = start_in(scope, "child", || {
            let how = tended.tend(&progress);
            progress.is_over.store(true, Ordering::Release);
            (how, tended)
        })?;
        let mut fed = BufWriter::with_capacity(WRITE, Fed { stdin, progress: &progress, is_refused: false });
        let written = input(&mut fed).and_then(|()| fed.flush());
        let (fed, _) = fed.into_parts();
        let broken = written.err().filter(|_| !fed.is_refused);
        let (is_refused, mut open) = (fed.is_refused, Some(fed));
        if broken.is_some() {
            progress.is_abandoned.store(true, Ordering::Release);
        } else {
            open = None;
            *lock(&progress.waits_since) = Some(Instant::now());
        }
        let Ok((how, tended)) = tending.join() else { return Err(io::Error::other("its tending broke")) };
        drop(open);
        let how = match (how, broken) {
            (How::Exited(status), None) if is_refused => How::TookPart(status),
            (How::Exited(_) | How::Hung, Some(error)) => How::Abandoned(error),
            (how, _) => how,
        };
        Ok((how, tended))
    })?;
    Ok(tended.ended(how))
}

/// The progress of a child, as its feeder and its tender tell each other.
#[derive(Default)]
struct Progress {
    /// The moment since which the child is waited for.
    waits_since: Mutex<Option<Instant>>,
    /// The feeder has nothing more, and the child must not go on with what it has.
    is_abandoned: AtomicBool,
    /// The child has ended.
    is_over: AtomicBool,
}

/// The stdin of a child.
struct Fed<'a> {
    stdin: ChildStdin,
    progress: &'a Progress,
    /// The child takes no more.
    is_refused: bool,
}

impl Write for Fed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.progress.is_over.load(Ordering::Acquire) {
                self.is_refused = true;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match self.stdin.write(bytes) {
                Ok(count) => {
                    *lock(&self.progress.waits_since) = None;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    lock(&self.progress.waits_since).get_or_insert_with(Instant::now);
                    sys::await_room(&self.stdin, LOOK);
                }
                Err(error) => {
                    self.is_refused = error.kind() != io::ErrorKind::Interrupted;
                    return Err(error);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A child at work, and whoever takes its output.
struct Tended<'a> {
    child: Child,
    started: Instant,
    rules: &'a Rules<'a>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Output<'a>,
    /// The bytes of output so far.
    written: usize,
    lines: Lines<'a>,
    buffer: Vec<u8>,
}

impl<'a> Tended<'a> {
    fn start(
        mut command: Command,
        stdin: Stdio,
        rules: &'a Rules<'a>,
        output: Output<'a>,
    ) -> io::Result<Self> {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        sys::detach(&mut command);
        let mut child = spawn(&mut command, rules.cancel)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let nonblocking = [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
        let prepared = nonblocking.iter().flatten().try_for_each(sys::set_nonblocking);
        let mut tended = Self {
            child,
            started: Instant::now(),
            rules,
            stdout,
            stderr,
            output,
            written: 0,
            lines: Lines::new(rules.line),
            buffer: vec![0; READ],
        };
        match prepared {
            Ok(()) => Ok(tended),
            Err(error) => {
                tended.end();
                Err(error)
            }
        }
    }

    /// Waits for the end of the child, or ends it.
    fn tend(&mut self, progress: &Progress) -> How {
        let mut pause = Duration::from_millis(1);
        loop {
            let is_talking = self.drain();
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    // Whatever it wrote is in the pipes; others may go on to write for ever.
                    self.drain();
                    return How::Exited(status);
                }
                Ok(None) => {}
                Err(error) => return How::Abandoned(error),
            }
            let waits =
                lock(&progress.waits_since).is_some_and(|since| since.elapsed() > self.rules.patience);
            let late = waits || self.rules.limit.is_some_and(|limit| self.started.elapsed() > limit);
            let why = if self.rules.cancel.is_cancelled() {
                How::Stopped
            } else if progress.is_abandoned.load(Ordering::Acquire) || late {
                // The feeder knows which of the two it is.
                How::Hung
            } else if self.is_flooded() {
                How::Flooded
            } else {
                pause = if is_talking { Duration::from_millis(1) } else { (pause * 2).min(LOOK) };
                self.pause(pause);
                continue;
            };
            self.end();
            return why;
        }
    }

    /// Waits until the child writes something, for `pause` at most.
    fn pause(&self, pause: Duration) {
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        let pipes: Vec<BorrowedFd<'_>> =
            stdout.into_iter().chain(self.stderr.as_ref().map(AsFd::as_fd)).collect();
        if pipes.is_empty() {
            // The next look tells why it was woken.
            let _ = self.rules.cancel.sleep(pause);
        } else {
            sys::await_output(&pipes, pause);
        }
    }

    /// True if the child has written more than anybody reads.
    fn is_flooded(&self) -> bool {
        self.rules.output.is_some_and(|most| self.written > most)
    }

    /// Reads what the child has written; true if there was anything.
    fn drain(&mut self) -> bool {
        let (output, written) = (&mut self.output, &mut self.written);
        let out = read_some(&mut self.stdout, &mut self.buffer, &mut |bytes| {
            *written = written.saturating_add(bytes.len());
            output(bytes);
        });
        let lines = &mut self.lines;
        let err = read_some(&mut self.stderr, &mut self.buffer, &mut |bytes| lines.take(bytes));
        out || err
    }

    /// Ends the child and all that it has started: asks first, and does not wait for long.
    fn end(&mut self) {
        let pid = self.child.id();
        sys::end_group(pid, false);
        let until = Instant::now() + GRACE;
        while Instant::now() < until && !sys::has_ended(pid) {
            self.drain();
            std::thread::sleep(Duration::from_millis(2));
        }
        // Its children may have stayed. It is not waited for yet, so the number is its own.
        sys::end_group(pid, true);
        let until = Instant::now() + KILLING;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.drain();
    }

    fn ended(self, how: How) -> Ended {
        // One that ends while it floods has flooded.
        let is_flooded = self.is_flooded();
        let how = if is_flooded && matches!(how, How::Exited(_)) { How::Flooded } else { how };
        Ended { how, words: self.lines.last_words() }
    }
}

/// Starts the program of `command`. One that is just being written cannot be started, be it by an
/// update or since another thread starts a program while this one's file is open.
fn spawn(command: &mut Command, cancel: &Cancel) -> io::Result<Child> {
    let mut tries = 1..TRIES;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                if tries.next().is_none() || !cancel.sleep(LOOK) {
                    return Err(error);
                }
            }
            started => return started,
        }
    }
}

/// Hands a bounded number of bytes that are there to `take`, and closes a pipe that has ended; true
/// if there was anything.
fn read_some(pipe: &mut Option<impl Read>, buffer: &mut [u8], take: &mut dyn FnMut(&[u8])) -> bool {
    let mut sum = 0;
    while let Some(open) = pipe
        && sum < READ_AT_ONCE
    {
        match open.read(buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                take(&buffer[..count]);
                sum += count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => *pipe = None,
        }
    }
    sum > 0
}
