//! A bundle as a tar, written member by member.
//!
//! Readers ask for no order. One whose stream breaks off finds no `index.json`, and takes half an
//! archive for none. Headers are GNU's, which every reader knows: sizes beyond 8 GiB are in base
//! 256, and a name beyond 100 bytes (a digest by SHA-512) is the content of a member before its
//! own.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::{BundleImage, Form, INDEX, MARKER, MARKER_TEXT, blob_path, docker_json, index_json};
use crate::digest::BlobDigest;

/// The bytes that are copied at once.
const BUFFER: usize = 1 << 20;
/// The unit of a tar.
const BLOCK: usize = 512;
/// The longest name that a header has room for.
const MAX_NAME: usize = 100;
/// The name of a member that holds the name of the next one, or the path that it is a link to.
const LONG_NAME: &str = "././@LongLink";

/// A bundle on its way into `W`, as a tar.
pub(crate) struct ArchiveWriter<W: Write> {
    out: W,
    /// The blobs that are written.
    written: BTreeSet<BlobDigest>,
    buffer: Vec<u8>,
    /// True while a member is incomplete, and for good if writing it fails: nothing may follow it.
    broken: bool,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive with the marker of a layout.
    ///
    /// # Errors
    /// Those of `out`, here and in all methods.
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let mut archive = Self { out, written: BTreeSet::new(), buffer: Vec::new(), broken: false };
        archive.file(MARKER, MARKER_TEXT.as_bytes())?;
        Ok(archive)
    }

    /// Writes a blob of `size` bytes, unless the archive has it already. Nobody compares the bytes
    /// with the digest here.
    ///
    /// # Errors
    /// `bytes` has more or fewer bytes.
    pub(crate) fn blob(&mut self, digest: &BlobDigest, size: u64, bytes: &mut dyn Read) -> io::Result<()> {
        if self.written.contains(digest) {
            return Ok(());
        }
        self.member(&blob_path(digest), size, bytes)?;
        self.written.insert(digest.clone());
        Ok(())
    }

    /// Puts a symbolic link to `path` in the place of a blob, unless the archive has the blob
    /// already: for readers on the machine where `path` is.
    pub(crate) fn link(&mut self, digest: &BlobDigest, path: &[u8]) -> io::Result<()> {
        if self.written.contains(digest) {
            return Ok(());
        }
        let name = blob_path(digest);
        self.long(EntryType::GNULongLink, path)?;
        self.long(EntryType::GNULongName, name.as_bytes())?;
        self.header(name.as_bytes(), path, EntryType::Symlink, 0)?;
        self.written.insert(digest.clone());
        Ok(())
    }

    /// Writes a file of the bundle's root.
    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.member(name, bytes.len() as u64, &mut &*bytes)
    }

    /// Ends the archive with the index of `images`, all of whose blobs are written.
    pub(crate) fn finish(mut self, images: &[BundleImage], form: Form) -> io::Result<W> {
        if form.docker {
            self.file("manifest.json", &docker_json(images))?;
        }
        self.file(INDEX, &index_json(images, form))?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn member(&mut self, name: &str, size: u64, bytes: &mut dyn Read) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier member of the archive is incomplete"));
        }
        self.broken = true;
        self.long(EntryType::GNULongName, name.as_bytes())?;
        self.header(name.as_bytes(), b"", EntryType::Regular, size)?;
        self.copy(name, size, bytes)?;
        self.pad(size)?;
        self.broken = false;
        Ok(())
    }

    /// Writes a name, or a path, for which the header of its member has no room.
    fn long(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        if text.len() <= MAX_NAME {
            return Ok(());
        }
        let text = [text, b"\0"].concat();
        self.header(LONG_NAME.as_bytes(), b"", kind, text.len() as u64)?;
        self.out.write_all(&text)?;
        self.pad(text.len() as u64)
    }

    fn header(&mut self, name: &[u8], link: &[u8], kind: EntryType, size: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
        }
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Copies `size` bytes, and sees to it that no more come.
    fn copy(&mut self, name: &str, size: u64, bytes: &mut dyn Read) -> io::Result<()> {
        self.buffer.resize(BUFFER, 0);
        let mut left = size;
        loop {
            // One byte more than is left, to see the end.
            let most = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(BUFFER);
            let count = match bytes.read(&mut self.buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count as u64 > left {
                let text = format!("{name} is larger than {size} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if count == 0 && left > 0 {
                let text = format!("{name} ends {left} bytes too early");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            if count == 0 {
                return Ok(());
            }
            self.out.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }

    #[cfg(test)]
    pub(super) fn written(&self) -> &W {
        &self.out
    }
}
