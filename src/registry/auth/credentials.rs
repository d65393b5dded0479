//! The sources of a registry's credentials: the images file, Docker's config, containers'
//! `auth.json`.
//!
//! The first source that has some wins, and no other is tried when a registry refuses them. They
//! are looked for once, when a registry first asks for them, so that a credential helper runs at
//! most once a run and only for a registry in use. A helper or file that fails is a warning that
//! names it: the image may be public.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::credential::{Credential, credential_in};
use super::helper::run_helper;
use crate::error::{self, Login, RegistryError, is_variable};
use crate::image_ref::DEFAULT_REGISTRY;
use crate::registry::transport::{Environment, Network, Secret, printable};
use crate::state::RegistrySettings;
use crate::sys;
use crate::threads::lock;
use crate::url::Url;

/// The largest file with credentials that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The key under which Docker files docker.io's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// One registry's credentials.
pub(crate) struct Credentials {
    /// The host under which a login would be stored: the one that is really asked.
    stored_under: String,
    /// True if stored logins may not be used at all.
    disregarded: bool,
    /// True if stored logins stay where they are, because they would be sent in clear text.
    withheld: bool,
    /// From the images file.
    own: Option<Found>,
    elsewhere: Mutex<Option<Elsewhere>>,
}

/// A credential, and the place where it was found, in words.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) place: Arc<str>,
}

impl Found {
    fn new(credential: Credential, place: &str) -> Self {
        Self { credential, place: place.into() }
    }
}

/// The credentials that were found outside the images file.
#[derive(Default)]
struct Elsewhere {
    /// Docker's, or what a credential helper said.
    helped: Option<Found>,
    /// Files `auth.json`, whose keys may name a repository too, each with its path.
    auth_json: Vec<(String, Value)>,
    /// The places that were looked at, each with what was found there, in words.
    looked_at: Vec<(String, &'static str)>,
}

impl Elsewhere {
    /// Looks at a JSON file that need not exist; one that cannot be used is a warning.
    fn load(&mut self, network: &Network, path: &Path) -> Value {
        let read = match read_text(path) {
            // Only where, not what: the file is full of secrets.
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
                format!("it is not JSON, at line {}, column {}", error.line(), error.column())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let note = match &read {
            Ok(Some(_)) => "",
            Ok(None) => " (not there)",
            Err(reason) => {
                network.warn_once(format!("credentials in {} are ignored: {reason}", path.display()));
                " (which cannot be used)"
            }
        };
        self.looked_at.push((path.display().to_string(), note));
        read.ok().flatten().unwrap_or_default()
    }
}

impl Credentials {
    /// The credentials of `registry`, which is asked at `endpoint`.
    ///
    /// # Errors
    /// A password that the images file points to and that is not there, or is none.
    pub(crate) fn new(
        network: &Network,
        registry: &str,
        settings: &RegistrySettings,
        endpoint: &Url,
        stored_logins: bool,
    ) -> Result<Self, RegistryError> {
        let fail = |reason: String| RegistryError::Credentials { registry: registry.to_owned(), reason };
        let password = match (&settings.password_env, &settings.password_file) {
            (Some(variable), _) => {
                let value = network.environment.get(variable).map(str::to_owned);
                let (name, why) = named(variable);
                let unset = || fail(format!("{name} is not set{why}"));
                Some((value.ok_or_else(unset)?, name))
            }
            (None, Some(path)) => {
                let name = format!("password-file {}", error::named(path));
                let text = read_text(path).map_err(|reason| fail(format!("{name}: {reason}")))?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Some((text.strip_suffix('\r').unwrap_or(text).to_owned(), name))
            }
            (None, None) => None,
        };
        if let Some((password, name)) = &password {
            if password.is_empty() {
                return Err(fail(format!("{name} is empty")));
            }
            // RFC 7617 allows none; and a key, or a file of settings, is not what a registry should
            // get.
            if password.chars().any(char::is_control) {
                return Err(fail(format!(
                    "{name} holds no password: it has several lines, or control characters"
                )));
            }
            network.veil.add(password);
        }
        let own = password.map(|(password, place)| {
            let user = settings.username.clone().unwrap_or_default();
            Found::new(Credential::Password { user, password: Secret::new(password) }, &place)
        });
        let withheld = !endpoint.is_secure() && !endpoint.is_loopback();
        let stored_under = stored_under(registry, settings, endpoint);
        Ok(Self { stored_under, disregarded: !stored_logins, withheld, own, elsewhere: Mutex::default() })
    }

