//! `[registry."…"]`: how a registry is reached, and the images wanted from it.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use toml::de::DeValue;

use super::keys;
use super::problem::{Draft, Notes, Page, Span};
use super::reader::{Node, Table, entries};
use super::text::quoted;
use super::values::{self, Fault};
use super::{ImageEntry, PULL_WORDS, Source, TagSelection};
use crate::digest::BlobDigest;
use crate::image_ref::{self, DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY};
use crate::state::{Mirror, Platform, PullPolicy, RegistrySettings};

/// Keys that only make sense with a server.
const NEED_A_SERVER: &[&str] = &[
    "endpoint",
    "mirrors",
    "ca",
    "client-cert",
    "client-key",
    "insecure",
    "headers",
    "username",
    "password-env",
    "password-file",
];

/// What an entry of `images` asks for.
#[derive(Debug)]
pub(super) enum Wanted {
    Image(ImageEntry),
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

/// What applies to entries that say nothing else.
#[derive(Clone)]
pub(super) struct Defaults {
    pub(super) platform: Platform,
    pub(super) pull: PullPolicy,
}

/// Reads one registry's table.
pub(super) struct RegistryReader<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) page: &'a Page<'a>,
    pub(super) notes: &'a mut Notes,
}

impl RegistryReader<'_> {
    /// The registry's settings (unless its name is unusable) and its images.
    pub(super) fn read(
        &mut self,
        name: &str,
        node: Node<'_>,
        defaults: &Defaults,
    ) -> (Option<RegistrySettings>, Vec<Listed>) {
        let name = self.name(name, node);
        let Some(table) = self.table(node) else { return (None, Vec::new()) };
        let mut settings = self.settings(table);
        let mut defaults = defaults.clone();
        if let Some(pull) = table.get("pull").and_then(|node| self.notes.choice(node, PULL_WORDS)) {
            defaults.pull = pull;
        }
        let mut listed = Vec::new();
        if let (Some(name), Some(images)) = (&name, table.get("images")) {
            for node in self.notes.array(images) {
                listed.extend(self.entry(name, node, &defaults));
            }
        }
        let settings = name.map(|name| {
            settings.name = name;
            settings
        });
        (settings, listed)
    }

    fn name(&mut self, name: &str, node: Node<'_>) -> Option<String> {
        if let Err(error) = image_ref::check_registry(name) {
            let message = format!("invalid registry name {}: {}", quoted(name), error.reason());
            self.notes.error(Draft::new(node.key_span, message));
            return None;
        }
        Some(if name == "index.docker.io" { DEFAULT_REGISTRY } else { name }.to_owned())
    }

    fn table<'t>(&mut self, node: Node<'t>) -> Option<Table<'t>> {
        if node.value.is_table() {
            return self.notes.table(node, &keys::REGISTRY);
        }
        let message = format!("{} must be a table of one registry", node.called());
        let hint = "name the registry: [registry.\"docker.io\"]";
        self.notes.error(Draft::new(node.key_span, message).hint(hint));
        None
    }

    fn settings(&mut self, table: Table<'_>) -> RegistrySettings {
        self.combinations(table);
        RegistrySettings {
            name: String::new(),
            endpoint: self.text(table, "endpoint", |text| values::base_url(text)),
            mirrors: self.mirrors(table),
            ca: self.path(table, "ca"),
            client_cert: self.path(table, "client-cert"),
            client_key: self.path(table, "client-key"),
            insecure: table.get("insecure").and_then(|node| self.notes.boolean(node)).unwrap_or(false),
            headers: self.headers(table),
            username: self.text(table, "username", |text| not_empty(text)),
            password_env: self.text(table, "password-env", |text| variable_name(text)),
            password_file: self.path(table, "password-file"),
            layout: self.path(table, "layout"),
        }
    }

    /// Keys that exclude or need each other.
    fn combinations(&mut self, table: Table<'_>) {
        if let Some(layout) = table.get("layout") {
            for node in NEED_A_SERVER.iter().filter_map(|key| table.get(key)) {
                let message = format!("{} has no meaning beside `layout`", node.called());
                let hint = "an image layout is a directory: no network is used";
                self.notes.error(
                    Draft::new(node.key_span, message).hint(hint).related(layout.key_span, "the layout"),
                );
            }
            return;
        }
        if let (Some(env), Some(file)) = (table.get("password-env"), table.get("password-file")) {
            self.notes.error(
                Draft::new(file.key_span, "`password-env` and `password-file` exclude each other")
                    .hint("keep one of them")
                    .related(env.key_span, "the other one"),
            );
        }
        let password = table.get("password-env").or(table.get("password-file"));
        match (table.get("username"), password) {
            (Some(username), None) => {
                let message = "`username` needs `password-env` or `password-file`";
                self.notes.error(Draft::new(username.key_span, message));
            }
            (None, Some(password)) => {
                let message =
                    format!("{} without `username`: the user name will be empty", password.called());
                self.notes.warn(Draft::new(password.key_span, message));
            }
            _ => {}
        }
        for (one, other) in [("client-cert", "client-key"), ("client-key", "client-cert")] {
            if let (Some(node), None) = (table.get(one), table.get(other)) {
                self.notes.error(Draft::new(node.key_span, format!("`{one}` needs `{other}`")));
            }
        }
    }

    fn text<T>(
        &mut self,
        table: Table<'_>,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = table.get(key)?;
        let text = self.notes.string(node)?;
        self.notes.checked(node, read(text))
    }

    fn path(&mut self, table: Table<'_>, key: &str) -> Option<PathBuf> {
        let source = self.source;
        self.text(table, key, |text| values::path(text, source))
    }

    fn mirrors(&mut self, table: Table<'_>) -> Vec<Mirror> {
        let Some(node) = table.get("mirrors") else { return Vec::new() };
        let mut mirrors = Vec::new();
        for node in self.notes.array(node) {
            match node.value {
                DeValue::String(text) => {
                    let url = self.notes.checked(node, values::base_url(text));
                    mirrors.extend(url.map(|url| Mirror { url, resolve: false }));
                }
                DeValue::Table(_) => {
                    let Some(mirror) = self.notes.table(node, &keys::MIRROR) else { continue };
                    if mirror.get("url").is_none() {
                        self.notes.error(Draft::new(node.span, "a mirror without `url`"));
                    }
                    let url = self.text(mirror, "url", |text| values::base_url(text));
                    let resolve = mirror.get("resolve").and_then(|node| self.notes.boolean(node));
                    mirrors.extend(url.map(|url| Mirror { url, resolve: resolve.unwrap_or(false) }));
                }
                _ => self.notes.wrong_type(node, "a URL or a table { url, resolve }"),
            }
        }
        mirrors
    }

    fn headers(&mut self, table: Table<'_>) -> Vec<(String, String)> {
        let Some(table) = table.get("headers").and_then(|node| self.notes.any_table(node)) else {
            return Vec::new();
        };
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, node) in entries(table) {
            if let Err(Fault { message, hint }) = values::header_name(name) {
                let message = format!("header {} {message}", quoted(name));
                self.notes.error(Draft::new(node.key_span, message).maybe_hint(hint));
                continue;
            }
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                let message = format!("header {} is given twice: case does not matter", quoted(name));
                self.notes.error(Draft::new(node.key_span, message));
            }
            let Some(value) = self.notes.string(node) else { continue };
            if self.notes.checked(node, values::header_value(value)).is_some() {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        headers
    }

    // ------------------------------------------------------------------------------------------ entries

    fn entry(&mut self, registry: &str, node: Node<'_>, defaults: &Defaults) -> Option<Listed> {
        match node.value {
            DeValue::String(name) => {
                let reference = self.reference(registry, name, node)?;
                Some(self.image(node, reference, defaults.platform.clone(), defaults.pull, Vec::new()))
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

    fn image(
        &mut self,
        node: Node<'_>,
        reference: ImageRef,
        platform: Platform,
        pull: PullPolicy,
        own_groups: Vec<(String, Span)>,
    ) -> Listed {
        let line = self.page.line_of(node.span.start);
        let groups = own_groups.iter().map(|(name, _)| name.clone()).collect();
        let wanted = Wanted::Image(ImageEntry { reference, platform, pull, groups, line });
        Listed { span: node.span, wanted, own_groups }
    }

    fn reference(&mut self, registry: &str, name: &str, node: Node<'_>) -> Option<ImageRef> {
        let invalid = |reason: &str, hint: Option<String>| {
            let message = format!("invalid image reference {}: {reason}", quoted(name));
            Draft::new(node.span, message).maybe_hint(hint)
        };
        if let Some((first, rest)) = name.split_once('/')
            && names_a_registry(registry, first)
        {
            let hint = if image_ref::check_registry(first).is_err() {
                None
            } else if first == registry {
                Some(format!("write {}", quoted(rest)))
            } else {
                Some(format!("list {} under [registry.\"{first}\"]", quoted(rest)))
            };
            let reason = "the registry is named by the table, not by the image";
            self.notes.error(invalid(reason, hint));
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
            self.notes.warn(Draft::new(span, message).hint(hint));
        }
    }

    fn entry_table(
        &mut self,
        registry: &str,
        node: Node<'_>,
        table: Table<'_>,
        defaults: &Defaults,
    ) -> Option<Listed> {
        let platform = self.text(table, "platform", |text| values::platform(text));
        let platform = platform.unwrap_or_else(|| defaults.platform.clone());
        let pull = table.get("pull").and_then(|node| self.notes.choice(node, PULL_WORDS));
        let pull = pull.unwrap_or(defaults.pull);
        let own_groups = self.own_groups(table);

        let Some(name_node) = table.get("name") else {
            let hint = "an image is { name = \"alpine\", tag = \"3.20\" }, or just \"alpine:3.20\"";
            self.notes.error(Draft::new(node.span, "an image without `name`").hint(hint));
            return None;
        };
        let tag = table.get("tag").map(|node| (node, self.notes.string(node)));
        let digest = table.get("digest").map(|node| (node, self.notes.string(node)));
        let selection = table.get("tags");
        let name = self.notes.string(name_node)?;
        // The reference as far as it is right, so that a broken tag does not hide a broken name.
        let named = self.reference(registry, name, name_node)?;
        let named_tag = name
            .rsplit('/')
            .next()
            .is_some_and(|last| last.split('@').next().is_some_and(|l| l.contains(':')));

        for (node, inside) in [
            (tag.map(|(node, _)| node), named_tag),
            (digest.map(|(node, _)| node), named.digest().is_some()),
            (selection, named_tag || named.digest().is_some()),
        ] {
            if let (Some(node), true) = (node, inside) {
                let what = if node.called() == "`digest`" { "a digest" } else { "a tag or digest" };
                self.notes.error(
                    Draft::new(node.key_span, format!("{} beside {what} in `name`", node.called()))
                        .hint(format!("leave {} out of the name, or drop {}", what, node.called()))
                        .related(name_node.span, "the name"),
                );
                return None;
            }
        }
        if let Some(node) = selection {
            for other in [tag, digest].into_iter().flatten() {
                self.notes.error(
                    Draft::new(
                        other.0.key_span,
                        format!("{} and `tags` exclude each other", other.0.called()),
                    )
                    .hint("`tags` selects the tags; keep one of them")
                    .related(node.key_span, "the selection"),
                );
            }
            let selection = self.selection(node)?;
            let line = self.page.line_of(name_node.span.start);
            let groups = own_groups.iter().map(|(name, _)| name.clone()).collect();
            let wanted = Wanted::Selection(TagSelection {
                registry: named.registry().to_owned(),
                repository: named.repository().to_owned(),
                platform,
                pull,
                groups,
                line,
                ..selection
            });
            return Some(Listed { span: name_node.span, wanted, own_groups });
        }
        let reference = self.with_parts(registry, name, tag, digest)?;
        Some(self.image(name_node, reference, platform, pull, own_groups))
    }

    /// `name[:tag][@digest]` from its parts; each part is checked for itself.
    fn with_parts(
        &mut self,
        registry: &str,
        name: &str,
        tag: Option<(Node<'_>, Option<&str>)>,
        digest: Option<(Node<'_>, Option<&str>)>,
    ) -> Option<ImageRef> {
        let mut text = name.to_owned();
        let mut good = true;
        if let Some((node, tag)) = tag {
            let (before, after) =
                name.split_once('@').map_or((name, ""), |(before, _)| (before, &name[before.len()..]));
            match tag.map(|tag| (tag, ImageRef::in_registry(registry, &format!("x:{tag}")))) {
                Some((tag, Ok(parsed))) if parsed.tag() == Some(tag) => {
                    text = format!("{before}:{tag}{after}")
                }
                Some((tag, error)) => {
                    let reason =
                        error.err().map_or_else(|| "not a tag".to_owned(), |error| error.reason().to_owned());
                    self.notes.error(Draft::new(node.span, format!("invalid tag {}: {reason}", quoted(tag))));
                    good = false;
                }
                None => good = false,
            }
        }
        if let Some((node, digest)) = digest {
            match digest.map(|digest| (digest, BlobDigest::parse(digest))) {
                Some((_, Ok(digest))) => text = format!("{text}@{digest}"),
                Some((digest, Err(error))) => {
                    let message = format!("invalid digest {}: {}", quoted(digest), error.reason());
                    self.notes.error(Draft::new(node.span, message));
                    good = false;
                }
                None => good = false,
            }
        }
        // The parts are good, so only their sum can be wrong (its length); the name's place says enough.
        good.then(|| ImageRef::in_registry(registry, &text).ok()).flatten()
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
                    self.notes.error(Draft::new(node.span, message).maybe_hint(hint));
                }
            }
        }
        groups
    }

    /// `tags = { … }`; the image's own parts are filled in by the caller.
    fn selection(&mut self, node: Node<'_>) -> Option<TagSelection> {
        let table = self.notes.table(node, &keys::TAGS)?;
        let (semver, matching, newest) = (table.get("semver"), table.get("match"), table.get("newest"));
        if semver.is_none() && matching.is_none() && newest.is_none() {
            let hint = "say which tags: `semver`, `match` or `newest`";
            self.notes.error(Draft::new(node.span, "an empty selection of tags").hint(hint));
        }
        let semver = self.text(table, "semver", |text| semver_range(text));
        let matching = self.text(table, "match", |text| whole_regex(text));
        let newest = newest
            .and_then(|node| self.notes.integer(node, 1, u64::from(u32::MAX)))
            .and_then(|newest| usize::try_from(newest).ok())
            .and_then(NonZeroUsize::new);
        Some(TagSelection {
            registry: String::new(),
            repository: String::new(),
            platform: Platform::new("linux", "amd64", None),
            pull: PullPolicy::Always,
            groups: std::collections::BTreeSet::new(),
            line: 0,
            semver,
            matching,
            newest,
        })
    }
}

/// Whether the first part of an image's name repeats its registry, or names another one where
/// repositories cannot look like that. (A pull-through proxy may well have `docker.io/…` repositories.)
fn names_a_registry(registry: &str, first: &str) -> bool {
    let public = matches!(registry, DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
    first == registry || first.contains(':') || (public && (first.contains('.') || first == "localhost"))
}

fn not_empty(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault { message: "is empty".to_owned(), hint: None });
    }
    Ok(text.to_owned())
}

