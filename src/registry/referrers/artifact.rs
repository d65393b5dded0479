//! Lists of artifacts, and the manifest of one: from hostile bytes to checked values.
//!
//! Descriptors lie: a list may call every artifact the same, so that nothing but an artifact's own
//! manifest says what it is. All is bounded while it is read.

use std::fmt;
use std::marker::PhantomData;

use oci_spec::image::{MediaType, ToDockerV2S2 as _};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use crate::digest::BlobDigest;
use crate::registry::transport::json_error;
use crate::state::{MAX_CANDIDATES, SignaturePlace};

/// The largest manifest, and the largest layer, that may be a candidate's, in bytes.
pub(crate) const MAX_SIZE: u64 = 4 << 20;
/// The config of artifacts that have none.
pub(crate) const EMPTY_CONFIG: &[u8] = b"{}";
/// The characters of a hash that a fallback tag has room for.
const MAX_HASH: usize = 64;
/// The longest tag.
const MAX_TAG: usize = 128;

const BOTH: &str = "it has both `manifests` and `layers`";
const NEITHER: &str = "it has neither `manifests` nor `layers`";

/// One artifact, as a list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) digest: BlobDigest,
    /// The size of the manifest, where the list has it.
    pub(crate) size: Option<u64>,
}

/// Returns the tag under which artifacts of `place` that refer to `subject` are kept; `None` where
/// there is no such tag.
pub(crate) fn tag_of(subject: &BlobDigest, place: SignaturePlace) -> Option<String> {
    let text = subject.text();
    let (algorithm, hex) = (subject.algorithm().as_str(), text.hex());
    let tag = match place {
        SignaturePlace::Referrers => {
            let start = hex.get(..MAX_HASH).unwrap_or(hex);
            format!("{algorithm}-{start}")
        }
        SignaturePlace::SignatureTag => format!("{algorithm}-{hex}.sig"),
        SignaturePlace::AttestationTag => format!("{algorithm}-{hex}.att"),
    };
    (tag.len() <= MAX_TAG).then_some(tag)
}

#[derive(Deserialize)]
struct RawList {
    #[serde(default, deserialize_with = "entries")]
    manifests: Option<Vec<RawListed>>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawListed {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    size: Number,
}

/// Reads the first artifacts of an index; `None` where it is a manifest. An entry that cannot be a
/// candidate is `None`: it takes a place all the same.
pub(crate) fn list(bytes: &[u8]) -> Result<Option<Vec<Option<Listed>>>, String> {
    let raw: RawList = object(bytes)?;
    let entries = match (raw.manifests, raw.layers) {
        (Some(entries), None) => entries,
        (None, Some(_)) => return Ok(None),
        (Some(_), Some(_)) => return Err(BOTH.to_owned()),
        (None, None) => return Err(NEITHER.to_owned()),
    };
    Ok(Some(entries.into_iter().map(RawListed::checked).collect()))
}

impl RawListed {
    fn checked(self) -> Option<Listed> {
        let index = MediaType::ImageIndex;
        let is_index =
            |text: &str| text == index.as_ref() || index.to_docker_v2s2().is_ok_and(|docker| docker == text);
        let size = self.size.as_u64().filter(|size| *size <= MAX_SIZE)?;
        let digest = BlobDigest::parse(&self.digest).ok()?;
        // One level: nothing refers to an image by way of an index.
        (!self.media_type.as_deref().is_some_and(is_index)).then_some(Listed { digest, size: Some(size) })
    }
}

/// The manifest of an artifact, as far as it matters.
#[derive(Debug)]
pub(super) struct Artifact {
    /// The digest of the image that the artifact says it refers to.
    pub(super) subject: Option<String>,
    /// The layers that may be signatures.
    pub(super) layers: Vec<Layer>,
}

/// A layer that may be a signature.
#[derive(Debug)]
pub(super) struct Layer {
    /// The position in the manifest.
    pub(super) position: usize,
    pub(super) digest: BlobDigest,
    pub(super) size: u64,
    kind: Kind,
}

/// The kind of a signature, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A bundle of Sigstore's.
    Bundle,
    /// cosign 2's signature.
    SimpleSigning,
    /// cosign 2's attestation.
    Envelope,
    /// Notation's signature.
    Notation,
}

impl Kind {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.dev.cosign.simplesigning.v1+json" => Some(Self::SimpleSigning),
            "application/vnd.dsse.envelope.v1+json" => Some(Self::Envelope),
            "application/jose+json" | "application/cose" => Some(Self::Notation),
            // Of any version, in any of the ways in which versions were written.
            other => other.starts_with("application/vnd.dev.sigstore.bundle").then_some(Self::Bundle),
        }
    }
}

#[derive(Deserialize)]
struct RawArtifact {
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    subject: Option<RawSubject>,
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default, deserialize_with = "layers")]
    layers: Option<Vec<Layer>>,
}

#[derive(Deserialize)]
struct RawSubject {
    digest: String,
}

#[derive(Deserialize)]
struct RawConfig {
    digest: String,
    size: Number,
}

impl Artifact {
    /// Reads the manifest of an artifact.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let RawArtifact { manifests, subject, layers, .. } = object(bytes)?;
        match (manifests, &layers) {
            (Some(_), Some(_)) => return Err(BOTH.to_owned()),
            (None, None) => return Err(NEITHER.to_owned()),
            // An index refers to nothing here.
            (Some(_), None) | (None, Some(_)) => {}
        }
        Ok(Self { subject: subject.map(|subject| subject.digest), layers: layers.unwrap_or_default() })
    }

    /// The place where an artifact like this one is kept by its maker.
    pub(super) fn place(&self) -> SignaturePlace {
        let has = |kind| self.layers.iter().any(|layer| layer.kind == kind);
        if self.subject.is_none() && has(Kind::SimpleSigning) {
            SignaturePlace::SignatureTag
        } else if self.subject.is_none() && has(Kind::Envelope) {
            SignaturePlace::AttestationTag
        } else {
            SignaturePlace::Referrers
        }
    }
}

