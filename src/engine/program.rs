//! The program of one engine: where it is found, what it gets of the environment, how long it may
//! take, and what its end means.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::pieces::{Form, Pieces};
use super::temporary::Temporary;
use crate::cancel::Cancel;
use crate::child::shown;
use crate::child::{self, Ended, How, Input, Rules};
use crate::error::EngineError;
use crate::progress::{Event, Reporter};
use crate::state::EngineSettings;

/// The bytes of a listing that are read: 20,000 images have about 20 MB.
const MAX_LISTING: usize = 32 << 20;
/// The bytes of the output of any other command, which are in memory at once.
const MAX_OUTPUT: usize = 4 << 20;

/// The variables that programs get, if they are set. Each is named in full: one that only begins as
/// these do may well be what an images file names as a password.
const HARMLESS: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NUMERIC",
    "LC_TIME",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
    "XDG_DATA_DIRS",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "MSB_HOME",
    "CONTAINERD_ADDRESS",
    "CONTAINERD_NAMESPACE",
    "CONTAINERD_SNAPSHOTTER",
    "CONTAINER_CONNECTION",
    "CONTAINER_HOST",
    "CONTAINERS_CONF",
    "CONTAINERS_CONF_OVERRIDE",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_STORAGE_CONF",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    // By these a rootless podman knows that it runs in its own user namespace.
    "_CONTAINERS_ROOTLESS_GID",
    "_CONTAINERS_ROOTLESS_UID",
    "_CONTAINERS_USERNS_CONFIGURED",
];

/// The variable that names the socket of the user's ssh agent: engines that are reached by `ssh://`
/// ask the agent, which gives no key away.
pub(super) const SSH_AGENT: &str = "SSH_AUTH_SOCK";

/// Everything that the engines of a session have in common.
pub(crate) struct Context {
    /// The environment of this process; programs get the harmless part of it.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// The directory for the programs' temporary files, in a home that is there when images are
    /// loaded, and locked.
    pub(crate) temporary: PathBuf,
    /// The switch that ends the programs.
    pub(crate) cancel: Cancel,
    /// The listener.
    pub(crate) reporter: Arc<dyn Reporter>,
}

/// The time that programs get.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// A listing, and every other short command.
    pub(super) short: Duration,
    /// A load that takes no byte and does not end.
    pub(super) load: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { short: Duration::from_secs(30), load: Duration::from_secs(600) }
    }
}

/// The context of all programs, with what they share beside it.
pub(super) struct Shared {
    context: Context,
    temporary: Temporary,
    patience: Patience,
}

impl Shared {
    pub(super) fn new(context: Context, patience: Patience) -> Self {
        let temporary = Temporary::new(context.temporary.clone());
        Self { context, temporary, patience }
    }
}

/// The program of one engine.
pub(super) struct Program {
    settings: EngineSettings,
    shared: Arc<Shared>,
    /// Variables beside the harmless ones.
    variables: BTreeMap<OsString, OsString>,
}

/// The output of a program that was successful.
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
}

impl Output {
    /// The output as text.
    pub(super) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }
}

impl Program {
    pub(super) fn new(settings: EngineSettings, shared: Arc<Shared>) -> Self {
        Self { settings, shared, variables: BTreeMap::new() }
    }

    /// Adds a variable to the program's environment.
    pub(super) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Hands a variable of this process over, if it is set, whatever its name is like.
    pub(super) fn hand_over(&mut self, name: &str) {
        if let Some(value) = self.variable(name).map(OsStr::to_owned) {
            self.set(name, value);
        }
    }

    pub(super) fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    pub(super) fn cancel(&self) -> &Cancel {
        &self.shared.context.cancel
    }

    /// The value of a variable of this process.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.shared.context.environment.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }

