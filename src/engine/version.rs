//! Versions of programs: read once a run, and compared with the oldest that works.

use std::sync::OnceLock;

use super::child::{Program, shown};
use crate::error::EngineError;

/// The version of one engine's program, read when it is first needed.
pub(super) struct Version {
    oldest: (u64, u64, u64),
    /// The same, in words.
    needed: &'static str,
    /// The version that was found, if it is too old.
    found: OnceLock<Option<String>>,
}

impl Version {
    pub(super) fn at_least(oldest: (u64, u64, u64), needed: &'static str) -> Self {
        Self { oldest, needed, found: OnceLock::new() }
    }

    /// Checks the version that `program --version` prints.
    pub(super) fn check(&self, program: &Program) -> Result<(), EngineError> {
        let too_old = if let Some(too_old) = self.found.get() {
            too_old.clone()
        } else {
            let output = program.run(&["--version"])?;
            let text = shown(String::from_utf8_lossy(&output.stdout).trim(), 100);
            let is_too_old = first_version(&text).is_none_or(|version| version < self.oldest);
            self.found.get_or_init(|| is_too_old.then_some(text)).clone()
        };
        match too_old {
            None => Ok(()),
            Some(found) => {
                let engine = program.settings().name.as_str();
                Err(EngineError::TooOld { engine, found, needed: self.needed })
            }
        }
    }
}

/// Finds the first three numbers with dots between them in `text`.
fn first_version(text: &str) -> Option<(u64, u64, u64)> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
        let mut numbers = word.split('.').map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Some((major, minor, patch)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::first_version;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("msb 0.7.11", Some((0, 7, 11))),
            ("ctr github.com/containerd/containerd 1.6.20~ds1", Some((1, 6, 20))),
            ("podman version 4.3.1", Some((4, 3, 1))),
            ("Docker version 28.2.2, build e6534b4", Some((28, 2, 2))),
            ("msb 0.5", None),
            ("", None),
            ("99999999999999999999999.1.1", None),
        ] {
            assert_eq!(first_version(text), version, "{text}");
        }
    }
}
