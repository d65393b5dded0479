//! Replacing a file that users name: its permissions stay.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::StoreError;
use crate::sys;

/// Replaces the file `target`, or makes it, at once and durably; its permissions stay.
pub(crate) fn replace(target: &Path, text: &str) -> Result<(), StoreError> {
    let parent = parent_of(target);
    let directory = sys::open_directory(parent).map_err(StoreError::named("open", parent))?;
    let mode = target.metadata().ok().map(|metadata| metadata.permissions().mode());
    sys::replace_file(directory.as_fd(), name_of(target), mode, &mut |file| file.write_all(text.as_bytes()))
        .map_err(StoreError::named("write", target))
}

/// Removes what killed runs have left of their attempts to replace `target`. What cannot be removed
/// stays.
pub(crate) fn sweep(target: &Path) {
    let Ok(directory) = sys::open_directory(parent_of(target)) else { return };
    sys::sweep_replacements(directory.as_fd(), &|name| name == name_of(target));
}

fn parent_of(target: &Path) -> &Path {
    target.parent().unwrap_or(Path::new("/"))
}

fn name_of(target: &Path) -> &[u8] {
    target.file_name().unwrap_or_default().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_keeps_its_permissions() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("images.lock");
        replace(&target, "one").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o604)).unwrap();
        replace(&target, "two").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "two");
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o604);
        sweep(&target);
        assert!(target.exists());
    }
}
