//! The entries of a registry's `images`: one image each, or a selection of tags.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use toml::de::DeValue;

use super::keys;
use super::reader::{Node, Table};
use super::registry::{Defaults, RegistryReader};
use super::text::quoted;
use super::values::{self, Fault};
use super::{PULL_WORDS, ranges};
use crate::diagnostic::{Mistake, Span};
use crate::digest::BlobDigest;
use crate::image_ref::{self, DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY};
use crate::state::{DesiredImage, Platform, PullPolicy, TagRule, TagSelection};

/// What an entry of `images` asks for.
#[derive(Debug)]
pub(super) enum Wanted {
    Image(DesiredImage),
    Selection(TagSelection),
}

/// An entry of `images`, and where it is.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) span: Span,
    pub(super) wanted: Wanted,
    /// The groups that the entry itself names, with their places.
    pub(super) own_groups: Vec<(String, Span)>,
}

impl Listed {
    fn image(
        node: Node<'_>,
        reference: ImageRef,
        platform: Platform,
        pull: PullPolicy,
        own_groups: Vec<(String, Span)>,
    ) -> Self {
        let image = DesiredImage { reference, platform, pull, groups: BTreeSet::new(), locked: None };
        Self { span: node.span, wanted: Wanted::Image(image), own_groups }
    }
}

