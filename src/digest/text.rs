//! Digests as text, and back.

use std::fmt;
use std::ops::Deref;
use std::path::Path;

use super::Algorithm;

/// Reads the hex digits of `N` bytes, which have been checked.
pub(super) fn from_hex<const N: usize>(hex: &[u8]) -> [u8; N] {
    let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    bytes
}

/// A digest as `ALGORITHM:HEX`, in no memory but its own.
#[derive(Clone, Copy)]
pub struct DigestText {
    bytes: [u8; DigestText::LONGEST],
    length: usize,
}

impl DigestText {
    /// The length of the longest, `sha512:` and 128 hex digits.
    const LONGEST: usize = 135;

    pub(super) fn of(algorithm: Algorithm, hash: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let name = algorithm.as_str().as_bytes();
        let mut bytes = [b':'; Self::LONGEST];
        bytes[..name.len()].copy_from_slice(name);
        let digits = bytes[name.len() + 1..].chunks_exact_mut(2);
        for (pair, byte) in digits.zip(hash) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        Self { bytes, length: name.len() + 1 + hash.len() * 2 }
    }

    /// The hex digits after the colon.
    pub fn hex(&self) -> &str {
        self.split_once(':').map_or("", |(_, hex)| hex)
    }
}

impl Deref for DigestText {
    type Target = str;
    fn deref(&self) -> &str {
        // All of them are ASCII.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl PartialEq<str> for DigestText {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for DigestText {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl AsRef<str> for DigestText {
    fn as_ref(&self) -> &str {
        self
    }
}

impl AsRef<Path> for DigestText {
    fn as_ref(&self) -> &Path {
        Path::new(&**self)
    }
}

impl fmt::Display for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}
