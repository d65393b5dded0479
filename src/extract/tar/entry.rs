//! An entry: header and extensions together, checked.

use std::collections::BTreeMap;

use tar::EntryType;

use super::extensions::{Extensions, Records};
use super::header::Header;
use super::numbers::{decimal, parse_time};
use super::source::Source;
use super::sparse::{self, Form};
use crate::error::LayerError;
use crate::extract::paths::{MAX_NAME, MAX_PATH, refused, show};
use crate::sys::FileTime;

/// The thing that an entry becomes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::extract) enum EntryKind {
    /// A regular file of so many bytes, which follow in the stream but for its holes.
    File { size: u64 },
    /// A directory.
    Directory,
    /// A symlink with this text.
    Symlink { target: Vec<u8> },
    /// A hard link: another name of the entry at this path (cleaned like [`Entry::path`]).
    HardLink { target: Vec<u8> },
    /// A character device, block device or fifo: the file type bits of its mode.
    Special { type_bits: u32 },
}

/// One entry, checked: its path is relative, clean and cannot leave the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::extract) struct Entry {
    /// `a/b/c`, without empty, `.` or `..` components; empty for the root itself.
    pub(in crate::extract) path: Vec<u8>,
    pub(in crate::extract) kind: EntryKind,
    /// The bytes of a file that are not in the archive.
    pub(in crate::extract) holes: u64,
    /// The permission bits with setuid, setgid and sticky.
    pub(in crate::extract) mode: u32,
    pub(in crate::extract) uid: u64,
    pub(in crate::extract) gid: u64,
    pub(in crate::extract) modified: FileTime,
    /// The extended attributes of PAX `SCHILY.xattr.*` records, by name.
    pub(in crate::extract) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A header and its extensions, on their way to an entry.
pub(super) struct Description<'h> {
    header: &'h Header<'h>,
    name: Vec<u8>,
    link: Vec<u8>,
    pax: Records,
}

impl<'h> Description<'h> {
    /// Puts a header and its extensions together: what is said last, and longest, wins.
    pub(super) fn new(header: &'h Header<'h>, extensions: Extensions) -> Self {
        let Extensions { mut pax, gnu_name, gnu_link, .. } = extensions;
        let sparse_name = sparse::take_name(&mut pax);
        let name = sparse_name.or(gnu_name).or_else(|| pax.remove(&b"path"[..]));
        let link = gnu_link.or_else(|| pax.remove(&b"linkpath"[..]));
        Self {
            header,
            name: name.unwrap_or_else(|| header.name()),
            link: link.unwrap_or_else(|| header.link()),
            pax,
        }
    }

    /// Makes the error that refuses the entry.
    pub(super) fn refuse(&self, reason: &str) -> LayerError {
        refused(&self.name, reason)
    }

    /// Checks the entry. A file has the size that the archive stores of it, and no xattrs are taken
    /// yet.
    pub(super) fn check(&self) -> Result<Entry, LayerError> {
        let size = self.size()?;
        let uid = self.number(b"uid", self.header.uid())?;
        let gid = self.number(b"gid", self.header.gid())?;
        let modified = self.modified()?;
        let path = clean_path(&self.name).map_err(|reason| self.refuse(reason))?;
        let mode = self.header.mode()?;
        let kind = self.kind(size)?;
        if path.is_empty() && kind != EntryKind::Directory {
            return Err(self.refuse("it would replace the layer directory itself"));
        }
        Ok(Entry { path, kind, holes: 0, mode, uid, gid, modified, xattrs: BTreeMap::new() })
    }

    /// Finds out whether the entry is a sparse file, and where its map is.
    pub(super) fn sparse_form(&self, source: &mut impl Source) -> Result<Option<Form>, LayerError> {
        let form = sparse::form(&self.pax).map_err(|reason| self.refuse(reason))?;
        if self.header.entry_type() != EntryType::GNUSparse {
            return Ok(form);
        }
        let map = sparse::Map::old_gnu(self.header.gnu(), source, |reason| self.refuse(reason))?;
        Ok(Some(Form::Read(map)))
    }

    /// Takes the extended attributes.
    pub(super) fn into_xattrs(self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let xattr =
            |(key, value): (Vec<u8>, Vec<u8>)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value));
        self.pax.into_iter().filter_map(xattr).collect()
    }

    fn size(&self) -> Result<u64, LayerError> {
        let mut size = self.header.size()?;
        if let Some(value) = self.pax.get(&b"size"[..]) {
            size = decimal(value).ok_or_else(|| self.refuse("its PAX size is not a number"))?;
        }
        if size > i64::MAX as u64 {
            return Err(self.refuse("its size is more than any file can have"));
        }
        Ok(size)
    }

    fn number(&self, key: &[u8], field: Result<u64, LayerError>) -> Result<u64, LayerError> {
        match self.pax.get(key) {
            Some(value) => decimal(value).ok_or_else(|| self.refuse("a PAX uid or gid is not a number")),
            None => field,
        }
    }

    fn modified(&self) -> Result<FileTime, LayerError> {
        match self.pax.get(&b"mtime"[..]) {
            Some(value) => parse_time(value).ok_or_else(|| self.refuse("its PAX mtime is not a time")),
            None => self.header.modified(),
        }
    }

    fn kind(&self, size: u64) -> Result<EntryKind, LayerError> {
        Ok(match self.header.entry_type() {
            EntryType::Regular if self.header.is_of_v7_type() && self.name.ends_with(b"/") => {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File { size },
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink { target: self.symlink_target()? },
            EntryType::Link => EntryKind::HardLink { target: self.link_target()? },
            EntryType::Char => EntryKind::Special { type_bits: 0o020_000 },
            EntryType::Block => EntryKind::Special { type_bits: 0o060_000 },
            EntryType::Fifo => EntryKind::Special { type_bits: 0o010_000 },
            other => {
                let flag = char::from(other.as_byte()).escape_default().to_string();
                return Err(self.refuse(&format!("an unknown entry type {flag:?}")));
            }
        })
    }

    fn symlink_target(&self) -> Result<Vec<u8>, LayerError> {
        if self.link.is_empty() {
            return Err(self.refuse("a symlink without a target"));
        }
        if self.link.contains(&0) {
            return Err(self.refuse("its target has a NUL"));
        }
        if self.link.len() > MAX_PATH {
            return Err(self.refuse("its target is longer than any path can be"));
        }
        Ok(self.link.clone())
    }

    fn link_target(&self) -> Result<Vec<u8>, LayerError> {
        let target = clean_path(&self.link)
            .map_err(|reason| self.refuse(&format!("its link target {:?}: {reason}", show(&self.link))))?;
        if target.is_empty() {
            return Err(self.refuse("a hard link to the root directory"));
        }
        Ok(target)
    }
}

/// Makes `a/b/c` of `/a/./b//c/`: relative to the root whatever it starts with. `..` is refused.
pub(super) fn clean_path(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("its path goes up with .."),
            _ if component.len() > MAX_NAME => {
                return Err("a part of its path is longer than 255 bytes");
            }
            _ if component.contains(&0) => return Err("its path has a NUL"),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > MAX_PATH {
        return Err("its path is longer than 4,095 bytes");
    }
    Ok(path)
}
