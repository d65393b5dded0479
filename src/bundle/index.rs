//! The documents that say which images a bundle has: `index.json`, and docker's `manifest.json`.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BundleImage, Form, blob_path};
use crate::digest::BlobDigest;
use crate::state::{DocumentDescriptor, DocumentRole, Platform};

/// The media type of an index, as the image spec names it.
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    media_type: &'a str,
    digest: &'a BlobDigest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<EntryPlatform<'a>>,
    annotations: Annotations<'a>,
}

#[derive(Serialize)]
struct EntryPlatform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
}

/// The annotations of an entry, in the order of their keys.
#[derive(Serialize)]
struct Annotations<'a> {
    /// The index which the reference means, where the descriptor leads past the index straight to a
    /// manifest.
    #[serde(rename = "dev.msb-sync.index", skip_serializing_if = "Option::is_none")]
    index: Option<&'a BlobDigest>,
    /// The manifests of signatures that travel with the image: blobs that nothing else leads to.
    #[serde(rename = "dev.msb-sync.signatures", skip_serializing_if = "Option::is_none")]
    signatures: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    containerd_name: &'a str,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    ref_name: &'a str,
}

/// Writes the `index.json` of a bundle of `images`, in their order: one descriptor a name, and each
/// name once. A name that several images claim is that of the one whose own, the first, it is.
pub(crate) fn index_json(images: &[BundleImage], form: Form) -> Vec<u8> {
    let owners = owners(images);
    let owners = &owners;
    let manifests = images.iter().enumerate().flat_map(|(position, image)| {
        let top = top(image, form);
        let names = image.names.iter().filter(move |name| owners.get(name.as_str()) == Some(&position));
        names.filter_map(move |name| Some(entry(image, top?, name)))
    });
    let index = Index { schema_version: 2, media_type: INDEX_TYPE, manifests: manifests.collect() };
    // Strings and numbers: nothing here can fail.
    serde_json::to_vec(&index).unwrap_or_default()
}

/// Tells whether the `index.json` `found` lists all that `wanted` does, which [`index_json`] wrote.
pub(crate) fn lists_all(found: &[u8], wanted: &[u8]) -> bool {
    if found == wanted {
        return true;
    }
    let read = |bytes| serde_json::from_slice::<Listed>(bytes).ok();
    let (Some(found), Some(wanted)) = (read(found), read(wanted)) else { return false };
    let found: HashSet<&Value> = found.manifests.iter().collect();
    wanted.manifests.iter().all(|entry| found.contains(entry))
}

#[derive(Deserialize)]
struct Listed {
    manifests: Vec<Value>,
}

/// Finds the image, by its position, that each name means.
fn owners(images: &[BundleImage]) -> HashMap<&str, usize> {
    let mut owners = HashMap::new();
    for first in [true, false] {
        for (position, image) in images.iter().enumerate() {
            let (own, others) = image.names.split_at(image.names.len().min(1));
            for name in if first { own } else { others } {
                owners.entry(name.as_str()).or_insert(position);
            }
        }
    }
    owners
}

/// The document that an image's descriptor leads to.
fn top(image: &BundleImage, form: Form) -> Option<&DocumentDescriptor> {
    if form.index {
        return image.documents.first();
    }
    image.documents.iter().find(|document| document.role == DocumentRole::Manifest)
}

fn entry<'a>(image: &'a BundleImage, top: &'a DocumentDescriptor, name: &'a str) -> Entry<'a> {
    let index = image.documents.first().filter(|first| first.role == DocumentRole::Index);
    let is_manifest = top.role == DocumentRole::Manifest;
    let platform = |platform: &'a Platform| EntryPlatform {
        architecture: platform.architecture(),
        os: platform.os(),
        variant: platform.variant(),
    };
    Entry {
        media_type: top.media_type.as_str(),
        digest: &top.digest,
        size: top.size,
        platform: image.platform.as_ref().filter(|_| is_manifest).map(platform),
        annotations: Annotations {
            index: index.filter(|_| is_manifest).map(|index| &index.digest),
            signatures: signatures(image),
            containerd_name: name,
            ref_name: name,
        },
    }
}

/// The digests of an image's signatures, with commas between.
fn signatures(image: &BundleImage) -> Option<String> {
    let digests: Vec<String> = image.signatures.iter().map(BlobDigest::to_string).collect();
    (!digests.is_empty()).then(|| digests.join(","))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage<'a> {
    config: String,
    repo_tags: Vec<&'a str>,
    layers: Vec<String>,
}

/// Writes docker's `manifest.json` of a bundle of `images`. Names with a digest are left out:
/// docker takes none.
pub(crate) fn docker_json(images: &[BundleImage]) -> Vec<u8> {
    let image = |image: &'_ BundleImage| {
        let config = image.documents.iter().find(|document| document.role == DocumentRole::Config)?;
        Some((blob_path(&config.digest), image.layers.iter().map(blob_path).collect()))
    };
    let owners = owners(images);
    let images: Vec<DockerImage<'_>> = images
        .iter()
        .enumerate()
        .filter_map(|(position, found)| {
            let (config, layers) = image(found)?;
            let tags = found.names.iter().map(String::as_str).filter(|name| !name.contains('@'));
            let tags = tags.filter(|name| owners.get(name) == Some(&position));
            Some(DockerImage { config, repo_tags: tags.collect(), layers })
        })
        .collect();
    serde_json::to_vec(&images).unwrap_or_default()
}
