//! podman: `podman load`, `podman images --format json`, `podman rmi`.
//!
//! podman takes one image an archive, under one name. It copies the archive, and unpacks the copy
//! twice before it reads any blob (4.3 to 5): so blobs come as symbolic links to the kept ones. A
//! podman on this machine follows them, and compares the bytes with their digests. A removal unties
//! one name of several, also where a container was made from it: so containers are looked at first.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::adapter::{Engine, Removed, Told, full_name, remove_each};
use super::listing::Reader;
use super::pieces::Form;
use super::program::{Program, SSH_AGENT};
use super::version::Version;
use crate::child::Input;
use crate::child::shown;
use crate::digest::BlobDigest;
use crate::error::EngineError;
use crate::state::{AskedNames, EngineListing, EngineSettings};

pub(super) struct Podman {
    program: Program,
    version: Version,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    #[serde(rename = "Digest", default)]
    digest: Option<String>,
    #[serde(rename = "RepoDigests", default)]
    repo_digests: Option<Vec<String>>,
}

impl Podman {
    pub(super) fn new(mut program: Program) -> Self {
        program.hand_over(SSH_AGENT);
        Self { program, version: Version::at_least((4, 0, 0), "4.0.0") }
    }

    /// Lists the images that containers were made from, each with one of these. Where they cannot
    /// be listed podman itself refuses the last name of an image that one uses.
    fn users(&self) -> BTreeMap<String, String> {
        let arguments = ["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Image}}"];
        let Ok(output) = self.program.run(&arguments) else { return BTreeMap::new() };
        let user = |line: &str| {
            let (id, image) = line.split_once(' ')?;
            Some((full_name(image.trim()), shown(id.get(..12).unwrap_or(id))))
        };
        output.text().lines().filter_map(user).collect()
    }
}

impl Engine for Podman {
    fn settings(&self) -> &EngineSettings {
        self.program.settings()
    }

    fn list(&self, asked: &AskedNames) -> Result<EngineListing, EngineError> {
        let mut reader = Reader::new(asked, false);
        let arguments = ["images", "--format", "json"];
        self.version.check_beside(&self.program, || {
            self.program.list(&arguments, Form::Array, &mut |image| read(image, &mut reader))
        })?;
        Ok(reader.finish())
    }

    fn takes_one_image(&self) -> bool {
        true
    }

    fn needs_index_without_tag(&self) -> bool {
        true
    }

    fn follows_links(&self) -> bool {
        true
    }

    fn load(&self, archive: Input<'_>, _is_foreign: bool) -> Result<(), EngineError> {
        self.version.check(&self.program)?;
        self.program.feed(&["load", "--quiet"], archive)
    }

    fn remove(&self, names: &[String]) -> Vec<Removed> {
        let users = self.users();
        remove_each(self, names, |name| match users.get(name) {
            Some(user) => Told::Used(user.clone()),
            None => Told::Removal(self.program.run(&["rmi", name])),
        })
    }
}

/// Reads an image of the listing; a pin is listed among the names, or by its digest alone.
fn read(json: &[u8], reader: &mut Reader<'_>) -> Result<(), String> {
    let image: Image = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let repo_digests = image.repo_digests.unwrap_or_default();
    let names = image.names.unwrap_or_default();
    let of_names = repo_digests.iter().filter_map(|text| Some(text.split_once('@')?.1));
    let digests = image.digest.as_deref().into_iter().chain(of_names);
    let digests = digests.filter_map(|text| BlobDigest::parse(text).ok());
    reader.add(names.iter().chain(&repo_digests).map(|name| full_name(name)), digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pieces::Pieces;

    fn parse(json: &str) -> Result<EngineListing, String> {
        let repositories = ["docker.io/library/alpine".to_owned()].into();
        let asked = AskedNames { repositories, ..AskedNames::default() };
        let mut reader = Reader::new(&asked, false);
        let mut take = |image: &[u8]| read(image, &mut reader);
        let mut pieces = Pieces::new(Form::Array, &mut take);
        pieces.add(json.as_bytes());
        pieces.finish().map(|()| reader.finish())
    }

    #[test]
    fn listings_are_read_and_hostile_ones_refused() {
        let (manifest, index) =
            ("sha256:".to_owned() + &"a".repeat(64), "sha256:".to_owned() + &"b".repeat(64));
        let json = format!(
            r#"[{{"Names": ["docker.io/library/alpine:3"], "Digest": "{manifest}", "RepoTags": null,
                  "RepoDigests": ["docker.io/library/alpine@{manifest}", "docker.io/library/alpine@{index}"]}},
                {{"Names": null, "RepoDigests": null}}, {{"Names": ["x\u001b[2J"], "Digest": "none"}}]"#
        );
        let listing = parse(&json).unwrap();
        let digests = [&manifest, &index].map(|text| BlobDigest::parse(text).unwrap()).into();
        assert_eq!(listing.images["docker.io/library/alpine:3"], digests);
        assert_eq!(listing.images[&format!("docker.io/library/alpine@{index}")], digests);
        assert!(!listing.by_config);

        assert_eq!(parse("null").unwrap(), EngineListing::default());
        for bad in ["", "[", "{}", "[1]", "[{\"Names\": 1}]", "[{\"Names\"}]"] {
            parse(bad).unwrap_err();
        }
    }
}
