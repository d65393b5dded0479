//! microsandbox 0.5.4 and newer: `msb load`, `msb image ls --format json`, `msb image rm`.
//!
//! msb keeps each layer as an EROFS file named by its `diff_id`, and one with the directory tree of
//! an image, named by its manifest. It believes whatever lies there: so we note what they hold. A
//! killed load leaves copies of blobs behind, which msb never removes: so we do.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;

use super::adapter::{Engine, Removed, Told, full_name, remove_each};
use super::listing::Reader;
use super::noted::Stamp;
use super::pieces::Form;
use super::program::Program;
use super::version::Version;
use crate::child::Input;
use crate::digest::{Algorithm, BlobDigest, DiffId, Hasher};
use crate::error::EngineError;
use crate::state::{AskedNames, EngineFile, EngineListing, EngineSettings};
use crate::sys;
use crate::threads::{self, lock};

/// The start and the end of the name of a blob that a load is reading; the number of the process is
/// between them.
const LOADING: (&str, &str) = ("load-", ".blob");
/// The files that are hashed at once, when a load has ended and nothing else is left to do.
const HASHERS: usize = 2;

pub(super) struct Microsandbox {
    program: Program,
    version: Version,
    /// The digests of files that this run has hashed: images share most of their layers.
    hashed: Mutex<HashMap<PathBuf, (Stamp, String)>>,
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
        Self { program, version: Version::at_least((0, 5, 4), "0.5.4"), hashed: Mutex::default() }
    }

    /// Tells where msb keeps what it has loaded.
    fn cache(&self) -> Option<PathBuf> {
        let set = || self.program.variable("MSB_HOME").map(PathBuf::from);
        let of_user = || self.program.variable("HOME").map(|home| Path::new(home).join(".microsandbox"));
        let home = self.program.settings().home.clone().or_else(set).or_else(of_user)?;
        Some(home.join("cache"))
    }

    /// Hashes the regular file at `path`, unless this run has done so since the file last changed.
    fn hash(&self, path: &Path) -> io::Result<String> {
        let mut file = sys::open_regular(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if let Some((known, digest)) = lock(&self.hashed).get(path)
            && *known == stamp
        {
            return Ok(digest.clone());
        }
        let is_stopped = || self.program.cancel().is_cancelled();
        let digest = Hasher::new(Algorithm::Sha256).read(&mut file, &is_stopped)?.to_string();
        lock(&self.hashed).insert(path.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }
}

impl Engine for Microsandbox {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self, asked: &AskedNames) -> Result<EngineListing, EngineError> {
        let mut reader = Reader::new(asked, false);
        let arguments = ["image", "ls", "--format", "json"];
        self.version.check_beside(&self.program, || {
            self.program.list(&arguments, Form::Array, &mut |image| read(image, &mut reader))
        })?;
        Ok(reader.finish())
    }

    fn load(&self, archive: Input<'_>, _is_foreign: bool) -> Result<(), EngineError> {
        self.version.check(&self.program)?;
        // Killed runs could not.
        self.sweep();
        let result = self.program.feed(&["load"], archive);
        if result.is_err() {
            self.sweep();
        }
        result
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        remove_each(self, names, |name| Told::Removal(self.program.run(&["image", "rm", name])))
    }

    fn paths(&self, manifest: &BlobDigest, layers: &[(BlobDigest, DiffId)]) -> BTreeSet<PathBuf> {
        let Some(cache) = self.cache() else { return BTreeSet::new() };
        let file = |directory: &str, digest: &str| {
            cache.join(directory).join(format!("{}.erofs", digest.replace(':', "_")))
        };
        let mut paths: BTreeSet<PathBuf> =
            layers.iter().map(|(_, diff_id)| file("layers", &diff_id.text())).collect();
        paths.insert(file("fsmeta", &manifest.text()));
        paths
    }

    fn files(
        &self,
        manifest: &BlobDigest,
        layers: &[(BlobDigest, DiffId)],
    ) -> Result<Vec<EngineFile>, EngineError> {
        let paths: Vec<PathBuf> = self.paths(manifest, layers).into_iter().collect();
        let hashed = threads::each_in_parallel("hash", HASHERS, &paths, |path| self.hash(path));
        let mut files = Vec::new();
        for (path, result) in paths.into_iter().zip(hashed) {
            match result {
                Ok(digest) => files.push(EngineFile { path, digest }),
                // Another version may keep no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) if self.program.cancel().is_cancelled() => {
                    let engine = self.program.settings().name.as_str();
                    return Err(EngineError::Stopped { engine, doing: "msb load".to_owned() });
                }
                Err(error) => {
                    let reason = format!("{}: {error}", path.display());
                    return Err(self.program.unreadable("msb load".to_owned(), &reason));
                }
            }
        }
        Ok(files)
    }

    fn sweep(&self) {
        let Some(directory) = self.cache().map(|cache| cache.join("tmp")) else { return };
        let Ok(directory) = sys::open_own_directory(&directory) else { return };
        let mut left = Vec::new();
        let _ = sys::each_entry(directory.as_fd(), |name, is_directory| {
            if !is_directory && numbers(name).is_some_and(|numbers| !numbers.into_iter().any(is_loading)) {
                left.push(name.to_vec());
            }
            true
        });
        for name in left {
            if sys::has_own_file(directory.as_fd(), &name).unwrap_or(false) {
                // One that another run has removed is gone as well.
                let _ = sys::remove_file(directory.as_fd(), &name);
            }
        }
    }
}

