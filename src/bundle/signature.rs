//! Signatures that travel with an image: the blobs of the artifacts that they lie in.

use serde::Deserialize;

use crate::digest::BlobDigest;
use crate::state::Candidate;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

/// Lists the blobs of an accepted `signature`: the artifact's manifest, its config, and the one
/// layer that was accepted. Nothing at all where they are not what the manifest says.
pub(crate) fn signature_blobs(signature: &Candidate) -> Vec<(BlobDigest, &[u8])> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&signature.manifest) else { return Vec::new() };
    let Some(layer) = manifest.layers.get(signature.layer) else { return Vec::new() };
    let described = |descriptor: &Descriptor| BlobDigest::parse(&descriptor.digest).ok();
    let config = match (&manifest.config, &signature.config) {
        (Some(descriptor), Some(bytes)) => Some((described(descriptor), &bytes[..])),
        // Nobody can read an artifact without its config.
        (Some(_), None) => return Vec::new(),
        (None, _) => None,
    };
    let blobs = [
        Some((Some(signature.digest.clone()), &signature.manifest[..])),
        config,
        Some((described(layer), &signature.blob[..])),
    ];
    let checked = |(digest, bytes): (Option<BlobDigest>, _)| {
        digest
            .filter(|digest| *digest == BlobDigest::of(digest.algorithm(), bytes))
            .map(|digest| (digest, bytes))
    };
    blobs.into_iter().flatten().map(checked).collect::<Option<_>>().unwrap_or_default()
}
