//! The entries of a registry's `images`: one image each, or a selection of tags.

use std::collections::BTreeSet;
use std::time::Duration;

use toml::de::DeValue;

use super::engines::Engines;
use super::settings::cooldown;
use super::tags;
use crate::diagnostic::{Mistake, Span};
use crate::digest::BlobDigest;
use crate::image_ref::{self, DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY};
use crate::images_file::keys;
use crate::images_file::listed::{Listed, Wanted};
use crate::images_file::machine::ForImages;
use crate::images_file::quoted::{quoted, quoted_reference};
use crate::images_file::reader::{Node, Reader, Table};
use crate::images_file::values::{self, PULL_WORDS};
use crate::state::{EngineName, Platform, PullPolicy};

/// The values of entries that say nothing else.
#[derive(Clone)]
pub(super) struct Defaults<'e> {
    pub(super) platform: Platform,
    pub(super) pull: PullPolicy,
    pub(super) cooldown: Duration,
    /// The engines of the file: each has every image that does not choose among them.
    pub(super) engines: &'e Engines,
    /// True if an image without an engine would be nowhere.
    pub(super) needs_engine: bool,
}

impl Defaults<'_> {
    /// Takes over what a registry's table says for its images.
    pub(super) fn take(&mut self, words: ForImages) {
        self.pull = words.pull.unwrap_or(self.pull);
        self.cooldown = words.cooldown.unwrap_or(self.cooldown);
    }
}

/// Reads an entry of the images of `registry`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    registry: &str,
    node: Node<'_>,
    defaults: &Defaults<'_>,
) -> Option<Listed> {
    match node.value {
        DeValue::String(name) => {
            let reference = reference(reader, registry, name, node)?;
            let Defaults { platform, pull, cooldown, .. } = defaults.clone();
            Some(Listed {
                span: node.span,
                wanted: Wanted::Image(reference),
                platform,
                pull,
                cooldown,
                own_groups: Vec::new(),
                engines: None,
            })
        }
        DeValue::Table(_) => {
            let table = reader.table(node, &keys::IMAGE)?;
            read_table(reader, registry, node, table, defaults)
        }
        _ => {
            reader.wrong_type(node, "a string or a table");
            None
        }
    }
}

fn read_table(
    reader: &mut Reader<'_>,
    registry: &str,
    node: Node<'_>,
    table: Table<'_>,
    defaults: &Defaults<'_>,
) -> Option<Listed> {
    // Everything is read before anything is given up, so that one run reports all that is wrong.
    let platform = reader.text(table, "platform", values::platform);
    let pull = reader.word(table, "pull", PULL_WORDS);
    let cooldown = cooldown(reader, table);
    let own_groups = own_groups(reader, table);
    let engines = table.get("engines").map(|node| engines(reader, node, defaults));
    let tag = table.get("tag").map(|node| tag(reader, node));
    let digest = table.get("digest").map(|node| digest(reader, node));
    let rule = table.get("tags").map(|node| tags::rule(reader, node));
    let Some(name_node) = table.get("name") else {
        let hint = "an image is { name = \"alpine\", tag = \"3.20\" }, or just \"alpine:3.20\"";
        reader.error(Mistake::new(node.span, "an image without `name`").hint(hint));
        return None;
    };
    let name = reader.string(name_node)?;
    let named = reference(reader, registry, name, name_node)?;
    if parts_conflict(reader, table, name_node, name, &named) {
        return None;
    }

    let wanted = if let Some(rule) = rule {
        Wanted::Selection { repository: named.repository_alone(), rule: rule? }
    } else {
        let tag = match tag {
            Some(tag) => Some(tag?),
            None => None,
        };
        let digest = match &digest {
            Some(digest) => Some(digest.as_ref()?.text()),
            None => None,
        };
        Wanted::Image(whole_reference(reader, registry, name_node, name, tag, digest.as_deref())?)
    };
    Some(Listed {
        span: name_node.span,
        wanted,
        platform: platform.unwrap_or_else(|| defaults.platform.clone()),
        pull: pull.unwrap_or(defaults.pull),
        cooldown: cooldown.unwrap_or(defaults.cooldown),
        own_groups,
        engines,
    })
}

/// Reads the engines that are to have the image.
fn engines(reader: &mut Reader<'_>, node: Node<'_>, defaults: &Defaults<'_>) -> BTreeSet<EngineName> {
    if defaults.needs_engine && node.value.as_array().is_some_and(|names| names.is_empty()) {
        let message = "the image has no place on this machine: no engine has it, and nothing else is kept";
        let hint = "name an engine, or leave out `layers = false`";
        reader.error(Mistake::new(node.span, message).hint(hint));
    }
    defaults.engines.chosen(reader, node)
}

