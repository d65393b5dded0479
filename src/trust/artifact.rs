//! The manifest of a candidate: of which type its layer is, and the layer's annotations.
//!
//! Nothing else of a manifest is kept, and no annotation that is not known: there may be millions
//! of layers and of annotations.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::finding::Refused;
use crate::state::Candidate;

/// The layer of a candidate, as the artifact's manifest describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    /// The media type.
    #[serde(default)]
    pub(super) media_type: String,
    /// The size, in bytes. A layer that is too large for a signature comes without its bytes.
    #[serde(default)]
    pub(super) size: Option<serde_json::Number>,
    /// The annotations: cosign 2 keeps signature, certificate and log entry there.
    #[serde(default)]
    pub(super) annotations: Annotations,
}

/// The annotations of cosign 2.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Annotations {
    #[serde(rename = "dev.cosignproject.cosign/signature")]
    pub(super) signature: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/certificate")]
    pub(super) certificate: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/chain")]
    pub(super) chain: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/bundle")]
    pub(super) log_entry: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/rfc3161timestamp")]
    pub(super) timestamp: Option<String>,
}

/// Reads the description of the candidate's layer.
pub(super) fn layer_of(candidate: &Candidate) -> Result<Layer, Refused> {
    let unreadable = |_| Refused::because("its manifest cannot be read");
    let mut json = serde_json::Deserializer::from_slice(&candidate.manifest);
    let layer = Manifest { layer: candidate.layer }.deserialize(&mut json).map_err(unreadable)?;
    json.end().map_err(unreadable)?;
    layer.ok_or_else(|| Refused::because("its manifest has no such layer"))
}

/// A manifest, of which the layer at one position is read.
struct Manifest {
    layer: usize,
}

impl<'de> DeserializeSeed<'de> for Manifest {
    type Value = Option<Layer>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Manifest {
    type Value = Option<Layer>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Key>()? {
            match (key, &found) {
                (Key::Other, _) => drop(map.next_value::<IgnoredAny>()?),
                (Key::Layers, None) => found = Some(map.next_value_seed(OneOf { layer: self.layer })?),
                (Key::Layers, Some(_)) => return Err(serde::de::Error::duplicate_field("layers")),
            }
        }
        found.ok_or_else(|| serde::de::Error::missing_field("layers"))
    }
}

/// A key of a manifest.
#[derive(Deserialize)]
enum Key {
    #[serde(rename = "layers")]
    Layers,
    #[serde(other)]
    Other,
}

/// A list of layers, of which one is read.
struct OneOf {
    layer: usize,
}

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Option<Layer>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for OneOf {
    type Value = Option<Layer>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of layers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.layer {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = list.next_element()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Algorithm, BlobDigest};
    use crate::state::SignaturePlace;

    fn read(manifest: &str, layer: usize) -> Result<Layer, String> {
        let digest = BlobDigest::of(Algorithm::Sha256, b"");
        let candidate = Candidate {
            subject: digest.clone(),
            place: SignaturePlace::Referrers,
            digest,
            manifest: manifest.as_bytes().into(),
            layer,
            blob: Vec::new(),
            message: None,
            config: None,
        };
        layer_of(&candidate).map_err(|refused| refused.reason)
    }

    #[test]
    fn one_layer_is_read_of_a_manifest_and_its_known_annotations() {
        let manifest = r#"{"a": [1], "layers": [{}, {"mediaType": "x", "annotations":
            {"b": "", "dev.sigstore.cosign/bundle": "e"}}, {"mediaType": "y"}], "config": {}}"#;
        let layer = read(manifest, 1).unwrap();
        assert_eq!((layer.media_type.as_str(), layer.annotations.log_entry.as_deref()), ("x", Some("e")));
        assert_eq!(read(manifest, 2).unwrap().media_type, "y");
        assert_eq!(read(manifest, 3).unwrap_err(), "its manifest has no such layer");
        for broken in
            ["", "[]", "{}", r#"{"layers": []} x"#, r#"{"layers": [], "layers": [{}]}"#, r#"{"layers": [{]}"#]
        {
            assert_eq!(read(broken, 0).unwrap_err(), "its manifest cannot be read", "{broken}");
        }
    }
}
