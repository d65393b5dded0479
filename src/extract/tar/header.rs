//! One header block, by the views of the crate `tar`. Numbers are read by
//! [`numbers`](super::numbers): those of the crate take more for a number than Go does.

use std::mem::offset_of;

use tar::{EntryType, GnuHeader, OldHeader, UstarHeader};

use super::numbers::{base256, numeric, octal, until_nul};
use super::source::{BLOCK, broken};
use crate::error::LayerError;
use crate::sys::FileTime;

/// The last bytes of a star header, whose prefix ends where it has times.
const STAR: &[u8] = b"tar\0";
const STAR_PREFIX: usize = 131;

/// A header block whose checksum is right.
pub(super) struct Header<'a> {
    raw: &'a tar::Header,
    /// The position of the block in the archive.
    pub(super) offset: u64,
}

impl<'a> Header<'a> {
    /// Checks the checksum: unsigned, as POSIX says, or signed, as old tars wrote it.
    pub(super) fn new(block: &'a [u8; BLOCK], offset: u64) -> Result<Self, LayerError> {
        let header = Self { raw: tar::Header::from_byte_slice(block), offset };
        let field = &header.old().cksum;
        let stored = octal(field).ok_or_else(|| broken(offset, "the header's checksum is not a number"))?;
        let unsigned = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte)).sum::<i64>();
        let signed = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte.cast_signed())).sum::<i64>();
        // The field itself counts as blanks.
        let blanks = unsigned(&[b' '; size_of::<[u8; 8]>()]);
        let is_sum = |sum: i64| i64::try_from(stored).is_ok_and(|stored| stored == sum + blanks);
        if is_sum(unsigned(block) - unsigned(field)) || is_sum(signed(block) - signed(field)) {
            Ok(header)
        } else {
            Err(broken(offset, "the header's checksum is wrong"))
        }
    }

    fn old(&self) -> &'a OldHeader {
        self.raw.as_old()
    }

    /// The view of a header in GNU's format.
    pub(super) fn gnu(&self) -> Option<&'a GnuHeader> {
        self.raw.as_gnu()
    }

    pub(super) fn entry_type(&self) -> EntryType {
        self.raw.entry_type()
    }

    /// True for the type that v7 headers have for files, and for directories.
    pub(super) fn is_of_v7_type(&self) -> bool {
        self.old().linkflag == [0]
    }

    /// The name with the prefix of ustar and star headers; GNU and v7 headers have none.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.old().name);
        let prefix = self.prefix();
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The prefix of the name. Unlike the crate's view of ustar, and like Go, this asks for no
    /// version.
    fn prefix(&self) -> &'a [u8] {
        let block = self.raw.as_bytes();
        if !block[offset_of!(UstarHeader, magic)..].starts_with(b"ustar\0") {
            return b"";
        }
        let (from, to) = (offset_of!(UstarHeader, prefix), offset_of!(UstarHeader, pad));
        until_nul(&block[from..if block.ends_with(STAR) { from + STAR_PREFIX } else { to }])
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.old().linkname).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, LayerError> {
        self.number(&self.old().size, "size")
    }

    pub(super) fn uid(&self) -> Result<u64, LayerError> {
        self.number(&self.old().uid, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, LayerError> {
        self.number(&self.old().gid, "gid")
    }

    /// The permission bits with setuid, setgid and sticky; some tars put the file type into the
    /// others.
    pub(super) fn mode(&self) -> Result<u32, LayerError> {
        let mode = self.number(&self.old().mode, "mode")?;
        Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
    }

    pub(super) fn modified(&self) -> Result<FileTime, LayerError> {
        let field = &self.old().mtime;
        let seconds = if field[0] & 0x80 == 0 {
            octal(field).and_then(|seconds| i64::try_from(seconds).ok())
        } else {
            base256(field)
        };
        match seconds {
            Some(seconds) => Ok(FileTime { seconds, nanoseconds: 0 }),
            None => Err(broken(self.offset, "the mtime field is not a number")),
        }
    }

    fn number(&self, field: &[u8], what: &str) -> Result<u64, LayerError> {
        numeric(field)
            .ok_or_else(|| broken(self.offset, format!("the {what} field is not a number in 0 … 2^63")))
    }
}
