//! A tree that another program extracted from the same blob: is it as good as ours?
//!
//! The blob has just been extracted by us and its digests fit, so the inventory of that says what
//! has to be there. What microsandbox 0.2 writes differs from it in a few ways that change nothing
//! of what a sandbox sees. Where the tree has these, the inventory is made to say so; then tree and
//! inventory must agree as [`verify`] demands of any layer: types, sizes, every byte of content,
//! modes, link texts, hard links, and nothing more or less. A tree with anything of another user,
//! who could change it later, is not as good as ours.
//!
//! | what | microsandbox 0.2 |
//! |---|---|
//! | times of directories and symlinks | those of the extraction |
//! | times of files | whole seconds, and 1 for 0 |
//! | directories that no entry describes | the process's umask, or a lower layer's attributes |
//! | owners where `ownership` is `none` | in the xattr all the same |
//! | type bits in the owner's xattr | none for files with several names |
//! | the tar's own `user.*` xattrs | not set |

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::attributes::OVERRIDE_STAT;
use super::inventory::{InventoryEntry, InventoryKind, InventoryReader, InventoryWriter, read_facts};
use super::paths::split;
use super::verify::{Differences, of_another_user, verify};
use crate::cancel::Cancel;
use crate::sys::{self, FileTime, Kind, Metadata};

/// A length that no value of the owner's xattr reaches, in bytes.
const MAX_OWNER: usize = 256;
/// The bits of `st_mode` that say what a file is.
const TYPE_BITS: u32 = 0o170_000;