/// Reads which config an artifact's `manifest` has, and its size.
pub(crate) fn config_of(manifest: &[u8]) -> Result<Option<(BlobDigest, u64)>, String> {
    let Some(config) = object::<RawArtifact>(manifest)?.config else { return Ok(None) };
    let digest = BlobDigest::parse(&config.digest).map_err(|error| format!("the config: {error}"))?;
    let size = config.size.as_u64().filter(|size| *size <= MAX_SIZE);
    let size = size.ok_or_else(|| format!("the config is larger than {} MiB", MAX_SIZE >> 20))?;
    Ok(Some((digest, size)))
}

/// True if `digest` is that of [`EMPTY_CONFIG`].
pub(crate) fn is_empty_config(digest: &BlobDigest) -> bool {
    *digest == BlobDigest::of(digest.algorithm(), EMPTY_CONFIG)
}

/// Reads an object: serde would take the elements of a list for an object's, in their order.
fn object<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err("it is a list where an object should be".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| json_error(&error))
}

/// Reads the first entries of a list; null is an empty one.
fn entries<'de, D: Deserializer<'de>>(list: D) -> Result<Option<Vec<RawListed>>, D::Error> {
    let first = First { keep: |_, entry| Some(entry), of: PhantomData };
    list.deserialize_any(first).map(Some)
}

/// Reads the first layers of a list that may be signatures; null is an empty one.
fn layers<'de, D: Deserializer<'de>>(list: D) -> Result<Option<Vec<Layer>>, D::Error> {
    let keep = |position, raw: RawListed| {
        let kind = Kind::of(raw.media_type.as_deref()?)?;
        let (digest, size) = (BlobDigest::parse(&raw.digest).ok()?, raw.size.as_u64()?);
        Some(Layer { position, digest, size, kind })
    };
    list.deserialize_any(First { keep, of: PhantomData }).map(Some)
}

/// The first elements of a list that are to be kept; the rest is read and forgotten.
struct First<K, T> {
    /// Makes of an element and its position what is kept.
    keep: K,
    of: PhantomData<T>,
}

impl<'de, K: Fn(usize, RawListed) -> Option<T>, T> Visitor<'de> for First<K, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of descriptors")
    }

    fn visit_unit<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut kept = Vec::new();
        let mut position = 0;
        while kept.len() < MAX_CANDIDATES {
            let Some(element) = list.next_element::<RawListed>()? else { return Ok(kept) };
            kept.extend((self.keep)(position, element));
            position += 1;
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Algorithm;

    fn entry(number: usize) -> Value {
        let digest = BlobDigest::of(Algorithm::Sha256, number.to_string().as_bytes());
        json!({"mediaType": "application/cose", "digest": digest, "size": number, "annotations": {"a": "b"}})
    }

    #[test]
    fn a_list_has_its_first_entries_and_one_that_is_none_takes_its_place() {
        let mut entries: Vec<Value> = (0..40).map(entry).collect();
        entries[3]["digest"] = json!("sha256:../../x");
        entries[4]["size"] = json!(-1);
        entries[5]["size"] = json!(MAX_SIZE + 1);
        entries[6]["mediaType"] = json!(MediaType::ImageIndex);
        let listed = list(json!({"manifests": entries}).to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(listed.len(), MAX_CANDIDATES);
        let missing: Vec<usize> = (0..listed.len()).filter(|at| listed[*at].is_none()).collect();
        assert_eq!(missing, [3, 4, 5, 6]);
        assert_eq!(list(br#"{"layers": []}"#).unwrap(), None);
        for wrong in [
            &br#"{"manifests": [], "layers": []}"#[..],
            br#"{"manifests": [{"size": 1}]}"#,
            br#"{"manifests": {}}"#,
            b"[[]]",
            b"{}",
            b"",
        ] {
            assert!(list(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn an_artifact_has_its_first_layers_that_may_be_signatures() {
        let mut layers: Vec<Value> = (0..80).map(entry).collect();
        layers.iter_mut().step_by(2).for_each(|layer| layer["mediaType"] = json!("text/plain"));
        let manifest = json!({"layers": layers, "subject": {"digest": "x"}, "config": entry(7)}).to_string();
        let artifact = Artifact::read(manifest.as_bytes()).unwrap();
        let positions: Vec<usize> = artifact.layers.iter().map(|layer| layer.position).collect();
        assert_eq!(positions, (0..MAX_CANDIDATES).map(|number| 2 * number + 1).collect::<Vec<_>>());
        assert_eq!(artifact.subject.as_deref(), Some("x"));
        assert_eq!(config_of(manifest.as_bytes()).unwrap().unwrap().1, 7);
        assert!(Artifact::read(br#"{"manifests": [], "layers": []}"#).is_err());
        assert!(Artifact::read(br#"{"manifests": []}"#).unwrap().layers.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (list(&bytes), Artifact::read(&bytes), config_of(&bytes));
        }

        #[test]
        fn damaged_documents_are_read_without_panic(at in 0_usize..2000, byte in any::<u8>()) {
            let entries: Vec<Value> = (0..4).map(entry).collect();
            for key in ["manifests", "layers"] {
                let mut bytes = json!({key: entries, "config": entry(1)}).to_string().into_bytes();
                let at = at % bytes.len();
                bytes[at] = byte;
                let _ = (list(&bytes), Artifact::read(&bytes), config_of(&bytes));
            }
        }
    }
}
