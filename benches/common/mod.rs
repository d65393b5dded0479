//! Images as a catalog and a planner know them, in any number: what the benchmarks have in common.

use std::path::PathBuf;
use std::sync::Arc;

use msb_sync::digest::{Algorithm, BlobDigest, DiffId};
use msb_sync::image_ref::{DEFAULT_REGISTRY, ImageRef};
use msb_sync::state::{
    ConfigRecord, DocumentRecord, Labels, LayerDescriptor, Owner, Platform, ResolvedImage,
};

/// Images, registries and layers an image: 100,000 layers in all, after what images share.
pub(crate) const IMAGES: usize = 10_000;
const REGISTRIES: usize = 100;
const LAYERS: usize = 11;

/// The directory of layers that everything is recorded with.
pub(crate) fn layers_directory() -> PathBuf {
    PathBuf::from("/home/user/.microsandbox/layers")
}

/// The images file that owns everything.
pub(crate) fn owner() -> Owner {
    Owner("/etc/msb/images.toml".to_owned())
}

fn digest(of: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, of.as_bytes())
}

/// The name of image `number`.
pub(crate) fn reference(number: usize) -> ImageRef {
    let name = format!("registry-{}.example/team/app-{number}:v1", number % REGISTRIES);
    ImageRef::parse(&name, DEFAULT_REGISTRY).unwrap()
}

/// Image `number`. Its base it shares with a hundred others.
pub(crate) fn image(number: usize) -> ResolvedImage {
    let layer = |place: usize| {
        let name = if place == 0 { format!("base {}", number / 100) } else { format!("{number} {place}") };
        LayerDescriptor {
            digest: digest(&name),
            diff_id: DiffId::of(Algorithm::Sha256, name.as_bytes()),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            size: 1000 + place as u64,
        }
    };
    ResolvedImage {
        reference: reference(number),
        platform: Platform::new("linux", "amd64", None),
        digest: digest(&format!("image {number}")),
        index: None,
        manifest: DocumentRecord {
            digest: digest(&format!("image {number}")),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            annotations_json: None,
        },
        config: ConfigRecord {
            digest: digest(&format!("config {number}")),
            media_type: "application/vnd.oci.image.config.v1+json".into(),
            created: Some("2026-01-01T00:00:00Z".to_owned()),
            architecture: "amd64".into(),
            os: "linux".to_owned(),
            variant: None,
            env: Some(vec!["PATH=/usr/bin:/bin".to_owned()]),
            cmd: Some(vec!["/bin/sh".to_owned()]),
            working_dir: None,
            entrypoint: None,
            volumes: None,
            exposed_ports: None,
            user: None,
            stop_signal: None,
            labels: Labels::default(),
            rootfs_type: "layers".to_owned(),
            history_json: None,
        },
        documents: Arc::default(),
        layers: (0..LAYERS).map(layer).collect(),
    }
}