/// Compares the tree at `root` with `inventory`, that of the same layer as we extracted it, as far
/// as microsandbox 0.2 extracts it alike. `adapted`, an empty file open for reading and writing,
/// becomes the inventory of this tree. Thrown, `cancel` ends it early.
///
/// # Errors
/// An inventory cannot be read or written. What cannot be read of the tree is a difference.
pub(crate) fn compare_foreign(
    root: &OwnedFd,
    inventory: &mut File,
    adapted: File,
    cancel: &Cancel,
) -> io::Result<Differences> {
    if let Some(found) = of_another_user(root)? {
        return Ok(found);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the layer record is cut off");
    let facts = read_facts(inventory).ok_or_else(damaged)?;
    inventory.rewind()?;
    let mut reader = InventoryReader::new(inventory)?;
    let mut writer = InventoryWriter::new(adapted)?;
    while let Some(mut entry) = reader.next_entry()? {
        if cancel.is_cancelled() {
            break;
        }
        adapt(root, &mut entry);
        writer.entry(&entry)?;
    }
    let mut adapted = writer.finish(reader.totals().unwrap_or_default(), &facts)?;
    verify(root, &mut adapted, cancel)
}

/// Makes an entry say what the tree has, where microsandbox may differ. An entry that is not there
/// stays as it was: later entries may have replaced it, else it is a difference.
fn adapt(root: &OwnedFd, entry: &mut InventoryEntry) {
    let path = entry.path.clone();
    let (parent, name) = split(&path);
    let Ok(parent) = sys::open_directory_beneath(root.as_fd(), parent) else { return };
    let found = if name.is_empty() {
        sys::metadata_of(parent.as_fd()).map(Some)
    } else {
        sys::metadata(parent.as_fd(), name)
    };
    let Ok(Some(found)) = found else { return };
    match entry.kind {
        InventoryKind::Directory if found.kind == Kind::Directory => {
            let opened = sys::open_directory_beneath(parent.as_fd(), name);
            // Where the tar says nothing of a directory, nothing is wrong.
            if entry.modified.is_none() && found.mode & 0o7000 == 0 {
                entry.mode = found.mode;
                entry.xattrs.clear();
            }
            if let Ok(directory) = opened {
                adapt_xattrs(directory.as_fd(), entry);
            }
            entry.modified = entry.modified.filter(|modified| *modified == found.modified);
        }
        InventoryKind::File { .. } if found.kind == Kind::File => {
            adapt_time(entry, &found);
            if let Ok(file) = sys::open_file(parent.as_fd(), name) {
                adapt_xattrs(file.as_fd(), entry);
            }
        }
        InventoryKind::Symlink { .. } if found.kind == Kind::Symlink => {
            entry.modified = entry.modified.filter(|modified| *modified == found.modified);
        }
        _ => {}
    }
}

fn adapt_time(entry: &mut InventoryEntry, found: &Metadata) {
    let Some(modified) = entry.modified else { return };
    let whole = FileTime { seconds: modified.seconds, nanoseconds: 0 };
    let first = FileTime { seconds: 1, nanoseconds: 0 };
    if found.modified == whole || (modified.seconds == 0 && found.modified == first) {
        entry.modified = Some(found.modified);
    }
}

fn adapt_xattrs(file: BorrowedFd<'_>, entry: &mut InventoryEntry) {
    if !entry.xattrs.iter().any(|(name, _)| name == OVERRIDE_STAT)
        && let Ok(Some(found)) = sys::get_xattr(file, OVERRIDE_STAT, MAX_OWNER)
    {
        // Nothing says what it should be, so nothing is wrong.
        entry.xattrs.push((OVERRIDE_STAT.to_vec(), found));
    }
    entry.xattrs.retain_mut(|(name, value)| {
        let found = sys::get_xattr(file, name, MAX_OWNER.max(value.len()));
        if name != OVERRIDE_STAT {
            // An xattr that microsandbox left out is none with another value.
            return !matches!(found, Ok(None));
        }
        if let Ok(Some(found)) = found
            && says_the_same(&found, value)
        {
            *value = found;
        }
        true
    });
}

/// True if two texts `uid:gid:mode` say the same of an owner and, type bits that are missing aside,
/// of a mode.
fn says_the_same(found: &[u8], expected: &[u8]) -> bool {
    let parse = |text: &[u8]| -> Option<(u64, u64, u32)> {
        let mut fields = std::str::from_utf8(text).ok()?.split(':');
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        fields.next().is_none().then_some((uid, gid, mode))
    };
    let (Some(found), Some(expected)) = (parse(found), parse(expected)) else { return false };
    let type_bits = found.2 & TYPE_BITS;
    (found.0, found.1, found.2 & !TYPE_BITS) == (expected.0, expected.1, expected.2 & !TYPE_BITS)
        && (type_bits == 0 || type_bits == expected.2 & TYPE_BITS)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{XattrFlags, setxattr};

    use super::*;
    use crate::extract::tests::{Make, World, file};

    #[test]
    fn a_tree_that_has_more_attributes_than_the_layer_is_not_as_good_as_ours() {
        let compared = |deed: &dyn Fn(&std::path::Path)| {
            let world = World::new();
            world.entry(&[file("bin/ping", "x"), file("empty", ""), Make::Symlink("link", "empty")]).unwrap();
            deed(&world.layer());
            let root = sys::open_directory(&world.layer()).unwrap();
            let mut inventory = File::open(world.temp.path().join("record")).unwrap();
            let found = compare_foreign(&root, &mut inventory, tempfile::tempfile().unwrap(), &Cancel::new());
            found.unwrap().to_string()
        };
        let set = |path: std::path::PathBuf, name: &str, value: &[u8]| {
            setxattr(path, name, value, XattrFlags::empty()).unwrap();
        };
        assert_eq!(compared(&|_| {}), "");
        for path in ["", "bin", "bin/ping", "empty"] {
            let found = compared(&|layer| set(layer.join(path), "user.overlay.opaque", b"y"));
            assert!(found.ends_with(": xattr user.overlay.opaque added"), "{path}: {found}");
        }
        // No entry describes it: a lower layer may say whose it is.
        assert_eq!(compared(&|layer| set(layer.join("bin"), "user.containers.override_stat", b"7:7:0")), "");
    }

    #[test]
    fn an_owner_is_the_same_without_type_bits() {
        for (found, expected, same) in [
            ("0:5:0100644", "0:5:0100644", true),
            ("0:5:0644", "0:5:0100644", true),
            ("0:5:0120644", "0:5:0100644", false),
            ("0:5:0645", "0:5:0100644", false),
            ("1:5:0100644", "0:5:0100644", false),
            ("0:5:0100644:x", "0:5:0100644", false),
            ("", "0:5:0100644", false),
        ] {
            assert_eq!(says_the_same(found.as_bytes(), expected.as_bytes()), same, "{found}");
        }
    }
}
