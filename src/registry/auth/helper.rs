//! Credential helpers: programs that keep logins, asked by Docker's protocol.

use std::io::{Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::credential::Credential;
use crate::error::RegistryError;
use crate::registry::transport::{Network, Secret, named_secrets, printable};
use crate::threads;

/// The time that a credential helper gets; some ask the user.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// The longest output of a helper that is read, in bytes.
const MAX_HELPER_OUTPUT: u64 = 1 << 20;

/// Asks `docker-credential-<helper>` for `key`, by [Docker's protocol]; `None` where it has
/// nothing, or fails.
///
/// [Docker's protocol]: https://docs.docker.com/reference/cli/docker/login/#credential-helpers
pub(super) fn run_helper(
    network: &Network,
    helper: &str,
    key: &str,
) -> Result<Option<Credential>, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let warn = |reason: &str| {
        let reason = printable(reason, 200);
        network.warn(format!("credential helper {} failed for {key}: {reason}", printable(&program, 100)));
        Ok(None)
    };
    if helper.contains(['/', '\\', '\0']) {
        return warn("its name is a path");
    }
    let child = Command::new(&program)
        .arg("get")
        // Also what decides where the program is looked for.
        .env_clear()
        .envs(network.environment.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => return warn(&format!("cannot start it: {error}")),
    };
    let (success, output) = match converse(network, child, key) {
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
            // The values that the helper calls secret are the only ones known to be.
            for secret in named_secrets(&output) {
                network.veil.add(&secret);
            }
            let words = output.lines().map(str::trim).find(|line| !line.is_empty());
            warn(&network.heard(words.unwrap_or("it says nothing")))
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

/// Ends the helper alone: it is of our process group and keeps our terminal, where some ask the
/// user.
fn end(child: &mut Child) {
    // It may have ended just now; nothing else can go wrong.
    let _ = child.kill();
    let _ = child.wait();
}

/// Tells whether the helper succeeded, and what it printed.
fn converse(network: &Network, mut child: Child, key: &str) -> Result<(bool, String), HelperError> {
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let key = key.to_owned();
    // Pipes block, so a thread holds them while this one watches the clock.
    let talk = threads::start("helper", move || {
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
            end(&mut child);
            return Err(HelperError::Io(error));
        }
    };
    let deadline = Instant::now() + HELPER_TIME;
    let mut wait = Duration::from_millis(2);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => {
                end(&mut child);
                return Err(HelperError::Io(error));
            }
        }
        let stopped = !network.cancel.sleep(wait);
        if stopped || Instant::now() > deadline {
            end(&mut child);
            return Err(if stopped { HelperError::Stopped } else { HelperError::Slow });
        }
        wait = (wait * 2).min(Duration::from_millis(50));
    };
    // A grandchild that keeps the pipe open must not hold the run up.
    while !pipes.is_finished() {
        if Instant::now() > deadline {
            return Err(HelperError::Slow);
        }
        if !network.cancel.sleep(Duration::from_millis(2)) {
            return Err(HelperError::Stopped);
        }
    }
    match pipes.join() {
        Ok(Ok(output)) => Ok((status.success(), String::from_utf8_lossy(&output).into_owned())),
        Ok(Err(error)) => Err(HelperError::Io(error)),
        Err(_) => Err(HelperError::Io(std::io::Error::other("its pipes broke"))),
    }
}
