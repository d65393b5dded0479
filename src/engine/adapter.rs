//! The one trait of all engines, and what their adapters have in common.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::program::Output;
use crate::child::Input;
use crate::child::shown;
use crate::digest::{BlobDigest, DiffId};
use crate::error::EngineError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{AskedNames, EngineFile, EngineListing, EngineSettings};

/// The words by which engines say that they keep an image because somebody uses it.
const IN_USE: [&str; 5] =
    ["in use", "being used", "used by", "is using", "unable to remove repository reference"];

/// The result of taking one reference out of an engine.
#[derive(Debug)]
pub(crate) enum Removed {
    /// The engine lists the reference no more.
    Gone,
    /// Somebody uses the image; the engine's words.
    InUse(String),
    /// The engine failed.
    Failed(EngineError),
}

/// One engine.
pub(crate) trait Engine: Send + Sync {
    /// The settings that the engine was opened with.
    fn settings(&self) -> &EngineSettings;

    /// Lists those images of the engine that are asked about, by references in the full form.
    fn list(&self, asked: &AskedNames) -> Result<EngineListing, EngineError>;

    /// True if an archive may have one image alone, under one name.
    fn takes_one_image(&self) -> bool {
        false
    }

    /// True if an image without a tag is known by the digest in its name alone: then its index has
    /// to be loaded, where it has one.
    fn needs_index_without_tag(&self) -> bool {
        false
    }

    /// The number of times that an image whose load failed is loaded again, alone.
    fn further_tries(&self) -> usize {
        1
    }

    /// True if archives need docker's `manifest.json`; known once the engine has been listed.
    fn wants_docker_form(&self) -> bool {
        false
    }

    /// True if archives may have symbolic links to blobs of this machine in the blobs' places. An
    /// engine that follows none all the same refuses such an archive.
    fn follows_links(&self) -> bool {
        false
    }

    /// Starts the engine's program for loading, and lets `archive` write into it. Where that fails,
    /// for whatever reason, the program does not take what it got for the whole archive. Images of
    /// other platforms than this machine's are among those in it if `is_foreign`.
    fn load(&self, archive: Input<'_>, is_foreign: bool) -> Result<(), EngineError>;

    /// Tells of each of `names`, which the engine lists, whether the image is whole.
    ///
    /// # Errors
    /// The engine cannot tell.
    fn check(&self, names: &[&str]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        Ok(names.iter().map(|_| Ok(())).collect())
    }

    /// Takes `names` out of the engine, never by force.
    fn remove(&self, names: &[String]) -> Vec<Removed>;

    /// Names the engine's own files of an image, where they can be verified.
    fn paths(&self, _manifest: &BlobDigest, _layers: &[(BlobDigest, DiffId)]) -> BTreeSet<PathBuf> {
        BTreeSet::new()
    }

    /// Hashes those of [`Engine::paths`] that are there.
    fn files(
        &self,
        _manifest: &BlobDigest,
        _layers: &[(BlobDigest, DiffId)],
    ) -> Result<Vec<EngineFile>, EngineError> {
        Ok(Vec::new())
    }

    /// Removes what killed loads have left in the engine's own directories.
    fn sweep(&self) {}
}

/// The result of telling an engine to remove a reference: its word, or the user of the image for
/// whose sake it was not told.
pub(super) enum Told {
    Used(String),
    Removal(Result<Output, EngineError>),
}

/// Takes `names` out of `engine` by `tell`, and believes the listing afterwards: exit codes lie.
pub(super) fn remove_each(
    engine: &dyn Engine,
    names: &[String],
    tell: impl Fn(&str) -> Told,
) -> Vec<Removed> {
    let told: Vec<Told> = names.iter().map(|name| tell(name)).collect();
    let listing = engine.list(&AskedNames::of(names));
    let failed = |name: &str, status: &str| EngineError::Failed {
        engine: engine.settings().name.as_str(),
        doing: format!("the removal of {}", shown(name)),
        status: status.to_owned(),
        words: String::new(),
    };
    let result = |(name, told): (&String, Told)| match (&listing, told) {
        (Ok(listing), _) if !listing.images.contains_key(name) => Removed::Gone,
        (_, Told::Used(user)) => Removed::InUse(format!("container {user} uses it")),
        (_, Told::Removal(Err(EngineError::Failed { words, .. }))) if is_in_use(&words) => {
            Removed::InUse(words)
        }
        (_, Told::Removal(Err(error))) => Removed::Failed(error),
        (Ok(_), Told::Removal(Ok(_))) => Removed::Failed(failed(name, "it is listed still")),
        (Err(error), Told::Removal(Ok(_))) => Removed::Failed(failed(name, &error.to_string())),
    };
    names.iter().zip(told).map(result).collect()
}

fn is_in_use(words: &str) -> bool {
    let words = words.to_lowercase();
    IN_USE.iter().any(|known| words.contains(known))
}

/// The full form of a reference that an engine lists; one that is none stays as it is.
pub(super) fn full_name(listed: &str) -> String {
    ImageRef::parse(listed, DEFAULT_REGISTRY).map_or_else(|_| listed.to_owned(), |name| name.to_string())
}
