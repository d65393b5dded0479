//! Images of any shape, built in memory: tar entries of every kind, layers in every compression, manifests
//! and indexes of both families. A [`BlobSet`] holds the result; it is served by the fake registry or written
//! out as an OCI image layout.
//!
//! Headers are written here, byte for byte, since the odd ones are the point.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::sha256;

// ------------------------------------------------------------------------------------------------ tar entries

/// One tar entry, with everything a header can say.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: Vec<u8>,
    device: (u32, u32),
    content: Vec<u8>,
    pax: Vec<(String, Vec<u8>)>,
}

impl Item {
    /// An entry with this type flag.
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: 1_700_000_000,
            link: Vec::new(),
            device: (0, 0),
            content: Vec::new(),
            pax: Vec::new(),
        }
    }

    /// Sets the permission bits, setuid and the like included.
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets numeric owner and group.
    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Sets the modification time, in seconds.
    pub(crate) fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Adds a PAX record, which overrides the header.
    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Adds an extended attribute, the way GNU tar and containerd write them.
    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    fn write_to(&self, tar: &mut Vec<u8>) {
        let mut pax = self.pax.clone();
        for (key, gnu, text) in [("path", b'L', &self.name), ("linkpath", b'K', &self.link)] {
            if text.len() > 100 {
                if std::str::from_utf8(text).is_ok() {
                    pax.push((key.to_owned(), text.clone()));
                } else {
                    // PAX values are UTF-8 by definition; GNU's long names are bytes.
                    let long = [text.as_slice(), b"\0"].concat();
                    header(tar, b"././@LongLink", gnu, &Self::new(gnu, ""), &long);
                }
            }
        }
        if !pax.is_empty() {
            // Whole records: byte by byte an unoptimized build takes a hundred times as long.
            let records: Vec<_> = pax.iter().map(|(key, value)| pax_record(key, value)).collect();
            header(tar, b"PaxHeaders/entry", b'x', &Self::new(b'x', ""), &records.concat());
        }
        header(tar, &self.name, self.kind, self, &self.content);
    }
}

/// A regular file.
pub(crate) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    let mut item = Item::new(b'0', name);
    item.content = content.as_ref().to_vec();
    item
}

/// A directory.
pub(crate) fn dir(name: impl AsRef<[u8]>) -> Item {
    Item::new(b'5', name)
}

/// A symlink.
pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    let mut item = Item::new(b'2', name).mode(0o777);
    item.link = target.as_ref().to_vec();
    item
}

/// A hard link to another entry of the same layer.
pub(crate) fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    let mut item = Item::new(b'1', name);
    item.link = target.as_ref().to_vec();
    item
}

/// A character device (`3`), block device (`4`) or fifo (`6`).
pub(crate) fn node(kind: u8, name: impl AsRef<[u8]>) -> Item {
    let mut item = Item::new(kind, name);
    item.device = if kind == b'6' { (0, 0) } else { (1, 3) };
    item
}

/// The tar of these entries, with its two closing blocks.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        item.write_to(&mut bytes);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// The header of a file of `size` bytes, without its content: for tars too large to hold.
pub(crate) fn file_header(name: &str, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    sized_header(&mut bytes, name.as_bytes(), b'0', &Item::new(b'0', name), size);
    bytes
}

fn header(tar: &mut Vec<u8>, name: &[u8], kind: u8, item: &Item, content: &[u8]) {
    sized_header(tar, name, kind, item, content.len() as u64);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn sized_header(tar: &mut Vec<u8>, name: &[u8], kind: u8, item: &Item, size: u64) {
    let mut block = [0_u8; 512];
    let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(100)]);
    put(100, &number(u64::from(item.mode), 8));
    put(108, &number(item.owner.0, 8));
    put(116, &number(item.owner.1, 8));
    put(124, &number(size, 12));
    put(136, &number(item.mtime, 12));
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &item.link[..item.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &number(u64::from(item.device.0), 8));
    put(337, &number(u64::from(item.device.1), 8));
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(&[&number(sum, 7)[..], b" "].concat());
    tar.extend(block);
}

