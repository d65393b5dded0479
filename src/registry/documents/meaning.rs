//! The answers to a lookup.

use crate::digest::BlobDigest;
use crate::state::ResolvedImage;

/// The result of a whole lookup.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The reference still means the digest that is known.
    Same,
    /// The reference means this image.
    Image(Box<ResolvedImage>),
}

/// The meaning of a reference, as far as that can be told without fetching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The digest that is known.
    Same,
    /// Another digest.
    Digest(BlobDigest),
    /// Unknown until the reference is fetched.
    Unsaid,
}
