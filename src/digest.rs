//! Content digests, and a verifier that checks them as bytes pass.
//!
//! A [`BlobDigest`] names the bytes that a registry serves (a manifest, a config, a compressed
//! layer); a [`DiffId`] names an uncompressed layer tar. They look alike and must never be mixed
//! up, hence two types. Both accept only what the OCI image spec's [digest grammar] allows for the
//! registered algorithms `sha256` and `sha512`, so a digest is always safe to use as a file name.
//!
//! [digest grammar]: https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests

mod text;

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use oci_spec::image::DigestAlgorithm;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

pub use self::text::DigestText;
use self::text::from_hex;

/// The bytes that are read at once where content is only compared.
const READ_BUFFER: usize = 256 << 10;

/// The hash function of a digest; the two that the image spec registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 64 hex digits. Every registry uses it.
    Sha256,
    /// SHA-512, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The reason why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: {reason}")]
pub struct DigestError {
    text: String,
    reason: &'static str,
}

impl DigestError {
    /// Says what is wrong, without the text itself.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// Checks `text` against the digest grammar, as oci-spec knows it, and returns its algorithm.
fn check(text: &str) -> Result<Algorithm, DigestError> {
    // The usual one without the parser's copies: a plan may have a hundred thousand.
    if let Some(hex) = text.strip_prefix("sha256:")
        && hex.len() == 64
        && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Ok(Algorithm::Sha256);
    }
    let fail = |reason| Err(DigestError { text: text.chars().take(160).collect(), reason });
    match text.parse::<oci_spec::image::Digest>() {
        Ok(digest) => match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Algorithm::Sha256),
            DigestAlgorithm::Sha512 => Ok(Algorithm::Sha512),
            _ => fail("the algorithm must be sha256 or sha512"),
        },
        // The parser does not say which rule is broken in words for people.
        Err(_) => match text.split_once(':') {
            None => fail("expected ALGORITHM:HEX, as in sha256:<64 hex digits>"),
            Some(("sha256", hex)) if hex.len() != 64 => fail("sha256 takes 64 hex digits"),
            Some(("sha512", hex)) if hex.len() != 128 => fail("sha512 takes 128 hex digits"),
            Some(("sha256" | "sha512", _)) => fail("only the digits 0-9 and a-f (lower case) are allowed"),
            Some(_) => fail("the algorithm must be sha256 or sha512"),
        },
    }
}

/// The bytes of a hash. A plan may have a hundred thousand, each in several places: the usual one
/// takes no memory of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Hash {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

impl Hash {
    fn parse(text: &str) -> Result<Self, DigestError> {
        let algorithm = check(text)?;
        let hex = &text.as_bytes()[algorithm.as_str().len() + 1..];
        Ok(match algorithm {
            Algorithm::Sha256 => Self::Sha256(from_hex(hex)),
            Algorithm::Sha512 => Self::Sha512(Box::new(from_hex(hex))),
        })
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    fn text(&self) -> DigestText {
        match self {
            Self::Sha256(hash) => DigestText::of(Algorithm::Sha256, hash),
            Self::Sha512(hash) => DigestText::of(Algorithm::Sha512, &hash[..]),
        }
    }
}

macro_rules! digest_type {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Hash);

        impl $name {
            /// Parses `ALGORITHM:HEX`.
            ///
            /// # Errors
            /// Anything that is not `sha256:` with 64 or `sha512:` with 128 lower-case hex digits.
            pub fn parse(text: &str) -> Result<Self, DigestError> {
                Hash::parse(text).map(Self)
            }

            /// The whole digest, `sha256:…`.
            pub fn text(&self) -> DigestText {
                self.0.text()
            }

            /// The hash function.
            pub fn algorithm(&self) -> Algorithm {
                self.0.algorithm()
            }

            /// Digests `bytes` by `algorithm`.
            pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(bytes);
                Self::from_hasher(hasher)
            }

