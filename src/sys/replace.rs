//! Replacing a file at once and durably: a reader sees the old one or the new one, and a killed run
//! leaves nothing.
//!
//! The new file has no name until all of it is on disk. Where the file system has no such files it
//! is a hidden one beside the old one, `.NAME.PROCESS.tmp`, locked as long as its writer lives:
//! whoever writes next sweeps those that nobody has locked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::disks::sync;
use super::metadata::{metadata, set_mode};
use super::names::{each_entry, remove_file, rename_over};
use super::open::create_file;
use super::own::{make_unnamed_file, name_file, open_own_file};
use super::try_lock;

/// The number of times that a file is made anew which another run has swept just after it was made.
const TRIES: usize = 5;

/// Makes a file that has what `fill` writes, and then gives it the name `name` in `directory`, in
/// place of the file that has it. Its mode is `mode`; `None`: what the umask leaves.
///
/// # Errors
/// Those of `fill`, and the system's. Then the old file is as it was.
pub(crate) fn replace_file(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mode: Option<u32>,
    fill: &mut dyn FnMut(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut fill = |file: &mut File| {
        fill(file)?;
        file.sync_all()
    };
    replace_file_unsynced(directory, name, mode, &mut fill)?;
    sync(directory)
}

/// Does what [`replace_file`] does, but for the wait for the disk: whoever makes many files syncs
/// the file system once. After a power loss before that, the file may be there with other bytes.
///
/// # Errors
/// As for [`replace_file`].
pub(crate) fn replace_file_unsynced(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mode: Option<u32>,
    fill: &mut dyn FnMut(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut write = |file: &mut File| {
        if let Some(mode) = mode {
            set_mode(file.as_fd(), mode & 0o7777)?;
        }
        fill(file)
    };
    let temporary = [&prefix(name)[..], format!("{}.tmp", std::process::id()).as_bytes()].concat();
    let written = match write_unnamed(directory, &temporary, &mut write) {
        Ok(false) => write_hidden(directory, &temporary, &mut write),
        other => other.map(drop),
    };
    let result = written.and_then(|()| rename_over(directory, &temporary, directory, name));
    if result.is_err() {
        // Nothing more can be done about it, and the first failure is the one that counts.
        let _ = remove_file(directory, &temporary);
    }
    result
}

/// Removes what killed runs have left of their attempts to replace files in `directory`: `name`, or
/// any whose name `is_one` accepts. What cannot be removed stays.
pub(crate) fn sweep_replacements(directory: BorrowedFd<'_>, is_one: &dyn Fn(&[u8]) -> bool) {
    let mut left = Vec::new();
    let _ = each_entry(directory, |name, _| {
        if replaced_name(name).is_some_and(is_one) {
            left.push(name.to_vec());
        }
        true
    });
    for name in left {
        let Ok(file) = open_own_file(directory, &name) else { continue };
        if try_lock(&file).unwrap_or(false) {
            let _ = remove_file(directory, &name);
        }
    }
}

/// Makes the file `name` when all of it is written; `false` where that cannot be done.
fn write_unnamed(
    directory: BorrowedFd<'_>,
    name: &[u8],
    fill: &mut dyn FnMut(&mut File) -> io::Result<()>,
) -> io::Result<bool> {
    let Some(mut file) = make_unnamed_file(directory)? else { return Ok(false) };
    try_lock(&file)?;
    fill(&mut file)?;
    // One of a killed run whose process number came again. If it cannot go, no other gets its name.
    let _ = remove_file(directory, name);
    Ok(name_file(&file, directory, name).is_ok())
}

/// Makes the file `name`, locked, and writes it.
fn write_hidden(
    directory: BorrowedFd<'_>,
    name: &[u8],
    fill: &mut dyn FnMut(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    for _ in 0..TRIES {
        let _ = remove_file(directory, name);
        let mut file = create_file(directory, name, 0o666)?;
        // Another run may have found it before it was locked.
        if try_lock(&file)? && metadata(directory, name)?.is_some() {
            return fill(&mut file);
        }
    }
    Err(io::Error::other("other runs remove it again and again"))
}

/// Returns the beginning of the names of files that are to replace `name`.
fn prefix(name: &[u8]) -> Vec<u8> {
    [b".", name, b"."].concat()
}

/// Returns the name that a file called `temporary` was to replace, if it was to replace any.
fn replaced_name(temporary: &[u8]) -> Option<&[u8]> {
    let inner = temporary.strip_prefix(b".")?.strip_suffix(b".tmp")?;
    let dot = inner.iter().rposition(|byte| *byte == b'.')?;
    let (name, number) = (&inner[..dot], &inner[dot + 1..]);
    (!number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::sys::open_directory;

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let directory = open_directory(temp.path()).unwrap();
        for (text, mode) in [("one", None), ("two", Some(0o604))] {
            let mut fill = |file: &mut File| file.write_all(text.as_bytes());
            replace_file(directory.as_fd(), b"images.lock", mode, &mut fill).unwrap();
            assert_eq!(fs::read_to_string(temp.path().join("images.lock")).unwrap(), text);
        }
        let mode = temp.path().join("images.lock").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o604);
        let mut fail = |_: &mut File| Err(io::Error::other("no"));
        assert!(replace_file(directory.as_fd(), b"images.lock", None, &mut fail).is_err());
        assert_eq!(names(temp.path()), ["images.lock"]);
    }

    #[test]
    fn both_ways_write_what_they_are_given_in_place_of_what_a_killed_run_left() {
        let temp = tempfile::tempdir().unwrap();
        let directory = open_directory(temp.path()).unwrap();
        let path = temp.path().join(".images.lock.7.tmp");
        let directory = directory.as_fd();
        let mut fill = |file: &mut File| file.write_all(b"new");
        fs::write(&path, "of a killed run").unwrap();
        assert!(write_unnamed(directory, b".images.lock.7.tmp", &mut fill).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::write(&path, "of a killed run").unwrap();
        write_hidden(directory, b".images.lock.7.tmp", &mut fill).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn only_what_nobody_writes_any_more_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let directory = open_directory(temp.path()).unwrap();
        let kept = [".images.lock.1x.tmp", ".images.lock.tmp", ".other.lock.1.tmp", "images.lock"];
        for name in kept.iter().chain(&[".images.lock.1.tmp", ".images.lock.22.tmp"]) {
            fs::write(temp.path().join(name), "").unwrap();
        }
        let writing = File::open(temp.path().join(".images.lock.22.tmp")).unwrap();
        assert!(try_lock(&writing).unwrap());
        let sweep = || sweep_replacements(directory.as_fd(), &|name| name == b"images.lock");
        sweep();
        assert_eq!(names(temp.path()).len(), kept.len() + 1);
        assert!(!temp.path().join(".images.lock.1.tmp").exists());
        drop(writing);
        sweep();
        assert_eq!(names(temp.path()).len(), kept.len());
    }
}
