//! The manifest of a candidate: of which type its layer is, and the layer's annotations.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::finding::Refused;
use crate::state::Candidate;

/// The layer of a candidate, as the artifact's manifest describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    /// The media type.
    #[serde(default)]
    pub(super) media_type: String,
    /// The annotations: cosign 2 keeps signature, certificate and log entry there.
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

/// Reads the description of the candidate's layer.
pub(super) fn layer_of(candidate: &Candidate) -> Result<Layer, Refused> {
    let manifest: Manifest = serde_json::from_slice(&candidate.manifest)
        .map_err(|_| Refused::because("its manifest cannot be read"))?;
    let mut layers = manifest.layers;
    if candidate.layer < layers.len() {
        return Ok(layers.swap_remove(candidate.layer));
    }
    Err(Refused::because("its manifest has no such layer"))
}