            /// Takes the digest of all bytes that `hasher` saw.
            pub fn from_hasher(hasher: Hasher) -> Self {
                Self(hasher.finish())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
            }
        }

        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

digest_type! {
    /// The digest of bytes as a registry serves them: an index, a manifest, a config, a compressed
    /// layer.
    BlobDigest
}

digest_type! {
    /// The digest of a layer's uncompressed tar, as the image config's `rootfs.diff_ids` lists it.
    DiffId
}

/// A running hash of either algorithm.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256 so far.
    Sha256(sha2::Sha256),
    /// SHA-512 so far.
    Sha512(sha2::Sha512),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hasher").field(&self.algorithm()).finish()
    }
}

impl Hasher {
    /// Begins a hash.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Hash {
        match self {
            Self::Sha256(hasher) => Hash::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => {
                let hash: [u8; 64] = hasher.finalize().into();
                Hash::Sha512(Box::new(hash))
            }
        }
    }

    /// Ends the hash, and writes the digest as `algorithm:hex`.
    pub fn finish_text(self) -> DigestText {
        self.finish().text()
    }

    /// Reads `bytes` to their end, or until `is_stopped`, and ends the hash.
    ///
    /// # Errors
    /// That of `bytes`; [`io::ErrorKind::Interrupted`] where it was stopped.
    pub fn read(mut self, bytes: &mut dyn Read, is_stopped: &dyn Fn() -> bool) -> io::Result<DigestText> {
        each_portion(bytes, is_stopped, &mut |portion| {
            self.update(portion);
            true
        })?;
        Ok(self.finish_text())
    }
}