    /// Under which host a login for the registry is stored.
    pub(crate) fn stored_under(&self) -> &str {
        &self.stored_under
    }

    /// The login to tell where [`find`](Self::find) has found none: a stored one is withheld, or
    /// was looked for in these places, each with what was found there.
    pub(crate) fn no_login(&self) -> Login {
        if self.withheld && self.own.is_none() {
            return Login::Withheld;
        }
        let elsewhere = lock(&self.elsewhere);
        let looked_at = elsewhere.iter().flat_map(|elsewhere| &elsewhere.looked_at);
        Login::None { looked_at: looked_at.map(|(path, note)| format!("{path}{note}")).collect() }
    }

    /// The credentials for `repository`, if there are any.
    pub(crate) fn find(&self, network: &Network, repository: &str) -> Result<Option<Found>, RegistryError> {
        if let Some(own) = &self.own {
            return Ok(Some(own.clone()));
        }
        if self.withheld || self.disregarded {
            return Ok(None);
        }
        let mut elsewhere = lock(&self.elsewhere);
        if elsewhere.is_none() {
            *elsewhere = Some(self.look(network)?);
        }
        let Some(Elsewhere { helped, auth_json, looked_at }) = &mut *elsewhere else { return Ok(None) };
        let mut in_auth_json = |(path, file): &(String, Value)| {
            let entries = self.entries(file.get("auths")?, repository).into_iter();
            let logins = entries.filter_map(|entry| usable(network, entry, path, looked_at));
            logins.map(|credential| Found::new(credential, path)).next()
        };
        let found = helped.clone().or_else(|| auth_json.iter().find_map(&mut in_auth_json));
        match found.as_ref().map(|found| &found.credential) {
            Some(Credential::Password { password, .. }) => network.veil.add(password.reveal()),
            Some(Credential::Identity(token) | Credential::Token(token)) => network.veil.add(token.reveal()),
            None => {}
        }
        Ok(found)
    }

    fn look(&self, network: &Network) -> Result<Elsewhere, RegistryError> {
        let environment = &network.environment;
        let docker = environment
            .path("DOCKER_CONFIG")
            .or_else(|| environment.path("HOME").map(|home| home.join(".docker")))
            .map(|folder| folder.join("config.json"));
        let mut found = Elsewhere::default();
        if let Some(path) = docker {
            let config = found.load(network, &path);
            found.helped = self.in_docker_config(network, &config, &path, &mut found.looked_at)?;
            if found.helped.is_some() {
                return Ok(found);
            }
        }
        for path in auth_json_paths(environment) {
            let file = found.load(network, &path);
            let helper = file.get("credHelpers").and_then(|helpers| self.entry(helpers));
            if let Some(helper) = helper.and_then(|(_, helper)| helper.as_str())
                && let Some(credential) = run_helper(network, helper, &self.stored_under)?
            {
                found.helped = Some(Found::new(credential, &helper_of(helper, &path)));
                return Ok(found);
            }
            found.auth_json.push((path.display().to_string(), file));
        }
        Ok(found)
    }

    /// Reads the config as Docker does: this registry's helper, else the store, else the logins in
    /// the file itself.
    fn in_docker_config(
        &self,
        network: &Network,
        config: &Value,
        path: &Path,
        looked_at: &mut [(String, &'static str)],
    ) -> Result<Option<Found>, RegistryError> {
        let helper = config.get("credHelpers").and_then(|helpers| self.entry(helpers));
        let helper = helper.and_then(|(_, helper)| helper.as_str());
        let store = config.get("credsStore").and_then(Value::as_str);
        let key = if self.stored_under == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { &self.stored_under };
        if let Some(helper) = helper.or(store).filter(|helper| !helper.is_empty())
            && let Some(credential) = run_helper(network, helper, key)?
        {
            return Ok(Some(Found::new(credential, &helper_of(helper, path))));
        }
        let path = path.display().to_string();
        let stored = config.get("auths").and_then(|auths| self.entry(auths));
        let stored = stored.and_then(|entry| usable(network, entry, &path, looked_at));
        Ok(stored.map(|credential| Found::new(credential, &path)))
    }

    /// The entry of this registry in a table that is keyed by host or URL, with its key.
    fn entry<'a>(&self, table: &'a Value) -> Option<Entry<'a>> {
        let table = table.as_object()?;
        let by_name = self.names().into_iter().find_map(|name| table.get_key_value(name));
        let by_host = || table.iter().find(|(key, _)| self.names().contains(&host_of(key)));
        by_name.or_else(by_host).map(|(key, value)| (&**key, value))
    }