    /// Runs a short command to its end.
    ///
    /// # Errors
    /// The program fails, or writes more than anybody reads.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Output, EngineError> {
        let mut stdout = Vec::new();
        let mut keep = |bytes: &[u8]| stdout.extend_from_slice(bytes);
        self.run_into(arguments, MAX_OUTPUT, &mut keep)?;
        Ok(Output { stdout })
    }

    /// Runs a command that lists things, and hands each of them to `take` as it arrives.
    ///
    /// # Errors
    /// The program fails, or its listing is too long, of another form, or not as `take` wants it.
    pub(super) fn list(
        &self,
        arguments: &[&str],
        form: Form,
        take: &mut (dyn FnMut(&[u8]) -> Result<(), String> + Send),
    ) -> Result<(), EngineError> {
        let mut pieces = Pieces::new(form, take);
        self.run_into(arguments, MAX_LISTING, &mut |bytes| pieces.add(bytes))?;
        pieces.finish().map_err(|reason| self.unreadable(self.doing(arguments), &reason))
    }

    fn run_into(
        &self,
        arguments: &[&str],
        most: usize,
        output: child::Output<'_>,
    ) -> Result<(), EngineError> {
        let patience = self.shared.patience.short;
        let line = |line: &str| self.tell(line);
        let cancel = &self.shared.context.cancel;
        let rules = Rules { cancel, patience, limit: None, output: Some(most), line: &line };
        let ended = child::run(self.command(arguments, None), &rules, output);
        self.end(arguments, ended, patience, most)
    }

    /// Makes the error for output that cannot be read.
    pub(super) fn unreadable(&self, doing: String, reason: &str) -> EngineError {
        EngineError::Unreadable { engine: self.settings.name.as_str(), doing, reason: shown(reason) }
    }

    /// Runs a command that reads what `archive` writes.
    ///
    /// # Errors
    /// The program fails, or the archive does.
    pub(super) fn feed(&self, arguments: &[&str], archive: Input<'_>) -> Result<(), EngineError> {
        let patience = self.shared.patience.load;
        let line = |line: &str| self.tell(line);
        let cancel = &self.shared.context.cancel;
        let rules = Rules { cancel, patience, limit: None, output: None, line: &line };
        let temporary = self.shared.temporary.enter().map_err(|error| EngineError::Failed {
            engine: self.settings.name.as_str(),
            doing: self.doing(arguments),
            status: "its directory for temporary files cannot be made".to_owned(),
            words: shown(&format!("{}: {error}", self.shared.context.temporary.display())),
        })?;
        let ended =
            child::feed(self.command(arguments, Some(temporary.path())), &rules, archive, &mut |_| {});
        self.end(arguments, ended, patience, 0)
    }

    fn tell(&self, line: &str) {
        let name = self.settings.name;
        self.shared.context.reporter.report(Event::Detail(format!("{name}: {line}")));
    }

    /// Prepares the start of the program; the `PATH` that it gets is the one that it is looked up
    /// on.
    fn command(&self, arguments: &[&str], temporary: Option<&Path>) -> Command {
        let mut command = Command::new(&self.settings.command);
        let harmless = self.shared.context.environment.iter().filter(|(name, _)| is_harmless(name));
        command.args(arguments).env_clear().envs(harmless).envs(&self.variables);
        if let Some(temporary) = temporary {
            command.env("TMPDIR", temporary);
        }
        command
    }

    /// Tells what the end of a child means.
    fn end(
        &self,
        arguments: &[&str],
        ended: std::io::Result<Ended>,
        patience: Duration,
        most: usize,
    ) -> Result<(), EngineError> {
        let engine = self.settings.name.as_str();
        let Ended { how, words } = ended.map_err(|source| EngineError::NotRun {
            engine,
            command: shown(&self.settings.command),
            source,
        })?;
        let doing = self.doing(arguments);
        let failed = |doing, status: String, words| Err(EngineError::Failed { engine, doing, status, words });
        match how {
            How::Exited(status) if status.success() => Ok(()),
            How::TookPart(status) if status.success() => {
                failed(doing, "it has not read all of the archive".to_owned(), words)
            }
            How::Exited(status) | How::TookPart(status) => failed(doing, status.to_string(), words),
            How::Stopped => Err(EngineError::Stopped { engine, doing }),
            How::Abandoned(error) => {
                failed(doing, "its archive is not complete".to_owned(), shown(&error.to_string()))
            }
            How::Hung => Err(EngineError::Hung { engine, doing, seconds: patience.as_secs() }),
            How::Flooded => Err(self.unreadable(doing, &format!("more than {} MiB", most >> 20))),
        }
    }

    /// The subcommand as people type it, without options and what belongs to them.
    pub(super) fn doing(&self, arguments: &[&str]) -> String {
        let program = self.settings.command.rsplit('/').next().unwrap_or_default();
        let subcommands = ["images", "image", "import", "ls", "rm", "check", "load", "info", "rmi", "ps"];
        let more = ["containers", "--version"];
        let words = arguments.iter().filter(|word| subcommands.contains(word) || more.contains(word));
        shown(&[program].iter().chain(words).copied().collect::<Vec<_>>().join(" "))
    }
}

/// True if a program may get the variable `name`.
fn is_harmless(name: &OsStr) -> bool {
    HARMLESS.iter().any(|known| name == *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_harmless() {
        for name in [
            "PATH",
            "HOME",
            "LC_ALL",
            "XDG_RUNTIME_DIR",
            "CONTAINER_HOST",
            "CONTAINERS_CONF",
            "STORAGE_DRIVER",
        ] {
            assert!(is_harmless(OsStr::new(name)), "{name}");
        }
        for name in [
            "GITHUB_TOKEN",
            "HTTPS_PROXY",
            "https_proxy",
            "CONTAINER_PASSPHRASE",
            "CONTAINERS_REGISTRY_PASSWORD",
            "CONTAINER_REG_PW",
            "XDG_SPW",
            "STORAGE_PW",
            "LC_PW",
            "_CONTAINERS_PW",
            "MSB_API_KEY",
            "DOCKER_AUTH_CONFIG",
            "REGISTRY_AUTH_FILE",
            "LD_PRELOAD",
            "PATHS",
        ] {
            assert!(!is_harmless(OsStr::new(name)), "{name}");
        }
    }
}
