//! `[registry."…"]`: how a registry is reached, and the images wanted from it.

use std::path::PathBuf;

use toml::de::DeValue;

use super::entry::Listed;
use super::keys;
use super::patterns::Patterns;
use super::reader::{Node, Notes, Table, entries};
use super::text::quoted;
use super::values::{self, Fault};
use super::{PULL_WORDS, Source};
use crate::diagnostic::Mistake;
use crate::image_ref;
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

/// What applies to entries that say nothing else.
#[derive(Clone)]
pub(super) struct Defaults {
    pub(super) platform: Platform,
    pub(super) pull: PullPolicy,
}

/// Reads one registry's table.
pub(super) struct RegistryReader<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) notes: &'a mut Notes,
    pub(super) patterns: &'a mut Patterns,
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
        // A table that only lists images says nothing of the registry.
        let machine = self.source.machine.filter(|_| !table.has_more_than("images"));
        if let Some((of_machine, pull)) =
            machine.zip(name.as_deref()).and_then(|(machine, name)| machine.registry(name))
        {
            settings.clone_from(of_machine);
            defaults.pull = pull.unwrap_or(defaults.pull);
        }
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

    pub(super) fn name(&mut self, name: &str, node: Node<'_>) -> Option<String> {
        image_ref::registry_name(name)
            .map_err(|error| {
                let message = format!("invalid registry name {}: {}", quoted(name), error.reason());
                let host = image_ref::split_scheme(name).map_or(name, |(_, rest)| rest);
                let host = host.split('/').next().unwrap_or_default();
                let hint = image_ref::registry_name(host)
                    .is_ok_and(|host| host != name && !host.is_empty())
                    .then(|| format!("write [registry.\"{host}\"]"));
                self.notes.error(Mistake::new(node.key_span, message).maybe_hint(hint));
            })
            .ok()
    }

    pub(super) fn table<'t>(&mut self, node: Node<'t>) -> Option<Table<'t>> {
        if node.value.is_table() {
            return self.notes.table(node, &keys::REGISTRY);
        }
        let message = format!("{} must be a table of one registry", node.called());
        let hint = "name the registry: [registry.\"docker.io\"]";
        self.notes.error(Mistake::new(node.key_span, message).hint(hint));
        None
    }

    pub(super) fn settings(&mut self, table: Table<'_>) -> RegistrySettings {
        self.combinations(table);
        RegistrySettings {
            name: String::new(),
            endpoint: self.text(table, "endpoint", values::base_url),
            mirrors: self.mirrors(table),
            ca: self.path(table, "ca"),
            client_cert: self.path(table, "client-cert"),
            client_key: self.path(table, "client-key"),
            insecure: table.get("insecure").and_then(|node| self.notes.boolean(node)).unwrap_or(false),
            headers: self.headers(table),
            username: self.text(table, "username", not_empty),
            password_env: self.text(table, "password-env", variable_name),
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
                    Mistake::new(node.key_span, message).hint(hint).related(layout.key_span, "the layout"),
                );
            }
            return;
        }
        if let (Some(env), Some(file)) = (table.get("password-env"), table.get("password-file")) {
            self.notes.error(
                Mistake::new(file.key_span, "`password-env` and `password-file` exclude each other")
                    .hint("keep one of them")
                    .related(env.key_span, "the other one"),
            );
        }
        let password = table.get("password-env").or(table.get("password-file"));
        match (table.get("username"), password) {
            (Some(username), None) => {
                let message = "`username` needs `password-env` or `password-file`";
                self.notes.error(Mistake::new(username.key_span, message));
            }
            (None, Some(password)) => {
                let message =
                    format!("{} without `username`: the user name will be empty", password.called());
                self.notes.warn(Mistake::new(password.key_span, message));
            }
            _ => {}
        }
        for (one, other) in [("client-cert", "client-key"), ("client-key", "client-cert")] {
            if let (Some(node), None) = (table.get(one), table.get(other)) {
                self.notes.error(Mistake::new(node.key_span, format!("`{one}` needs `{other}`")));
            }
        }
    }

    pub(super) fn text<T>(
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
                        self.notes.error(Mistake::new(node.span, "a mirror without `url`"));
                    }
                    let url = self.text(mirror, "url", values::base_url);
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
                self.notes.error(Mistake::new(node.key_span, message).maybe_hint(hint));
                continue;
            }
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                let message = format!("header {} is given twice: case does not matter", quoted(name));
                self.notes.error(Mistake::new(node.key_span, message));
            }
            let Some(value) = self.notes.string(node) else { continue };
            if self.notes.checked(node, values::header_value(value)).is_some() {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        headers
    }
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
