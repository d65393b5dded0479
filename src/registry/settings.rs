//! The settings by which a registry is reached; sandboxes.io is docker.io under another name.

use std::collections::HashMap;

use super::sites::DOCKER_HUB;
use crate::image_ref::{DEFAULT_REGISTRY, SANDBOXES_REGISTRY};
use crate::state::RegistrySettings;

/// The settings of a run's registries, by name.
pub(super) struct SettingsByName(HashMap<String, RegistrySettings>);

/// The way to one registry.
pub(super) struct Way {
    /// The name under which the registry's connections are kept.
    pub(super) name: String,
    /// The name under which its credentials and hosts files are filed.
    pub(super) account: String,
    pub(super) settings: RegistrySettings,
}

impl SettingsByName {
    pub(super) fn new(registries: Vec<RegistrySettings>) -> Self {
        Self(registries.into_iter().map(|settings| (settings.name.clone(), settings)).collect())
    }

    /// Finds the way to `registry`.
    ///
    /// sandboxes.io is served by docker.io: it shares all of docker.io's settings and tokens,
    /// unless the images file says anything of its own about it.
    pub(super) fn of(&self, registry: &str) -> Way {
        let way = |name: &str, account: &str, settings| Way {
            name: name.to_owned(),
            account: account.to_owned(),
            settings,
        };
        let own = self.0.get(registry);
        let unset = RegistrySettings { name: registry.to_owned(), ..RegistrySettings::default() };
        if registry != SANDBOXES_REGISTRY {
            return way(registry, registry, own.cloned().unwrap_or(unset));
        }
        let hub = self.0.get(DEFAULT_REGISTRY).cloned();
        let hub =
            hub.unwrap_or_else(|| RegistrySettings { name: DEFAULT_REGISTRY.to_owned(), ..unset.clone() });
        match own.filter(|own| **own != unset) {
            None => way(DEFAULT_REGISTRY, DEFAULT_REGISTRY, hub),
            // Another server: docker.io's credentials are none of its business.
            Some(own) if own.endpoint.is_some() || own.layout.is_some() => {
                way(registry, registry, own.clone())
            }
            Some(own) => way(registry, DEFAULT_REGISTRY, merged(own, hub)),
        }
    }
}

/// Puts what the images file says of sandboxes.io over docker.io's settings.
fn merged(own: &RegistrySettings, hub: RegistrySettings) -> RegistrySettings {
    let mut merged = RegistrySettings { name: own.name.clone(), ..hub };
    if merged.endpoint.is_none() {
        merged.endpoint = Some(DOCKER_HUB.to_owned());
    }
    if own.password_env.is_some() || own.password_file.is_some() || own.username.is_some() {
        merged.username.clone_from(&own.username);
        merged.password_env.clone_from(&own.password_env);
        merged.password_file.clone_from(&own.password_file);
    }
    if !own.mirrors.is_empty() {
        merged.mirrors.clone_from(&own.mirrors);
    }
    if own.ca.is_some() {
        merged.ca.clone_from(&own.ca);
    }
    if own.client_cert.is_some() || own.client_key.is_some() {
        merged.client_cert.clone_from(&own.client_cert);
        merged.client_key.clone_from(&own.client_key);
    }
    if !own.headers.is_empty() {
        merged.headers.clone_from(&own.headers);
    }
    merged.insecure |= own.insecure;
    merged
}