impl RegistryReader<'_> {
    pub(super) fn entry(&mut self, registry: &str, node: Node<'_>, defaults: &Defaults) -> Option<Listed> {
        match node.value {
            DeValue::String(name) => {
                let reference = self.reference(registry, name, node)?;
                Some(Listed::image(node, reference, defaults.platform.clone(), defaults.pull, Vec::new()))
            }
            DeValue::Table(_) => {
                let table = self.notes.table(node, &keys::IMAGE)?;
                self.entry_table(registry, node, table, defaults)
            }
            _ => {
                self.notes.wrong_type(node, "a string or a table");
                None
            }
        }
    }

    fn reference(&mut self, registry: &str, name: &str, node: Node<'_>) -> Option<ImageRef> {
        let invalid = |reason: &str, hint: Option<String>| {
            let message = format!("invalid image reference {}: {reason}", quoted(name));
            Mistake::new(node.span, message).maybe_hint(hint)
        };
        let (scheme, bare) =
            image_ref::split_scheme(name).map_or((None, name), |(scheme, bare)| (Some(scheme), bare));
        if let Some((first, rest)) = bare.split_once('/')
            && names_a_registry(registry, first)
        {
            let hint = image_ref::registry_name(first).ok().map(|first| {
                if first == registry {
                    format!("write {}", quoted(rest))
                } else {
                    format!("list {} under [registry.\"{first}\"]", quoted(rest))
                }
            });
            let reason = "the registry is named by the table, not by the image";
            self.notes.error(invalid(reason, hint));
            return None;
        }
        if let Some(scheme) = scheme {
            let reason = format!("no image reference starts with {scheme}");
            self.notes.error(invalid(&reason, Some(format!("write {}", quoted(bare)))));
            return None;
        }
        match ImageRef::in_registry(registry, name) {
            Ok(reference) => {
                self.warn_of_sandboxes(&reference, node.span);
                Some(reference)
            }
            Err(error) => {
                let lower = name.to_lowercase();
                let hint = (lower != name && ImageRef::in_registry(registry, &lower).is_ok())
                    .then(|| format!("did you mean {}?", quoted(&lower)));
                self.notes.error(invalid(error.reason(), hint));
                None
            }
        }
    }

    fn warn_of_sandboxes(&mut self, reference: &ImageRef, span: Span) {
        if reference.registry() == SANDBOXES_REGISTRY && !reference.repository().starts_with("library/") {
            let message = format!(
                "{reference} is outside library/: what docker.io serves under this name is not microsandbox's"
            );
            let hint = "list it under [registry.\"docker.io\"] if that is what you want";
            self.notes.warn(Mistake::new(span, message).hint(hint));
        }
    }

    fn entry_table(
        &mut self,
        registry: &str,
        node: Node<'_>,
        table: Table<'_>,
        defaults: &Defaults,
    ) -> Option<Listed> {
        // Everything is read before anything is given up, so that one run reports all that is wrong.
        let platform = self.text(table, "platform", values::platform);
        let pull = table.get("pull").and_then(|node| self.notes.choice(node, PULL_WORDS));
        let own_groups = self.own_groups(table);
        let tag = table.get("tag").map(|node| self.tag(node));
        let digest = table.get("digest").map(|node| self.digest(node));
        let rule = table.get("tags").map(|node| self.tag_rule(node));
        let Some(name_node) = table.get("name") else {
            let hint = "an image is { name = \"alpine\", tag = \"3.20\" }, or just \"alpine:3.20\"";
            self.notes.error(Mistake::new(node.span, "an image without `name`").hint(hint));
            return None;
        };
        let name = self.notes.string(name_node)?;
        let named = self.reference(registry, name, name_node)?;
        if self.parts_conflict(table, name_node, name, &named) {
            return None;
        }

        let platform = platform.unwrap_or_else(|| defaults.platform.clone());
        let pull = pull.unwrap_or(defaults.pull);
        if let Some(rule) = rule {
            let wanted = Wanted::Selection(TagSelection {
                repository: named.repository_alone(),
                platform,
                pull,
                groups: BTreeSet::new(),
                rule: rule?,
                locked: None,
            });
            return Some(Listed { span: name_node.span, wanted, own_groups });
        }
        let (path, pinned) = name.split_once('@').map_or((name, None), |(path, digest)| (path, Some(digest)));
        let mut text = path.to_owned();
        if let Some(tag) = tag {
            text = format!("{text}:{}", tag?);
        }
        match digest {
            Some(digest) => text = format!("{text}@{}", digest?),
            None => text.extend(pinned.map(|digest| format!("@{digest}"))),
        }
        match ImageRef::in_registry(registry, &text) {
            Ok(reference) => Some(Listed::image(name_node, reference, platform, pull, own_groups)),
            Err(error) => {
                let message = format!("invalid image reference {}: {}", quoted(&text), error.reason());
                self.notes.error(Mistake::new(name_node.span, message));
                None
            }
        }
    }

    /// Whether two keys, or a key and the name itself, say the same thing twice.
    fn parts_conflict(
        &mut self,
        table: Table<'_>,
        name_node: Node<'_>,
        name: &str,
        named: &ImageRef,
    ) -> bool {
        let path = name.split('@').next().unwrap_or(name);
        let has_tag = path.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let has_digest = named.digest().is_some();
        let mut conflict = false;
        for (key, inside, what) in [
            ("tag", has_tag, "a tag"),
            ("digest", has_digest, "a digest"),
            ("tags", has_tag || has_digest, "a tag or digest"),
        ] {
            if let (Some(node), true) = (table.get(key), inside) {
                self.notes.error(
                    Mistake::new(node.key_span, format!("`{key}` beside {what} in `name`"))
                        .hint(format!("leave it out of the name, or drop `{key}`"))
                        .related(name_node.span, "the name"),
                );
                conflict = true;
            }
        }
        for key in ["tag", "digest"] {
            if let (Some(node), Some(tags)) = (table.get(key), table.get("tags")) {
                self.notes.error(
                    Mistake::new(node.key_span, format!("`{key}` and `tags` exclude each other"))
                        .hint("`tags` selects the tags: keep one of them")
                        .related(tags.key_span, "the selection"),
                );
                conflict = true;
            }
        }
        conflict
    }

    fn tag<'t>(&mut self, node: Node<'t>) -> Option<&'t str> {
        let tag = self.notes.string(node)?;
        // A digest in `tag` would parse, too, but as something else.
        let reason = match ImageRef::in_registry(DEFAULT_REGISTRY, &format!("x:{tag}")) {
            Ok(reference) if reference.tag() == Some(tag) => return Some(tag),
            Ok(_) => "it has more than a tag".to_owned(),
            Err(error) => error.reason().to_owned(),
        };
        self.notes.error(Mistake::new(node.span, format!("invalid tag {}: {reason}", quoted(tag))));
        None
    }

    fn digest(&mut self, node: Node<'_>) -> Option<BlobDigest> {
        let text = self.notes.string(node)?;
        BlobDigest::parse(text)
            .map_err(|error| {
                let message = format!("invalid digest {}: {}", quoted(text), error.reason());
                self.notes.error(Mistake::new(node.span, message));
            })
            .ok()
    }

    fn own_groups(&mut self, table: Table<'_>) -> Vec<(String, Span)> {
        let Some(node) = table.get("groups") else { return Vec::new() };
        let mut groups = Vec::new();
        for node in self.notes.array(node) {
            let Some(name) = self.notes.string(node) else { continue };
            match values::group_name(name) {
                Ok(()) => groups.push((name.to_owned(), node.span)),
                Err(Fault { message, hint }) => {
                    let message = format!("group name {} {message}", quoted(name));
                    self.notes.error(Mistake::new(node.span, message).maybe_hint(hint));
                }
            }
        }
        groups
    }

    /// A range of versions, or a list of them, as alternatives.
    fn ranges(&mut self, node: Node<'_>) -> Vec<String> {
        let DeValue::Array(array) = node.value else {
            if node.value.as_str().is_none() {
                self.notes.wrong_type(node, "a string or an array of strings");
                return Vec::new();
            }
            return self.range(node);
        };
        if array.is_empty() {
            let hint = "leave it out to take any tag";
            self.notes.error(Mistake::new(node.span, "`semver` lists no range").hint(hint));
        }
        let nodes: Vec<Node<'_>> = self.notes.array(node).collect();
        nodes.into_iter().flat_map(|node| self.range(node)).collect()
    }

    fn range(&mut self, node: Node<'_>) -> Vec<String> {
        let Some(text) = self.notes.string(node) else { return Vec::new() };
        self.notes.checked(node, semver_range(text)).unwrap_or_default()
    }

    /// Reads `tags = { … }`.
    fn tag_rule(&mut self, node: Node<'_>) -> Option<TagRule> {
        let table = self.notes.table(node, &keys::TAGS)?;
        let (semver, matching, newest) = (table.get("semver"), table.get("match"), table.get("newest"));
        if semver.is_none() && matching.is_none() && newest.is_none() {
            let hint = "say which tags: `semver`, `match` or `newest`";
            self.notes.error(Mistake::new(node.span, "an empty selection of tags").hint(hint));
        }
        let semver = semver.map(|node| self.ranges(node)).unwrap_or_default();
        let patterns = &mut *self.patterns;
        let matching = matching.and_then(|node| {
            let text = self.notes.string(node)?;
            self.notes.checked(node, patterns.whole(text))
        });
        let newest = newest
            .and_then(|node| self.notes.integer(node, 1, u64::from(u32::MAX)))
            .and_then(|newest| usize::try_from(newest).ok())
            .and_then(NonZeroUsize::new);
        Some(TagRule { semver, matching, newest })
    }
}

/// Whether the first part of an image's name repeats its registry, or names another one where
/// repositories cannot look like that. (A pull-through proxy may well have `docker.io/…` repositories.)
fn names_a_registry(registry: &str, first: &str) -> bool {
    let public = matches!(registry, DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
    first.eq_ignore_ascii_case(registry)
        || first.contains(':')
        || (public && (first.contains('.') || first == "localhost"))
}

fn semver_range(text: &str) -> Result<Vec<String>, Fault> {
    ranges::alternatives(text).map_err(|reason| Fault {
        message: format!("is not a range of versions: {reason}"),
        hint: Some("a range is written as in \">=7, <8\" or \"~1.25\"".to_owned()),
    })
}
