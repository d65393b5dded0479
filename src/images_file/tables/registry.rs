//! `[registry."…"]`: how a registry is reached, and the images wanted from it.

use toml::de::DeValue;

use super::entry::{self, Defaults};
use super::rate;
use super::settings::cooldown;
use crate::diagnostic::Mistake;
use crate::image_ref;
use crate::images_file::keys;
use crate::images_file::listed::Listed;
use crate::images_file::machine::ForImages;
use crate::images_file::quoted::{quoted, quoted_reference};
use crate::images_file::reader::{Node, Reader, Table, entries};
use crate::images_file::values::{self, PULL_WORDS};
use crate::state::{Mirror, RegistrySettings};

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
    "rate",
];

/// Reads a registry's table of an images file, unless its name cannot be used.
pub(super) fn read(
    reader: &mut Reader<'_>,
    name: &str,
    node: Node<'_>,
    defaults: &Defaults<'_>,
) -> Option<(RegistrySettings, Vec<Listed>)> {
    let name = registry_name(reader, name, node);
    let table = registry_table(reader, node)?;
    let settings = settings(reader, name, table);
    let own = for_images(reader, table);

    let mut settings = settings?;
    let mut defaults = defaults.clone();
    // A table that only lists images says nothing of the registry.
    let machine = reader.source.machine.filter(|_| !table.has_more_than("images"));
    if let Some((of_machine, for_images)) = machine.and_then(|machine| machine.registry(&settings.name)) {
        settings.clone_from(of_machine);
        defaults.take(for_images);
    }
    defaults.take(own);
    let mut listed = Vec::new();
    if let Some(images) = table.get("images") {
        for node in reader.array(images) {
            listed.extend(entry::read(reader, &settings.name, node, &defaults));
        }
    }
    Some((settings, listed))
}

/// Reads what the table says for its images.
fn for_images(reader: &mut Reader<'_>, table: Table<'_>) -> ForImages {
    ForImages { pull: reader.word(table, "pull", PULL_WORDS), cooldown: cooldown(reader, table) }
}

/// Reads a registry's table of the machine's settings, which has no images, and what it says for
/// those of images files.
pub(super) fn read_machine(
    reader: &mut Reader<'_>,
    name: &str,
    node: Node<'_>,
) -> Option<(RegistrySettings, ForImages)> {
    let name = registry_name(reader, name, node);
    let table = registry_table(reader, node)?;
    if let Some(images) = table.get("images") {
        let of = name.as_deref().unwrap_or("NAME");
        let hint = format!(
            "list them in an images file, as in images.toml: [registry.\"{of}\"] with nothing but `images`"
        );
        let message = "`images` in the machine's settings: they belong to no image";
        reader.error(Mistake::new(images.key_span, message).hint(hint));
    }
    let settings = settings(reader, name, table);
    let for_images = for_images(reader, table);
    Some((settings?, for_images))
}

fn registry_name(reader: &mut Reader<'_>, name: &str, node: Node<'_>) -> Option<String> {
    image_ref::registry_name(name)
        .map_err(|error| {
            let message = format!("invalid registry name {}: {}", quoted_reference(name), error.reason());
            let host = image_ref::split_scheme(name).map_or(name, |(_, rest)| rest);
            let host = host.split('/').next().unwrap_or_default();
            let hint = image_ref::registry_name(host)
                .is_ok_and(|host| host != name && !host.is_empty())
                .then(|| format!("write [registry.\"{host}\"]"));
            reader.error(Mistake::new(node.key_span, message).maybe_hint(hint));
        })
        .ok()
}

fn registry_table<'t>(reader: &mut Reader<'_>, node: Node<'t>) -> Option<Table<'t>> {
    if node.value.is_table() {
        return reader.table(node, &keys::REGISTRY);
    }
    let message = format!("{} must be a table of one registry", node.called());
    let hint = "name the registry: [registry.\"docker.io\"]";
    reader.error(Mistake::new(node.key_span, message).hint(hint));
    None
}

