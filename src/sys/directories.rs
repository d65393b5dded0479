//! Directories by whatever name: which one a path leads to, and whether two paths lead to one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

/// Device and inode number of a directory, which may have several names.
pub(crate) type DirectoryId = (u64, u64);

/// Identifies the directory at `path`; `None` where there is none.
///
/// # Errors
/// Nobody can tell: something on the way cannot be looked at.
pub(crate) fn directory_id(path: &Path) -> io::Result<Option<DirectoryId>> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_dir().then(|| (found.dev(), found.ino()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Tells whether two paths lead to one directory, be it one that is still to be made. `None` where
/// nobody can say: a name that leads nowhere may be that of a disk which is not mounted now.
pub(crate) fn is_one_directory(one: &Path, other: &Path) -> Option<bool> {
    if one == other {
        return Some(true);
    }
    match (directory_id(one).ok()?, directory_id(other).ok()?) {
        (Some(one), Some(other)) => Some(one == other),
        (None, None) => (place(one)? == place(other)?).then_some(true),
        _ => None,
    }
}

/// Finds the nearest directory above `path` that is there, and the names that lead from it, the
/// last one first.
fn place(path: &Path) -> Option<(DirectoryId, Vec<&OsStr>)> {
    let (mut above, mut names, mut up) = (path, Vec::new(), 0_usize);
    loop {
        let there = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        if directory_id(there).ok()?.is_some() {
            let there = (0..up).fold(there.to_owned(), |there, _| there.join(".."));
            return Some((directory_id(&there).ok()??, names));
        }
        match above.components().next_back()? {
            Component::ParentDir => up += 1,
            Component::Normal(_) if up > 0 => up -= 1,
            Component::Normal(name) => names.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
        above = above.parent()?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_names_of_a_directory_are_told_from_two_directories_and_from_what_nobody_knows() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["one", "other"] {
            fs::create_dir(at(name)).unwrap();
        }
        symlink("one", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        fs::write(at("file"), "").unwrap();
        for (one, other, is_one) in [
            ("one", "one/../link", Some(true)),
            ("one", "other", Some(false)),
            ("one", "gone", None),
            ("one", "dangling", None),
            ("one", "file", None),
            ("one", "loop", None),
            ("loop", "loop", Some(true)),
            ("loop", "gone", None),
            ("gone", "other", None),
            ("gone", "gone too", None),
            ("one/new/deep", "link/./new/deep/", Some(true)),
            ("one/new/deep", "one/deep", None),
            ("one/new", "other/../link/gone/../new", Some(true)),
            ("new", "one/gone/../../new", Some(true)),
        ] {
            assert_eq!(is_one_directory(&at(one), &at(other)), is_one, "{one} {other}");
            assert_eq!(is_one_directory(&at(other), &at(one)), is_one, "{other} {one}");
        }
        assert!(directory_id(&at("loop")).is_err());
        assert_eq!(directory_id(&at("file/below")).unwrap(), None);
    }
}
