//! The registry room against scripted servers on loopback: each test says what the server answers,
//! asks, and looks at what was answered, at the requests that arrived and at the events that were
//! reported.

mod authentication;
mod clocks;
mod destinations;
mod encryption;
mod hosts;
mod layouts;
mod limits;
mod lookups;
mod plain_http;
mod referrers;
mod refusals;
mod secrecy;
mod server;
mod token_servers;
mod transfers;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use self::server::{Request, Response, Server};
use super::{Lookup, Meaning, Options, Registries, Rests};
use crate::cancel::Cancel;
use crate::digest::{Algorithm, BlobDigest, DiffId};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::progress::{Event, Reporter, RequestDetail};
use crate::state::{LayerDescriptor, Limits, Platform, RegistrySettings, ResolvedImage};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Keeps what was reported.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Reporter for Ear {
    fn report(&self, event: Event) {
        self.0.lock().unwrap().push(match event {
            Event::Warning(text) => format!("warning: {text}"),
            Event::Detail(text) => text,
            other => format!("{other:?}"),
        });
    }
}

impl Ear {
    fn all(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

/// Registries as a test wants them.
struct Setup {
    registries: Vec<RegistrySettings>,
    hosts_dir: Option<PathBuf>,
    rate: Option<NonZeroU64>,
    variables: Vec<(String, String)>,
    untrusted: bool,
    limits: Limits,
    cancel: Cancel,
    ear: Arc<Ear>,
    rests: Rests,
}

impl Setup {
    fn new() -> Self {
        Self {
            registries: Vec::new(),
            hosts_dir: None,
            rate: None,
            variables: Vec::new(),
            untrusted: false,
            limits: Limits::default(),
            cancel: Cancel::new(),
            ear: Arc::default(),
            rests: Rests::default(),
        }
    }

    fn with(mut self, settings: RegistrySettings) -> Self {
        self.registries.push(settings);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn build(&self) -> Registries {
        let variables = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Registries::new(Options {
            requests: RequestDetail::Headers,
            registries: self.registries.clone(),
            hosts_dir: self.hosts_dir.clone(),
            rate: self.rate,
            limits: self.limits,
            max_connections: 4,
            environment: variables.collect(),
            stored_logins: !self.untrusted,
            cancel: self.cancel.clone(),
            reporter: Arc::<Ear>::clone(&self.ear),
            rests: self.rests.clone(),
            bundle: None,
        })
        .unwrap()
    }
}

impl Registries {
    /// All tags of `reference`'s repository, sorted.
    fn tags(&self, reference: &ImageRef) -> Result<Vec<String>, RegistryError> {
        let tags = self.fold_tags(reference, std::collections::BTreeSet::new, |tags, tag| {
            tags.insert(tag.to_owned());
        });
        Ok(tags?.into_iter().collect())
    }
}

/// Settings of the registry that `server` is.
fn settings(server: &Server) -> RegistrySettings {
    RegistrySettings { name: server.name(), ..RegistrySettings::default() }
}

fn sha256(bytes: &[u8]) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, bytes)
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

/// An image of one layer, with all its documents.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(content: &str) -> Self {
        Self::with_platform(content, "amd64", None)
    }

    fn with_platform(content: &str, architecture: &str, variant: Option<&str>) -> Self {
        let layer = content.as_bytes().to_vec();
        let config = json!({
            "os": "linux", "architecture": architecture, "variant": variant,
            "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": sha256(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(&layer),
                        "size": layer.len()}],
        });
        Self { layer, config, manifest: manifest.to_string().into_bytes() }
    }

    fn digest(&self) -> BlobDigest {
        sha256(&self.manifest)
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": OCI_MANIFEST, "digest": self.digest(), "size": self.manifest.len()})
    }

    fn entry(&self, platform: &str) -> Value {
        let mut entry = self.descriptor();
        let platform = Platform::parse(platform).unwrap();
        let (os, architecture, variant) = (platform.os(), platform.architecture(), platform.variant());
        entry["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
        entry
    }

    fn layer_descriptor(&self) -> LayerDescriptor {
        let digest = sha256(&self.layer);
        LayerDescriptor {
            diff_id: DiffId::parse(&digest.text()).unwrap(),
            digest,
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            size: self.layer.len() as u64,
        }
    }

    /// The paths of `repository` at which a registry serves this image.
    fn serve(&self, content: &mut Content, repository: &str, tag: &str) {
        content.manifest(repository, tag, OCI_MANIFEST, &self.manifest);
        content.blob(repository, &self.config);
        content.blob(repository, &self.layer);
    }
}

fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string().into_bytes()
}

/// The content of a well-behaved registry, by path.
#[derive(Clone, Default)]
struct Content(BTreeMap<String, (String, Vec<u8>)>);

impl Content {
    fn manifest(&mut self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        for name in [tag, &sha256(bytes).text()] {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.0.insert(path, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    fn blob(&mut self, repository: &str, bytes: &[u8]) {
        let path = format!("/v2/{repository}/blobs/{}", sha256(bytes));
        self.0.insert(path, ("application/octet-stream".to_owned(), bytes.to_vec()));
    }

    /// Answers as the distribution spec says, ranges included.
    fn answer(&self, request: &Request) -> Response {
        let Some((media_type, bytes)) = self.0.get(request.path()) else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return Response::new(404, body.as_bytes());
        };
        let response = match request.range() {
            Some(from) if from < bytes.len() => Response::new(206, &bytes[from..])
                .header("Content-Range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
            _ => Response::new(200, bytes),
        };
        response.header("Content-Type", media_type).header("Docker-Content-Digest", &sha256(bytes).text())
    }
}

fn serve(image: &Image) -> Content {
    let mut content = Content::default();
    image.serve(&mut content, "team/app", "1");
    content
}

fn reference(server: &Server) -> ImageRef {
    ImageRef::in_registry(&server.name(), "team/app:1").unwrap()
}

fn image(lookup: Lookup) -> ResolvedImage {
    match lookup {
        Lookup::Image(image) => *image,
        Lookup::Same => panic!("the image was taken for unchanged"),
    }
}

fn resolve(registries: &Registries, reference: &ImageRef) -> Result<ResolvedImage, RegistryError> {
    registries.resolve(reference, &amd64(), None).map(image)
}

/// Whatever is tried, it ends: no test may hang on a defect.
const SHORT: Duration = Duration::from_millis(200);
