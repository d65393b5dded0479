//! The owners that are no more.

use std::io;

use crate::state::Owner;

/// Tells whether an owner is an images file that is certainly no more. One that may not be looked
/// at may be there, and a link may lead to a disk that is not mounted now.
pub(crate) fn is_gone(owner: &Owner) -> bool {
    let is_none = |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    owner.file().is_some_and(|path| path.symlink_metadata().is_err_and(|error| is_none(error.kind())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_that_are_certainly_not_there_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let owner = |name: &str| Owner::images_file(&directory.path().join(name));
        fs::write(directory.path().join("file"), "").unwrap();
        symlink("nowhere", directory.path().join("link")).unwrap();
        for (name, gone) in [("file", false), ("link", false), ("none", true), ("file/below", true)] {
            assert_eq!(is_gone(&owner(name)), gone, "{name}");
        }
        assert!(!is_gone(&Owner::pull()));
    }
}
