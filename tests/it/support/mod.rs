//! What the tests stand on: a sandbox for the binary, images of any shape, registries real and faulty, an
//! independent reader of tars and trees. Nothing here uses the crate under test.

pub(crate) mod check;
pub(crate) mod docker_registry;
pub(crate) mod engines;
pub(crate) mod fake_registry;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod moving;
pub(crate) mod nginx;
pub(crate) mod recorded_disk;
pub(crate) mod sandbox;
pub(crate) mod schema;
mod self_tests;
pub(crate) mod signing;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod tree;
pub(crate) mod watching;
pub(crate) mod world;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sha2::Digest as _;

/// `sha256:<hex>` of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The time that a run which a signal ends may take here. A second is promised, of which the program gives itself 0.7;
/// the rest is for starting threads, a last sync and the wait for a processor, and that takes longer on a machine that
/// is busy with other tests. Whatever such a run waits for (a slow blob, a registry that says nothing) takes longer
/// than this.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Waits until `condition` holds; panics with `what` if it does not within `limit`.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "after {limit:?} still not true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does something with each of these, all at once: for what waits rather than computes.
pub(crate) fn at_once<T: Send>(all: impl IntoIterator<Item = T>, each: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for one in all {
            scope.spawn(|| each(one));
        }
    });
}

/// Runs one of Debian's tools with HOME and all state in `directory`, and returns its stdout.
///
/// # Panics
/// Where the tool is missing (naming the package) or fails (with all that it printed).
#[track_caller]
pub(crate) fn tool(directory: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = tool_command(directory, program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("needs Debian's {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output.stdout
}

/// A command of one of Debian's tools, with a cleared environment and its state in `directory`.
pub(crate) fn tool_command(directory: &Path, program: &str) -> Command {
    tools::require();
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", path())
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .env("XDG_RUNTIME_DIR", directory)
        .current_dir(directory)
        .stdin(std::process::Stdio::null());
    command
}

/// Whether programs may be run under strace here. Where not, says so, and what follows from it: seen without
/// `--nocapture` too, because the test then proves nothing.
pub(crate) fn may_trace(otherwise: &str) -> bool {
    use std::io::Write as _;
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let may = probe.is_ok_and(|probe| probe.status.success());
    if !may {
        let _ = writeln!(std::io::stderr(), "needs Debian's strace and leave to trace: {otherwise}");
    }
    may
}

/// The caller's PATH, where Debian's programs come first if they are there at all, and the directories where Debian keeps
/// daemons. A python3 of a version manager has not the modules of Debian's packages, and takes five times as long to start.
pub(crate) fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let first = if path.split(':').any(|place| place == "/usr/bin") { "/usr/bin:" } else { "" };
    format!("{first}{path}:/usr/local/sbin:/usr/sbin:/sbin")
}
