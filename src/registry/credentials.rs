//! Where a registry's credentials come from: the images file, Docker's config, containers' `auth.json`.
//!
//! The first source that has some wins, and no other is tried when a registry refuses them. They are looked
//! for once, when a registry first asks for them, so that a credential helper runs at most once a run and only
//! for a registry in use. A helper or file that fails is a warning that names it: the image may be public.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::environment::Environment;
use super::failure::printable;
use super::secret::Secret;
use super::shared::{Shared, lock};
use super::veil::named_secrets;
use crate::error::RegistryError;
use crate::image_ref::DEFAULT_REGISTRY;
use crate::state::RegistrySettings;
use crate::sys;
use crate::url::Url;

/// How long a credential helper may take; some ask the user.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// What a helper may print, in bytes.
const MAX_HELPER_OUTPUT: u64 = 1 << 20;
/// What a file with credentials may hold, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// What Docker files docker.io's credentials under.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What proves who asks.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    /// User and password.
    Password {
        /// May be empty.
        user: String,
        /// The password, or what the registry takes for one.
        password: Secret,
    },
    /// A refresh token, to be exchanged by a POST (`OAuth2`).
    Identity(Secret),
    /// A finished bearer token.
    Token(Secret),
}

/// One registry's credentials.
pub(super) struct Credentials {
    /// Under which host a login would be stored: the one that is really asked.
    stored_under: String,
    /// Whether stored logins stay where they are, because they would be sent in clear text.
    withheld: bool,
    /// From the images file.
    own: Option<Credential>,
    elsewhere: Mutex<Option<Elsewhere>>,
}

/// What was found outside the images file.
struct Elsewhere {
    /// Docker's, or what a credential helper said.
    helped: Option<Credential>,
    /// Files `auth.json`, whose keys may name a repository too.
    auth_json: Vec<Value>,
}

