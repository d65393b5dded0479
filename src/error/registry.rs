//! Failures of registries and of what they serve.
//!
//! Hosts and URLs are shown without user info and query, text that a registry sent with its control
//! characters escaped. The image's name is not repeated here: whoever reports the error says it
//! first.

mod next_step;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::digest::ContentMismatch;

/// The identity that the registry knows of the one who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Login {
    /// Nothing, and there is nothing that could be sent.
    None {
        /// The places where a stored login was looked for, in words.
        looked_at: Box<[String]>,
    },
    /// The `Authorization` of a hosts file was sent, in the place of any other.
    HostsFile,
    /// Credentials were sent.
    Sent {
        /// The place where they came from, in words.
        place: Box<str>,
    },
    /// There are credentials, but the registry never asked for any.
    NotAsked,
    /// There are credentials, but the registry asks for them on behalf of a token server that is
    /// another host, or not encrypted.
    KeptBack,
    /// A stored login is not sent over plain http.
    Withheld,
}

impl Login {
    /// Nothing, and nobody looked for anything.
    pub(crate) fn unknown() -> Self {
        Self::None { looked_at: Box::default() }
    }
}

/// The question that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// An image, or a list of its tags, by a name that the user gave.
    Image,
    /// A part of an image: a blob, or a manifest that its index names.
    Part,
    /// A token, of the server that gives those for the registry.
    Token,
}

/// The names of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryName {
    /// The name as the images file spells it.
    pub name: String,
    /// The host under which a login for it is stored, which is another where its endpoint is.
    pub login: String,
}

/// The reason why a request could not be carried out at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// Nobody listens there.
    Refused,
    /// The name does not resolve.
    HostNotFound,
    /// Nobody answered the attempt to connect.
    NoAnswer,
    /// Any other failure before a whole answer arrived.
    Broken,
    /// The registry has closed every connection over plain http before an answer came: it may speak
    /// TLS.
    Unencrypted,
    /// The proxy did not let the request through.
    Proxy,
    /// The proxy wants a login, or another one.
    ProxyLogin,
    /// The registry answered, and sent to a server for tokens that was not reached.
    TokenServer,
    /// The registry answered, and sent to a host that was not reached.
    Elsewhere,
    /// This process may not open more connections, or start more threads.
    Limit,
}

/// The cure for a TLS failure, where one is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsCure {
    /// Another trusted root.
    Authority,
    /// A certificate that has not expired.
    Renewal,
    /// Another time: the certificate's begins later.
    Time,
    /// Another name, or a certificate for this one.
    Name,
    /// A certificate of this machine's own.
    ClientCertificate,
    /// Another one than the one shown.
    OtherClientCertificate,
    /// A version and a cipher that both sides have.
    Protocol,
    /// No TLS at all.
    PlainHttp,
    /// TLS, where none was spoken.
    Https,
    /// Another set-up of a host to which the registry sends.
    Elsewhere,
    /// Nothing known.
    None,
}

/// An answer of a registry that says no.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason} (HTTP {status} from {host}){}", asks_to_wait(until.as_deref()))]
#[non_exhaustive]
pub struct Refused {
    /// The registry's own words, or ours for the status.
    pub reason: String,
    /// The HTTP status.
    pub status: u16,
    /// The host that said so.
    pub host: String,
    /// The registry that refused. Boxed, since errors are moved often.
    pub registry: Box<RegistryName>,
    /// The question that was refused.
    pub refusal: Refusal,
    /// True if it was another host that refused, to which a redirect led.
    pub elsewhere: bool,
    /// The identity that the registry knows of the one who asks.
    pub login: Box<Login>,
    /// The time until which the registry asks not to be asked again, where that is longer than
    /// a run waits. Boxed, since this is rare.
    pub until: Option<Box<SystemTime>>,
}

impl Refused {
    /// True if the registry does not have what it was asked for. A server for tokens that lacks
    /// them says nothing of that.
    pub(crate) fn is_absent(&self) -> bool {
        self.status == 404 && self.refusal != Refusal::Token
    }
}

