//! The program of an engine as a child process: hostile, fragile, and never waited for in vain.
//!
//! The child gets no terminal, no secrets, a temporary directory of ours, and ends when this process
//! does. Its output is drained all the time, and bounded. A child that makes no progress is ended,
//! and so is one whose run is stopped.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Archive, Context};
use crate::error::{EngineError, printable};
use crate::progress::Event;
use crate::state::EngineSettings;
use crate::threads::{self, lock};
use crate::{sys, threads as our_threads};

/// The time that a listing, and every other short command, gets.
const SHORT: Duration = Duration::from_secs(30);
/// The time that a load may take no byte and not end.
const LOAD: Duration = Duration::from_secs(600);
/// The bytes of output that are kept; a listing of 100,000 images has about 40 MB.
const MAX_OUTPUT: usize = 64 << 20;
/// The lines of stderr that an error shows, and the characters of each.
const LAST_LINES: usize = 5;
const MAX_LINE: usize = 500;
/// The time between two looks at a child.
const POLL: Duration = Duration::from_millis(20);
/// The time that a child gets to end after it was asked to.
const GRACE: Duration = Duration::from_millis(500);
/// The time that pipes may stay open after their child has ended: a grandchild may hold them.
const PIPES: Duration = Duration::from_secs(2);

/// The variables that programs get, if they are set; those that end in `*` stand for all that begin
/// so.
const ENVIRONMENT: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_*",
    "TZ",
    "XDG_*",
    "DBUS_SESSION_BUS_ADDRESS",
    "MSB_HOME",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "CONTAINER_HOST",
    "CONTAINERS_*",
    "CONTAINERD_*",
    "STORAGE_*",
    "_CONTAINERS_*",
    "SSH_AUTH_SOCK",
];

/// The program of one engine.
pub(super) struct Program {
    settings: EngineSettings,
    context: Arc<Context>,
    /// Variables beside the harmless ones.
    variables: BTreeMap<OsString, OsString>,
}

/// The end of a child that was successful, with its output.
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    /// The last lines of stderr.
    pub(super) words: String,
}

/// A child at work, and the threads that drain its output.
struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
    words: Arc<Mutex<Vec<String>>>,
}

/// The reason why a child was ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    ByItself(ExitStatus),
    Stopped,
    Hung,
}

impl Program {
    pub(super) fn new(settings: EngineSettings, context: Arc<Context>) -> Self {
        Self { settings, context, variables: BTreeMap::new() }
    }

