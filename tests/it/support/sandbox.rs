//! A place of its own for one test: a home, a working directory, a cleared environment, and `msb-sync` in it.
//!
//! A run that takes too long is killed with its whole process group and reported with all that it printed;
//! dropping the sandbox leaves no process and no file behind.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::{path, schema};

/// How long a run may take unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A directory tree for one test, removed at the end.
#[derive(Debug)]
pub(crate) struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    /// An empty home and an empty working directory, on the file system of the build (extended attributes work
    /// there, which `/tmp` does not promise).
    pub(crate) fn new() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// The same in memory, where there is room: for tests that would mostly wait for a disk that plays no part in them.
    pub(crate) fn in_memory() -> Self {
        Self::below(Self::memory())
    }

    /// A directory in memory, else that of the build. Containers often have a small one, which would fill up.
    pub(crate) fn memory() -> &'static Path {
        /// Bytes that tests at once may take there.
        const ROOM: u64 = 1 << 30;
        let shared = Path::new("/dev/shm");
        let has_room = rustix::fs::statvfs(shared).is_ok_and(|disk| disk.f_bavail * disk.f_frsize >= ROOM);
        if has_room { shared } else { Path::new(env!("CARGO_TARGET_TMPDIR")) }
    }

    fn below(directory: &Path) -> Self {
        super::tools::require();
        let root = tempfile::Builder::new().prefix("msb-").tempdir_in(directory).unwrap();
        for directory in ["user", "work", "tmp"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        Self { root }
    }

    /// The directory that holds everything.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// `$HOME`.
    pub(crate) fn user(&self) -> PathBuf {
        self.root().join("user")
    }

    /// The working directory, where `images.toml` lies.
    pub(crate) fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    /// msb-sync's home, at its default place.
    pub(crate) fn home(&self) -> PathBuf {
        self.user().join(".microsandbox")
    }

    /// The store, at its default place.
    pub(crate) fn layers(&self) -> PathBuf {
        self.home().join("layers")
    }

    /// The names of the layer directories that are under their final name.
    pub(crate) fn extracted(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.layers()) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".extracted"))
            .collect();
        names.sort();
        names
    }

    /// Writes a file below the working directory, and the directories it needs.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes `images.toml`.
    pub(crate) fn images(&self, text: &str) {
        self.write("images.toml", text);
    }

    /// `msb-sync` with these arguments, split at spaces; [`Run::arg`] adds others.
    pub(crate) fn msb(&self, arguments: &str) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb-sync"));
        command
            .args(arguments.split_whitespace())
            .env_clear()
            .env("PATH", path())
            .env("HOME", self.user())
            .env("TMPDIR", self.root().join("tmp"))
            .current_dir(self.work());
        Run { command, stdin: None, timeout: TIMEOUT }
    }

    /// Another program in the same surroundings.
    pub(crate) fn program(&self, program: &str, arguments: &[&str]) -> Run {
        let mut run = self.msb("");
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(self.work());
        for (key, value) in run.command.get_envs() {
            command.env(key, value.unwrap());
        }
        run.command = command;
        run
    }

    /// `msb-sync` with an address space of 512 MiB, under a parent that notes its peak memory in
    /// [`Output::peak_kib`]. Most of an address space is never used (stacks, the allocator's arenas, the program
    /// itself); what is used without bounds does not fit all the same.
    ///
    /// The parent forks, since a child that Rust starts by `vfork` inherits the test binary's own peak.
    pub(crate) fn measured(&self, arguments: &str) -> Run {
        const PARENT: &str = "import os, resource, sys\n\
            pid = os.fork()\n\
            if pid == 0:\n \
            resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))\n \
            os.execv(sys.argv[1], sys.argv[1:])\n\
            status, usage = os.wait4(pid, 0)[1:]\n\
            sys.stderr.write('peak-kib: %d\\n' % usage.ru_maxrss)\n\
            sys.exit(os.waitstatus_to_exitcode(status) & 255)\n";
        let mut all = vec!["-c", PARENT, env!("CARGO_BIN_EXE_msb-sync")];
        all.extend(arguments.split_whitespace());
        self.program("python3", &all)
    }
}

