//! Indexes and manifests: from hostile bytes to checked values.
//!
//! The content decides what a document is; its `mediaType` and the Content-Type it was served with
//! must say the same, because a document that two readers understand differently is an attack
//! ([CVE-2021-41190]). Only what is an image is accepted: no schema 1, no artifacts, no layers that
//! are not tar.
//!
//! Every failure here is a text that says what is wrong; the caller adds which document and who
//! served it.
//!
//! [CVE-2021-41190]: https://www.cve.org/CVERecord?id=CVE-2021-41190

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};

use oci_spec::image::{MediaType, ToDockerV2S2 as _};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Number;
use serde_json::value::RawValue;

use super::recorded;
use crate::digest::BlobDigest;
use crate::registry::transport::{json_error, printable};
use crate::state::Platform;
use crate::threads::lock;

/// The media types that are asked for: images in both dialects.
pub(crate) static ACCEPT: LazyLock<String> = LazyLock::new(|| {
    let kinds = [MediaType::ImageIndex, MediaType::ImageManifest];
    let both = kinds.iter().flat_map(|kind| [Some(kind.as_ref()), kind.to_docker_v2s2().ok()]);
    both.flatten().collect::<Vec<_>>().join(", ")
});

/// Tells whether `media_type` is `kind`, in either dialect.
fn is(media_type: &str, kind: &MediaType) -> bool {
    media_type == kind.as_ref() || kind.to_docker_v2s2().is_ok_and(|docker| docker == media_type)
}

/// The size beyond which documents are taken apart one at a time, in bytes.
const LARGE: usize = 32 << 10;
/// More layers than any builder makes (Docker stops at 127) and any kernel mounts.
const MAX_LAYERS: usize = 1024;
/// Larger blobs are a mistake; low enough that no sum over [`MAX_LAYERS`] overflows. In bytes.
const MAX_BLOB: u64 = 1 << 50;

#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) digest: BlobDigest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

#[derive(Debug)]
pub(crate) enum Parsed {
    Index(Index),
    Manifest(Manifest),
}

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) media_type: String,
    /// The annotations as they are recorded.
    pub(crate) annotations: Option<String>,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    /// The annotations as they are recorded.
    pub(crate) annotations: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// One entry of an index. Its digest is checked only if the entry is chosen: what another
/// platform's entry says of itself is nobody's business here. oci-spec's `ImageIndex` would refuse
/// the whole index for it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    size: Number,
    // Boxed, like the annotations: a hostile index has very many entries, and nothing in them.
    #[serde(default)]
    platform: Option<Box<RawPlatform>>,
    #[serde(default)]
    annotations: Option<Box<EntryAnnotations>>,
}

/// The annotations of an entry that say something here.
#[derive(Debug, Deserialize)]
struct EntryAnnotations {
    #[serde(rename = "org.opencontainers.image.ref.name", default)]
    ref_name: Option<String>,
    #[serde(rename = "io.containerd.image.name", default)]
    containerd_name: Option<String>,
    #[serde(rename = "dev.msb-sync.index", default)]
    index: Option<String>,
    #[serde(rename = "dev.msb-sync.signatures", default)]
    signatures: Option<String>,
    #[serde(rename = "vnd.docker.reference.type", default)]
    reference_type: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
}

/// The platform of an entry, as its index has it.
pub(crate) enum For {
    /// Nothing.
    Unsaid,
    /// `unknown`: attestations and the like.
    Nobody,
    /// This one.
    Platform(Platform),
}

impl Entry {
    pub(crate) fn is_index(&self) -> bool {
        self.media_type.as_deref().is_some_and(|media_type| is(media_type, &MediaType::ImageIndex))
    }

    pub(crate) fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// Returns `org.opencontainers.image.ref.name`.
    pub(crate) fn ref_name(&self) -> Option<&str> {
        self.annotations.as_ref()?.ref_name.as_deref()
    }

    /// Returns `io.containerd.image.name`.
    pub(crate) fn containerd_name(&self) -> Option<&str> {
        self.annotations.as_ref()?.containerd_name.as_deref()
    }

