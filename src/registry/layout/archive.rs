//! The members of a layout's tar: where each file lies in it.
//!
//! The headers are read once, from end to end, and what lies between is skipped. Only the names
//! that a layout has are believed, and only of regular files; all others are nobody's. A tar that
//! was cut off, or is compressed, is refused as a whole.
//!
//! Source: <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html> (ustar and pax),
//! <https://www.gnu.org/software/tar/manual/html_node/Standard.html> (GNU's long names)

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use tar::{EntryType, Header, PaxExtensions};

use crate::digest::BlobDigest;

/// The unit of a tar.
const BLOCK: u64 = 512;
/// Members that are looked at.
const MAX_MEMBERS: usize = 1_000_000;
/// Files of a layout that are noted: far more than an `index.json` has room for.
const MAX_FILES: usize = 100_000;
/// The bytes of a pax header, or of a long name.
const MAX_EXTENSION: u64 = 64 << 10;
/// The first bytes of compressed files, and what undoes them.
const COMPRESSED: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd -d"),
    (b"\xfd7zXZ\0", "unxz"),
    (b"BZh", "bunzip2"),
];

/// The place of a file in a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// The files of a layout that a tar has, by name.
#[derive(Debug, Default)]
pub(super) struct Members(HashMap<Box<str>, Place>);

/// The words of the headers before a member that change what its own one says.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Members {
    /// Reads where the files of a layout lie in `tar`.
    ///
    /// # Errors
    /// A tar that is cut off, compressed, broken, or has more members than any layout.
    pub(super) fn read(tar: &mut (impl Read + Seek)) -> io::Result<Self> {
        let length = tar.seek(SeekFrom::End(0))?;
        tar.seek(SeekFrom::Start(0))?;
        let mut members = Self::default();
        let mut extension = Extension::default();
        let mut position = 0;
        for _ in 0..MAX_MEMBERS {
            let Some(header) = next_header(tar, position, length)? else { return Ok(members) };
            let kind = header.entry_type();
            let extends =
                matches!(kind, EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink);
            let stated = header.entry_size().map_err(|_| broken("a member's size is no number"))?;
            let size = extension.size.filter(|_| !extends).unwrap_or(stated);
            let offset = position + BLOCK;
            let end = offset.checked_add(size).filter(|end| *end <= length).ok_or_else(cut_off)?;
            if extends {
                if kind != EntryType::GNULongLink {
                    extension.take(tar, kind, size)?;
                }
            } else {
                let before = std::mem::take(&mut extension);
                members.note(&header, before, Place { offset, size })?;
            }
            position = end.checked_next_multiple_of(BLOCK).ok_or_else(cut_off)?;
        }
        Err(broken(&format!("it has more than {MAX_MEMBERS} members")))
    }

    /// Finds the file `name`.
    pub(super) fn find(&self, name: &str) -> Option<Place> {
        self.0.get(name).copied()
    }

    fn note(&mut self, header: &Header, before: Extension, place: Place) -> io::Result<()> {
        let name = before.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let Some(name) = layout_name(&name) else { return Ok(()) };
        let is_file = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous);
        if !is_file || before.sparse {
            return Err(broken(&format!("its member {name} is no regular file")));
        }
        let is_root = !name.contains('/');
        // Of a blob that comes twice the last counts, as in any tar: its digest tells.
        if self.0.insert(name.into(), place).is_some() && is_root {
            return Err(broken(&format!("it has two members {name}")));
        }
        if self.0.len() > MAX_FILES {
            return Err(broken(&format!("it has more than {MAX_FILES} blobs")));
        }
        Ok(())
    }
}

impl Extension {
    /// Reads a header of `size` bytes that says something of the next member.
    fn take(&mut self, tar: &mut impl Read, kind: EntryType, size: u64) -> io::Result<()> {
        if size > MAX_EXTENSION {
            return Err(broken("a member's name is too long"));
        }
        let mut bytes = Vec::new();
        tar.take(size).read_to_end(&mut bytes)?;
        if kind == EntryType::GNULongName {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            bytes.truncate(end);
            self.name = Some(bytes);
            return Ok(());
        }
        for record in PaxExtensions::new(&bytes) {
            let record = record.map_err(|_| broken("a pax header cannot be read"))?;
            match record.key_bytes() {
                b"path" => self.name = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| broken("a member's size is no number"))?);
                }
                key => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

/// Reads the header at `position`; `None` at the end of the archive.
fn next_header(tar: &mut (impl Read + Seek), position: u64, length: u64) -> io::Result<Option<Header>> {
    let mut header = Header::new_old();
    tar.seek(SeekFrom::Start(position))?;
    if length.saturating_sub(position) < BLOCK {
        let mut start = Vec::new();
        tar.take(BLOCK).read_to_end(&mut start)?;
        return Err(if position == 0 { no_tar(&start) } else { cut_off() });
    }
    tar.read_exact(header.as_mut_bytes())
        .map_err(|error| if error.kind() == ErrorKind::UnexpectedEof { cut_off() } else { error })?;
    let bytes = header.as_bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(index, byte)| if (148..156).contains(&index) { u32::from(b' ') } else { u32::from(*byte) })
        .sum();
    if header.cksum().ok() != Some(sum) {
        return Err(if position == 0 { no_tar(bytes) } else { broken("a header's checksum is wrong") });
    }
    Ok(Some(header))
}

/// Returns the name of a layout's file that a member's `name` is, if it is one.
fn layout_name(name: &[u8]) -> Option<&str> {
    let mut name = std::str::from_utf8(name).ok()?;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    if matches!(name, "oci-layout" | "index.json") {
        return Some(name);
    }
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    BlobDigest::parse(&format!("{algorithm}:{hex}")).ok().map(|_| name)
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it is no tar that can be used: {reason}"))
}

fn cut_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the tar is cut off: it ends before its end mark")
}

/// Makes the error of a file that starts like no tar.
fn no_tar(start: &[u8]) -> io::Error {
    let undoing = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic));
    let text = match undoing {
        Some((_, undoing)) => format!("it is compressed: decompress it first ({undoing})"),
        None => "it is neither a directory nor a tar".to_owned(),
    };
    io::Error::new(ErrorKind::InvalidData, text)
}
