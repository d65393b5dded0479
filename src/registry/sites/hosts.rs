//! Mirrors from containerd's host directories: `<hosts-dir>/<registry>/hosts.toml`, as Spegel,
//! Dragonfly and administrators write them.
//!
//! The rules are those of [containerd's `docs/hosts.md`]: which directory counts, the order of the
//! hosts, what a key means. Two things differ, for safety: a file that cannot be used is an error
//! instead of being passed over, and a plain http host is asked over plain http even if it has TLS
//! settings. Messages name the file and the place, never its content: headers may be secrets.
//!
//! [containerd's `docs/hosts.md`]: https://github.com/containerd/containerd/blob/main/docs/hosts.md

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use ureq::http::{HeaderName, HeaderValue};

use super::role::{Capabilities, Capability};
use crate::diagnostic::{Mistake, Page, Severity, Tree};
use crate::registry::transport::{Secret, printable};
use crate::sys;
use crate::url::{Url, UrlError};

/// Largest hosts file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most hosts of one file.
const MAX_HOSTS: usize = 64;
/// Headers that only the exchange itself may set.
const FIXED_HEADERS: [&str; 8] =
    ["accept", "accept-encoding", "connection", "content-length", "host", "range", "te", "transfer-encoding"];
/// Containerd's capabilities. Nothing is pushed here, and referrers are believed from the registry
/// alone.
const CAPABILITIES: [&str; 4] = ["pull", "resolve", "push", "referrers"];
const KEYS: [&str; 7] =
    ["capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"];

/// The content of a host directory for one registry.
#[derive(Default)]
pub(crate) struct Hosts {
    /// `[host."…"]`, in the order of the file.
    pub(crate) mirrors: Vec<Host>,
    /// `server`: asked last, in the registry's place.
    pub(crate) server: Option<Address>,
    /// The access to the server, or to the registry itself.
    pub(crate) own: Access,
    /// The keys that were passed over, for `-v`.
    pub(crate) details: Vec<String>,
}

/// One host.
pub(crate) struct Host {
    pub(crate) address: Address,
    pub(super) capabilities: Capabilities,
    pub(crate) access: Access,
}

/// The place of an API.
#[derive(Clone)]
pub(crate) struct Address {
    /// The URL as written.
    pub(crate) base: Url,
    /// The URL with `/v2`, unless `override_path` says that the path is complete.
    pub(crate) root: Url,
}

/// The headers and TLS files that a host wants.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// PEM files of roots.
    pub(crate) ca: Vec<PathBuf>,
    /// PEM files of a certificate chain and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(super) skip_verify: bool,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// An `Authorization` header of the file's own.
    pub(crate) authorization: Option<Secret>,
}

impl Access {
    /// Adds what another entry says of the same host.
    pub(crate) fn join(&mut self, other: Self) {
        self.ca.extend(other.ca);
        self.client = self.client.take().or(other.client);
        self.skip_verify |= other.skip_verify;
        self.headers.extend(other.headers);
        self.authorization = self.authorization.take().or(other.authorization);
    }

    /// Lists the values that must not be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter().filter_map(|(_, value)| value.to_str().ok());
        // The word after the scheme is the secret.
        let word =
            |secret: &Secret| secret.reveal().split_once(' ').map_or(0, |(scheme, _)| scheme.len() + 1);
        headers.chain(self.authorization.iter().map(move |secret| &secret.reveal()[word(secret)..]))
    }

    /// Tells whether the host needs connections of its own.
    pub(crate) fn has_tls(&self) -> bool {
        !self.ca.is_empty() || self.client.is_some() || self.skip_verify
    }
}

/// Reads what `directory` says of `registry`; nothing where it has no place for it.
///
/// # Errors
/// A file that cannot be read or used, with its path and what is wrong.
pub(crate) fn load(directory: &Path, registry: &str) -> Result<Hosts, String> {
    for name in names(registry) {
        let folder = directory.join(name);
        match folder.metadata() {
            Ok(_) => return load_folder(&folder),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", folder.display())),
        }
    }
    Ok(Hosts::default())
}

/// The directories that may be a registry's, the first that exists counts.
fn names(registry: &str) -> Vec<String> {
    let with_port = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let with_port = with_port.map(|(host, port)| format!("{host}_{port}_"));
    with_port.into_iter().chain([registry.to_owned(), "_default".to_owned()]).collect()
}

