//! microsandbox 0.5.4 and newer: `msb load`, `msb image ls --format json`, `msb image rm`.
//!
//! msb keeps each layer as an EROFS file named by its `diff_id`, and one with an image's directory
//! tree, named by the manifest. It believes whatever lies there: so we note what they hold.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::child::{Program, shown};
use super::version::Version;
use super::{Archive, Engine, Removed};
use crate::digest::{Algorithm, BlobDigest, DiffId, Hasher};
use crate::error::EngineError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{EngineFile, EngineListing, EngineSettings};

/// The start and the end of the names of blobs that a load is reading, around the process's number.
const LOADING: (&str, &str) = ("load-", ".blob");

pub(super) struct Microsandbox {
    program: Program,
    version: Version,
}

#[derive(Deserialize)]
struct Image {
    reference: String,
    digest: String,
}

impl Microsandbox {
    pub(super) fn new(mut program: Program) -> Self {
        if let Some(home) = program.settings().home.clone() {
            program.set("MSB_HOME", home);
        }
        Self { program, version: Version::at_least((0, 5, 4), "0.5.4") }
    }

    /// Tells where msb keeps what it has loaded.
    fn cache(&self) -> Option<PathBuf> {
        let set = self.program.variable("MSB_HOME").map(PathBuf::from);
        let of_user = || self.program.variable("HOME").map(|home| Path::new(home).join(".microsandbox"));
        let home = self.program.settings().home.clone().or(set).or_else(of_user)?;
        Some(home.join("cache"))
    }

    /// Removes the blobs that killed loads have left: msb itself never does. A load that is at work
    /// may be anybody's: its process decides.
    fn sweep(&self) {
        let Some(directory) = self.cache().map(|cache| cache.join("tmp")) else { return };
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let of_process = name.to_str().and_then(|name| {
                let rest = name.strip_prefix(LOADING.0)?.strip_suffix(LOADING.1)?;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
            });
            if of_process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                // One that another run has removed is gone as well.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Engine for Microsandbox {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self) -> Result<EngineListing, EngineError> {
        self.version.check(&self.program)?;
        let arguments = ["image", "ls", "--format", "json"];
        let output = self.program.run(&arguments)?;
        let images: Vec<Image> = serde_json::from_slice(&output.stdout)
            .map_err(|error| super::unreadable(&self.program, "msb image ls", &error.to_string()))?;
        let mut listing = EngineListing::default();
        for image in images {
            let Ok(digest) = BlobDigest::parse(&image.digest) else { continue };
            let name = ImageRef::parse(&image.reference, DEFAULT_REGISTRY)
                .map_or(image.reference, |name| name.to_string());
            listing.images.entry(name).or_default().insert(digest);
        }
        Ok(listing)
    }

    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError> {
        self.sweep();
        let result = self.program.feed(&["load"], archive);
        if result.is_err() {
            self.sweep();
        }
        result.map(drop)
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        let remove = |name: &str| self.program.run(&["image", "rm", name]);
        super::remove_each(self, names, remove)
    }

    fn files(
        &self,
        manifest: &BlobDigest,
        layers: &[(BlobDigest, DiffId)],
    ) -> Result<Vec<EngineFile>, EngineError> {
        let Some(cache) = self.cache() else { return Ok(Vec::new()) };
        let file = |directory: &str, digest: &str| {
            cache.join(directory).join(format!("{}.erofs", digest.replace(':', "_")))
        };
        let mut paths: BTreeSet<PathBuf> =
            layers.iter().map(|(_, diff_id)| file("layers", diff_id.as_str())).collect();
        paths.insert(file("fsmeta", manifest.as_str()));
        let mut files = Vec::new();
        for path in paths {
            match hash(&path) {
                Ok(digest) => files.push(EngineFile { path, digest }),
                // An older msb keeps no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let reason = shown(&format!("{}: {error}", path.display()), 300);
                    return Err(super::unreadable(&self.program, "msb load", &reason));
                }
            }
        }
        Ok(files)
    }
}

/// Hashes the regular file at `path`.
pub(super) fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish_text()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
