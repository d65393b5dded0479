//! The references that msb-sync has loaded into engines.

use std::ops::Deref;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::engine::EngineSettings;
use super::owner::Owner;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// A reference that msb-sync has loaded into an engine, as the catalog records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedReference {
    /// The owner on whose behalf it was loaded.
    pub owner: Owner,
    /// The engine.
    pub engine: EngineSettings,
    /// The text by which the engine lists the image: one of
    /// [`EngineName::names_of`](super::EngineName::names_of).
    pub name: String,
    /// The image.
    pub reference: ImageRef,
    /// The digest of the manifest that was loaded.
    pub manifest: BlobDigest,
    /// The digest by which the engine lists the image since; `None` while a load is under way, and
    /// after one that failed or was killed.
    pub listed: Option<BlobDigest>,
    /// The digest by which the engine listed the reference before a load that has not ended well:
    /// it may do so still. `None` where `listed` says more.
    pub former: Option<BlobDigest>,
    /// The digests of the engine's own files of the image, where they can be verified.
    pub files: Vec<EngineFile>,
    /// False if the owner wants the reference there no more, and it is still to be removed.
    pub wanted: bool,
}

/// A file of an engine, as it was after a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFile {
    /// The absolute path.
    pub path: PathBuf,
    /// The `sha256:` digest of the content.
    pub digest: String,
}

/// References that were loaded, in the order of their names: those of one name are found without a
/// look at all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedReferences(Vec<LoadedReference>);

impl LoadedReferences {
    /// Lists the references of this name, in whatever engine and for whatever owner.
    pub fn named(&self, name: &str) -> &[LoadedReference] {
        let (first, last) = (
            self.0.partition_point(|row| &*row.name < name),
            self.0.partition_point(|row| &*row.name <= name),
        );
        &self.0[first..last]
    }

    /// Keeps those references alone of which `keeps` is true.
    pub fn retain(&mut self, keeps: impl FnMut(&LoadedReference) -> bool) {
        self.0.retain(keeps);
    }
}

impl From<Vec<LoadedReference>> for LoadedReferences {
    fn from(mut rows: Vec<LoadedReference>) -> Self {
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        Self(rows)
    }
}

impl Deref for LoadedReferences {
    type Target = [LoadedReference];

    fn deref(&self) -> &[LoadedReference] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::state::EngineName;

    #[test]
    fn references_are_found_by_their_whole_names_in_the_order_of_their_engines() {
        let loaded = |engine, name: &str| LoadedReference {
            owner: Owner::pull(),
            engine: EngineSettings::new(engine),
            name: name.to_owned(),
            reference: ImageRef::parse(name, "docker.io").unwrap(),
            manifest: BlobDigest::of(Algorithm::Sha256, name.as_bytes()),
            listed: None,
            former: None,
            files: Vec::new(),
            wanted: true,
        };
        let (docker, podman) = (EngineName::Docker, EngineName::Podman);
        let rows = [(docker, "r.test/b:1"), (docker, "r.test/a:1"), (docker, "r.test/b:10")];
        let rows = rows.into_iter().chain([(podman, "r.test/b:1"), (podman, "r.test/c:1")]);
        let rows =
            LoadedReferences::from(rows.map(|(engine, name)| loaded(engine, name)).collect::<Vec<_>>());
        let engines_of = |name| rows.named(name).iter().map(|row| row.engine.name).collect::<Vec<_>>();
        assert_eq!(engines_of("r.test/b:1"), [docker, podman]);
        assert_eq!(engines_of("r.test/a:1"), [docker]);
        assert_eq!(engines_of("r.test/c:1"), [podman]);
        assert!(["", "r.test/b", "r.test/b:2", "z"].map(engines_of).concat().is_empty());
    }
}
