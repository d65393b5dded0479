//! docker, by its client: `docker load`, `docker image ls`, `docker image rm`.
//!
//! The daemon keeps images in one of two ways. With containerd's image store it knows digests; the
//! classic store knows an image by the digest of its config alone, and wants a `manifest.json`.

use std::sync::OnceLock;

use serde::Deserialize;

use super::child::Program;
use super::{Archive, Engine, Removed};
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{EngineListing, EngineSettings};

pub(super) struct Docker {
    program: Program,
    is_classic: OnceLock<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    repository: String,
    tag: String,
    #[serde(default)]
    digest: String,
    #[serde(rename = "ID")]
    id: String,
}

impl Docker {
    pub(super) fn new(program: Program) -> Self {
        Self { program, is_classic: OnceLock::new() }
    }

    /// Asks the daemon which store it has, once a run.
    fn is_classic(&self) -> Result<bool, EngineError> {
        if let Some(known) = self.is_classic.get() {
            return Ok(*known);
        }
        let output = self.program.run(&["info", "--format", "{{json .DriverStatus}}"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        // containerd's store names its snapshotter plugin; the classic one has no such line.
        Ok(*self.is_classic.get_or_init(|| !text.contains("io.containerd.snapshotter")))
    }
}

impl Engine for Docker {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self) -> Result<EngineListing, EngineError> {
        let by_config = self.is_classic()?;
        let arguments = ["image", "ls", "--digests", "--no-trunc", "--format", "{{json .}}"];
        let output = self.program.run(&arguments)?;
        let mut listing = EngineListing { by_config, ..EngineListing::default() };
        for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let image: Image = serde_json::from_slice(line)
                .map_err(|error| super::unreadable(&self.program, "docker image ls", &error.to_string()))?;
            let digest = if by_config { &image.id } else { &image.digest };
            let Ok(digest) = BlobDigest::parse(digest).or_else(|_| BlobDigest::parse(&image.id)) else {
                continue;
            };
            // docker shortens names of docker.io.
            let name = if image.tag == "<none>" {
                format!("{}@{digest}", image.repository)
            } else {
                format!("{}:{}", image.repository, image.tag)
            };
            let Ok(name) = ImageRef::parse(&name, DEFAULT_REGISTRY) else { continue };
            listing.images.entry(name.to_string()).or_default().insert(digest);
        }
        Ok(listing)
    }

    fn wants_docker_form(&self) -> bool {
        self.is_classic.get().copied().unwrap_or(false)
    }

    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError> {
        self.program.feed(&["load", "--quiet"], archive).map(drop)
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        super::remove_each(self, names, |name| self.program.run(&["image", "rm", name]))
    }
}
