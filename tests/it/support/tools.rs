//! The programs that the tests run: `tests/tools` lists them with the packages that have them, for `tests/run`, which
//! installs them, and for the tests, which end at once where some are missing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

/// Packages by the command that each is needed for, or by a file of it.
pub(crate) fn listed() -> BTreeMap<&'static str, &'static str> {
    let lines = include_str!("../../tools").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(package, command)| (command, package)).collect()
}

/// Ends all tests with one message where a listed program is missing: dozens of failures say no more than it.
pub(crate) fn require() {
    static MISSING: OnceLock<Vec<&str>> = OnceLock::new();
    // Several tests may get here at the same time: one of them says it.
    static SAID: OnceLock<()> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let directories = super::path();
        let is_there = |command: &str| {
            directories.split(':').any(|directory| Path::new(directory).join(command).exists())
        };
        listed().into_iter().filter(|(command, _)| !is_there(command)).map(|(_, package)| package).collect()
    });
    if !missing.is_empty() {
        let packages = missing.join(" ");
        // Past the capture of the test's own output.
        SAID.get_or_init(|| {
            let _ = writeln!(
                std::io::stderr(),
                "\nerror: the tests need packages that are not installed: {packages}\n\
                 hint: tests/run installs them, as root on Debian, and runs the tests"
            );
            std::process::exit(1);
        });
    }
}
