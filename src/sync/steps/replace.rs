//! Replacing a file at once and durably: a reader sees the old one or the new one, and a killed run
//! leaves nothing.
//!
//! The new file has no name until all of it is on disk. Where the file system has no such files it
//! is a hidden one beside the old one, `.NAME.PROCESS.tmp`, locked as long as its writer lives:
//! whoever writes next sweeps those that nobody has locked.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::StoreError;
use crate::sys;

/// The number of times that a file is made anew which another run has swept just after it was made.
const TRIES: usize = 5;

/// Replaces the file `target`, or makes it; its permissions stay.
pub(crate) fn replace(target: &Path, text: &str) -> Result<(), StoreError> {
    let failed = || StoreError::io("write", target);
    let parent = parent_of(target);
    let directory = sys::open_directory(parent).map_err(StoreError::io("open", parent))?;
    let permissions = target.metadata().ok().map(|metadata| metadata.permissions().mode());
    let fill = |file: &mut File| {
        if let Some(mode) = permissions {
            sys::set_mode(file.as_fd(), mode & 0o7777)?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    let temporary = [&prefix(target)[..], format!("{}.tmp", std::process::id()).as_bytes()].concat();
    let written = match write_unnamed(&directory, &temporary, &fill) {
        Ok(false) => write_hidden(&directory, &temporary, &fill),
        other => other.map(drop),
    };
    let result = written.and_then(|()| {
        sys::rename_over(directory.as_fd(), &temporary, directory.as_fd(), name_of(target))?;
        sys::sync(directory.as_fd())
    });
    if result.is_err() {
        // Nothing more can be done about it, and the first failure is the one that counts.
        let _ = sys::remove_file(directory.as_fd(), &temporary);
    }
    result.map_err(failed())
}

/// Removes what killed runs have left of their attempts to replace `target`. What cannot be removed
/// stays.
pub(crate) fn sweep(target: &Path) {
    let Ok(directory) = sys::open_directory(parent_of(target)) else { return };
    let prefix = prefix(target);
    let mut left = Vec::new();
    let _ = sys::each_entry(directory.as_fd(), |name, _| {
        let number = name.strip_prefix(&prefix[..]).and_then(|rest| rest.strip_suffix(b".tmp"));
        if number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit)) {
            left.push(name.to_vec());
        }
        true
    });
    for name in left {
        let Ok(file) = sys::open_own_file(directory.as_fd(), &name) else { continue };
        if sys::try_lock(&file).unwrap_or(false) {
            let _ = sys::remove_file(directory.as_fd(), &name);
        }
    }
}

/// Makes the file `name` when all of it is written; `false` where that cannot be done.
fn write_unnamed(
    directory: &OwnedFd,
    name: &[u8],
    fill: &dyn Fn(&mut File) -> io::Result<()>,
) -> io::Result<bool> {
    let Some(mut file) = sys::make_unnamed_file(directory.as_fd())? else { return Ok(false) };
    sys::try_lock(&file)?;
    fill(&mut file)?;
    // One of a killed run whose process number came again. If it cannot go, no other gets its name.
    let _ = sys::remove_file(directory.as_fd(), name);
    Ok(sys::name_file(&file, directory.as_fd(), name).is_ok())
}

/// Makes the file `name`, locked, and writes it.
fn write_hidden(
    directory: &OwnedFd,
    name: &[u8],
    fill: &dyn Fn(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    for _ in 0..TRIES {
        let _ = sys::remove_file(directory.as_fd(), name);
        let mut file = sys::create_file(directory.as_fd(), name, 0o666)?;
        // Another run may have found it before it was locked.
        if sys::try_lock(&file)? && sys::metadata(directory.as_fd(), name)?.is_some() {
            return fill(&mut file);
        }
    }
    Err(io::Error::other("other runs remove it again and again"))
}

fn parent_of(target: &Path) -> &Path {
    target.parent().unwrap_or(Path::new("/"))
}

fn name_of(target: &Path) -> &[u8] {
    target.file_name().unwrap_or_default().as_bytes()
}

/// Returns the beginning of the names of files that are to replace `target`.
fn prefix(target: &Path) -> Vec<u8> {
    [b".", name_of(target), b"."].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("images.lock");
        replace(&target, "one").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o604)).unwrap();
        replace(&target, "two").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "two");
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o604);
        assert_eq!(names(temp.path()), ["images.lock"]);
    }

    #[test]
    fn both_ways_write_what_they_are_given_in_place_of_what_a_killed_run_left() {
        let temp = tempfile::tempdir().unwrap();
        let directory = sys::open_directory(temp.path()).unwrap();
        let path = temp.path().join(".images.lock.7.tmp");
        let fill = |file: &mut File| file.write_all(b"new");
        let unnamed = |name: &[u8]| write_unnamed(&directory, name, &fill).map(|made| assert!(made));
        let hidden = |name: &[u8]| write_hidden(&directory, name, &fill);
        for write in [&unnamed as &dyn Fn(&[u8]) -> io::Result<()>, &hidden] {
            fs::write(&path, "of a killed run").unwrap();
            write(b".images.lock.7.tmp").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        }
    }

    #[test]
    fn only_what_nobody_writes_any_more_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("images.lock");
        let kept = [".images.lock.1x.tmp", ".images.lock.tmp", ".other.lock.1.tmp", "images.lock"];
        for name in kept.iter().chain(&[".images.lock.1.tmp", ".images.lock.22.tmp"]) {
            fs::write(temp.path().join(name), "").unwrap();
        }
        let writing = File::open(temp.path().join(".images.lock.22.tmp")).unwrap();
        assert!(sys::try_lock(&writing).unwrap());
        sweep(&target);
        assert_eq!(names(temp.path()).len(), kept.len() + 1);
        assert!(!temp.path().join(".images.lock.1.tmp").exists());
        drop(writing);
        sweep(&target);
        assert_eq!(names(temp.path()).len(), kept.len());
    }
}
