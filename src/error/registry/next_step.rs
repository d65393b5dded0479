//! The next step after a failure of a registry, where there is one.

use super::{Login, Refusal, Refused, RegistryError, RegistryName, Trouble};

/// The next step where nothing like an answer came over plain http.
const SAY_HTTPS: &str = "if the registry speaks https, say so with `endpoint = \"https://…\"`";

/// The next step after the failure of a host to which a registry led.
pub(super) const OF_ANOTHER_HOST: &str =
    "the registry itself answers, and sends to this host; run again later, or ask whoever runs the registry";

/// Tells what may help against `error`.
pub(super) fn after(error: &RegistryError) -> Option<String> {
    let words = match error {
        RegistryError::Refused(Refused { status, registry, refusal, elsewhere, login, .. }) => {
            return match (refusal, status) {
                // A name is mistyped wherever the registry keeps what has names.
                (Refusal::Image, 404) => Some("check the name and the tag".to_owned()),
                _ if *elsewhere => elsewhere_hint(*status).map(str::to_owned),
                _ => after_refusal(*refusal, *status, registry, login),
            };
        }
        RegistryError::Unreachable { trouble, .. } => return after_trouble(*trouble).map(str::to_owned),
        RegistryError::Tls { cure, .. } => cure.hint(),
        RegistryError::Protocol { may_be_tls: true, .. } => SAY_HTTPS,
        RegistryError::Stalled { .. } => {
            "check the network; MSB_SYNC_STALL_TIMEOUT=SECONDS changes how long to wait"
        }
        RegistryError::Slow { .. } => "check the network, and the registry; run again later",
        RegistryError::TooLarge { .. } => {
            "raise manifest-size under [settings.limits] if you trust this image"
        }
        RegistryError::Credentials { .. } => {
            "set the variable, or write the file, before msb-sync runs; or take password-env or password-file out of \
             the images file if the images are public"
        }
        RegistryError::NoPlatform { .. } => {
            "choose one of these with `platform = …` in the images file, or `--platform` of pull; or another image"
        }
        RegistryError::NotInBundle { .. } => {
            "a bundle made with --since needs the older images here: apply theirs first, or export without --since"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

/// Tells what may help where a request could not be carried out at all.
fn after_trouble(trouble: Trouble) -> Option<&'static str> {
    Some(match trouble {
        Trouble::HostNotFound => "check the registry's name, the network and the name server",
        Trouble::Refused | Trouble::NoAnswer => "check that the registry runs, and its `endpoint`",
        Trouble::Unencrypted => SAY_HTTPS,
        Trouble::ProxyLogin => {
            "write the proxy's user and password into the variable, http://USER:PASSWORD@HOST:PORT, or check them"
        }
        Trouble::Proxy => "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
        Trouble::TokenServer => {
            "the registry itself answers; check that this machine may reach its token server, or run again later"
        }
        Trouble::Elsewhere => {
            "the registry itself answers; check that this machine may reach the host to which it sends, or run again \
             later"
        }
        Trouble::Limit => {
            "raise the limits of this process (ulimit -n for files, ulimit -u or TasksMax= for threads), or lower \
             `downloads` under [settings]"
        }
        Trouble::Broken => return None,
    })
}

/// Tells what may help against a refusal with `status` by a host to which a registry led: no login
/// goes there.
fn elsewhere_hint(status: u16) -> Option<&'static str> {
    match status {
        401 | 403 | 404 => Some(OF_ANOTHER_HOST),
        429 => Some("this host limits how often it is asked; run again later"),
        500.. => Some("this host, to which the registry sends, has a problem; run again later"),
        _ => None,
    }
}

/// Tells what may help against a `refusal` with `status` by `registry`, or by its server for
/// tokens, which knows `login` of who asks.
fn after_refusal(refusal: Refusal, status: u16, registry: &RegistryName, login: &Login) -> Option<String> {
    let who = if refusal == Refusal::Token { "the registry's token server" } else { "the registry" };
    let log_in = |registry: &RegistryName| {
        let RegistryName { name, login } = registry;
        let host = if login == "docker.io" { String::new() } else { format!(" {login}") };
        format!("`docker login{host}`, or username and password-env under [registry.\"{name}\"]")
    };
    match status {
        401 | 403 => Some(match login {
            Login::None { looked_at } => {
                let sources = match &**looked_at {
                    [] => String::new(),
                    places => format!("; no login for {} is in {}", registry.login, places.join(", ")),
                };
                format!("check the name; if the image is private, log in: {}{sources}", log_in(registry))
            }
            Login::Sent { place } => format!(
                "the credentials from {place} were refused, or do not reach this image; check the name, then log in \
                 anew: {}",
                log_in(registry)
            ),
            Login::HostsFile => {
                "the authorization that a hosts file sets was refused, or does not reach this image; check the name, \
                 then correct the authorization in its hosts.toml"
                    .to_owned()
            }
            Login::NotAsked => {
                "there are credentials, but the registry does not ask for any, at /v2/ either; \
                                    check the name, and its set-up"
                    .to_owned()
            }
            Login::KeptBack => {
                "the credentials are not sent to the registry's token server: it is another host, or not encrypted; \
                 check the registry's set-up"
                    .to_owned()
            }
            Login::Withheld => format!(
                "a stored login is not sent over plain http; use https, or username and password-env under \
                     [registry.\"{}\"]",
                registry.name
            ),
        }),
        404 => Some(match refusal {
            Refusal::Token => {
                "the registry says that its tokens are there: check its name and its `endpoint`, and the registry's set-up"
                    .to_owned()
            }
            _ => "the registry lacks this part of the image, or all of it: check the name, push the image again, or \
                  choose another tag"
                .to_owned(),
        }),
        429 if matches!(login, Login::None { .. }) => {
            Some(format!("{who} limits how often it is asked; wait, or log in: {}", log_in(registry)))
        }
        429 => Some(format!("{who} limits how often it is asked; run again later")),
        500.. => Some(format!("{who} has a problem; run again later")),
        _ => None,
    }
}