    /// The entries of `auth.json` for a repository, which may be keyed by
    /// `registry/namespace/repository` too, the longest key first.
    fn entries<'a>(&self, auths: &'a Value, repository: &str) -> Vec<Entry<'a>> {
        let mut entries = Vec::new();
        let mut scope = format!("{}/{repository}", self.stored_under);
        while let Some(end) = scope.rfind('/') {
            let found = auths.as_object().and_then(|auths| auths.get_key_value(&scope));
            entries.extend(found.map(|(key, value)| (&**key, value)));
            scope.truncate(end);
        }
        entries.extend(self.entry(auths));
        entries
    }

    fn names(&self) -> Vec<&str> {
        if self.stored_under == DEFAULT_REGISTRY {
            vec![DOCKER_HUB_KEY, DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io"]
        } else {
            vec![&self.stored_under]
        }
    }
}

/// A key of a table of logins, and what it leads to.
type Entry<'a> = (&'a str, &'a Value);

/// Takes the login of an entry in the file `path`; one that cannot be used is a warning, and noted
/// where the file was looked at.
fn usable(
    network: &Network,
    (key, entry): Entry<'_>,
    path: &str,
    looked_at: &mut [(String, &'static str)],
) -> Option<Credential> {
    credential_in(entry).unwrap_or_else(|reason| {
        network.warn_once(format!("the login for {key} in {path} is ignored: {reason}"));
        for (_, note) in looked_at.iter_mut().filter(|(looked_at, _)| looked_at == path) {
            *note = " (which has one that cannot be used)";
        }
        None
    })
}

/// The variable that `password-env` names, in words, and why it may go without a name: people put
/// the password itself there.
fn named(variable: &str) -> (String, &'static str) {
    if is_variable(variable) {
        return (format!("the environment variable {variable}"), "");
    }
    let why = "; no name is shown, since it may be the password itself";
    ("the environment variable that password-env names".to_owned(), why)
}

/// Under which host a login for `registry` is stored, where that is asked at `endpoint`: another
/// server than the name says has logins of its own.
fn stored_under(registry: &str, settings: &RegistrySettings, endpoint: &Url) -> String {
    let host = endpoint.host_port();
    let named = Url::parse(&format!("{}://{registry}", if endpoint.is_secure() { "https" } else { "http" }));
    if settings.endpoint.is_none() || named.is_ok_and(|named| named.same_origin(endpoint)) {
        return registry.to_owned();
    }
    let is_hub = matches!(&*host, "registry-1.docker.io" | "index.docker.io" | "docker.io");
    if is_hub && endpoint.is_secure() { DEFAULT_REGISTRY.to_owned() } else { host }
}

/// Lists the files in which `podman login` and its kin store logins, in the order in which they
/// look for them (containers-auth.json(5)).
fn auth_json_paths(environment: &Environment) -> Vec<PathBuf> {
    if let Some(path) = environment.path("REGISTRY_AUTH_FILE") {
        return vec![path];
    }
    let runtime = environment
        .path("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| Path::new("/run/containers").join(sys::user_id().to_string()));
    let runtime =
        if environment.path("XDG_RUNTIME_DIR").is_some() { runtime.join("containers") } else { runtime };
    let config = environment
        .path("XDG_CONFIG_HOME")
        .or_else(|| environment.path("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("containers"));
    [Some(runtime), config].into_iter().flatten().map(|folder| folder.join("auth.json")).collect()
}

/// A credential helper, and the file that names it.
fn helper_of(helper: &str, path: &Path) -> String {
    format!("docker-credential-{}, which {} names", printable(helper, 100), path.display())
}

fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    // A key with a path, other than Docker's old /v1/ and /v2/, is about a part of the registry
    // only.
    match key.split_once('/') {
        Some((host, "" | "v1" | "v1/" | "v2" | "v2/")) => host,
        _ => key,
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    // /dev/stdin and process substitution are not for a file that is read again and again.
    sys::read_regular_text(path, MAX_FILE)
}
