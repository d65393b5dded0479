//! Media types of blobs, in little memory.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The media type of a layer or a document. Nearly all have one of a few, which take no memory of
/// their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

/// The media types that registries serve: the [image spec's][oci] and [Docker's][docker].
///
/// [oci]: https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md
/// [docker]: https://github.com/distribution/distribution/blob/v2.8.3/docs/spec/manifest-v2-2.md
const USUAL_MEDIA_TYPES: [&str; 11] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
];

impl MediaType {
    /// The media type of a blob of which none is known.
    pub const UNKNOWN: Self = Self(Cow::Borrowed(""));

    /// The media type as a manifest writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for MediaType {
    fn from(text: &str) -> Self {
        let usual = USUAL_MEDIA_TYPES.into_iter().find(|&usual| usual == text);
        Self(usual.map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed))
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer).map(|text| Self::from(&*text))
    }
}