/// The failure of a registry, or of a document or blob that it served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry answered, and the answer was no.
    #[error("{0}")]
    Refused(Refused),
    /// There was no answer.
    #[error("{reason}")]
    Unreachable {
        /// The event, with the URL.
        reason: String,
        /// The kind of it.
        trouble: Trouble,
    },
    /// TLS failed: the certificate is not trusted, or there is no TLS at all.
    #[error("{reason}")]
    Tls {
        /// The event, with the host.
        reason: String,
        /// The cure, where one is known.
        cure: TlsCure,
    },
    /// The other side stopped sending.
    #[error("{url} sent nothing for {} s", stall.as_secs_f64())]
    Stalled {
        /// Which URL.
        url: String,
        /// For how long.
        stall: Duration,
    },
    /// The other side sends, but so slowly that the answer has no end.
    #[error("{url} did not answer in full within {} s", limit.as_secs_f64())]
    Slow {
        /// Which URL.
        url: String,
        /// The time that the whole answer may take.
        limit: Duration,
    },
    /// A body that broke off, or an answer that is not HTTP as it should be.
    #[error("broken answer from {url}: {reason}")]
    Protocol {
        /// Which URL.
        url: String,
        /// The fault.
        reason: String,
        /// True if the registry has said nothing else over plain http: it may speak TLS.
        may_be_tls: bool,
    },
    /// A redirect that is not followed.
    #[error("refused to follow a redirect from {from}: {reason}")]
    Redirect {
        /// Which URL redirected.
        from: String,
        /// The reason why the redirect is not followed.
        reason: String,
    },
    /// A document or blob that is not what its descriptor says.
    #[error("{what} from {host} is not what was asked for: {source}")]
    Mismatch {
        /// Manifest, config or layer, with its digest.
        what: String,
        /// The host that served it.
        host: String,
        /// Which of digest and size.
        source: Box<ContentMismatch>,
    },
    /// An index, manifest or config that cannot be used.
    #[error("{what} from {host} is refused: {reason}")]
    Document {
        /// Index, manifest, config, token or tag list.
        what: String,
        /// The host that served it.
        host: String,
        /// The fault of the document.
        reason: String,
    },
    /// A document is larger than the settings allow.
    #[error("{what} from {host} is larger than the {limit} bytes that the settings allow")]
    TooLarge {
        /// Which document.
        what: String,
        /// The host that served it.
        host: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The image exists, but not for the platform.
    #[error("there is no image for {wanted}; there is one for {}", list(available))]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// The platforms there are.
        available: Vec<String>,
    },
    /// Credentials that are configured but cannot be had.
    #[error("cannot get the credentials for {registry}: {reason}")]
    Credentials {
        /// The registry's name.
        registry: String,
        /// The fault.
        reason: String,
    },
    /// A setting of the registry that cannot be used.
    #[error("cannot use the settings of {registry}: {reason}")]
    Settings {
        /// The registry's name.
        registry: String,
        /// Which setting, and why.
        reason: String,
    },
    /// An OCI image layout directory that cannot be used, or lacks what was asked for.
    #[error("cannot {doing} in the image layout {}: {reason}", path.display())]
    Layout {
        /// The deed that failed, as an infinitive.
        doing: String,
        /// The directory.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// A bundle, which serves everything, lacks a blob, and this machine has none either.
    #[error("the bundle {} has no {what}, which is not here either", bundle.display())]
    NotInBundle {
        /// The blob, as in `layer sha256:…`.
        what: String,
        /// The bundle.
        bundle: PathBuf,
    },
    /// The run was stopped while the registry was being asked.
    #[error("stopped")]
    Stopped,
}

/// The year 8000: what a registry asks for beyond that may have been cut, to fit a calendar.
const MANY_YEARS: i64 = 190_290_000_000;

fn asks_to_wait(until: Option<&SystemTime>) -> String {
    let shown = until.and_then(|until| {
        let timestamp = jiff::Timestamp::try_from(*until).ok()?;
        timestamp.round(jiff::Unit::Second).ok()
    });
    match shown {
        Some(until) if until.as_second() > MANY_YEARS => {
            "; it asks to be left alone for thousands of years".to_owned()
        }
        Some(until) => format!("; it asks to be left alone until {until}"),
        None => String::new(),
    }
}

fn list(platforms: &[String]) -> String {
    if platforms.is_empty() { "no platform at all".to_owned() } else { platforms.join(", ") }
}