impl Credentials {
    /// The credentials of `registry`, which is asked at `endpoint`.
    ///
    /// # Errors
    /// A password that the images file points to and that is not there, or is none.
    pub(super) fn new(
        shared: &Shared,
        registry: &str,
        settings: &RegistrySettings,
        endpoint: &Url,
    ) -> Result<Self, RegistryError> {
        let fail = |reason: String| RegistryError::Credentials { registry: registry.to_owned(), reason };
        let password = match (&settings.password_env, &settings.password_file) {
            (Some(variable), _) => {
                let value = shared.environment.get(variable).map(str::to_owned);
                let unset = || fail(format!("the environment variable {variable} is not set"));
                Some((value.ok_or_else(unset)?, format!("the environment variable {variable}")))
            }
            (None, Some(path)) => {
                let name = format!("password-file {}", path.display());
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
            // RFC 7617 allows none; and a key, or a file of settings, is not what a registry should get.
            if password.chars().any(char::is_control) {
                return Err(fail(format!(
                    "{name} holds no password: it has several lines, or control characters"
                )));
            }
            shared.veil.add(password);
        }
        let own = password.map(|(password, _)| Credential::Password {
            user: settings.username.clone().unwrap_or_default(),
            password: Secret::new(password),
        });
        let withheld = !endpoint.is_secure() && !endpoint.is_loopback();
        let stored_under = stored_under(registry, settings, endpoint);
        Ok(Self { stored_under, withheld, own, elsewhere: Mutex::default() })
    }

    /// Under which host a login for the registry is stored.
    pub(super) fn stored_under(&self) -> &str {
        &self.stored_under
    }

    /// Whether a stored login would not be sent, because the registry is asked over plain http.
    pub(super) fn are_withheld(&self) -> bool {
        self.withheld && self.own.is_none()
    }

    /// The credentials for `repository`, if there are any.
    pub(super) fn find(
        &self,
        shared: &Shared,
        repository: &str,
    ) -> Result<Option<Credential>, RegistryError> {
        if let Some(own) = &self.own {
            return Ok(Some(own.clone()));
        }
        if self.withheld || !shared.stored_logins {
            return Ok(None);
        }
        let mut elsewhere = lock(&self.elsewhere);
        if elsewhere.is_none() {
            *elsewhere = Some(self.look(shared)?);
        }
        let Some(elsewhere) = &*elsewhere else { return Ok(None) };
        let found = elsewhere
            .helped
            .clone()
            .or_else(|| elsewhere.auth_json.iter().find_map(|file| self.in_auth_json(file, repository)));
        match &found {
            Some(Credential::Password { password, .. }) => shared.veil.add(password.reveal()),
            Some(Credential::Identity(token) | Credential::Token(token)) => shared.veil.add(token.reveal()),
            None => {}
        }
        Ok(found)
    }

    fn look(&self, shared: &Shared) -> Result<Elsewhere, RegistryError> {
        let environment = &shared.environment;
        let docker = environment
            .path("DOCKER_CONFIG")
            .or_else(|| environment.path("HOME").map(|home| home.join(".docker")))
            .map(|folder| folder.join("config.json"));
        let config = docker.as_deref().map_or(Value::Null, |path| load(shared, path));
        let docker = self.in_docker_config(shared, &config)?;
        if docker.is_some() {
            return Ok(Elsewhere { helped: docker, auth_json: Vec::new() });
        }
        let mut auth_json = Vec::new();
        for path in auth_json_paths(environment) {
            let file = load(shared, &path);
            let helper = file.get("credHelpers").and_then(|helpers| self.entry(helpers));
            if let Some(helper) = helper.and_then(Value::as_str)
                && let Some(credential) = run_helper(shared, helper, &self.stored_under)?
            {
                return Ok(Elsewhere { helped: Some(credential), auth_json: Vec::new() });
            }
            auth_json.push(file);
        }
        Ok(Elsewhere { helped: None, auth_json })
    }

    /// As Docker reads it: this registry's helper, else the store, else what the file itself holds.
    fn in_docker_config(&self, shared: &Shared, config: &Value) -> Result<Option<Credential>, RegistryError> {
        let helper =
            config.get("credHelpers").and_then(|helpers| self.entry(helpers)).and_then(Value::as_str);
        let store = config.get("credsStore").and_then(Value::as_str);
        let key = if self.stored_under == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { &self.stored_under };
        if let Some(helper) = helper.or(store).filter(|helper| !helper.is_empty())
            && let Some(credential) = run_helper(shared, helper, key)?
        {
            return Ok(Some(credential));
        }
        Ok(config.get("auths").and_then(|auths| self.entry(auths)).and_then(credential_in))
    }

    /// The entry of this registry in a table that is keyed by host or URL.
    fn entry<'a>(&self, table: &'a Value) -> Option<&'a Value> {
        let table = table.as_object()?;
        self.names().into_iter().find_map(|name| table.get(name)).or_else(|| {
            table.iter().find(|(key, _)| self.names().contains(&host_of(key))).map(|(_, value)| value)
        })
    }

    /// `auth.json` may be keyed by `registry/namespace/repository` too; the longest key wins.
    fn in_auth_json(&self, file: &Value, repository: &str) -> Option<Credential> {
        let auths = file.get("auths")?;
        let mut scope = format!("{}/{repository}", self.stored_under);
        loop {
            if let Some(credential) = auths.get(&scope).and_then(credential_in) {
                return Some(credential);
            }
            match scope.rfind('/') {
                Some(end) => scope.truncate(end),
                None => return self.entry(auths).and_then(credential_in),
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        if self.stored_under == DEFAULT_REGISTRY {
            vec![DOCKER_HUB_KEY, DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io"]
        } else {
            vec![&self.stored_under]
        }
    }
}

/// Under which host a login for `registry` is stored, where that is asked at `endpoint`: another server than the name
/// says has logins of its own.
fn stored_under(registry: &str, settings: &RegistrySettings, endpoint: &Url) -> String {
    let host = endpoint.host_port();
    let named = Url::parse(&format!("{}://{registry}", if endpoint.is_secure() { "https" } else { "http" }));
    if settings.endpoint.is_none() || named.is_ok_and(|named| named.same_origin(endpoint)) {
        return registry.to_owned();
    }
    let is_hub = matches!(&*host, "registry-1.docker.io" | "index.docker.io" | "docker.io");
    if is_hub && endpoint.is_secure() { DEFAULT_REGISTRY.to_owned() } else { host }
}

/// Where `podman login` and its kin store logins, in the order in which they look for them (containers-auth.json(5)).
fn auth_json_paths(environment: &Environment) -> Vec<PathBuf> {
    if let Some(path) = environment.path("REGISTRY_AUTH_FILE") {
        return vec![path];
    }
    let runtime = environment
        .path("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| Path::new("/run/containers").join(crate::sys::user_id().to_string()));
    let runtime =
        if environment.path("XDG_RUNTIME_DIR").is_some() { runtime.join("containers") } else { runtime };
    let config = environment
        .path("XDG_CONFIG_HOME")
        .or_else(|| environment.path("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("containers"));
    [Some(runtime), config].into_iter().flatten().map(|folder| folder.join("auth.json")).collect()
}

fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    // A key with a path, other than Docker's old /v1/ and /v2/, is about a part of the registry only.
    match key.split_once('/') {
        Some((host, "" | "v1" | "v1/" | "v2" | "v2/")) => host,
        _ => key,
    }
}

/// One entry of `auths`; an empty one (Docker leaves them behind for its store) counts for nothing.
fn credential_in(entry: &Value) -> Option<Credential> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Credential::Identity(Secret::new(token)));
    }
    if let Some(token) = text("registrytoken") {
        return Some(Credential::Token(Secret::new(token)));
    }
    if let Some(auth) = text("auth") {
        let lenient = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let decoded = String::from_utf8(lenient.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        // Docker's own config writer pads with NUL.
        let password = Secret::new(password.trim_end_matches('\0'));
        return Some(Credential::Password { user: user.to_owned(), password });
    }
    let password = Secret::new(text("password")?);
    Some(Credential::Password { user: text("username")?.to_owned(), password })
}

/// A JSON file that need not exist; one that cannot be used is a warning.
fn load(shared: &Shared, path: &Path) -> Value {
    let warn = |reason: String| {
        shared.warn(format!("credentials in {} are ignored: {reason}", path.display()));
        Value::Null
    };
    match read_text(path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(json) => json,
            // Only where, not what: the file is full of secrets.
            Err(error) => {
                warn(format!("it is not JSON, at line {}, column {}", error.line(), error.column()))
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
        Err(error) => warn(error.to_string()),
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    // /dev/stdin and process substitution are not for a file that is read again and again.
    sys::read_regular_text(path, MAX_FILE)
}

// ---------------------------------------------------------------------------------------------- the helpers

/// Asks `docker-credential-<helper>` for `key`, by [Docker's protocol]; `None` where it has nothing, or fails.
///
/// [Docker's protocol]: https://docs.docker.com/reference/cli/docker/login/#credential-helpers
fn run_helper(shared: &Shared, helper: &str, key: &str) -> Result<Option<Credential>, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let warn = |reason: &str| {
        let reason = printable(reason, 200);
        shared.warn(format!("credential helper {} failed for {key}: {reason}", printable(&program, 100)));
        Ok(None)
    };
    if helper.contains(['/', '\\', '\0']) {
        return warn("its name is a path");
    }
    let child = Command::new(&program)
        .arg("get")
        // Also what decides where the program is looked for.
        .env_clear()
        .envs(shared.environment.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => return warn(&format!("cannot start it: {error}")),
    };
    let (success, output) = match converse(shared, child, key) {
        Ok(answer) => answer,
        Err(HelperError::Stopped) => return Err(RegistryError::Stopped),
        Err(HelperError::Io(error)) => return warn(&error.to_string()),
        Err(HelperError::Slow) => return warn(&format!("it did not end within {} s", HELPER_TIME.as_secs())),
    };
    if !success {
        // The protocol says "not found" only by this sentence, on stdout.
        return if output.contains("credentials not found") {
            Ok(None)
        } else {
            // What it calls secret is the only thing that is known to be.
            for secret in named_secrets(&output) {
                shared.veil.add(&secret);
            }
            let words = output.lines().map(str::trim).find(|line| !line.is_empty());
            warn(&shared.veil.hide(words.unwrap_or("it says nothing")))
        };
    }
    let text =
        |json: &Value, name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let Ok(json) = serde_json::from_str::<Value>(&output) else { return warn("its answer is not JSON") };
    let (user, secret) = (text(&json, "Username"), Secret::new(text(&json, "Secret")));
    Ok(match (user.as_str(), secret.reveal()) {
        (_, "") => None,
        ("<token>", _) => Some(Credential::Identity(secret)),
        _ => Some(Credential::Password { user, password: secret }),
    })
}

enum HelperError {
    Stopped,
    Slow,
    Io(std::io::Error),
}

/// Whether the helper succeeded, and what it printed.
fn converse(shared: &Shared, mut child: Child, key: &str) -> Result<(bool, String), HelperError> {
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let key = key.to_owned();
    // Pipes block, so a thread holds them while this one watches the clock.
    let talk = std::thread::Builder::new().name("helper".to_owned()).spawn(move || {
        if let Some(mut stdin) = stdin {
            // A helper that does not read its input says by its exit code what it thinks of it.
            let _ = stdin.write_all(key.as_bytes());
        }
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_HELPER_OUTPUT).read_to_end(&mut output)?;
        }
        Ok(output)
    });
    let pipes = match talk {
        Ok(pipes) => pipes,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(HelperError::Io(error));
        }
    };
    let deadline = Instant::now() + HELPER_TIME;
    let mut wait = Duration::from_millis(2);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(HelperError::Io(error)),
        }
        let stopped = !shared.cancel.sleep(wait);
        if stopped || Instant::now() > deadline {
            // It may have ended just now; nothing else can go wrong.
            let _ = child.kill();
            let _ = child.wait();
            return Err(if stopped { HelperError::Stopped } else { HelperError::Slow });
        }
        wait = (wait * 2).min(Duration::from_millis(50));
    };
    // A grandchild that keeps the pipe open must not hold the run up.
    while !pipes.is_finished() {
        if Instant::now() > deadline {
            return Err(HelperError::Slow);
        }
        if !shared.cancel.sleep(Duration::from_millis(2)) {
            return Err(HelperError::Stopped);
        }
    }
    match pipes.join() {
        Ok(Ok(output)) => Ok((status.success(), String::from_utf8_lossy(&output).into_owned())),
        Ok(Err(error)) => Err(HelperError::Io(error)),
        Err(_) => Err(HelperError::Io(std::io::Error::other("its pipes broke"))),
    }
}