/// Hands `bytes` to `take` in portions, to their end, until `is_stopped`, or until `take` has had
/// enough.
fn each_portion(
    bytes: &mut dyn Read,
    is_stopped: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        if is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if !take(&buffer[..count]) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The reason why content is not what its descriptor says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentMismatch {
    /// The content ended before the descriptor's size.
    #[error("{digest}: the content is {actual} bytes, its descriptor says {expected}")]
    TooShort {
        /// The digest of the content that was asked for.
        digest: BlobDigest,
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// The content goes on past the descriptor's size.
    #[error("{digest}: the content is longer than the {expected} bytes that its descriptor says")]
    TooLong {
        /// The digest of the content that was asked for.
        digest: BlobDigest,
        /// Bytes announced.
        expected: u64,
    },
    /// All bytes are there, but they are other bytes.
    #[error("content does not match its digest: expected {expected}, got {actual}")]
    Digest {
        /// The digest asked for.
        expected: BlobDigest,
        /// The digest of what came.
        actual: BlobDigest,
    },
    /// The content is another one, and its digest reads as a secret.
    #[error("content does not match its digest, which is not shown: it may be a secret")]
    Unshown,
}

/// Counts and hashes bytes as they pass, and tells at the end if a descriptor names these bytes.
///
/// Nothing read before [`Verifier::finish`] says so may be believed.
#[derive(Clone, Debug)]
pub struct Verifier {
    digest: BlobDigest,
    size: u64,
    seen: u64,
    hasher: Hasher,
}

impl Verifier {
    /// Begins to check content of `size` bytes named `digest`.
    pub fn new(digest: &BlobDigest, size: u64) -> Self {
        Self { digest: digest.clone(), size, seen: 0, hasher: Hasher::new(digest.algorithm()) }
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// [`ContentMismatch::TooLong`] as soon as there are more than the descriptor's size.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), ContentMismatch> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.size {
            return Err(ContentMismatch::TooLong { digest: self.digest.clone(), expected: self.size });
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// The bytes seen so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Reads `bytes` to their end, or until `is_stopped`, and ends the check.
    ///
    /// # Errors
    /// The outer error is that of `bytes`, [`io::ErrorKind::Interrupted`] where the check was
    /// stopped; the inner one is that of [`Verifier::update`] and [`Verifier::finish`].
    pub fn read(
        mut self,
        bytes: &mut dyn Read,
        is_stopped: &dyn Fn() -> bool,
    ) -> io::Result<Result<(), ContentMismatch>> {
        let mut seen = Ok(());
        each_portion(bytes, is_stopped, &mut |portion| {
            seen = self.update(portion);
            seen.is_ok()
        })?;
        Ok(seen.and_then(|()| self.finish()))
    }

    /// Ends the check, at the end of the content.
    ///
    /// # Errors
    /// [`ContentMismatch::TooShort`] or [`ContentMismatch::Digest`].
    pub fn finish(self) -> Result<(), ContentMismatch> {
        if self.seen < self.size {
            return Err(ContentMismatch::TooShort {
                digest: self.digest,
                expected: self.size,
                actual: self.seen,
            });
        }
        let actual = BlobDigest::from_hasher(self.hasher);
        if actual == self.digest {
            Ok(())
        } else {
            Err(ContentMismatch::Digest { expected: self.digest, actual })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_the_grammar_of_the_registered_algorithms_is_accepted() {
        assert!(BlobDigest::parse(EMPTY).is_ok());
        assert!(DiffId::parse(&format!("sha512:{}", "a".repeat(128))).is_ok());
        let long = format!("sha256:{}", "a".repeat(65));
        let upper = format!("sha256:{}", "A".repeat(64));
        let path = format!("sha256:{}", "../".repeat(21) + "x");
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:abc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &long,
            &upper,
            &path,
        ] {
            assert!(BlobDigest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_knows_its_parts_and_its_content() {
        let digest = BlobDigest::of(Algorithm::Sha256, b"");
        assert_eq!(digest.text(), EMPTY);
        assert_eq!(digest.text().hex(), &EMPTY[7..]);
        assert_eq!(BlobDigest::of(Algorithm::Sha512, b"x").text().hex().len(), 128);
    }

    #[test]
    fn digests_are_sorted_as_their_texts_and_read_back() {
        let of = |algorithm, content: u8| BlobDigest::of(algorithm, &[content]);
        let mut digests: Vec<BlobDigest> = (0..50)
            .flat_map(|content| {
                [Algorithm::Sha512, Algorithm::Sha256].map(|algorithm| of(algorithm, content))
            })
            .collect();
        let mut texts: Vec<String> = digests.iter().map(BlobDigest::to_string).collect();
        digests.sort();
        texts.sort();
        assert_eq!(digests.iter().map(BlobDigest::to_string).collect::<Vec<_>>(), texts);
        let read: Result<Vec<BlobDigest>, _> = texts.iter().map(|text| text.parse()).collect();
        assert_eq!(read.unwrap(), digests);
        assert_eq!(size_of::<BlobDigest>(), 40);
    }

    fn verify(content: &[u8], named: &[u8], size: u64) -> Result<(), ContentMismatch> {
        let mut verifier = Verifier::new(&BlobDigest::of(Algorithm::Sha256, named), size);
        for byte in content {
            verifier.update(&[*byte])?;
        }
        assert_eq!(verifier.seen(), content.len() as u64);
        verifier.finish()
    }

    #[test]
    fn a_hash_that_is_stopped_gives_no_digest() {
        let read = |is_stopped: bool| {
            Hasher::new(Algorithm::Sha256)
                .read(&mut &b"abc"[..], &|| is_stopped)
                .map(|found| found.to_string())
        };
        assert_eq!(read(false).unwrap(), BlobDigest::of(Algorithm::Sha256, b"abc").to_string());
        assert_eq!(read(true).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_verifier_refuses_other_shorter_and_longer_content() {
        verify(b"abc", b"abc", 3).unwrap();
        let message = |result: Result<(), ContentMismatch>| result.unwrap_err().to_string();
        assert!(message(verify(b"abd", b"abc", 3)).contains("does not match its digest"));
        assert!(message(verify(b"ab", b"abc", 3)).contains("is 2 bytes"));
        assert!(message(verify(b"abc", b"abc", 2)).contains("longer than the 2 bytes"));
    }
}