    /// Adds a variable to the program's environment.
    pub(super) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    pub(super) fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// The value of a variable of this process.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.context
            .environment
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// Runs a short command to its end; `Err` if it fails.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Output, EngineError> {
        let mut running = self.start(arguments, Stdio::null(), None)?;
        let deadline = Instant::now() + SHORT;
        let ended = self.wait(&mut running.child, || Instant::now() > deadline);
        self.end(arguments, running, ended, SHORT)
    }

    /// Runs a command that reads what `archive` writes.
    pub(super) fn feed(&self, arguments: &[&str], archive: Archive<'_>) -> Result<Output, EngineError> {
        let temporary = self.make_temporary()?;
        let result = self.feed_in(arguments, archive, &temporary);
        // Whatever a child has left there is nobody's any more.
        let _ = fs::remove_dir_all(&temporary);
        let _ = fs::remove_dir(&self.context.temporary);
        result
    }

    fn feed_in(
        &self,
        arguments: &[&str],
        archive: Archive<'_>,
        temporary: &std::path::Path,
    ) -> Result<Output, EngineError> {
        let mut running = self.start(arguments, Stdio::piped(), Some(temporary))?;
        let Some(stdin) = running.child.stdin.take() else {
            return Err(self.not_run(io::Error::other("it has no standard input")));
        };
        let waiting_since = Arc::new(Mutex::new(None));
        let over = Arc::new(AtomicBool::new(false));
        let watch = self.watch(running.child.id(), Arc::clone(&waiting_since), Arc::clone(&over));
        let mut fed = Fed { stdin, waiting_since: Arc::clone(&waiting_since) };
        let written = archive(&mut fed);
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        if written.as_ref().is_err_and(|error| !gone(error)) {
            // A child that gets no more must not take what it has for the whole.
            sys::end_group(running.child.id(), true);
        }
        drop(fed);
        *lock(&waiting_since) = Some(Instant::now());
        let since = Arc::clone(&waiting_since);
        let ended = self.wait(&mut running.child, move || is_hung(&since));
        over.store(true, Ordering::Relaxed);
        let ended = match watch.map(JoinHandle::join) {
            Ok(Ok(Some(reason))) => reason,
            _ => ended,
        };
        let output = self.end(arguments, running, ended, LOAD)?;
        match written {
            Ok(()) => Ok(output),
            Err(error) => Err(EngineError::Failed {
                engine: self.settings.name.as_str(),
                doing: self.doing(arguments),
                status: "it did not take all of the archive".to_owned(),
                words: if output.words.is_empty() {
                    shown(&error.to_string(), MAX_LINE)
                } else {
                    output.words
                },
            }),
        }
    }

    /// Watches a child that is fed: the feeding thread cannot, while a write blocks.
    fn watch(
        &self,
        pid: u32,
        waiting_since: Arc<Mutex<Option<Instant>>>,
        over: Arc<AtomicBool>,
    ) -> io::Result<JoinHandle<Option<Ended>>> {
        let cancel = self.context.cancel.clone();
        threads::start("engine-watch", move || {
            while !over.load(Ordering::Relaxed) {
                let reason = if !cancel.sleep(POLL) {
                    Ended::Stopped
                } else if is_hung(&waiting_since) {
                    Ended::Hung
                } else {
                    continue;
                };
                sys::end_group(pid, false);
                std::thread::sleep(GRACE);
                if !over.load(Ordering::Relaxed) {
                    sys::end_group(pid, true);
                }
                return Some(reason);
            }
            None
        })
    }

    /// Makes an empty directory for the temporary files of a child.
    fn make_temporary(&self) -> Result<PathBuf, EngineError> {
        let path = self.context.temporary.join(self.settings.name.as_str());
        let mut builder = fs::DirBuilder::new();
        let made = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => builder.recursive(true).mode(0o700).create(&path),
        };
        made.map(|()| path).map_err(|error| self.not_run(error))
    }

    fn start(
        &self,
        arguments: &[&str],
        stdin: Stdio,
        temporary: Option<&std::path::Path>,
    ) -> Result<Running, EngineError> {
        let mut command = Command::new(self.program()?);
        command.args(arguments).env_clear().envs(self.environment());
        if let Some(temporary) = temporary {
            command.env("TMPDIR", temporary);
        }
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        sys::detach(&mut command);
        let mut child = command.spawn().map_err(|error| self.not_run(error))?;
        let words: Arc<Mutex<Vec<String>>> = Arc::default();
        let stdout = child.stdout.take().map(|pipe| threads::start("engine-out", move || drain(pipe)));
        let lines = Arc::clone(&words);
        let context = Arc::clone(&self.context);
        let name = self.settings.name;
        let stderr = child.stderr.take().map(|pipe| {
            our_threads::start("engine-err", move || {
                read_lines(pipe, |line| {
                    context.reporter.report(Event::Detail(format!("{name}: {line}")));
                    let mut lines = lock(&lines);
                    if lines.len() == LAST_LINES {
                        lines.remove(0);
                    }
                    lines.push(line);
                });
            })
        });
        let (stdout, stderr) = match (stdout.transpose(), stderr.transpose()) {
            (Ok(stdout), Ok(stderr)) => (stdout, stderr),
            (Err(error), _) | (_, Err(error)) => {
                sys::end_group(child.id(), true);
                let _ = child.wait();
                return Err(self.not_run(error));
            }
        };
        Ok(Running { child, stdout, stderr, words })
    }

    /// Finds the program, where its name is no path, on the `PATH` of this session.
    fn program(&self) -> Result<PathBuf, EngineError> {
        let command = &self.settings.command;
        if command.contains('/') {
            return Ok(PathBuf::from(command));
        }
        let path = self.variable("PATH").unwrap_or_else(|| OsStr::new("/usr/local/bin:/usr/bin:/bin"));
        let found = std::env::split_paths(path).map(|directory| directory.join(command));
        let mut found = found.filter(|path| path.is_absolute() && path.is_file());
        found.next().ok_or_else(|| self.not_run(io::ErrorKind::NotFound.into()))
    }

    /// The harmless part of the environment, and what the adapter adds.
    fn environment(&self) -> BTreeMap<OsString, OsString> {
        let is_harmless = |name: &OsStr| {
            let Some(name) = name.to_str() else { return false };
            ENVIRONMENT.iter().any(|known| match known.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *known,
            })
        };
        let harmless = self.context.environment.iter().filter(|(name, _)| is_harmless(name));
        let mut all: BTreeMap<OsString, OsString> =
            harmless.map(|(name, value)| (name.clone(), value.clone())).collect();
        all.extend(self.variables.clone());
        all
    }

    /// Waits for the end of `child`, or ends it where the run is stopped or `is_late`.
    fn wait(&self, child: &mut Child, is_late: impl Fn() -> bool) -> Ended {
        let mut pause = Duration::from_millis(1);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ended::ByItself(status),
                Ok(None) => {}
                Err(_) => return Ended::Hung,
            }
            let stopped = !self.context.cancel.sleep(pause);
            if stopped || is_late() {
                sys::end_group(child.id(), false);
                let until = Instant::now() + GRACE;
                while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                    std::thread::sleep(POLL);
                }
                sys::end_group(child.id(), true);
                let _ = child.wait();
                return if stopped { Ended::Stopped } else { Ended::Hung };
            }
            pause = (pause * 2).min(POLL);
        }
    }

    /// Makes the result of a child that has ended.
    fn end(
        &self,
        arguments: &[&str],
        running: Running,
        ended: Ended,
        patience: Duration,
    ) -> Result<Output, EngineError> {
        let Running { stdout, stderr, words, .. } = running;
        let until = Instant::now() + PIPES;
        let stdout = join_until(stdout, until).unwrap_or_default();
        join_until(stderr, until);
        let words = lock(&words).join("; ");
        let (engine, doing) = (self.settings.name.as_str(), self.doing(arguments));
        match ended {
            Ended::ByItself(status) if status.success() => Ok(Output { stdout, words }),
            Ended::ByItself(status) => {
                Err(EngineError::Failed { engine, doing, status: status.to_string(), words })
            }
            Ended::Stopped => Err(EngineError::Failed { engine, doing, status: "stopped".to_owned(), words }),
            Ended::Hung => Err(EngineError::Hung { engine, doing, seconds: patience.as_secs() }),
        }
    }

    /// The subcommand as people type it, without what follows.
    fn doing(&self, arguments: &[&str]) -> String {
        let words = arguments.iter().filter(|word| !word.starts_with('-') && !word.contains(['/', '{']));
        let name = self.settings.command.rsplit('/').next().unwrap_or_default();
        let words: Vec<&str> = [name].into_iter().chain(words.copied().take(3)).collect();
        shown(&words.join(" "), 100)
    }

    fn not_run(&self, source: io::Error) -> EngineError {
        let command = shown(&self.settings.command, 200);
        EngineError::NotRun { engine: self.settings.name.as_str(), command, source }
    }
}

