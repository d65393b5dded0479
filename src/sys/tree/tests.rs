//! Trees that are deep, closed, mounted on or immutable, removed. Mounts and immutable files need
//! root and a mount namespace: where a test may not have them it says so.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::*;
use crate::sys::{make_directory, make_symlink, open_directory, open_directory_beneath};

fn top(path: &Path) -> OwnedFd {
    open_directory(path).unwrap()
}

/// A chain of so many directories called `d`, with `each` called in every one.
fn deep(root: &OwnedFd, levels: usize, each: impl Fn(&OwnedFd, usize)) {
    let mut current = open_directory_beneath(root.as_fd(), b"").unwrap();
    for level in 0..levels {
        make_directory(current.as_fd(), b"d", 0o700).unwrap();
        current = open_directory_beneath(current.as_fd(), b"d").unwrap();
        each(&current, level);
    }
}

#[test]
fn deep_trees_are_removed_without_touching_the_targets_of_links() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("precious"), "x").unwrap();
    let root = top(temp.path());
    deep(&root, 3000, |directory, level| {
        if level % 500 == 0 {
            make_symlink(directory.as_fd(), b"link", temp.path().as_os_str().as_bytes()).unwrap();
        }
        // Some on each side of the chain, whatever the order of the directory.
        for name in [b"a", b"z"] {
            make_directory(directory.as_fd(), name, 0o700).unwrap();
        }
    });
    assert_eq!(find_mount(root.as_fd(), b"d").unwrap(), None);
    remove_tree(root.as_fd(), b"d").unwrap();
    remove_tree(root.as_fd(), b"d").unwrap();
    assert!(!temp.path().join("d").exists());
    assert_eq!(fs::read_to_string(temp.path().join("precious")).unwrap(), "x");
}

#[test]
fn every_file_of_a_deep_tree_is_counted_once() {
    let temp = tempfile::tempdir().unwrap();
    let root = top(temp.path());
    deep(&root, 100, |directory, _| {
        for name in [b"a", b"z"] {
            make_directory(directory.as_fd(), name, 0o700).unwrap();
            let mut file = crate::sys::create_file(directory.as_fd(), &[name[0], b'f'], 0o600).unwrap();
            file.write_all(b"12345").unwrap();
        }
    });
    assert_eq!(size_of_tree(root.as_fd(), b"d").unwrap(), 1000);
    assert_eq!(size_of_tree(root.as_fd(), b"nothing").unwrap(), 0);
}

#[test]
fn a_symlink_is_removed_and_its_target_is_not() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("target/below")).unwrap();
    symlink("target", temp.path().join("link")).unwrap();
    remove_tree(top(temp.path()).as_fd(), b"link").unwrap();
    assert!(temp.path().join("target/below").is_dir() && !temp.path().join("link").exists());
}

#[test]
fn a_wide_tree_is_emptied_whole() {
    let temp = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        fs::create_dir_all(temp.path().join(format!("t/{number}/x/y"))).unwrap();
        fs::write(temp.path().join(format!("t/{number}/f")), "").unwrap();
    }
    remove_tree(top(temp.path()).as_fd(), b"t").unwrap();
    assert!(!temp.path().join("t").exists());
}

/// Root finds nothing closed; for another user this is a layer as other tools have made it.
#[test]
fn closed_directories_are_opened() {
    let temp = tempfile::tempdir().unwrap();
    for mode in [0o000, 0o111, 0o222, 0o333, 0o444, 0o555] {
        let tree = temp.path().join("t");
        fs::create_dir_all(tree.join("closed/inner/x")).unwrap();
        fs::write(tree.join("closed/file"), "").unwrap();
        for path in ["closed/inner", "closed", "."] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(top(temp.path()).as_fd(), b"t").unwrap();
        assert!(!tree.exists(), "{mode:o}");
    }
}
