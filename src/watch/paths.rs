//! The directories to watch for a path, and a fingerprint of the path's content.
//!
//! A file may be reached through symlinks, each of which may be exchanged (a Kubernetes `ConfigMap`
//! does nothing else), and may be gone for a while. So directories are watched and not files: every
//! one in which a step of the way to the file is taken by a symlink, the last one, and where the
//! way ends early, the one where it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::digest::{Algorithm, BlobDigest};
use crate::sys;

/// Symlinks that are followed, as many as the kernel does.
const MAX_SYMLINKS: usize = 40;
/// Bytes of a file that count.
const MAX_FILE: u64 = 16 << 20;
/// Entries of a directory, or of one below it, that count.
const MAX_ENTRIES: usize = 4096;

/// A name in a directory that the way to a path leads over.
pub(super) type Step = (PathBuf, OsString);

/// The steps on the way to `path` that may be exchanged, and whether there is anything at its end.
pub(super) fn steps(path: &Path) -> (Vec<Step>, bool) {
    let mut steps: Vec<Step> = Vec::new();
    let mut at = PathBuf::from("/");
    let mut rest: Vec<OsString> = parts(path);
    let mut symlinks = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let target = match fs::symlink_metadata(&next) {
            Err(_) => {
                steps.push((at, name));
                return (steps, false);
            }
            Ok(metadata) if metadata.is_symlink() => fs::read_link(&next).ok(),
            Ok(_) => None,
        };
        let Some(target) = target else {
            if rest.is_empty() {
                steps.push((at, name));
                return (steps, true);
            }
            at = next;
            continue;
        };
        steps.push((at.clone(), name));
        symlinks += 1;
        if symlinks > MAX_SYMLINKS {
            return (steps, false);
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(parts(&target));
    }
    (steps, true)
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

/// The content of a path, as far as a run could notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing.
    Missing,
    /// Something that cannot be read, or is no file.
    Unreadable,
    /// These bytes, by their digest.
    File(BlobDigest),
    /// These files and directories.
    Directory(BTreeMap<OsString, Content>),
}

impl Content {
    /// A file with nothing in it is there.
    pub(super) fn is_empty_file(&self) -> bool {
        matches!(self, Self::File(digest) if *digest == BlobDigest::of(Algorithm::Sha256, b""))
    }

    /// The content of `path`, symlinks followed; of a directory with that of the directories in it.
    pub(super) fn of(path: &Path) -> Self {
        Self::to_depth(path, 2)
    }

    fn to_depth(path: &Path, depth: usize) -> Self {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                let mut bytes = Vec::new();
                match sys::open_regular(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)) {
                    Ok(_) => Self::File(BlobDigest::of(Algorithm::Sha256, &bytes)),
                    Err(_) => Self::Unreadable,
                }
            }
            Ok(metadata) if metadata.is_dir() => {
                if depth == 0 {
                    return Self::Directory(BTreeMap::new());
                }
                let names = entries(path);
                let of = |name: OsString| {
                    let content = Self::to_depth(&path.join(&name), depth - 1);
                    (name, content)
                };
                Self::Directory(names.into_iter().map(of).collect())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::Missing,
            Ok(_) | Err(_) => Self::Unreadable,
        }
    }
}

/// The names in a directory, sorted; none where it cannot be read.
fn entries(path: &Path) -> BTreeSet<OsString> {
    let Ok(entries) = fs::read_dir(path) else { return BTreeSet::new() };
    entries.flatten().take(MAX_ENTRIES).map(|entry| entry.file_name()).collect()
}

/// The directory at `path` and those in it, with symlinks followed.
pub(super) fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(path) = fs::canonicalize(path) else { return Vec::new() };
    let inner: Vec<PathBuf> = entries(&path)
        .iter()
        .filter_map(|name| fs::canonicalize(path.join(name)).ok().filter(|path| path.is_dir()))
        .collect();
    std::iter::once(path).filter(|path| path.is_dir()).chain(inner).collect()
}

/// The end of a layer directory's name.
pub(super) fn is_layer(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(b".extracted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(steps: &[Step], root: &Path) -> Vec<String> {
        let relative = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
        steps.iter().map(|(directory, name)| relative(&directory.join(name))).collect()
    }

    #[test]
    fn a_config_map_is_watched_at_every_link() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("etc/..2024")).unwrap();
        fs::write(root.join("etc/..2024/images.toml"), "").unwrap();
        symlink("..2024", root.join("etc/..data")).unwrap();
        symlink("..data/images.toml", root.join("etc/images.toml")).unwrap();
        let (found, complete) = steps(&root.join("etc/images.toml"));
        assert!(complete);
        assert_eq!(names(&found, &root), ["etc/images.toml", "etc/..data", "etc/..2024/images.toml"]);
    }

    #[test]
    fn a_way_that_ends_early_is_watched_where_it_ends() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        symlink(root.join("gone"), root.join("link")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let (found, complete) = steps(&root.join("a/b/images.toml"));
        assert_eq!((names(&found, &root), complete), (vec!["a".to_owned()], false));
        let (found, complete) = steps(&root.join("link/x"));
        assert_eq!((names(&found, &root), complete), (vec!["link".to_owned(), "gone".to_owned()], false));
        assert!(!steps(&root.join("loop")).1);
        let (found, complete) = steps(&root.join("none/../x"));
        assert_eq!((names(&found, &root), complete), (vec!["none".to_owned()], false));
    }

    #[test]
    fn content_is_what_counts() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("r.io/hosts.toml");
        assert_eq!(Content::of(&file), Content::Missing);
        fs::create_dir(root.path().join("r.io")).unwrap();
        fs::write(&file, "a").unwrap();
        let (before, directory) = (Content::of(&file), Content::of(root.path()));
        fs::write(&file, "a").unwrap();
        assert_eq!(Content::of(&file), before);
        fs::write(&file, "b").unwrap();
        assert_ne!(Content::of(&file), before);
        assert_ne!(Content::of(root.path()), directory, "a file in a directory in it");
        assert_eq!(directories(root.path()).len(), 2);
    }
}