/// The stdin of a child, with a note of since when a write has been waiting.
struct Fed {
    stdin: ChildStdin,
    waiting_since: Arc<Mutex<Option<Instant>>>,
}

impl Write for Fed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *lock(&self.waiting_since) = Some(Instant::now());
        let written = self.stdin.write(bytes);
        *lock(&self.waiting_since) = None;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

fn is_hung(waiting_since: &Mutex<Option<Instant>>) -> bool {
    lock(waiting_since).is_some_and(|since| since.elapsed() > LOAD)
}

/// Reads all of a pipe, and keeps a bounded part.
fn drain(mut pipe: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return kept,
            Ok(count) => {
                let room = MAX_OUTPUT.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}

/// Reads a pipe line by line, each escaped and cut.
fn read_lines(pipe: impl Read, mut take: impl FnMut(String)) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        let available = match pipe.fill_buf() {
            Ok([]) => break,
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let end = available.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let count = end.unwrap_or(available.len());
        let room = (4 * MAX_LINE).saturating_sub(line.len());
        line.extend_from_slice(&available[..count.min(room)]);
        pipe.consume(end.map_or(count, |end| end + 1));
        if end.is_some() {
            tell(&mut line, &mut take);
        }
    }
    tell(&mut line, &mut take);
}

fn tell(line: &mut Vec<u8>, take: &mut impl FnMut(String)) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    if !text.is_empty() {
        take(shown(text, MAX_LINE));
    }
    line.clear();
}

/// Waits for a thread that drains a pipe, as long as a grandchild may hold the pipe open.
fn join_until<T>(thread: Option<JoinHandle<T>>, until: Instant) -> Option<T> {
    let thread = thread?;
    while !thread.is_finished() {
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().ok()
}

/// Escapes the first `most` characters of `text`.
pub(super) fn shown(text: &str, most: usize) -> String {
    let mut cut: String = text.chars().take(most).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    printable(&cut)
}