/// One run, not started yet.
#[derive(Debug)]
#[must_use = "call run() or spawn()"]
pub(crate) struct Run {
    command: Command,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

impl Run {
    /// Adds one argument as it is.
    pub(crate) fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Gives it this on stdin; without, stdin is empty.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Kills it after this time.
    pub(crate) fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Starts it and returns at once.
    #[track_caller]
    pub(crate) fn spawn(mut self) -> Running {
        let shown = std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(|part| part.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        self.command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        if let Some(bytes) = self.stdin {
            let mut pipe = child.stdin.take().unwrap();
            // A program that never reads its stdin is no reason to hang, nor is one that closes it.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        Running { child, pipes: [stdout, stderr], shown, started: Instant::now(), timeout: self.timeout }
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        self.spawn().wait()
    }
}

/// What comes out of a pipe, and the thread that reads it.
#[derive(Debug)]
struct Drain {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

fn drain(mut pipe: impl Read + Send + 'static) -> Drain {
    let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
    let filled = Arc::clone(&bytes);
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        // What was read until an error is still worth showing.
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            filled.lock().unwrap().extend(&buffer[..count]);
        }
    });
    Drain { bytes, thread: Some(thread) }
}

impl Drain {
    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

/// A run that is under way; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pipes: [Drain; 2],
    shown: String,
    started: Instant,
    timeout: Duration,
}

impl Running {
    /// Sends a signal to it and to its children.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        // It may have ended by itself just before.
        let _ = kill_process_group(pid, signal);
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.pipes[0].so_far()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.pipes[1].so_far()
    }

    /// Whether it has a handler for this signal.
    pub(crate) fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask & (1 << (signal.as_raw() - 1)) != 0
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, or kills it when its time is up, which fails the test.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Output {
        let mut late = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if !late && self.started.elapsed() > self.timeout {
                late = true;
                self.signal(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let elapsed = self.started.elapsed();
        let [stdout, stderr] = &mut self.pipes;
        let (stdout, stderr) = (stdout.all(), stderr.all());
        let output = Output { shown: self.shown.clone(), status, stdout, stderr, elapsed };
        assert!(!late, "still running after {:?}, killed\n{output}", self.timeout);
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::KILL);
            // The only other outcome is that it was waited for already.
            let _ = self.child.wait();
        }
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Output {
    shown: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// All of stdout.
    pub(crate) stdout: String,
    /// All of stderr.
    pub(crate) stderr: String,
    /// Wall time.
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, status, stdout, stderr, elapsed } = self;
        write!(f, "$ {shown}\n{status} after {elapsed:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl Output {
    /// Fails unless it exited with `code`.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// Fails unless it exited with 0.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.code(0)
    }

    /// Fails unless `signal` ended it.
    #[track_caller]
    pub(crate) fn killed_by(self, signal: Signal) -> Self {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "expected to be killed\n{self}");
        self
    }

    /// Stdout as one JSON document, which must be one that the schema of the output knows.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON document: {error}\n{self}"));
        schema::output().assert(&value);
        value
    }

    /// Stdout as one JSON event a line, each as the schema of the output says.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| -> Value {
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{line:?} is not JSON: {error}\n{self}"));
            schema::output().assert(&value);
            value
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The last event of `apply --json`.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.json_lines().pop().unwrap_or_else(|| panic!("no event at all\n{self}"));
        assert_eq!(last["event"], "summary", "\n{self}");
        last
    }

    /// Fails unless stderr holds `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr does not say {text:?}\n{self}");
        self
    }

    /// Fails if a [`Sandbox::measured`] run took more memory than is promised, and `more` MiB.
    #[track_caller]
    pub(crate) fn assert_bounded(&self, more: u64) -> &Self {
        /// The promise, in MiB.
        const PEAK: u64 = 64;
        /// The code of an unoptimized build takes much more.
        const UNOPTIMIZED: u64 = if cfg!(debug_assertions) { 20 } else { 0 };
        let peak = self.peak_kib();
        assert!(peak <= (PEAK + UNOPTIMIZED + more) * 1024, "{} MiB at peak\n{self}", peak / 1024);
        self
    }

    /// Peak resident memory in KiB, of a [`Sandbox::measured`] run.
    #[track_caller]
    pub(crate) fn peak_kib(&self) -> u64 {
        let last = self.stderr.lines().rev().find_map(|line| line.strip_prefix("peak-kib: "));
        last.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no peak noted\n{self}"))
    }
}