fn load_folder(folder: &Path) -> Result<Hosts, String> {
    let path = folder.join("hosts.toml");
    let text = match sys::read_regular_text(&path, MAX_FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return certificates(folder),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    parse(&text, folder).map_err(|(at, reason)| {
        let page = Page::new(&text, &path.display().to_string(), Vec::new());
        let problem = page.set(Mistake::new(at..at, reason), Severity::Error);
        // The line's text stays in the file: it may be a secret.
        format!("{}:{}: {}", problem.file(), problem.line(), problem.message())
    })
}

/// Docker's pattern, which counts where there is no hosts file: `*.crt` are roots, `*.cert` with
/// `*.key` a client's certificate.
fn certificates(folder: &Path) -> Result<Hosts, String> {
    let mut hosts = Hosts::default();
    let entries = folder.read_dir().map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("crt") {
            hosts.own.ca.push(path);
        } else if extension == Some("cert") {
            let key = path.with_extension("key");
            let key = if key.exists() { key } else { path.clone() };
            hosts.own.client.get_or_insert((path, key));
        }
    }
    Ok(hosts)
}

/// A byte of the text, and what is wrong there.
pub(crate) type Problem = (usize, String);
type Node<'a> = Spanned<DeValue<'a>>;

pub(crate) fn parse(text: &str, folder: &Path) -> Result<Hosts, Problem> {
    let tree = Tree::parse(text);
    if let Some(error) = tree.errors().first() {
        return Err((error.span().map_or(0, |span| span.start), printable(error.message(), 200)));
    }
    let mut hosts = Hosts::default();
    let mut server = None;
    let mut tables: Vec<(&Spanned<_>, &Node<'_>)> = Vec::new();
    for (key, value) in tree.root() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("server", DeValue::String(text)) if text.is_empty() => {}
            ("server", DeValue::String(text)) => server = Some((text, value.span().start)),
            ("server", _) => return Err(wrong(value, "server is not a string")),
            ("host", DeValue::Table(found)) => tables.extend(found.iter()),
            ("host", _) => return Err(wrong(value, "host is not a table")),
            _ => {}
        }
    }
    let known = |key: &str| matches!(key, "server" | "host");
    let (own, root_path) = read_access(tree.root(), folder, &known, "the top level", &mut hosts.details)?;
    hosts.own = own;
    hosts.server =
        server.map(|(text, at)| address(text, root_path).map_err(|reason| (at, reason))).transpose()?;
    if tables.len() > MAX_HOSTS {
        return Err((0, format!("there are more than {MAX_HOSTS} hosts")));
    }
    // The order of the file is the order in which they are asked.
    tables.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in tables {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(wrong(value, "a host is not a table"));
        };
        let (access, whole_path) = read_access(table, folder, &|_| false, "a host", &mut hosts.details)?;
        let address = address(key.get_ref(), whole_path).map_err(|reason| (key.span().start, reason))?;
        let capabilities = capabilities(table)?;
        hosts.mirrors.push(Host { address, capabilities, access });
    }
    Ok(hosts)
}

fn wrong(node: &Node<'_>, reason: &str) -> Problem {
    (node.span().start, reason.to_owned())
}

fn get<'t, 'a>(table: &'t DeTable<'a>, name: &str) -> Option<&'t Node<'a>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

/// Reads a host's URL; without a scheme it is https. What containerd would drop in silence, a query
/// or a fragment, is refused.
fn address(text: &str, whole_path: bool) -> Result<Address, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let base = Url::parse_base(&url).map_err(|reason| match reason {
        UrlError::User => "credentials do not belong into a host's URL".to_owned(),
        _ => format!("the host's URL cannot be used: {reason}"),
    })?;
    let base = base.with_suffix("");
    let has_version = base.path().trim_end_matches('/').ends_with("/v2");
    let root = if whole_path || has_version { base.clone() } else { base.with_suffix("/v2") };
    Ok(Address { base, root })
}

/// Reads pull and resolve; a host that names no capability has both. None is believed about lists.
/// Containerd too refuses a word that is no capability.
fn capabilities(table: &DeTable<'_>) -> Result<Capabilities, Problem> {
    let words = match get(table, "capabilities") {
        Some(node) => {
            let words = strings(node, "capabilities")?;
            let is_known = |word: &String| CAPABILITIES.iter().any(|known| word.eq_ignore_ascii_case(known));
            if !words.iter().all(is_known) {
                return Err(wrong(node, "capabilities has an unknown one: there are pull, resolve and push"));
            }
            words
        }
        None => Vec::new(),
    };
    let named = |name: &str| words.is_empty() || words.iter().any(|word| word.eq_ignore_ascii_case(name));
    let both = [("pull", Capability::Pull), ("resolve", Capability::Resolve)];
    let named = both.into_iter().filter(|(name, _)| named(name));
    Ok(named.fold(Capabilities::NONE, |all, (_, capability)| all.and(capability)))
}

