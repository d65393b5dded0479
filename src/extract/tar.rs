//! A streaming tar reader for hostile input: header blocks and extension records in, [`Entry`]s
//! out.
//!
//! Reads POSIX ustar and PAX, GNU (long names, base-256 numbers), star and v7 headers. Where these
//! disagree, the rules are those of Go's `archive/tar`, by which Docker, containerd and umoci read
//! layers, so that a layer means the same here and there: a PAX `size` wins over the header's
//! (CVE-2025-62518 is what happens otherwise), links and devices carry no data, two zero blocks end
//! the archive and nothing after them is parsed. An archive that Go reads in a surprising way is
//! refused here. Sparse files are read whole, their holes as zeros ([`sparse`]).
//!
//! The crate `tar` gives the views of a header and the types of entries. Its reader would not do:
//! `unpack` drops setuid bits and makes empty files of device nodes, without a word; it follows
//! what a header says before it is checked, reads PAX records by lines, and a reader of its own
//! owns the stream, which here is hashed to its very end and shared with the writer of files.
//!
//! Sources: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format", Go `archive/tar/reader.go`.

mod entry;
mod extensions;
mod header;
mod numbers;
mod source;
mod sparse;

pub(super) use self::entry::{Entry, EntryKind};
pub(super) use self::source::{BLOCK, Source};

use self::entry::Description;
use self::extensions::Extensions;
use self::header::Header;
use self::source::{broken, padding_of, read_block, skip, try_skip};
use crate::error::LayerError;

/// The next piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Data<'a> {
    /// Some bytes of the archive; never none.
    Bytes(&'a [u8]),
    /// A number of zeros of which the archive has nothing.
    Zeros(u64),
    /// All of the file is taken.
    End,
}

/// Reads entries from a [`Source`], one after the other.
pub(super) struct TarReader {
    /// The bytes of data and padding of the current entry that the caller has not taken.
    data_left: u64,
    padding: u64,
    sparse: Option<sparse::Content>,
    ended: bool,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self { data_left: 0, padding: 0, sparse: None, ended: false }
    }

    /// Reads the next entry; `None` at the end of the archive (not of the stream). The previous
    /// entry's data must have been taken with [`TarReader::data`].
    pub(super) fn next_entry(&mut self, source: &mut impl Source) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        while let Some((block, offset)) = self.next_block(source, extensions.any)? {
            let header = Header::new(&block, offset)?;
            if !extensions.take(&header, source)? {
                return self.entry(&header, extensions, source).map(Some);
            }
        }
        Ok(None)
    }

    /// Takes the next piece of the current entry's data.
    pub(super) fn data<'a>(&mut self, source: &'a mut impl Source) -> Result<Data<'a>, LayerError> {
        let wanted = match self.sparse.as_mut().map(sparse::Content::next) {
            None if self.data_left == 0 => return Ok(Data::End),
            None => self.data_left,
            Some(sparse::Next::Data(count)) => count,
            Some(sparse::Next::Zeros(count)) => return Ok(Data::Zeros(count)),
            Some(sparse::Next::End) => return Ok(Data::End),
        };
        let position = source.position();
        let piece = source.take(usize::try_from(wanted).unwrap_or(usize::MAX))?;
        if piece.is_empty() {
            return Err(broken(position, "the archive ends in the middle of a file"));
        }
        self.data_left -= piece.len() as u64;
        if let Some(content) = &mut self.sparse {
            content.taken(piece.len() as u64);
        }
        Ok(Data::Bytes(piece))
    }

    /// Reads the next header block, with its position; `None` at the end of the archive. An archive
    /// whose last header is an `extended` one has no end there.
    fn next_block(
        &mut self,
        source: &mut impl Source,
        extended: bool,
    ) -> Result<Option<([u8; BLOCK], u64)>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        skip(source, self.data_left)?;
        // Some writers leave out the last file's padding. As in Go, that ends the archive.
        self.ended = !try_skip(source, self.padding)?;
        (self.data_left, self.padding, self.sparse) = (0, 0, None);
        if self.ended {
            return Ok(None);
        }
        let start = source.position();
        match read_block(source)? {
            None if extended => Err(broken(start, "the archive ends after an extension header")),
            None => {
                self.ended = true;
                Ok(None)
            }
            Some(block) if block.iter().any(|&byte| byte != 0) => Ok(Some((block, start))),
            Some(_) if extended => Err(broken(start, "an extension header has no entry")),
            Some(_) => {
                let second = read_block(source)?;
                if second.is_some_and(|second| second.iter().any(|&byte| byte != 0)) {
                    return Err(broken(start, "a single zero block between entries"));
                }
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// Makes an entry of its header and extensions, and gets ready for its data.
    fn entry(
        &mut self,
        header: &Header<'_>,
        extensions: Extensions,
        source: &mut impl Source,
    ) -> Result<Entry, LayerError> {
        let description = Description::new(header, extensions);
        let mut entry = description.check()?;
        let form = description.sparse_form(source)?;
        match &mut entry.kind {
            EntryKind::File { size } => {
                let refuse = |reason: &str| description.refuse(reason);
                (*size, entry.holes) = self.begin_file(*size, form, source, refuse)?;
            }
            _ if form.is_some() => return Err(description.refuse("a sparse file that is no file")),
            _ => {}
        }
        entry.xattrs = description.into_xattrs();
        Ok(entry)
    }

    /// Finds out which bytes a file's data is: all of it, or the parts of a sparse one. Returns the
    /// size of the file and that of its holes.
    fn begin_file(
        &mut self,
        stored: u64,
        form: Option<sparse::Form>,
        source: &mut impl Source,
        refuse: impl Fn(&str) -> LayerError,
    ) -> Result<(u64, u64), LayerError> {
        (self.data_left, self.padding) = (stored, padding_of(stored));
        let map = match form {
            None => return Ok((stored, 0)),
            Some(sparse::Form::Read(map)) => map,
            Some(sparse::Form::BeforeData { real }) => {
                let (map, used) = sparse::Map::before_data(real, stored, source, &refuse)?;
                self.data_left -= used;
                map
            }
        };
        if map.data != self.data_left {
            return Err(refuse("a sparse file with more or less data than its parts have"));
        }
        let size = (map.real, map.holes());
        self.sparse = Some(sparse::Content::new(map));
        Ok(size)
    }
}

#[cfg(test)]
mod tests;
