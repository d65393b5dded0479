//! docker, by its client: `docker load`, `docker image ls`, `docker image rm`.
//!
//! The daemon keeps images in one of two ways. With containerd's image store it knows digests; the
//! classic store knows an image by the digest of its config alone, and wants a `manifest.json`.

use std::sync::OnceLock;

use serde::Deserialize;

use super::adapter::{Engine, Removed, Told, full_name, remove_each};
use super::listing::Reader;
use super::pieces::Form;
use super::program::{Program, SSH_AGENT};
use super::version::Version;
use crate::child::Input;
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::state::{AskedNames, EngineListing, EngineSettings};

/// The drivers of the classic store. Some snapshotters of containerd have the same names, and then
/// tell their type.
const CLASSIC: [&str; 8] =
    ["overlay2", "overlay", "fuse-overlayfs", "btrfs", "zfs", "vfs", "aufs", "devicemapper"];
/// The type of a driver that belongs to containerd's store.
const SNAPSHOTTER: &str = "io.containerd.snapshotter";

pub(super) struct Docker {
    program: Program,
    version: Version,
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
    pub(super) fn new(mut program: Program) -> Self {
        program.hand_over(SSH_AGENT);
        let version = Version::at_least((20, 10, 0), "20.10.0");
        Self { program, version, is_classic: OnceLock::new() }
    }

    /// Asks the daemon which store it has, once a run.
    fn is_classic(&self) -> Result<bool, EngineError> {
        if let Some(known) = self.is_classic.get() {
            return Ok(*known);
        }
        self.version.check(&self.program)?;
        let output = self.program.run(&["info", "--format", "{{.Driver}} {{json .DriverStatus}}"])?;
        let is_classic = is_classic(&output.text());
        Ok(*self.is_classic.get_or_init(|| is_classic))
    }
}

impl Engine for Docker {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self, asked: &AskedNames) -> Result<EngineListing, EngineError> {
        let by_config = self.is_classic()?;
        let mut reader = Reader::new(asked, by_config);
        let arguments = ["image", "ls", "--digests", "--no-trunc", "--format", "{{json .}}"];
        self.program.list(&arguments, Form::Lines, &mut |image| read(image, by_config, &mut reader))?;
        Ok(reader.finish())
    }

    fn wants_docker_form(&self) -> bool {
        self.is_classic.get().copied().unwrap_or(false)
    }

    fn load(&self, archive: Input<'_>, _is_foreign: bool) -> Result<(), EngineError> {
        self.is_classic()?;
        self.program.feed(&["load", "--quiet"], archive)
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        remove_each(self, names, |name| Told::Removal(self.program.run(&["image", "rm", name])))
    }
}

/// Tells from the daemon's driver and its status which store it has.
fn is_classic(info: &str) -> bool {
    let driver = info.split_whitespace().next().unwrap_or_default().trim_matches('"');
    CLASSIC.contains(&driver) && !info.contains(SNAPSHOTTER)
}

/// Reads an image of the listing, a line. docker shortens names of docker.io, and an image without
/// a name has `<none>` in its place, which is no name.
fn read(line: &[u8], by_config: bool, reader: &mut Reader<'_>) -> Result<(), String> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let image: Image = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let (id, digest) = (BlobDigest::parse(&image.id).ok(), BlobDigest::parse(&image.digest).ok());
    let name = match &digest {
        Some(digest) if image.tag == "<none>" => format!("{}@{digest}", image.repository),
        _ => format!("{}:{}", image.repository, image.tag),
    };
    let known = if by_config { [id, None] } else { [digest, id] };
    reader.add([full_name(&name)], known.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pieces::Pieces;

    fn parse(lines: &str, by_config: bool) -> Result<EngineListing, String> {
        let repositories = ["docker.io/library/alpine", "ghcr.io/a/b", "corp:5000/x"].map(str::to_owned);
        let asked = AskedNames { repositories: repositories.into(), ..AskedNames::default() };
        let mut reader = Reader::new(&asked, by_config);
        let mut take = |line: &[u8]| read(line, by_config, &mut reader);
        let mut pieces = Pieces::new(Form::Lines, &mut take);
        pieces.add(lines.as_bytes());
        pieces.finish().map(|()| reader.finish())
    }

    #[test]
    fn listings_are_read_and_hostile_ones_refused() {
        let [id, digest] = ["a", "b"].map(|letter| format!("sha256:{}", letter.repeat(64)));
        let line = |repository: &str, tag: &str, digest: &str| {
            format!(r#"{{"Repository":"{repository}","Tag":"{tag}","Digest":"{digest}","ID":"{id}"}}"#) + "\n"
        };
        let lines = line("alpine", "3", &digest)
            + &line("ghcr.io/a/b", "<none>", &digest)
            + &line("<none>", "<none>", "<none>")
            + &line("corp:5000/x", "1", "<none>");
        let [id, digest] = [id.as_str(), digest.as_str()].map(|text| BlobDigest::parse(text).unwrap());
        let listing = parse(&lines, false).unwrap();
        assert_eq!(listing.images.len(), 3, "{listing:?}");
        assert_eq!(listing.images["docker.io/library/alpine:3"], [id.clone(), digest.clone()].into());
        assert!(listing.images.contains_key(&format!("ghcr.io/a/b@{digest}")));
        assert_eq!(listing.images["corp:5000/x:1"], [id.clone()].into());
        let classic = parse(&lines, true).unwrap();
        assert!(classic.by_config);
        assert_eq!(classic.images["docker.io/library/alpine:3"], [id].into());

        assert_eq!(parse("", false).unwrap(), EngineListing::default());
        for bad in ["{", "[]", "Cannot connect", "{\"Repository\": 1}"] {
            parse(bad, false).unwrap_err();
        }
    }

    #[test]
    fn the_two_stores_are_told_apart() {
        for (info, classic) in [
            ("overlay2 [[\"Backing Filesystem\",\"extfs\"]]", true),
            ("overlay2", true),
            ("vfs null", true),
            ("overlayfs [[\"driver-type\",\"io.containerd.snapshotter.v1\"]]", false),
            ("overlayfs", false),
            ("btrfs [[\"driver-type\",\"io.containerd.snapshotter.v1\"]]", false),
            ("", false),
        ] {
            assert_eq!(is_classic(info), classic, "{info}");
        }
    }
}
