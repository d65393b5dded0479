//! A bundle as a tar, written member by member.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::{BundleImage, Form, INDEX, MARKER, MARKER_TEXT, blob_path, docker_json, index_json};
use crate::digest::BlobDigest;

/// The bytes that are copied at once.
const BUFFER: usize = 1 << 20;
/// The unit of a tar.
const BLOCK: usize = 512;

/// A bundle on its way into `W`, as a tar.
pub(crate) struct ArchiveWriter<W: Write> {
    out: W,
    /// The blobs that are written.
    written: BTreeSet<BlobDigest>,
    buffer: Vec<u8>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive with the marker of a layout.
    ///
    /// # Errors
    /// Those of `out`, here and in all methods.
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let mut archive = Self { out, written: BTreeSet::new(), buffer: Vec::new() };
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
        self.header(&blob_path(digest), size)?;
        self.buffer.resize(BUFFER, 0);
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
            let count = match bytes.read(&mut self.buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                let text = format!("blob {digest} ends {left} bytes too early");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            self.out.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        if bytes.read(&mut [0])? > 0 {
            let text = format!("blob {digest} is larger than {size} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.pad(size)?;
        self.written.insert(digest.clone());
        Ok(())
    }

    /// Writes a file of the bundle's root.
    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(name, bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
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

    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // Beyond 8 GiB in base 256, as GNU tar and all readers of archives have it.
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }
}