/// Octal with a closing NUL; what does not fit, in GNU's base 256.
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0digits$o}\0", digits = width - 1).into_bytes();
    if octal.len() == width {
        return octal;
    }
    let mut bytes = vec![0; width];
    let digits = value.to_be_bytes();
    let kept = digits.len().min(width - 1);
    bytes[width - kept..].copy_from_slice(&digits[digits.len() - kept..]);
    bytes[0] = 0x80;
    bytes
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    // The length counts its own digits.
    let length = (body.len()..body.len() + 20)
        .find(|length| body.len() + length.to_string().len() == *length)
        .unwrap();
    [length.to_string().as_bytes(), &body].concat()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

// ---------------------------------------------------------------------------------------------------- layers

/// How a layer's tar is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pack {
    /// One gzip member.
    Gzip,
    /// Several gzip members, as estargz and pigz write them.
    GzipMembers,
    /// zstd.
    Zstd,
    /// As it is.
    Plain,
}

/// A layer: the blob as served, and the digest of the tar within.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The blob.
    pub(crate) blob: Arc<Vec<u8>>,
    /// What the config says of the tar.
    pub(crate) diff_id: String,
    /// What the manifest says of the blob; the OCI type.
    pub(crate) media_type: String,
}

impl Layer {
    /// A gzip layer of these entries.
    pub(crate) fn of(items: &[Item]) -> Self {
        Self::packed(&tar(items), Pack::Gzip)
    }

    /// A layer of this tar.
    pub(crate) fn packed(tar: &[u8], pack: Pack) -> Self {
        let (blob, suffix) = match pack {
            Pack::Gzip => (gzip(tar), "+gzip"),
            Pack::GzipMembers => {
                let members: Vec<_> = tar.chunks(tar.len() / 3 + 1).map(gzip).collect();
                (members.concat(), "+gzip")
            }
            Pack::Zstd => (zstd::encode_all(tar, 3).unwrap(), "+zstd"),
            Pack::Plain => (tar.to_vec(), ""),
        };
        Self::raw(blob, sha256(tar), &format!("application/vnd.oci.image.layer.v1.tar{suffix}"))
    }

    /// A layer of these bytes, whatever they are.
    pub(crate) fn raw(blob: Vec<u8>, diff_id: String, media_type: &str) -> Self {
        Self { blob: Arc::new(blob), diff_id, media_type: media_type.to_owned() }
    }

    /// The digest of the blob.
    pub(crate) fn digest(&self) -> String {
        sha256(&self.blob)
    }

    /// The name of its directory in the store.
    pub(crate) fn directory(&self) -> String {
        format!("{}.extracted", self.digest())
    }
}

/// One gzip member.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

// ---------------------------------------------------------------------------------------------------- images

/// `linux/<this machine's architecture>`.
pub(crate) fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Base first.
    pub(crate) layers: Vec<Layer>,
    platform: String,
    docker: bool,
    config: Value,
}

impl Image {
    /// An OCI image for this machine.
    pub(crate) fn new(layers: &[Layer]) -> Self {
        let config = json!({
            "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], "WorkingDir": "/", "User": "1000:1000",
            "Entrypoint": ["/bin/init"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
        });
        Self { layers: layers.to_vec(), platform: host_platform(), docker: false, config }
    }

    /// For another platform, `os/architecture[/variant]`.
    pub(crate) fn platform(mut self, platform: &str) -> Self {
        platform.clone_into(&mut self.platform);
        self
    }

    /// With Docker's schema 2 media types.
    pub(crate) fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// With another `config` object.
    pub(crate) fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }
}

fn platform_json(platform: &str) -> Value {
    let mut parts = platform.split('/');
    let mut value = json!({"os": parts.next(), "architecture": parts.next()});
    if let Some(variant) = parts.next() {
        value["variant"] = json!(variant);
    }
    value
}

/// What names a blob in a manifest or an index.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    /// Media type, digest, size and whatever else, as the image spec writes it.
    pub(crate) json: Value,
}

impl Descriptor {
    /// The digest.
    pub(crate) fn digest(&self) -> &str {
        self.json["digest"].as_str().unwrap()
    }

    /// With one more annotation.
    pub(crate) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.json["annotations"][key] = json!(value);
        self
    }
}