/// Reads the name of an image, which may have a tag and a digest.
fn reference(reader: &mut Reader<'_>, registry: &str, name: &str, node: Node<'_>) -> Option<ImageRef> {
    let invalid = |reason: &str, hint: Option<String>| {
        let message = format!("invalid image reference {}: {reason}", quoted_reference(name));
        Mistake::new(node.span, message).maybe_hint(hint)
    };
    // Nothing hides `me:password@host` or `host?sig=…` any more once the scheme is gone.
    let harmless = |text: &str| !text.contains(['@', '?']) || ImageRef::in_registry(registry, text).is_ok();
    let (scheme, bare) =
        image_ref::split_scheme(name).map_or((None, name), |(scheme, bare)| (Some(scheme), bare));
    if let Some((first, rest)) = bare.split_once('/')
        && names_a_registry(registry, first)
    {
        let hint = image_ref::registry_name(first).ok().filter(|_| harmless(rest)).map(|first| {
            if first == registry {
                format!("write {}", quoted(rest))
            } else {
                format!("list {} under [registry.\"{first}\"]", quoted(rest))
            }
        });
        let reason = "the registry is named by the table, not by the image";
        reader.error(invalid(reason, hint));
        return None;
    }
    if let Some(scheme) = scheme {
        let reason = format!("no image reference starts with {scheme}");
        reader.error(invalid(&reason, harmless(bare).then(|| format!("write {}", quoted(bare)))));
        return None;
    }
    match ImageRef::in_registry(registry, name) {
        Ok(reference) => {
            warn_of_sandboxes(reader, &reference, node.span);
            Some(reference)
        }
        Err(error) => {
            let lower = name.to_lowercase();
            let hint = (lower != name && ImageRef::in_registry(registry, &lower).is_ok())
                .then(|| format!("did you mean {}?", quoted(&lower)));
            reader.error(invalid(error.reason(), hint));
            None
        }
    }
}

/// True if the first part of an image's name repeats its registry, or names another one where
/// repositories cannot look like that. (A pull-through proxy may well have `docker.io/…`.)
fn names_a_registry(registry: &str, first: &str) -> bool {
    let public = matches!(registry, DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
    first.eq_ignore_ascii_case(registry)
        || first.contains(':')
        || (public && (first.contains('.') || first == "localhost"))
}

fn warn_of_sandboxes(reader: &mut Reader<'_>, reference: &ImageRef, span: Span) {
    if reference.registry() == SANDBOXES_REGISTRY && !reference.repository().starts_with("library/") {
        let message = format!(
            "{reference} is outside library/: what docker.io serves under this name is not microsandbox's"
        );
        let hint = "list it under [registry.\"docker.io\"] if that is what you want";
        reader.warn(Mistake::new(span, message).hint(hint));
    }
}

/// Notes two keys, or a key and the name itself, that say the same thing twice.
fn parts_conflict(
    reader: &mut Reader<'_>,
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
            reader.error(
                Mistake::new(node.key_span, format!("`{key}` beside {what} in `name`"))
                    .hint(format!("leave it out of the name, or drop `{key}`"))
                    .related(name_node.span, "the name"),
            );
            conflict = true;
        }
    }
    for key in ["tag", "digest"] {
        if let (Some(node), Some(tags)) = (table.get(key), table.get("tags")) {
            reader.error(
                Mistake::new(node.key_span, format!("`{key}` and `tags` exclude each other"))
                    .hint("`tags` selects the tags: keep one of them")
                    .related(tags.key_span, "the selection"),
            );
            conflict = true;
        }
    }
    conflict
}

/// Puts the name of an entry together with its keys `tag` and `digest`.
fn whole_reference(
    reader: &mut Reader<'_>,
    registry: &str,
    node: Node<'_>,
    name: &str,
    tag: Option<&str>,
    digest: Option<&str>,
) -> Option<ImageRef> {
    let (mut text, pinned) = name
        .split_once('@')
        .map_or((name.to_owned(), None), |(path, pinned)| (path.to_owned(), Some(pinned)));
    text.extend(tag.map(|tag| format!(":{tag}")));
    text.extend(digest.or(pinned).map(|digest| format!("@{digest}")));
    ImageRef::in_registry(registry, &text)
        .map_err(|error| {
            let message = format!("invalid image reference {}: {}", quoted_reference(&text), error.reason());
            reader.error(Mistake::new(node.span, message));
        })
        .ok()
}

fn tag<'t>(reader: &mut Reader<'_>, node: Node<'t>) -> Option<&'t str> {
    let tag = reader.string(node)?;
    // A digest in `tag` would parse, too, but as something else.
    let reason = match ImageRef::in_registry(DEFAULT_REGISTRY, &format!("x:{tag}")) {
        Ok(reference) if reference.tag() == Some(tag) => return Some(tag),
        Ok(_) => "it has more than a tag".to_owned(),
        Err(error) => error.reason().to_owned(),
    };
    reader.error(Mistake::new(node.span, format!("invalid tag {}: {reason}", quoted(tag))));
    None
}

fn digest(reader: &mut Reader<'_>, node: Node<'_>) -> Option<BlobDigest> {
    let text = reader.string(node)?;
    BlobDigest::parse(text)
        .map_err(|error| {
            let message = format!("invalid digest {}: {}", quoted(text), error.reason());
            reader.error(Mistake::new(node.span, message));
        })
        .ok()
}

fn own_groups(reader: &mut Reader<'_>, table: Table<'_>) -> Vec<String> {
    let Some(node) = table.get("groups") else { return Vec::new() };
    let mut groups = Vec::new();
    for node in reader.array(node) {
        let Some(name) = reader.string(node) else { continue };
        if reader.named(node.span, "group name", name, values::group_name(name)) {
            groups.push(name.to_owned());
        }
    }
    groups
}
