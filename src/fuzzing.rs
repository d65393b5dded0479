//! The door for fuzzing: any bytes in, a panic if a promise is broken.
//!
//! Compiled for tests and for `cargo fuzz` only (`tests/fuzz`), which is a package of its own and
//! sees nothing private: the parsers of `registry` and `trust` and the codecs of `extract` are
//! reached through this one door instead of being made public. A test replays every input of
//! `tests/fuzz/corpus` through the same functions.

use std::path::Path;

use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::images_file::{self, Source};
use crate::lockfile::Lockfile;
use crate::state::{Owner, Platform};
use crate::{extract, registry, trust};

/// One function under fuzzing.
pub type Target = fn(&[u8]);

/// All of them, by the names of their directories in `tests/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 9] = [
    ("documents", registry::fuzzing::documents),
    ("hosts", registry::fuzzing::hosts),
    ("images_file", images_file),
    ("layer", extract::fuzzing::layer),
    ("lockfile", lockfile),
    ("inventory", extract::fuzzing::inventory),
    ("references", references),
    ("trust", trust::fuzzing::candidate),
    ("www_authenticate", registry::fuzzing::www_authenticate),
];

/// Runs the target `name` on `data`.
///
/// # Panics
/// There is no such target, or `data` breaks a promise.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("there is such a target");
    target(data);
}

/// Lines apart, nothing that a terminal would act upon.
fn is_printable(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n')
}

fn images_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let source = Source {
        name: "images.toml",
        directory: Path::new("/project"),
        home_directory: Some(Path::new("/home/user")),
        default_registry: DEFAULT_REGISTRY,
        default_platform: Platform::new("linux", "amd64", None),
        for_platform: None,
        untrusted: false,
        machine: None,
    };
    if let Err(problems) = images_file::parse_machine(&text, &source) {
        assert!(!problems.is_empty() && is_printable(&problems.to_string()));
    }
    match images_file::parse(&text, &source) {
        Ok(file) => {
            assert!(file.warnings.iter().all(|warning| is_printable(&warning.to_string())));
            let groups: Vec<String> = file.groups.keys().cloned().collect();
            let chosen = file.groups.keys().take(8).cloned().map(|group| vec![group]);
            for groups in chosen.chain([Vec::new(), groups]) {
                let desired = file.desired(Owner::pull(), "/layers".into(), &groups);
                let desired = desired.expect("the groups of the file are known to it");
                assert!(desired.images.len() <= file.images.len());
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                assert!((1..=text.matches('\n').count() + 1).contains(&problem.line()), "{problem}");
                assert!(problem.column() >= 1);
                assert!(is_printable(problem.text()) && is_printable(problem.message()), "{problem:?}");
            }
            assert!(is_printable(&problems.to_string()), "{problems:?}");
        }
    }
}

fn lockfile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Lockfile::parse(&text, "images.lock") {
        Ok(lockfile) => {
            let written = lockfile.to_string();
            let again = Lockfile::parse(&written, "images.lock").expect("what was written can be read");
            assert_eq!(again, lockfile);
            assert_eq!(again.to_string(), written);
        }
        Err(problem) => {
            assert!((1..=text.matches('\n').count() + 1).contains(&problem.line()), "{problem}");
            assert!(problem.column() >= 1);
            assert!(is_printable(&problem.to_string()), "{problem:?}");
        }
    }
}

/// Image references and digests: what is taken is one thing only, and safe as a path.
fn references(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(reference) = ImageRef::parse(&text, DEFAULT_REGISTRY) {
        let full = reference.to_string();
        assert_eq!(ImageRef::parse(&full, "other.corp").as_ref(), Ok(&reference), "{full}");
        assert!(full.is_ascii() && is_printable(&full) && !full.contains(['\n', ' ']), "{full:?}");
        assert!(!reference.repository().split('/').any(|part| matches!(part, "" | "." | "..")), "{full}");
        assert!(reference.recorded_names().contains(&reference), "{full}");
        assert!(reference.tag().is_some() || reference.digest().is_some(), "{full}");
    }
    if let Ok(digest) = BlobDigest::parse(&text) {
        assert_eq!(*digest.text(), *text);
        assert!(digest.text().hex().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(format!("{}:{}", digest.algorithm().as_str(), digest.text().hex()), text);
        assert!(DiffId::parse(&text).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Every input that was ever interesting, those that once broke something among them.
    #[test]
    fn the_corpus_holds() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        let mut broken = Vec::new();
        for (name, target) in TARGETS {
            let mut inputs: Vec<_> = fs::read_dir(tests.join("corpus").join(name))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            inputs.sort();
            assert!(inputs.len() >= 5, "{name} has {} inputs", inputs.len());
            for path in inputs {
                let data = fs::read(&path).unwrap();
                if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
                    broken.push(path);
                }
            }
        }
        assert!(broken.is_empty(), "{broken:#?}");
    }

    /// Else one would never be run.
    #[test]
    fn every_target_has_its_program_and_its_corpus() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        let names = |directory: &str| -> BTreeSet<String> {
            let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            fs::read_dir(tests.join(directory)).unwrap().map(|entry| stem(&entry.unwrap().path())).collect()
        };
        let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("corpus"), known);
        assert_eq!(names("fuzz_targets"), known);
    }
}