/// Reads what says how a host is talked to, and whether its path is complete.
fn read_access(
    table: &DeTable<'_>,
    folder: &Path,
    known: &dyn Fn(&str) -> bool,
    place: &str,
    details: &mut Vec<String>,
) -> Result<(Access, bool), Problem> {
    for key in table.keys().map(|key| key.get_ref().as_ref()) {
        if !KEYS.contains(&key) && !known(key) {
            let (path, key) = (folder.join("hosts.toml"), printable(key, 60));
            details.push(format!("{}: `{key}` of {place} is not known and has no effect", path.display()));
        }
    }
    let flag = |name: &str| match get(table, name).map(|node| (node, node.get_ref())) {
        None => Ok(false),
        Some((_, DeValue::Boolean(value))) => Ok(*value),
        Some((node, _)) => Err(wrong(node, &format!("{name} is neither true nor false"))),
    };
    let mut access = Access { skip_verify: flag("skip_verify")?, ..Access::default() };
    if let Some(node) = get(table, "ca") {
        access.ca = strings(node, "ca")?.into_iter().map(|path| folder.join(path)).collect();
    }
    if let Some(node) = get(table, "client") {
        let pairs = client_pairs(node, folder)?;
        if pairs.len() > 1 {
            let path = folder.join("hosts.toml");
            details.push(format!("{}: only the first `client` of {place} is used", path.display()));
        }
        access.client = pairs.into_iter().next();
    }
    if let Some(node) = get(table, "header") {
        read_headers(node, &mut access)?;
    }
    Ok((access, flag("override_path")?))
}

/// A string, or a list of strings.
fn strings(node: &Node<'_>, name: &str) -> Result<Vec<String>, Problem> {
    let fail = || wrong(node, &format!("{name} is neither a string nor a list of strings"));
    match node.get_ref() {
        DeValue::String(text) => Ok(vec![text.clone().into_owned()]),
        DeValue::Array(items) => {
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(fail)).collect()
        }
        _ => Err(fail()),
    }
}

/// `client`: a file with certificate and key, a list of such files, or a list of pairs.
fn client_pairs(node: &Node<'_>, folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Problem> {
    let pair = |node: &Node<'_>| {
        let parts = strings(node, "client")?;
        match &parts[..] {
            [file] => Ok((folder.join(file), folder.join(file))),
            [chain, key] if key.is_empty() => Ok((folder.join(chain), folder.join(chain))),
            [chain, key] => Ok((folder.join(chain), folder.join(key))),
            _ => Err(wrong(node, "client is not a pair of files")),
        }
    };
    match node.get_ref() {
        DeValue::Array(items) => items.iter().map(pair).collect(),
        _ => Ok(vec![pair(node)?]),
    }
}

