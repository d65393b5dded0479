//! The layers that an overlay is made of.
//!
//! The kernel shows the paths that an overlay was mounted with as its mounter wrote them, and
//! nothing else: they may be relative to a working directory that nobody has any more, lead through
//! symlinks, or mean what was there before a rename. Each is resolved wherever it may have been
//! written, and compared by device and inode. A path that leads nowhere counts as the layer whose
//! name is in it; where there is none, the files that the overlay shows are compared with those of
//! each layer, since overlayfs shows the inode numbers of what lies below. A layer that is kept
//! without need does no harm.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::mounts::{Mount, unescape};
use super::wanted::Wanted;
use crate::digest::BlobDigest;
use crate::sys::{self, Kind, Metadata};

/// The most directories above a path that are looked at.
const MAX_ASCENT: usize = 256;
/// The files of a layer that are looked for in an overlay, and the directories of a layer that are
/// searched for them.
const SAMPLES: usize = 48;
const SAMPLED_DIRECTORIES: usize = 256;

/// A path that an overlay was mounted with, in every way that its text can be read: the likeliest
/// first.
type Readings = Vec<Vec<u8>>;

/// Reads the paths in an overlay's options.
fn paths(options: &[u8]) -> Vec<Readings> {
    let mut found = Vec::new();
    for option in options.split(|&byte| byte == b',') {
        let Some(equals) = option.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = (&option[..equals], unescape(&option[equals + 1..]));
        match name {
            b"lowerdir" => {
                found.extend(split_unescaped(&value).into_iter().map(readings));
                // Programs forget to escape colons where no other path follows.
                if value.contains(&b':') {
                    found.push(vec![value]);
                }
            }
            b"lowerdir+" | b"datadir+" => found.push(vec![value.clone(), without_backslashes(&value)]),
            b"upperdir" | b"workdir" => found.push(readings(&value)),
            _ => {}
        }
    }
    found
}

fn readings(text: &[u8]) -> Readings {
    vec![without_backslashes(text), text.to_vec()]
}

/// Parts `lowerdir=` at colons that no backslash stands before.
fn split_unescaped(value: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, &byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' => {
                parts.push(&value[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    // `::` parts layers from layers of data.
    parts.retain(|part| !part.is_empty());
    parts
}

fn without_backslashes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        out.extend(if byte == b'\\' { rest.next() } else { Some(&byte) });
    }
    out
}

/// The directories from which paths may have been written: the roots and working directories of
/// processes, by their links in `/proc`.
#[derive(Default)]
pub(super) struct Bases {
    pub(super) roots: Vec<PathBuf>,
    pub(super) working_directories: Vec<PathBuf>,
}

/// The meaning of a path that an overlay was mounted with.
enum Meaning<'w> {
    Layer(&'w BlobDigest),
    /// The path leads to another directory.
    Other,
    Unknown,
}

/// Finds the layers that the overlay `mount` uses, as the process with the root `root` sees it.
pub(super) fn layers_of(mount: &Mount, root: &Path, wanted: &Wanted, bases: &Bases) -> Vec<BlobDigest> {
    let mut found = Vec::new();
    let mut unknown = false;
    for readings in paths(&mount.options) {
        match meaning(&readings, root, wanted, bases) {
            Meaning::Layer(digest) => found.push(digest.clone()),
            Meaning::Other => {}
            Meaning::Unknown => match readings.iter().find_map(|path| wanted.mentioned(path)) {
                Some(digest) => found.push(digest.clone()),
                None => unknown = true,
            },
        }
    }
    if unknown && let Some(merged) = open_merged(mount, root) {
        found.extend(wanted.directories().filter(|(_, layer)| shows(&merged, layer)).map(|(d, _)| d.clone()));
    }
    found
}

fn meaning<'w>(readings: &Readings, root: &Path, wanted: &'w Wanted, bases: &Bases) -> Meaning<'w> {
    let mut other = false;
    for path in readings {
        if path.starts_with(b"/") {
            let here = [root, Path::new("/")];
            let mut resolved = false;
            for (index, base) in here.into_iter().chain(bases.roots.iter().map(PathBuf::as_path)).enumerate()
            {
                // The roots of others are only for what leads nowhere from here.
                if resolved && index >= here.len() {
                    break;
                }
                let found =
                    sys::locate_directory(base).and_then(|base| sys::locate_in_root(base.as_fd(), path));
                if let Ok(directory) = found {
                    if let Some(digest) = holder(directory, wanted) {
                        return Meaning::Layer(digest);
                    }
                    resolved = true;
                }
            }
            other |= resolved;
        } else if !path.is_empty() {
            let above = wanted.layers.ancestors();
            for base in above.chain(bases.working_directories.iter().map(PathBuf::as_path)) {
                let found = sys::locate_directory(base).and_then(|base| sys::locate_at(base.as_fd(), path));
                if let Some(digest) = found.ok().and_then(|directory| holder(directory, wanted)) {
                    return Meaning::Layer(digest);
                }
            }
        }
    }
    if other { Meaning::Other } else { Meaning::Unknown }
}

