//! Other files that name images: compose files, Kubernetes objects, `regsync.yml`, Dockerfiles, and
//! plain lists. What they name is read; what cannot be read is named with its line, and keeps the
//! rest from nothing.
//!
//! Only the file itself counts: variables have the defaults that it gives them, since those of
//! somebody's shell would make another images file on each machine. Everything in it may be
//! hostile: its size, its depth and its aliases have bounds.

mod compose;
mod dockerfile;
mod kubernetes;
mod list;
mod regsync;
#[cfg(test)]
mod tests;
mod variables;
mod yaml;

use std::collections::BTreeMap;

use crate::error::{without_likely_secrets, without_secrets};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::Platform;

/// The largest source, in bytes.
pub(crate) const MAX_SOURCE: usize = 4 << 20;
/// The most images that a source may name.
const MAX_IMAGES: usize = 10_000;
/// The most lines that are named because they cannot be read.
const MAX_UNREAD: usize = 100;

/// The images of a source.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The images, each once, in the order of the source, with the platform where it says one.
    pub images: Vec<(ImageRef, Option<Platform>)>,
    /// The places that cannot be read.
    pub unread: Vec<UnreadLine>,
}

/// A place of a source that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadLine {
    /// The line, from 1 on.
    pub line: usize,
    /// The text there that should be an image, if that is known; logins and queries are hidden.
    pub text: Option<String>,
    /// The reason, in words.
    pub reason: String,
}

/// Reads the source `text`, whose file is called `name`. References of plain lists that name no
/// registry get `default_registry`; all other kinds of files mean docker.io.
pub(crate) fn read(name: &str, text: &str, default_registry: &str) -> Found {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut gathered = Gathered::default();
    match Kind::of(name, text) {
        Kind::Dockerfile => dockerfile::read(text, &mut gathered),
        Kind::Yaml => read_yaml(text, &mut gathered),
        Kind::List => list::read(text, default_registry, &mut gathered),
    }
    if gathered.found.images.is_empty() && gathered.found.unread.is_empty() {
        gathered.refuse(1, None, "it names no image");
    }
    gathered.found
}

/// The kinds of sources that are told apart by name and first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dockerfile,
    Yaml,
    List,
}

impl Kind {
    fn of(name: &str, text: &str) -> Self {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let is_dockerfile = |word: &str| {
            name == word || name.starts_with(&format!("{word}.")) || name.ends_with(&format!(".{word}"))
        };
        if is_dockerfile("dockerfile") || is_dockerfile("containerfile") {
            return Self::Dockerfile;
        }
        if [".yml", ".yaml", ".json"].iter().any(|ending| name.ends_with(ending)) {
            return Self::Yaml;
        }
        let lines = text.lines().map(str::trim_end);
        let first = lines.clone().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
        let Some(first) = first else { return Self::List };
        let word = first.split_whitespace().next().unwrap_or_default();
        if ["FROM", "ARG"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) && word != first {
            return Self::Dockerfile;
        }
        let is_key = first.ends_with(':') || first.contains(": ");
        if is_key || first.starts_with(['{', '[', '%']) || first.starts_with("---") || first.starts_with("- ")
        {
            return Self::Yaml;
        }
        Self::List
    }
}

fn read_yaml(text: &str, gathered: &mut Gathered) {
    let (documents, broken) = yaml::documents(text);
    for document in &documents {
        let mut walk = yaml::Walk::default();
        if document.is_null() {
            continue;
        }
        if document.get("services").is_some_and(yaml::Node::is_mapping) {
            compose::read(document, gathered);
        } else if document.get("sync").is_some() {
            regsync::read(document, gathered);
        } else if document.get("apiVersion").is_some() && document.get("kind").is_some() {
            kubernetes::read(document, &mut walk, gathered);
        } else {
            let reason = "neither a compose file, nor Kubernetes objects, nor a regsync.yml";
            gathered.refuse(document.line, None, reason);
        }
        if walk.is_over() {
            gathered.refuse(document.line, None, "its aliases lead to too many places");
        }
    }
    if let Some((line, reason)) = broken {
        gathered.refuse(line, None, &format!("not valid YAML: {reason}"));
    }
}

/// The finds in a source so far.
#[derive(Debug, Default)]
struct Gathered {
    found: Found,
    places: BTreeMap<ImageRef, Option<Platform>>,
}

impl Gathered {
    /// Takes `text` of `line` for an image of docker.io, unless it names another registry.
    fn image(&mut self, line: usize, text: &str, platform: Option<Platform>) {
        self.image_of(DEFAULT_REGISTRY, line, text, platform);
    }

    fn image_of(&mut self, default_registry: &str, line: usize, text: &str, platform: Option<Platform>) {
        let reference = match ImageRef::parse(text, default_registry) {
            Ok(reference) => reference,
            Err(error) => {
                let instead = error.instead().map(|instead| format!("; write {instead}")).unwrap_or_default();
                return self.note(line, Some(without_secrets(text)), format!("{}{instead}", error.reason()));
            }
        };
        match self.places.get(&reference) {
            Some(before) if *before == platform => {}
            Some(_) => {
                self.refuse(line, Some(text), "it is wanted for two platforms, and a file lists it for one");
            }
            None if self.places.len() >= MAX_IMAGES => {
                self.refuse(line, None, &format!("it names more than {MAX_IMAGES} images"));
            }
            None => {
                self.places.insert(reference.clone(), platform.clone());
                self.found.images.push((reference, platform));
            }
        }
    }

    /// Notes that something at `line` cannot be read: `text`, which may be no image at all.
    fn refuse(&mut self, line: usize, text: Option<&str>, reason: &str) {
        self.note(line, text.map(without_likely_secrets), reason.to_owned());
    }

    /// Notes that something at `line` cannot be read, by `text` without its secrets.
    fn note(&mut self, line: usize, text: Option<String>, reason: String) {
        let text = text.map(|text| text.chars().take(200).collect());
        let unread = UnreadLine { line, text, reason };
        if self.found.unread.len() < MAX_UNREAD && !self.found.unread.contains(&unread) {
            self.found.unread.push(unread);
        }
    }
}
