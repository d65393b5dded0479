//! From settings to sites: what the images file and containerd's hosts files say of one registry,
//! put together.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use ureq::http::{HeaderName, HeaderValue};

use super::cache::Allowance;
use super::hosts::{self, Access, Address, Hosts};
use super::rests::Rests;
use super::role::{Capabilities, Capability, Role};
use super::site::Site;
use crate::error::{RegistryError, RegistryName};
use crate::image_ref::DEFAULT_REGISTRY;
use crate::registry::auth::Credentials;
use crate::registry::pace::Paces;
use crate::registry::transport::{Client, Network, Portions, printable};
use crate::state::RegistrySettings;
use crate::url::{Url, is_loopback};

/// The place where docker.io's registry really is.
pub(crate) const DOCKER_HUB: &str = "https://registry-1.docker.io";
/// The headers that `headers` must not set, because the exchange itself depends on them.
const RESERVED_HEADERS: [&str; 9] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "host",
    "proxy-authorization",
    "range",
    "te",
    "transfer-encoding",
];

/// The terms on which all registries of a run are asked.
pub(crate) struct Terms {
    /// The directory of containerd's hosts files.
    pub(crate) hosts_dir: Option<PathBuf>,
    /// The word, once a run, that there is no such directory.
    pub(crate) hosts_dir_missing: Once,
    /// True if logins that `docker login` and `podman login` stored are used.
    pub(crate) stored_logins: bool,
    /// The addresses that asked to be left alone.
    pub(crate) rests: Rests,
    /// The largest document that is read, in bytes.
    pub(crate) manifest_size: u64,
    /// The rates at which blobs are read.
    pub(crate) paces: Arc<Paces>,
    /// The bytes of documents that all registries keep together.
    pub(crate) documents: Arc<Allowance>,
    /// The memory that documents take until they are taken apart.
    pub(crate) portions: Arc<Portions>,
}

/// All that it takes to ask one registry.
pub(super) struct Built {
    /// The endpoint's connections.
    pub(super) client: Arc<Client>,
    pub(super) credentials: Credentials,
    /// Mirrors in order, the endpoint last.
    pub(super) sites: Vec<Site>,
}

/// Builds the sites of the registry `name` by `settings`; its credentials are filed under
/// `account`.
///
/// # Errors
/// Settings that cannot be used, and credentials that the images file promises but that are not
/// there.
pub(super) fn build(
    network: &Arc<Network>,
    terms: &Terms,
    name: &str,
    account: &str,
    settings: &RegistrySettings,
) -> Result<Built, RegistryError> {
    let fail = |reason: String| RegistryError::Settings { registry: name.to_owned(), reason };
    let hosts = match &terms.hosts_dir {
        Some(directory) => {
            if directory.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                let warning = format!("hosts-dir {}: there is no such directory", directory.display());
                terms.hosts_dir_missing.call_once(|| network.warn(warning));
            }
            hosts::load(directory, account).map_err(|reason| fail(format!("hosts-dir: {reason}")))?
        }
        None => Hosts::default(),
    };
    let endpoint = endpoint_of(name, settings, &hosts).map_err(fail)?;
    let mirrors = mirrors_of(settings).map_err(fail)?;
    warn_of_idle_tls(network, name, settings, &endpoint, &mirrors);
    let headers = own_headers(network, name, settings).map_err(fail)?;
    let credentials = Credentials::new(network, account, settings, &endpoint, terms.stored_logins)?;
    let login = credentials.stored_under().to_owned();
    let builder =
        Builder { network, name: RegistryName { name: name.to_owned(), login }, account, settings, endpoint };
    let urls: Vec<Url> = mirrors.iter().map(|(url, _)| url.clone()).collect();
    let client = builder.client(settings.clone(), Vec::new(), &builder.endpoint, &urls);
    let mut sites: Vec<Site> =
        mirrors.into_iter().map(|(base, resolves)| mirror(base, resolves, &client)).collect();
    builder.add(&mut sites, hosts, headers, &client);
    Ok(Built { client, credentials, sites })
}

fn base(what: &str, text: &str) -> Result<Url, String> {
    Url::parse_base(text).map_err(|reason| format!("{what}: {reason}"))
}

/// Finds where the registry is: where the images file says, else where its name does.
fn endpoint_of(name: &str, settings: &RegistrySettings, hosts: &Hosts) -> Result<Url, String> {
    match &settings.endpoint {
        Some(endpoint) => base("endpoint", endpoint),
        None if name == DEFAULT_REGISTRY => base("endpoint", DOCKER_HUB),
        None => {
            let host = match name.rsplit_once(':') {
                Some((host, _)) if !host.is_empty() => host,
                _ => name,
            };
            // A user who says how TLS is to be done wants TLS.
            let plain =
                (is_loopback(host) || is_loopback(name)) && !settings.has_tls() && !hosts.own.has_tls();
            base("its name", &format!("{}://{name}", if plain { "http" } else { "https" }))
        }
    }
}

/// Reads the images file's mirrors, each with whether it is believed about tags.
fn mirrors_of(settings: &RegistrySettings) -> Result<Vec<(Url, bool)>, String> {
    settings.mirrors.iter().map(|mirror| Ok((base("mirrors", &mirror.url)?, mirror.resolve))).collect()
}