    /// Returns `dev.msb-sync.index`: the digest of the index that the entry's name means, where the
    /// entry leads past it straight to a manifest.
    pub(crate) fn index(&self) -> Option<&str> {
        self.annotations.as_ref()?.index.as_deref()
    }

    /// Returns `dev.msb-sync.signatures`: the digests of the manifests of signatures that a bundle
    /// carries along with the entry's image, with commas between.
    pub(crate) fn signatures(&self) -> Option<&str> {
        self.annotations.as_ref()?.signatures.as_deref()
    }

    pub(crate) fn digest_text(&self) -> &str {
        &self.digest
    }

    pub(crate) fn platform(&self) -> For {
        if self.annotations.as_ref().is_some_and(|annotations| annotations.reference_type.is_some()) {
            return For::Nobody;
        }
        let Some(raw) = &self.platform else { return For::Unsaid };
        let (os, architecture) = (raw.os.as_deref().unwrap_or(""), raw.architecture.as_deref().unwrap_or(""));
        match (os, architecture) {
            ("", "") => For::Unsaid,
            ("unknown" | "", _) | (_, "unknown" | "") => For::Nobody,
            _ => For::Platform(Platform::new(os, architecture, raw.variant.as_deref())),
        }
    }

    pub(crate) fn descriptor(&self) -> Result<Descriptor, String> {
        descriptor("the index's entry", &self.digest, &self.size, self.media_type.as_deref())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument<'a> {
    #[serde(default)]
    schema_version: Option<Number>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default, borrow)]
    annotations: Option<&'a RawValue>,
}

/// Everything else in a descriptor, `urls` above all, is ignored: nothing is ever fetched from
/// there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    size: Number,
}

fn descriptor(
    what: &str,
    digest: &str,
    size: &Number,
    media_type: Option<&str>,
) -> Result<Descriptor, String> {
    let digest = BlobDigest::parse(digest).map_err(|error| format!("{what}: {error}"))?;
    let size = size
        .as_u64()
        .filter(|size| *size <= MAX_BLOB)
        .ok_or_else(|| format!("{what} {digest}: its size {size} is impossible"))?;
    Ok(Descriptor { digest, size, media_type: media_type.unwrap_or_default().to_owned() })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Index,
    Manifest,
}

/// Tells what a media type says a document is; `None`: nothing (`application/json` and the like).
fn kind_of(media_type: &str) -> Result<Option<Kind>, String> {
    match media_type {
        text if is(text, &MediaType::ImageIndex) => Ok(Some(Kind::Index)),
        text if is(text, &MediaType::ImageManifest) => Ok(Some(Kind::Manifest)),
        // File servers and careless registries say this of every JSON file.
        "" | "application/json" | "application/octet-stream" | "binary/octet-stream" | "text/plain" => {
            Ok(None)
        }
        other if other.starts_with("application/vnd.docker.distribution.manifest.v1+") => {
            Err("it is a Docker schema 1 manifest, which is obsolete and not supported".to_owned())
        }
        other => Err(format!("its media type {:?} is no image's", printable(other, 120))),
    }
}

/// Waits until no other large document is being taken apart, where `bytes` are one; the turn lasts
/// as long as the guard.
///
/// A document's parsed form is several times as large as its bytes, and a run asks several
/// registries at once. Under the guard nobody waits for anything but the processor.
pub(super) fn turn(bytes: &[u8]) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    (bytes.len() > LARGE).then(|| lock(&TURN))
}

