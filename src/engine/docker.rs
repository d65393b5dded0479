//! docker, by its client: `docker load`, `docker image ls`, `docker image rm`.
//!
//! The daemon keeps images in one of two ways. With containerd's image store it knows digests; the
//! classic store knows an image by the digest of its config alone, and wants a `manifest.json`.

use std::sync::OnceLock;

use serde::Deserialize;

use super::adapter::{Engine, Removed, Told, remove_each, unreadable};
use super::child::Archive;
use super::program::{Program, SSH_AGENT};
use super::version::Version;
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{EngineListing, EngineSettings};

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

    fn list(&self) -> Result<EngineListing, EngineError> {
        let by_config = self.is_classic()?;
        let arguments = ["image", "ls", "--digests", "--no-trunc", "--format", "{{json .}}"];
        let output = self.program.run(&arguments)?;
        parse(&output.stdout, by_config)
            .map_err(|reason| unreadable(&self.program, "docker image ls", &reason))
    }

    fn wants_docker_form(&self) -> bool {
        self.is_classic.get().copied().unwrap_or(false)
    }

    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError> {
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

/// Reads the listing, an image a line. docker shortens names of docker.io.
fn parse(lines: &[u8], by_config: bool) -> Result<EngineListing, String> {
    let mut listing = EngineListing { by_config, ..EngineListing::default() };
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let image: Image = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let (id, digest) = (BlobDigest::parse(&image.id).ok(), BlobDigest::parse(&image.digest).ok());
        let name = match &digest {
            Some(digest) if image.tag == "<none>" => format!("{}@{digest}", image.repository),
            _ => format!("{}:{}", image.repository, image.tag),
        };
        // An image without a name has `<none>` in its place.
        let Ok(name) = ImageRef::parse(&name, DEFAULT_REGISTRY) else { continue };
        let known = if by_config { [id, None] } else { [digest, id] };
        listing.images.entry(name.to_string()).or_default().extend(known.into_iter().flatten());
    }
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let listing = parse(lines.as_bytes(), false).unwrap();
        assert_eq!(listing.images.len(), 3, "{listing:?}");
        assert_eq!(listing.images["docker.io/library/alpine:3"], [id.clone(), digest.clone()].into());
        assert!(listing.images.contains_key(&format!("ghcr.io/a/b@{digest}")));
        assert_eq!(listing.images["corp:5000/x:1"], [id.clone()].into());
        let classic = parse(lines.as_bytes(), true).unwrap();
        assert!(classic.by_config);
        assert_eq!(classic.images["docker.io/library/alpine:3"], [id].into());

        assert_eq!(parse(b"", false).unwrap(), EngineListing::default());
        for bad in ["{", "[]", "Cannot connect", "{\"Repository\": 1}"] {
            parse(bad.as_bytes(), false).unwrap_err();
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
