//! podman: `podman load`, `podman images --format json`, `podman rmi`.

use serde::Deserialize;

use super::child::Program;
use super::version::Version;
use super::{Archive, Engine, Removed};
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::state::{EngineListing, EngineSettings};

pub(super) struct Podman {
    program: Program,
    version: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
}

impl Podman {
    pub(super) fn new(program: Program) -> Self {
        Self { program, version: Version::at_least((4, 0, 0), "4.0.0") }
    }
}

impl Engine for Podman {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self) -> Result<EngineListing, EngineError> {
        self.version.check(&self.program)?;
        let output = self.program.run(&["images", "--format", "json"])?;
        let images: Vec<Image> = serde_json::from_slice(&output.stdout)
            .map_err(|error| super::unreadable(&self.program, "podman images", &error.to_string()))?;
        let mut listing = EngineListing::default();
        for image in images {
            let repo_digests = image.repo_digests.unwrap_or_default();
            let texts = repo_digests.iter().filter_map(|text| Some(text.split_once('@')?.1));
            let digests: Vec<BlobDigest> = image
                .digest
                .as_deref()
                .into_iter()
                .chain(texts)
                .filter_map(|text| BlobDigest::parse(text).ok())
                .collect();
            // A pin is listed among the names, or by its digest alone.
            for name in image.names.unwrap_or_default().into_iter().chain(repo_digests) {
                listing.images.entry(name).or_default().extend(digests.iter().cloned());
            }
        }
        Ok(listing)
    }

    fn takes_one_image(&self) -> bool {
        true
    }

    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError> {
        self.program.feed(&["load", "--quiet"], archive).map(drop)
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        super::remove_each(self, names, |name| self.program.run(&["rmi", name]))
    }
}