/// The numbers in the name of a blob that a load reads, one of which is its process's: newer
/// versions count their blobs before it (`load-2-PID-2.blob`).
fn numbers(name: &[u8]) -> Option<Vec<u32>> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix(LOADING.0)?.strip_suffix(LOADING.1)?;
    let numbers: Result<Vec<u32>, _> = name.split('-').map(str::parse).collect();
    numbers.ok()
}

/// True if `process` may be a load that is at work, be it another's: numbers come round again.
fn is_loading(process: u32) -> bool {
    let arguments = sys::read_regular(Path::new(&format!("/proc/{process}/cmdline")), 64 << 10);
    match arguments {
        Ok(arguments) => arguments.split(|byte| *byte == 0).any(|argument| argument == b"load"),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Reads an image of the listing.
fn read(json: &[u8], reader: &mut Reader<'_>) -> Result<(), String> {
    let image: Image = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    reader.add([full_name(&image.reference)], BlobDigest::parse(&image.digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pieces::Pieces;

    fn parse(json: &str) -> Result<EngineListing, String> {
        let names = ["127.0.0.1:5000/t/a:v1", "docker.io/library/alpine:latest"].map(str::to_owned);
        let asked = AskedNames::of(&names);
        let mut reader = Reader::new(&asked, false);
        let mut take = |image: &[u8]| read(image, &mut reader);
        let mut pieces = Pieces::new(Form::Array, &mut take);
        pieces.add(json.as_bytes());
        pieces.finish().map(|()| reader.finish())
    }

    #[test]
    fn listings_are_read_and_hostile_ones_refused() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let json = format!(
            r#"[{{"reference": "127.0.0.1:5000/t/a:v1", "digest": "{digest}", "layer_count": 2}},
                {{"reference": "alpine", "digest": "{digest}"}}, {{"reference": "x", "digest": "\u001b[2J"}}]"#
        );
        let listing = parse(&json).unwrap();
        let names: Vec<&String> = listing.images.keys().collect();
        assert_eq!(names, ["127.0.0.1:5000/t/a:v1", "docker.io/library/alpine:latest"]);
        assert_eq!(parse("[]").unwrap(), EngineListing::default());
        for bad in ["", "{}", "[{}]", "[null]", "[{\"reference\": 1, \"digest\": 2}]", "no such option"] {
            parse(bad).unwrap_err();
        }
    }

    #[test]
    fn loads_are_known_by_the_names_of_their_blobs() {
        assert_eq!(numbers(b"load-1234-0.blob"), Some(vec![1234, 0]));
        assert_eq!(numbers(b"load-2-1234-3.blob"), Some(vec![2, 1234, 3]));
        assert_eq!(numbers(b"load-1234.blob"), Some(vec![1234]));
        for other in
            [&b"load-.blob"[..], b"load-1234-0.tmp", b"pull-1234.blob", b"load-99999999999.blob", b"\xff"]
        {
            assert_eq!(numbers(other), None);
        }
        assert!(!is_loading(std::process::id()), "this process loads nothing");
        assert!(!is_loading(u32::MAX / 2));
    }
}