/// Blobs, manifests and tags: all that a registry has.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlobSet {
    /// Everything by digest, manifests included.
    pub(crate) blobs: BTreeMap<String, Arc<Vec<u8>>>,
    /// Media types of manifests and indexes by digest.
    pub(crate) types: BTreeMap<String, String>,
    /// Digests by `repository:tag`.
    pub(crate) tags: BTreeMap<String, String>,
    /// What the API for referrers answers, by subject; `None`: there is no such API.
    pub(crate) referrers: Option<BTreeMap<String, Value>>,
}

impl BlobSet {
    /// A set that holds this one image under this name.
    pub(crate) fn with(name: &str, image: &Image) -> Self {
        let mut set = Self::default();
        let manifest = set.image(image);
        set.tag(name, &manifest);
        set
    }

    /// Adds a blob as it is.
    pub(crate) fn blob(&mut self, media_type: &str, blob: impl Into<Vec<u8>>) -> Descriptor {
        self.shared(media_type, &Arc::new(blob.into()))
    }

    fn shared(&mut self, media_type: &str, blob: &Arc<Vec<u8>>) -> Descriptor {
        let digest = sha256(blob);
        self.blobs.insert(digest.clone(), Arc::clone(blob));
        Descriptor { json: json!({"mediaType": media_type, "digest": digest, "size": blob.len()}) }
    }

    /// Adds a manifest or index as it is.
    pub(crate) fn document(&mut self, media_type: &str, document: &Value) -> Descriptor {
        self.text(media_type, serde_json::to_vec_pretty(document).unwrap())
    }

    /// Adds a manifest or index that is text already.
    pub(crate) fn text(&mut self, media_type: &str, text: impl Into<Vec<u8>>) -> Descriptor {
        let descriptor = self.blob(media_type, text);
        self.types.insert(descriptor.digest().to_owned(), media_type.to_owned());
        descriptor
    }

    /// Adds an image with its layers and config; returns its manifest's descriptor.
    pub(crate) fn image(&mut self, image: &Image) -> Descriptor {
        let (manifest_type, config_type) = if image.docker {
            (DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json")
        } else {
            (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json")
        };
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| {
                let kind = if image.docker { DOCKER_LAYER } else { &layer.media_type };
                self.shared(kind, &layer.blob).json
            })
            .collect();
        let diff_ids: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let mut config = platform_json(&image.platform);
        config["created"] = json!("2024-05-06T07:08:09.123456789Z");
        config["config"] = image.config.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        config["history"] = json!(diff_ids.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>());
        let config = self.blob(config_type, serde_json::to_vec(&config).unwrap());
        let mut descriptor = self.document(
            manifest_type,
            &json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config.json, "layers": layers}),
        );
        descriptor.json["platform"] = platform_json(&image.platform);
        descriptor
    }

    /// Adds an OCI index, or Docker's manifest list, of these.
    pub(crate) fn index(&mut self, docker: bool, manifests: &[Descriptor]) -> Descriptor {
        let media_type = if docker { DOCKER_INDEX } else { OCI_INDEX };
        let manifests: Vec<&Value> = manifests.iter().map(|descriptor| &descriptor.json).collect();
        self.document(
            media_type,
            &json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}),
        )
    }

    /// Names a manifest `repository:tag`.
    pub(crate) fn tag(&mut self, name: &str, descriptor: &Descriptor) {
        self.tags.insert(name.to_owned(), descriptor.digest().to_owned());
    }

    /// Writes an OCI image layout whose index holds these, each with its `org.opencontainers.image.ref.name`.
    pub(crate) fn write_layout(&self, directory: &Path, names: &[(&str, &Descriptor)]) {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        for (digest, blob) in &self.blobs {
            std::fs::write(directory.join("blobs").join(digest.replace(':', "/")), blob.as_slice()).unwrap();
        }
        let entry = |(name, descriptor): &(&str, &Descriptor)| {
            (*descriptor).clone().annotated("org.opencontainers.image.ref.name", name).json
        };
        let manifests: Vec<Value> = names.iter().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    }
}

/// OCI image manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest, version 2, schema 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