fn variable_name(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.contains(['=', '\0']) {
        let hint = "name the variable that holds the password, as in \"GHCR_TOKEN\"";
        return Err(Fault {
            message: "is not the name of a variable".to_owned(),
            hint: Some(hint.to_owned()),
        });
    }
    Ok(text.to_owned())
}

fn semver_range(text: &str) -> Result<String, Fault> {
    match semver::VersionReq::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Fault {
            message: format!("is not a range of versions: {error}"),
            hint: Some("a range is written as in \">=7, <8\" or \"~1.25\"".to_owned()),
        }),
    }
}

/// The pattern, anchored at both ends.
fn whole_regex(text: &str) -> Result<String, Fault> {
    let fault = |error: &regex::Error| {
        let reason = match error {
            regex::Error::CompiledTooBig(_) => "too large".to_owned(),
            // The last line of a syntax error says what is wrong; those before draw the pattern.
            other => {
                other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        };
        Fault { message: format!("is not a valid pattern: {reason}"), hint: None }
    };
    // First alone: `a)(b` would become valid by the anchoring.
    regex::Regex::new(text).map_err(|error| fault(&error))?;
    let anchored = format!("^(?:{text})$");
    regex::Regex::new(&anchored).map_err(|error| fault(&error))?;
    Ok(anchored)
}