/// Reads all keys of the registry `name` but those that are about images; their mistakes are noted
/// even if the name cannot be used.
fn settings(reader: &mut Reader<'_>, name: Option<String>, table: Table<'_>) -> Option<RegistrySettings> {
    combinations(reader, table);
    let endpoint = reader.text(table, "endpoint", values::base_url);
    let mirrors = mirrors(reader, table);
    let ca = reader.path(table, "ca");
    let client_cert = reader.path(table, "client-cert");
    let client_key = reader.path(table, "client-key");
    let insecure = reader.flag(table, "insecure").unwrap_or(false);
    let headers = headers(reader, table);
    let username = reader.text(table, "username", values::not_empty);
    let password_env = reader.text(table, "password-env", values::variable_name);
    let password_file = reader.path(table, "password-file");
    let rate = rate::read(reader, table);
    let layout = reader.path(table, "layout");
    Some(RegistrySettings {
        name: name?,
        endpoint,
        mirrors,
        ca,
        client_cert,
        client_key,
        insecure,
        headers,
        username,
        password_env,
        password_file,
        rate,
        layout,
    })
}

/// Notes keys that exclude or need each other.
fn combinations(reader: &mut Reader<'_>, table: Table<'_>) {
    if let Some(layout) = table.get("layout") {
        for node in NEED_A_SERVER.iter().filter_map(|key| table.get(key)) {
            let message = format!("{} has no meaning beside `layout`", node.called());
            let hint = "an image layout is a directory: no network is used";
            let mistake = Mistake::new(node.key_span, message).hint(hint);
            reader.error(mistake.related(layout.key_span, "the layout"));
        }
        return;
    }
    if let (Some(env), Some(file)) = (table.get("password-env"), table.get("password-file")) {
        reader.error(
            Mistake::new(file.key_span, "`password-env` and `password-file` exclude each other")
                .hint("keep one of them")
                .related(env.key_span, "the other one"),
        );
    }
    let password = table.get("password-env").or(table.get("password-file"));
    match (table.get("username"), password) {
        (Some(username), None) => {
            let message = "`username` needs `password-env` or `password-file`";
            reader.error(Mistake::new(username.key_span, message));
        }
        (None, Some(password)) => {
            let message = format!("{} without `username`: the user name will be empty", password.called());
            reader.warn(Mistake::new(password.key_span, message));
        }
        _ => {}
    }
    for (one, other) in [("client-cert", "client-key"), ("client-key", "client-cert")] {
        if let (Some(node), None) = (table.get(one), table.get(other)) {
            reader.error(Mistake::new(node.key_span, format!("`{one}` needs `{other}`")));
        }
    }
}

fn mirrors(reader: &mut Reader<'_>, table: Table<'_>) -> Vec<Mirror> {
    let Some(node) = table.get("mirrors") else { return Vec::new() };
    let mut mirrors = Vec::new();
    for node in reader.array(node) {
        match node.value {
            DeValue::String(text) => {
                let url = reader.checked(node, values::base_url(text));
                mirrors.extend(url.map(|url| Mirror { url, resolve: false }));
            }
            DeValue::Table(_) => {
                let Some(mirror) = reader.table(node, &keys::MIRROR) else { continue };
                if mirror.get("url").is_none() {
                    reader.error(Mistake::new(node.span, "a mirror without `url`"));
                }
                let url = reader.text(mirror, "url", values::base_url);
                let resolve = reader.flag(mirror, "resolve").unwrap_or(false);
                mirrors.extend(url.map(|url| Mirror { url, resolve }));
            }
            _ => reader.wrong_type(node, "a URL or a table { url, resolve }"),
        }
    }
    mirrors
}

fn headers(reader: &mut Reader<'_>, table: Table<'_>) -> Vec<(String, String)> {
    let Some(table) = table.get("headers").and_then(|node| reader.any_table(node)) else {
        return Vec::new();
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, node) in entries(table) {
        if !reader.named(node.key_span, "header", name, values::header_name(name)) {
            continue;
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            let message = format!("header {} is given twice: case does not matter", quoted(name));
            reader.error(Mistake::new(node.key_span, message));
        }
        let Some(value) = reader.string(node) else { continue };
        if reader.checked(node, values::header_value(value)).is_some() {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    headers
}
