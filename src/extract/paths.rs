//! Paths inside a layer: names between slashes, relative to the layer directory, which is the empty
//! path. Names are bytes; only for people they become text.

use std::io;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::LayerError;

/// The longest path that Linux takes, in bytes.
pub(super) const MAX_PATH: usize = 4095;
/// The longest name of one component of a path, in bytes.
pub(super) const MAX_NAME: usize = 255;
/// The most characters of a name that a message shows.
const MAX_SHOWN: usize = 200;

/// Splits `path` into its parent and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Joins the path of a directory and a name in it.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Lists `a`, `a/b`, `a/b/c` for `a/b/c`.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(index, _)| index);
    ends.chain([path.len()]).map(|end| &path[..end])
}

/// Turns a name into text for people, lossily and bounded.
pub(super) fn show(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    if text.chars().count() > MAX_SHOWN {
        text.chars().take(MAX_SHOWN).chain("…".chars()).collect()
    } else {
        text.into_owned()
    }
}

/// Makes the errors of a system call that was `doing` something to the entry at `path`.
pub(super) fn failed(doing: &'static str, path: &[u8]) -> impl Fn(io::Error) -> LayerError + Copy {
    move |source| LayerError::Write {
        doing,
        entry: if path.is_empty() { ".".to_owned() } else { show(path) },
        source,
    }
}

/// Makes the error that refuses the entry at `path`.
pub(super) fn refused(path: &[u8], reason: impl Into<String>) -> LayerError {
    LayerError::Entry { entry: show(path), reason: reason.into() }
}

/// A way to hash paths, with a seed that nobody outside knows. The hash of a path is made from that
/// of its parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathHash {
    seed: u64,
}

impl PathHash {
    /// Makes hashes with a new seed.
    pub(super) fn new() -> Self {
        Self { seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) }
    }

    /// Makes hashes that are the same in each run: somebody may have found paths that share one.
    pub(super) fn lasting() -> Self {
        Self { seed: 0 }
    }

    /// Hashes a path.
    pub(super) fn of(self, path: &[u8]) -> u64 {
        self.along(path).last().unwrap_or(self.seed)
    }

    /// Hashes `a`, `a/b` and `a/b/c` for `a/b/c`.
    pub(super) fn along(self, path: &[u8]) -> impl Iterator<Item = u64> {
        let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.scan(self.seed, |hash, name| {
            *hash = Self::below(*hash, name);
            Some(*hash)
        })
    }

    /// Hashes the path of `name` in the directory whose path has the hash `parent`.
    pub(super) fn below(parent: u64, name: &[u8]) -> u64 {
        xxh3_64_with_seed(name, parent)
    }
}