fn read_headers(node: &Node<'_>, access: &mut Access) -> Result<(), Problem> {
    let DeValue::Table(table) = node.get_ref() else { return Err(wrong(node, "header is not a table")) };
    for (key, node) in table {
        let shown = printable(key.get_ref(), 60);
        let name = HeaderName::from_bytes(key.get_ref().as_bytes())
            .map_err(|_| (key.span().start, format!("{shown:?} is no header name")))?;
        if FIXED_HEADERS.contains(&name.as_str()) {
            return Err((key.span().start, format!("the header {shown} cannot be set")));
        }
        for value in strings(node, &format!("the header {shown}"))? {
            let mut header = HeaderValue::from_str(&value)
                .map_err(|_| wrong(node, &format!("the value of the header {shown} cannot be sent")))?;
            header.set_sensitive(true);
            if name == "authorization" {
                access.authorization = Some(Secret::new(value));
            } else {
                access.headers.push((name.clone(), header));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Hosts, Problem> {
        parse(text, Path::new("/certs.d/x"))
    }

    #[test]
    fn a_file_that_nests_deeply_ends_no_process() {
        let table = format!("{{{}a = ", "a.".repeat(78));
        assert!(read(&format!("x = {}1{}", table.repeat(79), "}".repeat(79))).is_ok());
        assert!(read(&format!("x = {}1{}", "{a = ".repeat(100_000), "}".repeat(100_000))).is_err());
    }

    #[test]
    fn directories_are_tried_in_containerds_order() {
        assert_eq!(names("docker.io"), ["docker.io", "_default"]);
        assert_eq!(names("my.io:5000"), ["my.io_5000_", "my.io:5000", "_default"]);
    }

    #[test]
    fn hosts_keep_the_order_of_the_file_and_paths_start_beside_it() {
        let hosts = read(
            "server = \"registry-1.docker.io\"\nca = \"/etc/own.pem\"\n\
             [host.\"https://z.corp\"]\ncapabilities = [\"pull\"]\nca = [\"a.pem\", \"/b.pem\"]\n\
             client = [[\"c.cert\", \"c.key\"], [\"d.pem\", \"\"]]\nskip_verify = true\n\
             [host.\"https://z.corp\".header]\nX-A = [\"1\", \"2\"]\nAuthorization = \"Basic hunter2\"\n\
             [host.\"http://a.corp:30020/prefix/v2\"]\n\
             [host.\"https://m.corp/api\"]\noverride_path = true\ndial_timeout = \"1s\"\nproxy = \"x\"\n",
        )
        .map_err(|(_, reason)| reason)
        .unwrap();
        let roots: Vec<String> = hosts.mirrors.iter().map(|host| host.address.root.to_string()).collect();
        assert_eq!(roots, ["https://z.corp/v2", "http://a.corp:30020/prefix/v2", "https://m.corp/api"]);
        assert_eq!(hosts.server.unwrap().root.to_string(), "https://registry-1.docker.io/v2");
        assert_eq!(hosts.own.ca, [Path::new("/etc/own.pem")]);
        let z = &hosts.mirrors[0];
        assert!(z.capabilities == Capabilities::PULL && z.access.skip_verify);
        assert_eq!(z.access.ca, [Path::new("/certs.d/x/a.pem"), Path::new("/b.pem")]);
        let pair = (PathBuf::from("/certs.d/x/c.cert"), PathBuf::from("/certs.d/x/c.key"));
        assert_eq!(z.access.client, Some(pair));
        assert_eq!(z.access.headers.len(), 2);
        assert!(z.access.authorization.is_some());
        assert_eq!(hosts.mirrors[1].capabilities, Capabilities::PULL.and(Capability::Resolve));
        let all = read("[host.\"https://a.corp\"]\ncapabilities = [\"Pull\", \"push\", \"referrers\"]");
        assert!(all.is_ok_and(|hosts| hosts.mirrors[0].capabilities == Capabilities::PULL));
        let details = hosts.details.join("\n");
        assert!(details.contains("only the first `client`") && details.contains("`proxy`"), "{details}");
        assert!(!details.contains("dial_timeout"), "{details}");
    }

    #[test]
    fn what_cannot_be_used_is_named_without_its_content() {
        for (text, expected) in [
            ("server = 1", "server is not a string"),
            ("\nhost = 1", "host is not a table"),
            ("[host.\"https://u:hunter2@a\"]", "credentials do not belong"),
            ("[host.\"ftp://a\"]", "URL"),
            ("[host.\"http://a/?token=hunter2\"]", "query or a fragment"),
            ("[host.\"http://a/#hunter2\"]", "query or a fragment"),
            ("[host.\"http://a/a hunter2\"]", "character"),
            ("server = \"a/hunter2 b\"", "character"),
            ("server = \"u:hunter2@a\"", "credentials do not belong"),
            ("skip_verify = \"hunter2\"", "neither true nor false"),
            ("ca = [1]", "list of strings"),
            (
                "[host.\"http://a\"]\ncapabilities = [\"pull\", \"hunter2\"]",
                "there are pull, resolve and push",
            ),
            ("[host.\"http://a\"]\ncapabilities = \"hunter2\"", "there are pull, resolve and push"),
            ("client = [[\"a\", \"b\", \"c\"]]", "pair of files"),
            ("[header]\nhost = \"hunter2\"", "cannot be set"),
            ("[header]\nx-a = \"hunter2\\n\"", "cannot be sent"),
            ("a = hunter2", ""),
        ] {
            let (_, reason) = read(text).map(|_| ()).unwrap_err();
            assert!(reason.contains(expected) && !reason.contains("hunter2"), "{text}: {reason}");
        }
    }
}
