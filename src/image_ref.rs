//! Image references: `registry/repository:tag@digest`.
//!
//! [`ImageRef`] follows the grammar of [distribution/reference] (lower-case repositories, tags of
//! at most 128 characters, `sha256`/`sha512` digests) and always carries its registry. oci-spec's
//! `Reference` would not do: that one accepts `UPPER/x`, and reads `sha256:abc` as an image.
//!
//! The full form, which `Display` prints and [`ImageRef::parse`] reads back, is
//! `registry/repository:tag[@digest]`; a digest alone stays `registry/repository@digest`.
//!
//! [distribution/reference]: https://github.com/distribution/reference/blob/v0.6.0/reference.go

mod grammar;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use self::grammar::{RefError, check_registry, registry_name};
use self::grammar::{check_repository, check_tag};
pub(crate) use self::grammar::{split_registry, split_scheme};
use crate::digest::BlobDigest;
use crate::wildcard;

/// The registry of references that name none, unless `OCI_REGISTRY_DOMAIN` says otherwise.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The registry name of microsandbox's own; docker.io serves its images.
pub const SANDBOXES_REGISTRY: &str = "sandboxes.io";

/// The longest repository, with its registry, that distribution allows, in bytes.
const MAX_NAME: usize = 255;

/// A complete image reference. References are ordered by registry, repository, tag, digest. A clone
/// shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef(Arc<Parts>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<BlobDigest>,
}

impl ImageRef {
    /// Parses a reference that may name its registry; one that does not gets `default_registry`.
    ///
    /// `library/` is added for one-component names on docker.io and sandboxes.io only; `:latest`
    /// where neither tag nor digest is given. `index.docker.io` is docker.io. Capitals in a
    /// registry's name do not count.
    ///
    /// # Errors
    /// Anything outside the distribution grammar.
    pub fn parse(text: &str, default_registry: &str) -> Result<Self, RefError> {
        if let Some((scheme, rest)) = split_scheme(text) {
            let reason = format!("no image reference starts with {scheme}");
            let instead = Self::parse(rest, default_registry).is_ok().then(|| rest.to_owned());
            return Err(RefError::new(text, reason).or_instead(instead));
        }
        let (registry, rest) = split_registry(text);
        Self::in_registry(registry.unwrap_or(default_registry), rest)
            .map_err(|error| RefError::new(text, error.reason()))
    }

    /// Parses `name` (`repository[:tag][@digest]`) as a reference into `registry`.
    ///
    /// # Errors
    /// Anything outside the distribution grammar, in the registry's name too.
    pub fn in_registry(registry: &str, name: &str) -> Result<Self, RefError> {
        let fail = |reason: String| Err(RefError::new(name, reason));
        let registry = registry_name(registry).map_err(|error| RefError::new(name, error.reason()))?;
        let (name_and_tag, digest) = match name.split_once('@') {
            Some((left, right)) => match BlobDigest::parse(right) {
                Ok(digest) => (left, Some(digest)),
                Err(error) => return fail(format!("bad digest: {}", error.reason())),
            },
            None => (name, None),
        };
        let (repository, tag) = match name_and_tag.rsplit_once(':') {
            Some((left, right)) if !right.contains('/') => (left, Some(right)),
            _ => (name_and_tag, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|error| RefError::new(name, error.reason()))?;
        }
        if tag.is_some() && digest.is_none() && matches!(repository, "sha256" | "sha512") {
            return fail(format!(
                "{repository}:… is a digest, not an image; write repository@{repository}:…"
            ));
        }
        check_repository(repository).map_err(|error| RefError::new(name, error.reason()))?;
        let repository = if adds_library(&registry) && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return fail(format!("registry and repository together are longer than {MAX_NAME} characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self(Arc::new(Parts { registry, repository, tag, digest })))
    }

    /// The registry's name (`docker.io`, `registry.corp:5000`), which says nothing of where the
    /// registry is reached.
    pub fn registry(&self) -> &str {
        &self.0.registry
    }

    /// The repository, with `library/` where it was added.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The tag, unless there is only a digest.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag.as_deref()
    }

    /// The digest that the reference is pinned to.
    pub fn digest(&self) -> Option<&BlobDigest> {
        self.0.digest.as_ref()
    }

    /// Names the same image in another registry.
    #[must_use]
    pub fn with_registry(&self, registry: &str) -> Self {
        self.with(|parts| registry.clone_into(&mut parts.registry))
    }

    /// Names the same repository with another tag and no digest.
    ///
    /// # Errors
    /// A tag outside the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, RefError> {
        check_tag(tag)?;
        Ok(self.with(|parts| (parts.tag, parts.digest) = (Some(tag.to_owned()), None)))
    }