/// Warns of TLS settings where nothing is asked over TLS.
fn warn_of_idle_tls(
    network: &Network,
    name: &str,
    settings: &RegistrySettings,
    endpoint: &Url,
    mirrors: &[(Url, bool)],
) {
    if settings.has_tls()
        && settings.endpoint.is_some()
        && !endpoint.is_secure()
        && !mirrors.iter().any(|(mirror, _)| mirror.is_secure())
    {
        network.warn(format!(
            "{name}: its endpoint is plain http, so ca, client-cert, client-key and insecure do not protect it, \
             but hosts alone to which it sends; write https:// if it speaks TLS"
        ));
    }
}

/// Reads the images file's own headers for the registry `name`, which are hidden from now on.
fn own_headers(
    network: &Network,
    name: &str,
    settings: &RegistrySettings,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut own_headers = Vec::with_capacity(settings.headers.len());
    for (header, value) in &settings.headers {
        let shown = printable(header, 60);
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| format!("headers: {shown:?} is no header name"))?;
        if RESERVED_HEADERS.contains(&header.as_str()) {
            return Err(format!("headers: {shown} cannot be set"));
        }
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| format!("headers: the value of {shown} cannot be sent"))?;
        value.set_sensitive(true);
        if let Ok(text) = value.to_str()
            && is_secret(text, name)
        {
            network.veil.add(text);
        }
        own_headers.push((header, value));
    }
    Ok(own_headers)
}

/// Tells whether the value of a header for `registry` is to be hidden: which registry a mirror is
/// to ask is no secret.
fn is_secret(value: &str, registry: &str) -> bool {
    let is_address = Url::parse(value).is_ok() && !value.contains(['@', '?']);
    !is_address && !registry.contains(value)
}

/// Makes the site of a mirror of the images file.
fn mirror(base: Url, resolves: bool, client: &Arc<Client>) -> Site {
    let capabilities = Capabilities::PULL;
    let trusted = capabilities.and(Capability::Resolve).and(Capability::List);
    Site {
        root: base.with_suffix("/v2"),
        base,
        role: Role::Mirror(if resolves { trusted } else { capabilities }),
        namespace: None,
        headers: Vec::new(),
        authorization: None,
        client: Arc::clone(client),
    }
}

/// Adds the sites that a hosts file names to those of the images file.
struct Builder<'a> {
    network: &'a Arc<Network>,
    name: RegistryName,
    account: &'a str,
    settings: &'a RegistrySettings,
    /// The place of the registry, by the images file or by its name.
    endpoint: Url,
}

impl Builder<'_> {
    fn client(
        &self,
        settings: RegistrySettings,
        more_ca: Vec<PathBuf>,
        endpoint: &Url,
        mirrors: &[Url],
    ) -> Arc<Client> {
        let (network, name) = (Arc::clone(self.network), self.name.clone());
        Arc::new(Client::new(network, name, settings, more_ca, endpoint.clone(), mirrors))
    }

    /// Adds the mirrors of `hosts`, and the endpoint or the server that is asked in its place;
    /// `main` are the endpoint's connections by the images file alone.
    fn add(
        &self,
        sites: &mut Vec<Site>,
        hosts: Hosts,
        own_headers: Vec<(HeaderName, HeaderValue)>,
        main: &Arc<Client>,
    ) {
        for detail in &hosts.details {
            self.network.detail(detail);
        }
        let server = self.server(hosts.server);
        let mut access = hosts.own;
        for host in hosts.mirrors {
            if host.address.root == server.root {
                // Not a mirror, but more about the server.
                access.join(host.access);
            } else {
                sites.push(self.site(host.address, host.access, Role::Mirror(host.capabilities)));
            }
        }
        if !server.base.same_origin(&self.endpoint) {
            sites.push(self.site(server, access, Role::Substitute));
            return;
        }
        let client = if access.has_tls() { self.own_client(&access) } else { Arc::clone(main) };
        let mut site = Site { client, namespace: None, ..self.site(server, access, Role::Registry) };
        site.headers.extend(own_headers);
        sites.push(site);
    }

    /// Decides what is asked in the registry's place: `named`, the `server` of a hosts file, or the
    /// endpoint.
    fn server(&self, named: Option<Address>) -> Address {
        // docker.io itself serves no images, and an endpoint of the images file counts.
        let is_hub =
            |server: &Address| self.account == DEFAULT_REGISTRY && server.base.host() == DEFAULT_REGISTRY;
        named.filter(|server| !is_hub(server) && self.settings.endpoint.is_none()).unwrap_or_else(|| {
            Address { base: self.endpoint.clone(), root: self.endpoint.with_suffix("/v2") }
        })
    }

    fn own_client(&self, access: &Access) -> Arc<Client> {
        let mut settings = self.settings.clone();
        settings.insecure |= access.skip_verify;
        if settings.client_cert.is_none() && settings.client_key.is_none() {
            (settings.client_cert, settings.client_key) = access.client.clone().unzip();
        }
        self.client(settings, access.ca.clone(), &self.endpoint, &[])
    }

    fn site(&self, address: Address, access: Access, role: Role) -> Site {
        let secrets = access.secrets().filter(|secret| is_secret(secret, self.account));
        secrets.for_each(|secret| self.network.veil.add(secret));
        let (client_cert, client_key) = access.client.unzip();
        let settings = RegistrySettings {
            name: self.settings.name.clone(),
            ca: self.settings.ca.clone(),
            client_cert,
            client_key,
            insecure: access.skip_verify,
            ..RegistrySettings::default()
        };
        let host = address.base.host_port();
        let same = host == self.account || host == self.endpoint.host_port();
        Site {
            client: self.client(settings, access.ca, &address.base, &[]),
            base: address.base,
            root: address.root,
            role,
            namespace: (!same).then(|| self.account.to_owned()),
            headers: access.headers,
            authorization: access.authorization,
        }
    }
}