/// Finds the layer that `directory` is, or is in.
fn holder(mut directory: OwnedFd, wanted: &Wanted) -> Option<&BlobDigest> {
    let mut identity = sys::identity(directory.as_fd()).ok()?;
    if !wanted.is_on(identity.0) {
        return None;
    }
    for _ in 0..MAX_ASCENT {
        if let Some(digest) = wanted.is(identity) {
            return Some(digest);
        }
        directory = sys::locate_at(directory.as_fd(), b"..").ok()?;
        let above = sys::identity(directory.as_fd()).ok()?;
        if above == identity {
            break;
        }
        identity = above;
    }
    None
}

/// Opens the tree that an overlay shows, if nothing is mounted over it.
fn open_merged(mount: &Mount, root: &Path) -> Option<OwnedFd> {
    let above = fs::read_link(root).ok()?;
    let above = above.as_os_str().as_bytes();
    let point = mount.point.strip_prefix(above.strip_suffix(b"/").unwrap_or(above)).unwrap_or(&mount.point);
    let point = if point.is_empty() { &b"/"[..] } else { point };
    let base = sys::locate_directory(root).ok()?;
    let merged = sys::locate_in_root(base.as_fd(), point).ok()?;
    let (device, _) = sys::identity(merged.as_fd()).ok()?;
    (sys::device_numbers(device).into_bytes() == mount.device).then_some(merged)
}

/// True if an overlay shows files of the layer in `layer`.
fn shows(merged: &OwnedFd, layer: &Path) -> bool {
    // A directory that was opened only to be found cannot be opened beneath on all kernels: by its
    // link in /proc it can.
    let link = PathBuf::from(format!("/proc/self/fd/{}", merged.as_raw_fd()));
    let (Ok(merged), Ok(layer)) = (sys::open_directory(&link), sys::open_directory(layer)) else {
        return false;
    };
    let mut todo = vec![Vec::new()];
    let (mut searched, mut compared) = (0, 0);
    while let Some(path) = todo.pop() {
        searched += 1;
        if searched > SAMPLED_DIRECTORIES || compared > SAMPLES {
            break;
        }
        let Ok(below) = sys::open_directory_beneath(layer.as_fd(), &path) else { continue };
        let above = sys::open_directory_beneath(merged.as_fd(), &path).ok();
        let mut same = false;
        let visited = sys::each_entry(below.as_fd(), |name, is_directory| {
            if is_directory {
                let parent = if path.is_empty() { Vec::new() } else { [&path[..], b"/"].concat() };
                todo.push([&parent[..], name].concat());
                return true;
            }
            compared += 1;
            let look = |directory: &OwnedFd| sys::metadata(directory.as_fd(), name).ok().flatten();
            same = matches!((look(&below), above.as_ref().and_then(look)), (Some(one), Some(other)) if alike(&one, &other));
            !same && compared <= SAMPLES
        });
        if visited.is_ok() && same {
            return true;
        }
    }
    false
}

/// True if an overlay shows the one as the other. The upper bits of its inode numbers may say which
/// layer it is.
fn alike(below: &Metadata, shown: &Metadata) -> bool {
    below.kind != Kind::Directory
        && (below.kind, below.size, below.modified) == (shown.kind, shown.size, shown.modified)
        && below.inode & 0xffff_ffff == shown.inode & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_with_every_escape() {
        let first = |options: &str| -> Vec<String> {
            let all = paths(options.as_bytes());
            all.iter().map(|readings| String::from_utf8(readings[0].clone()).unwrap()).collect()
        };
        // As the kernel shows `sha256\:ab:../a\:b\,c d\\e`.
        let shown = r"ro,lowerdir=sha256\134:ab:../a\134:b\134\054c\040d\134\134e,redirect_dir=on";
        assert_eq!(first(shown)[..2], ["sha256:ab", r"../a:b,c d\e"]);
        let shown =
            r"ro,lowerdir+=/a:b\054c\040d\134e,lowerdir+=L/x,datadir+=/d,upperdir=/u\134:1,workdir=/w\012";
        assert_eq!(first(shown), [r"/a:b,c d\e", "L/x", "/d", "/u:1", "/w\n"]);
        assert_eq!(first("lowerdir=/a::/b")[..2], ["/a", "/b"]);
        // A backslash that nobody escaped, and a colon.
        assert!(paths(br"lowerdir=/a\134b")[0].contains(&br"/a\b".to_vec()));
        assert!(paths(b"lowerdir=/x/sha256:ab").contains(&vec![b"/x/sha256:ab".to_vec()]));
        assert!(paths(b"rw").is_empty());
    }
}