impl RegistryError {
    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(Refused { status, .. }) => match status {
                401 => "unauthorized",
                403 => "forbidden",
                404 => "not-found",
                429 => "rate-limited",
                500.. => "registry-failure",
                _ => "registry-refused",
            },
            Self::Unreachable { trouble: Trouble::Limit, .. } => "system",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } => "tls",
            Self::Stalled { .. } | Self::Slow { .. } => "stalled",
            Self::Protocol { .. } => "protocol",
            Self::Redirect { .. } => "redirect",
            Self::Mismatch { .. } => "content-mismatch",
            Self::Document { .. } => "invalid-document",
            Self::TooLarge { .. } => "limit",
            Self::NoPlatform { .. } => "no-platform",
            Self::Credentials { .. } => "credentials",
            Self::Settings { .. } => "settings",
            Self::Layout { .. } => "layout",
            Self::NotInBundle { .. } => "not-in-bundle",
            Self::Stopped => "stopped",
        }
    }

    /// See [`Error::is_outage`](super::Error::is_outage).
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Slow { .. } | Self::Protocol { .. } => {
                true
            }
            Self::Refused(Refused { status, .. }) => matches!(status, 429 | 500..),
            _ => false,
        }
    }

    /// See [`Error::retry_at`](super::Error::retry_at).
    pub fn retry_at(&self) -> Option<SystemTime> {
        match self {
            Self::Refused(Refused { until, .. }) => until.as_deref().copied(),
            _ => None,
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        next_step::after(self)
    }
}

impl TlsCure {
    fn hint(self) -> &'static str {
        match self {
            Self::Authority => {
                "name the certificate authority, or the certificate itself, with `ca = \"file.pem\"` for this registry"
            }
            Self::Renewal => "renew the registry's certificate, or set this machine's clock right",
            Self::Time => "set this machine's clock right, or wait until the certificate is valid",
            Self::Name => "use a name that the certificate has, in the registry's name or its `endpoint`",
            Self::ClientCertificate => "name this machine's certificate with `client-cert` and `client-key`",
            Self::OtherClientCertificate => {
                "name another certificate with `client-cert` and `client-key`: one that is valid, of an issuer that the \
                 registry trusts"
            }
            Self::Protocol => "let the registry speak TLS 1.2 or 1.3 with ciphers that are not obsolete",
            Self::PlainHttp => "if the registry speaks plain http, say so with `endpoint = \"http://…\"`",
            Self::Https => "the registry speaks https: say so with `endpoint = \"https://…\"`",
            Self::Elsewhere => next_step::OF_ANOTHER_HOST,
            Self::None => "see what the registry says: openssl s_client -connect HOST:PORT",
        }
    }
}

impl RegistryError {
    /// The same error of another host, to which the registry has sent: `host` names that, and no
    /// setting of the registry helps.
    pub(crate) fn elsewhere(mut self, host: &str, its: Trouble) -> Self {
        match &mut self {
            Self::Unreachable { reason, trouble } => match trouble {
                Trouble::Proxy
                | Trouble::ProxyLogin
                | Trouble::Limit
                | Trouble::TokenServer
                | Trouble::Elsewhere => {}
                _ => {
                    reason.insert_str(0, &format!("{host}: "));
                    *trouble = its;
                }
            },
            Self::Tls { reason, cure } if *cure != TlsCure::Elsewhere => {
                reason.insert_str(0, &format!("{host}: "));
                // The registry's `ca` counts there too.
                if !matches!(cure, TlsCure::Authority | TlsCure::Time) {
                    *cure = TlsCure::Elsewhere;
                }
            }
            Self::Protocol { may_be_tls, .. } => *may_be_tls = false,
            _ => {}
        }
        self
    }

    /// The same error with `change` applied to all of its text that may come from a registry.
    pub(crate) fn map_text(mut self, change: &dyn Fn(&str) -> String) -> Self {
        let each = |texts: &mut [&mut String]| texts.iter_mut().for_each(|text| **text = change(text));
        match &mut self {
            Self::Refused(Refused { reason, host, .. }) => each(&mut [reason, host]),
            Self::Unreachable { reason, .. }
            | Self::Tls { reason, .. }
            | Self::Credentials { reason, .. }
            | Self::Settings { reason, .. } => each(&mut [reason]),
            Self::Stalled { url, .. } | Self::Slow { url, .. } => each(&mut [url]),
            Self::Protocol { url, reason, .. } => each(&mut [url, reason]),
            Self::Redirect { from, reason } => each(&mut [from, reason]),
            Self::Mismatch { what, host, source } => {
                let text = source.to_string();
                if change(&text) != text {
                    **source = ContentMismatch::Unshown;
                }
                each(&mut [what, host]);
            }
            Self::Document { what, host, reason } => each(&mut [what, host, reason]),
            Self::TooLarge { what, host, .. } => each(&mut [what, host]),
            Self::NoPlatform { available, .. } => {
                for platform in available {
                    *platform = change(platform);
                }
            }
            Self::Layout { .. } | Self::NotInBundle { .. } | Self::Stopped => {}
        }
        self
    }
}