/// Reads an index or manifest, served as `content_type`.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Parsed, String> {
    let content_type =
        content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let said = kind_of(&content_type)?;
    let raw: RawDocument<'_> = serde_json::from_slice(bytes).map_err(|error| json_error(&error))?;
    match raw.schema_version.as_ref().map(Number::as_u64) {
        None | Some(Some(2)) => {}
        Some(Some(1)) => {
            return Err("it is a Docker schema 1 manifest, which is obsolete and not supported".to_owned());
        }
        Some(_) => return Err("its schemaVersion is not 2".to_owned()),
    }
    let media_type = raw.media_type.filter(|text| !text.is_empty());
    let named = kind_of(media_type.as_deref().unwrap_or_default())?;
    if let Some(media_type) = &media_type
        && said.is_some()
        && !media_type.eq_ignore_ascii_case(&content_type)
    {
        return Err(format!("its mediaType is {media_type}, but it was served as {content_type}"));
    }
    let kind = match (&raw.manifests, &raw.layers, &raw.config) {
        (Some(_), Some(_), _) => return Err("it has both `manifests` and `layers`".to_owned()),
        (Some(_), None, Some(_)) => return Err("it has both `manifests` and `config`".to_owned()),
        (Some(_), None, None) => Kind::Index,
        (None, Some(_), Some(_)) => Kind::Manifest,
        (None, Some(_), None) => return Err("it has no `config`".to_owned()),
        (None, None, _) => return Err("it has neither `manifests` nor `layers`".to_owned()),
    };
    if named.or(said).is_some_and(|other| other != kind) {
        let other = media_type.unwrap_or(content_type);
        let holds = if kind == Kind::Index { "manifests" } else { "layers" };
        return Err(format!("its media type is {other}, but it has `{holds}`"));
    }
    let served = Some(content_type).filter(|_| said.is_some());
    let default = if kind == Kind::Index { MediaType::ImageIndex } else { MediaType::ImageManifest };
    let media_type = media_type.filter(|_| named.is_some()).or(served).unwrap_or_else(|| default.to_string());
    let annotations = recorded::annotations(raw.annotations).map_err(|error| json_error(&error))?;
    match (raw.manifests, raw.config, raw.layers) {
        (Some(entries), ..) => Ok(Parsed::Index(Index { media_type, annotations, entries })),
        (None, Some(config), layers) => {
            let (config, layers) =
                contents(&config, layers.unwrap_or_default(), raw.artifact_type.as_deref())?;
            Ok(Parsed::Manifest(Manifest { media_type, annotations, config, layers }))
        }
        (None, None, _) => Err("it has no `config`".to_owned()),
    }
}

fn contents(
    config: &RawDescriptor,
    layers: Vec<RawDescriptor>,
    artifact_type: Option<&str>,
) -> Result<(Descriptor, Vec<Descriptor>), String> {
    let config = descriptor("the config", &config.digest, &config.size, config.media_type.as_deref())?;
    let artifact_type = artifact_type.filter(|text| !text.is_empty());
    if !is_config(&config.media_type, artifact_type.is_some()) {
        let what = artifact_type.unwrap_or(&config.media_type);
        return Err(format!("it is no container image but {:?}", printable(what, 120)));
    }
    if layers.len() > MAX_LAYERS {
        return Err(format!("it has {} layers, more than {MAX_LAYERS}", layers.len()));
    }
    let mut checked = Vec::with_capacity(layers.len());
    let mut sizes: HashMap<BlobDigest, u64> = HashMap::new();
    for layer in layers {
        let layer = descriptor("a layer", &layer.digest, &layer.size, layer.media_type.as_deref())?;
        if !is_layer(&layer.media_type) {
            let media_type = printable(&layer.media_type, 120);
            return Err(format!("layer {} is no file system layer but {media_type:?}", layer.digest));
        }
        if *sizes.entry(layer.digest.clone()).or_insert(layer.size) != layer.size {
            return Err(format!("layer {} is listed with two sizes", layer.digest));
        }
        checked.push(layer);
    }
    Ok((config, checked))
}

/// Tells whether a config of `media_type` may be an image's. Old builders and careless ones say
/// anything of it, and the content decides; but a document that calls itself something else is
/// that: an artifact, a chart, a plugin.
fn is_config(media_type: &str, is_artifact: bool) -> bool {
    let vendors = media_type.trim_start().to_ascii_lowercase();
    is(media_type, &MediaType::ImageConfig) || !is_artifact && !vendors.starts_with("application/vnd.")
}

/// Tells whether `media_type` is a tar layer of either dialect, foreign ones included.
fn is_layer(media_type: &str) -> bool {
    // oci-spec knows of Docker's names that of the usual layer only.
    const DOCKER: [&str; 2] = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    match MediaType::from(media_type) {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        _ => {
            let rest = DOCKER.into_iter().find_map(|name| media_type.strip_prefix(name));
            matches!(rest, Some("" | ".gzip" | ".zstd"))
        }
    }
}

#[cfg(test)]
mod tests;
