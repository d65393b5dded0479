//! Versions of programs: read once a run, and compared with the oldest that works.

use std::sync::Mutex;

use super::program::Program;
use crate::child::shown;
use crate::error::EngineError;
use crate::threads::{self, lock};

/// A version, the most important number first.
type Numbers = (u64, u64, u64);

/// The version that a program tells, if there is one in its words, and the words.
type Found = (Option<Numbers>, String);

/// The version of one engine's program, read when it is first needed.
pub(super) struct Version {
    oldest: Numbers,
    /// The same, in words.
    needed: &'static str,
    found: Mutex<Option<Found>>,
}

impl Version {
    pub(super) fn at_least(oldest: Numbers, needed: &'static str) -> Self {
        Self { oldest, needed, found: Mutex::new(None) }
    }

    /// Lists with `list`, and meanwhile checks the version, unless that is known: to be started
    /// takes some programs as long as to list. The words of a program that is too old count for
    /// nothing.
    ///
    /// # Errors
    /// Those of [`Version::check`], then those of `list`.
    pub(super) fn check_beside<T>(
        &self,
        program: &Program,
        list: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        if lock(&self.found).is_some() {
            self.check(program)?;
            return list();
        }
        std::thread::scope(|scope| {
            let checking = threads::start_in(scope, "version", || self.check(program));
            let listed = list();
            // Without a thread, or with one that has panicked, the check is made here.
            checking.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| self.check(program))?;
            listed
        })
    }

    /// Checks the version that `program --version` prints.
    pub(super) fn check(&self, program: &Program) -> Result<(), EngineError> {
        // Whoever comes second waits for the answer.
        let mut known = lock(&self.found);
        if known.is_none() {
            let output = program.run(&["--version"])?;
            let text = shown(output.text().trim());
            *known = Some((first_version(&text), text));
        }
        match &*known {
            Some((None, text)) => {
                let reason =
                    if text.is_empty() { "no version".to_owned() } else { format!("{text:?} is no version") };
                Err(program.unreadable(program.doing(&["--version"]), &reason))
            }
            Some((Some(version), text)) if *version < self.oldest => {
                let (engine, found) = (program.settings().name.as_str(), text.clone());
                Err(EngineError::TooOld { engine, found, needed: self.needed })
            }
            _ => Ok(()),
        }
    }
}

/// Finds the first three numbers with dots between them in `text`.
fn first_version(text: &str) -> Option<Numbers> {
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
    fn versions_are_found_in_the_words_of_programs() {
        for (text, version) in [
            ("msb 0.7.11", Some((0, 7, 11))),
            ("ctr github.com/containerd/containerd 1.6.20~ds1", Some((1, 6, 20))),
            ("ctr github.com/containerd/containerd/v2 v2.1.3", Some((2, 1, 3))),
            ("podman version 4.3.1", Some((4, 3, 1))),
            ("podman version 5.0.0-rc1", Some((5, 0, 0))),
            ("Docker version 28.2.2, build e6534b4", Some((28, 2, 2))),
            ("msb 0.5", None),
            ("", None),
            ("99999999999999999999999.1.1", None),
        ] {
            assert_eq!(first_version(text), version, "{text}");
        }
    }
}