    /// Pins the image to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: &BlobDigest) -> Self {
        self.with(|parts| parts.digest = Some(digest.clone()))
    }

    /// Names the same tag without the digest that it is pinned to; a digest alone stays.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        if self.tag().is_none() { self.clone() } else { self.with(|parts| parts.digest = None) }
    }

    /// Names the repository alone, without tag and digest: all its images together. No lookup
    /// understands such a name.
    #[must_use]
    pub fn repository_alone(&self) -> Self {
        self.with(|parts| (parts.tag, parts.digest) = (None, None))
    }

    /// True if this is an image of `repository`, named [alone](ImageRef::repository_alone).
    pub fn is_of(&self, repository: &Self) -> bool {
        self.0.registry == repository.0.registry && self.0.repository == repository.0.repository
    }

    /// Finds the images of `repository`, which is named alone, without a look at all others: names
    /// are ordered by repository, and the repository alone comes first.
    pub(crate) fn all_of<'m, T>(
        repository: &'m Self,
        by_name: &'m BTreeMap<Self, T>,
    ) -> impl Iterator<Item = (&'m Self, &'m T)> {
        by_name.range(repository..).take_while(|(name, _)| name.is_of(repository))
    }

    /// Lists the names under which the catalog records this image: its own, and for an image of
    /// sandboxes.io the docker.io one too, since docker.io serves it (microsandbox looks there).
    pub fn recorded_names(&self) -> Vec<Self> {
        let mut names = vec![self.clone()];
        if self.registry() == SANDBOXES_REGISTRY {
            names.push(self.with_registry(DEFAULT_REGISTRY));
        }
        names
    }

    /// Names the image of which this may be the second name: sandboxes.io's for docker.io's.
    pub(crate) fn first_name(&self) -> Option<Self> {
        (self.registry() == DEFAULT_REGISTRY).then(|| self.with_registry(SANDBOXES_REGISTRY))
    }

    /// Tells whether one of `patterns`, full names without tag in which `*` stands for anything,
    /// names the image by any of the names under which it is recorded: what comes from
    /// `sandboxes.io` is docker.io's image too, and then answers to both.
    pub(crate) fn is_named_by(&self, patterns: &[String]) -> bool {
        self.recorded_names().iter().any(|name| {
            let name = name.repository_alone().to_string();
            patterns.iter().any(|pattern| wildcard::fits(pattern, &name))
        })
    }

    fn with(&self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Parts::clone(&self.0);
        change(&mut parts);
        Self(Arc::new(parts))
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry(), self.repository())?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest() {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn adds_library(registry: &str) -> bool {
    matches!(registry, DEFAULT_REGISTRY | SANDBOXES_REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(text: &str) -> String {
        ImageRef::parse(text, DEFAULT_REGISTRY).unwrap().to_string()
    }

    #[test]
    fn the_images_of_a_repository_are_found_among_its_neighbours() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let names = ["r.a/b:1", "r.a/b:2", &format!("r.a/b@{digest}"), &format!("r.a/b:1@{digest}")];
        let others = ["r.a/a:9", "r.a/b-c:1", "r.a/b/c:1", "r.a/bb:1", "r.a.b/b:1", "q.a/b:1"];
        let parsed = |name: &&str| (ImageRef::parse(name, DEFAULT_REGISTRY).unwrap(), names.contains(name));
        let all: BTreeMap<ImageRef, bool> = names.iter().chain(&others).map(parsed).collect();
        let repository = parsed(&names[0]).0.repository_alone();
        let found: Vec<_> = ImageRef::all_of(&repository, &all).collect();
        assert_eq!(found, all.iter().filter(|(_, is_of)| **is_of).collect::<Vec<_>>());
    }

    #[test]
    fn defaults_are_filled_in_as_docker_does() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("sandboxes.io/python", "sandboxes.io/library/python:latest"),
            ("ghcr.io/github/super-linter:v7", "ghcr.io/github/super-linter:v7"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("[::1]:5000/team/app:1", "[::1]:5000/team/app:1"),
            ("registry.corp:5000/a/b__c/d--e.f:V1.0-x_y", "registry.corp:5000/a/b__c/d--e.f:V1.0-x_y"),
        ] {
            assert_eq!(full(text), expected);
            assert_eq!(full(&format!("{text}@{digest}")).split('@').nth(1), Some(digest.as_str()));
        }
        assert_eq!(full(&format!("alpine@{digest}")), format!("docker.io/library/alpine@{digest}"));
        assert_eq!(full(&format!("alpine:3@{digest}")), format!("docker.io/library/alpine:3@{digest}"));
        assert_eq!(ImageRef::parse("x:1", "ghcr.io").unwrap().to_string(), "ghcr.io/x:1");
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = "a/".repeat(130) + "b";
        for bad in [
            "",
            ":",
            "@",
            "a:",
            "a@",
            "UPPER/x",
            "Alpine",
            "a//b",
            "/a",
            "a/",
            "a:b c",
            "a b",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a.",
            "a:.x",
            "a:-x",
            "sha256:abc",
            "a@sha256:abc",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "https://docker.io/a",
            "exa_mple.com/a",
            "host:0/a",
            "host:99999/a",
            "host:x/a",
            "[::1/a",
            "[zz]/a",
            "../../etc/passwd",
            "a/../b",
            "a\n",
            "é",
            "a:é",
            "a@sha256",
            "a:b:c",
            &long_tag,
            &long_name,
        ] {
            assert!(ImageRef::parse(bad, DEFAULT_REGISTRY).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn capitals_of_a_registry_do_not_count() {
        for (text, expected) in [
            ("GHCR.io/github/super-linter:V7", "ghcr.io/github/super-linter:V7"),
            ("Docker.IO/alpine", "docker.io/library/alpine:latest"),
            ("Index.Docker.io/alpine", "docker.io/library/alpine:latest"),
            ("LocalHost:5000/x", "localhost:5000/x:latest"),
            ("LOCALHOST/x", "localhost/x:latest"),
            ("[FE80::1]:5000/x", "[fe80::1]:5000/x:latest"),
        ] {
            assert_eq!(full(text), expected, "{text}");
        }
        assert_eq!(ImageRef::in_registry("Quay.io", "x").unwrap().registry(), "quay.io");
        assert_eq!(ImageRef::parse("x", "Quay.io").unwrap().registry(), "quay.io");
        assert!(ImageRef::parse("quay.io/Team/x", DEFAULT_REGISTRY).is_err());
    }

    #[test]
    fn a_scheme_before_a_reference_is_refused_with_the_reference_without_it() {
        for (text, instead) in [
            ("docker://alpine:3.20", Some("alpine:3.20")),
            ("https://ghcr.io/a/b@sha256:x", None),
            ("https://ghcr.io/a/b", Some("ghcr.io/a/b")),
            ("containers-storage://x", Some("x")),
        ] {
            let error = ImageRef::parse(text, DEFAULT_REGISTRY).unwrap_err();
            assert_eq!(error.instead(), instead, "{text}");
            assert!(error.reason().starts_with("no image reference starts with "), "{error}");
        }
    }

    #[test]
    fn a_sandboxes_image_is_also_recorded_as_the_docker_one() {
        let names: Vec<String> = ImageRef::parse("sandboxes.io/alpine", DEFAULT_REGISTRY)
            .unwrap()
            .recorded_names()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["sandboxes.io/library/alpine:latest", "docker.io/library/alpine:latest"]);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(
            registry in "([a-z0-9]{1,8}\\.){1,2}[a-z]{2,3}(:[1-9][0-9]{1,3})?",
            repository in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5})?(/[a-z0-9]{1,8}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned in any::<bool>(),
        ) {
            let mut text = format!("{registry}/{repository}");
            if let Some(tag) = &tag { text.push(':'); text.push_str(tag); }
            if pinned { text += &("@sha256:".to_owned() + &"ab".repeat(32)); }
            let parsed = ImageRef::parse(&text, DEFAULT_REGISTRY).unwrap();
            let printed = parsed.to_string();
            prop_assert_eq!(ImageRef::parse(&printed, "elsewhere.example").unwrap(), parsed.clone());
            prop_assert_eq!(parsed.registry(), registry);
            prop_assert_eq!(parsed.repository(), repository);
            if tag.is_some() || pinned { prop_assert_eq!(printed, text); }
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic_and_stably(text in "\\PC{0,60}") {
            if let Ok(parsed) = ImageRef::parse(&text, DEFAULT_REGISTRY) {
                prop_assert_eq!(ImageRef::parse(&parsed.to_string(), DEFAULT_REGISTRY).unwrap(), parsed);
            }
        }
    }
}
