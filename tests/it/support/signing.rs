//! The signatures made by real tools in `tests/fixtures/signing`, as content of registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::image::{BlobSet, OCI_INDEX, OCI_MANIFEST};
use super::sha256;

/// The directory of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/signing"))
}

fn fixture(name: &str) -> Value {
    let path = fixtures().join(format!("{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(blob: &Value) -> Vec<u8> {
    match blob["text"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => unbase64(blob["base64"].as_str().unwrap()),
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        (bits, count) = (bits << 6 | u32::try_from(value).unwrap(), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}

/// The image that the fixtures sign, with its index.
pub(crate) struct SignedImage {
    /// All of its blobs, and `team/app:1`.
    pub(crate) content: BlobSet,
    /// The digest of the index, which most of the fixtures sign.
    pub(crate) index: String,
    /// The digest of the manifest for linux/amd64.
    pub(crate) manifest: String,
    /// The digest of that one's layer.
    pub(crate) layer: String,
}

impl SignedImage {
    /// The image without any signature.
    pub(crate) fn new() -> Self {
        let image = fixture("image");
        let mut content = BlobSet::default();
        for (digest, blob) in image["blobs"].as_object().unwrap() {
            content.blobs.insert(digest.clone(), Arc::new(bytes(blob)));
        }
        for (digest, text) in image["manifests"].as_object().unwrap() {
            let text = text.as_str().unwrap();
            let is_index = text.contains("\"manifests\"");
            content.blobs.insert(digest.clone(), Arc::new(text.as_bytes().to_vec()));
            content.types.insert(digest.clone(), if is_index { OCI_INDEX } else { OCI_MANIFEST }.to_owned());
        }
        let digest = |key: &str| image[key].as_str().unwrap().to_owned();
        let (index, manifest) = (digest("index"), digest("manifest"));
        let parsed: Value = serde_json::from_slice(&content.blobs[&manifest]).unwrap();
        let layer = parsed["layers"][0]["digest"].as_str().unwrap().to_owned();
        content.tags.insert("team/app:1".to_owned(), index.clone());
        Self { content, index, manifest, layer }
    }
}

/// One artifact of the fixtures.
#[derive(Clone)]
pub(crate) struct Signature {
    /// The digest of its manifest.
    pub(crate) digest: String,
    /// The digest of what it refers to.
    pub(crate) subject: String,
    /// The exact bytes of the manifest.
    pub(crate) manifest: Vec<u8>,
    /// Config and layers.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

impl Signature {
    /// The artifact of this fixture.
    pub(crate) fn new(name: &str) -> Self {
        let artifact = fixture(name);
        let manifest = artifact["manifest"].as_str().unwrap().as_bytes().to_vec();
        let blobs = artifact["blobs"].as_object().unwrap();
        Self {
            digest: sha256(&manifest),
            subject: artifact["subject"].as_str().unwrap().to_owned(),
            manifest,
            blobs: blobs.iter().map(|(digest, blob)| (digest.clone(), bytes(blob))).collect(),
        }
    }

    /// An artifact with one layer of this media type that refers to `subject`.
    pub(crate) fn of(subject: &str, media_type: &str, layer: &[u8]) -> Self {
        let (config, layer) = (b"{}".to_vec(), layer.to_vec());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(&config), "size": 2},
            "layers": [{"mediaType": media_type, "digest": sha256(&layer), "size": layer.len()}],
            "subject": {"mediaType": OCI_INDEX, "digest": subject, "size": 1},
        });
        let manifest = manifest.to_string().into_bytes();
        Self {
            digest: sha256(&manifest),
            subject: subject.to_owned(),
            manifest,
            blobs: [config, layer].into_iter().map(|blob| (sha256(&blob), blob)).collect(),
        }
    }

    /// The same layers in another manifest.
    pub(crate) fn with_manifest(&self, manifest: Vec<u8>) -> Self {
        Self { digest: sha256(&manifest), manifest, ..self.clone() }
    }

    /// The descriptor in a list, which says nothing true of the artifact's type.
    pub(crate) fn entry(&self) -> Value {
        json!({"mediaType": OCI_MANIFEST, "digest": self.digest, "size": self.manifest.len(),
               "artifactType": "application/vnd.oci.empty.v1+json"})
    }

    /// Adds the artifact to `content`, by digest alone.
    pub(crate) fn add_to(&self, content: &mut BlobSet) {
        for (digest, blob) in &self.blobs {
            content.blobs.insert(digest.clone(), Arc::new(blob.clone()));
        }
        content.blobs.insert(self.digest.clone(), Arc::new(self.manifest.clone()));
        content.types.insert(self.digest.clone(), OCI_MANIFEST.to_owned());
    }

    /// Adds the artifact under a tag of its subject that ends so: `.sig`, `.att`.
    pub(crate) fn tag_in(&self, content: &mut BlobSet, end: &str) {
        self.add_to(content);
        content.tags.insert(format!("team/app:{}{end}", fallback(&self.subject)), self.digest.clone());
    }
}

/// The fallback tag of a digest.
pub(crate) fn fallback(subject: &str) -> String {
    subject.replace(':', "-")
}

/// An index that lists these.
pub(crate) fn list(signatures: &[Signature]) -> Value {
    let manifests: Vec<Value> = signatures.iter().map(Signature::entry).collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
}

/// Adds `signatures` of `subject` to `content`, with the fallback tag that lists them.
pub(crate) fn list_in(content: &mut BlobSet, subject: &str, signatures: &[Signature]) {
    for signature in signatures {
        signature.add_to(content);
    }
    let index = content.document(OCI_INDEX, &list(signatures));
    content.tag(&format!("team/app:{}", fallback(subject)), &index);
}
