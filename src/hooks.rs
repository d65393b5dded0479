//! Hooks: the programs of `[[on-change]]`, each told of the changes that it is about.
//!
//! A hook gets a line of JSON a change on stdin, which it need not read, and the environment of
//! this process without the passwords of registries. What it writes, to stdout and to stderr, is
//! told line by line, bounded and escaped. It has no terminal, ends with this process, and is ended
//! with all that it has started when its time is over. When it is run, and how often, is not
//! decided here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::cancel::Cancel;
use crate::child::{self, Ended, How, Lines, Rules, shown};
use crate::error::HookError;
use crate::progress::{Event, Reporter};
use crate::state::{Hook, HookEvent};

/// Variables that are about this process alone: systemd would take a hook that has them for it.
const OWN: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// The surroundings of all hooks of a run.
pub(crate) struct Surroundings<'a> {
    /// The environment, without secrets.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// The switch that ends hooks.
    pub(crate) cancel: &'a Cancel,
    /// The listener to what hooks write.
    pub(crate) reporter: &'a dyn Reporter,
}

/// Runs `hook`, and tells it of `events`.
///
/// # Errors
/// The hook cannot be run, fails, is too slow, or is stopped with the run.
pub(crate) fn run(hook: &Hook, events: &[HookEvent], around: &Surroundings<'_>) -> Result<(), HookError> {
    let program = Path::new(hook.program()).file_name().unwrap_or_default().to_string_lossy();
    let program = shown(&program);
    let tell = |line: &str| {
        around.reporter.report(Event::HookOutput { program: program.clone(), line: line.to_owned() });
    };
    let rules = Rules {
        cancel: around.cancel,
        patience: hook.timeout,
        limit: Some(hook.timeout),
        output: None,
        line: &tell,
    };
    let mut input = |writer: &mut dyn std::io::Write| {
        events.iter().try_for_each(|event| writeln!(writer, "{}", line(event)))
    };
    let mut lines = Lines::new(&tell);
    let ended = child::feed(command(hook, around), &rules, &mut input, &mut |bytes| lines.take(bytes));
    // A last line without its end is told too.
    lines.last_words();
    end(hook, ended)
}

/// Prepares the start of the program; the `PATH` that it gets is the one that it is looked up on.
fn command(hook: &Hook, around: &Surroundings<'_>) -> Command {
    let mut command = Command::new(hook.program());
    command.args(hook.run.iter().skip(1)).current_dir(&hook.directory).env_clear();
    let own = |name: &OsString| OWN.iter().any(|own| name == own);
    command.envs(around.environment.iter().filter(|(name, _)| !own(name)));
    command
}

/// Tells what the end of the program means. What it has not read is its own affair.
fn end(hook: &Hook, ended: std::io::Result<Ended>) -> Result<(), HookError> {
    let (rule, program) = (hook.place.clone(), shown(hook.program()));
    let Ended { how, words } = match ended {
        Ok(ended) => ended,
        Err(source) => return Err(HookError::NotRun { rule, program, source }),
    };
    match how {
        How::Exited(status) | How::TookPart(status) if status.success() => Ok(()),
        How::Exited(status) | How::TookPart(status) => {
            let exit_code = status.code();
            Err(HookError::Failed { rule, program, status: status.to_string(), exit_code, words })
        }
        How::Stopped => Err(HookError::Stopped { rule, program }),
        How::Hung | How::Flooded => {
            Err(HookError::TooSlow { rule, program, seconds: hook.timeout.as_secs(), words })
        }
        How::Abandoned(error) => Err(HookError::Failed {
            rule,
            program,
            status: shown(&error.to_string()),
            exit_code: None,
            words,
        }),
    }
}

/// A change as hooks read it: what the event of `apply --json` says of the image.
fn line(event: &HookEvent) -> serde_json::Value {
    json!({
        "version": 1,
        "time": event.time,
        "event": "image",
        "reference": event.reference.to_string(),
        "platform": event.platform,
        "action": event.action,
        "status": "done",
        "digest": event.digest,
        "previous": event.previous,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::digest::{Algorithm, BlobDigest};
    use crate::image_ref::ImageRef;
    use crate::progress::Action;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Reporter for Heard {
        fn report(&self, event: Event) {
            if let Event::HookOutput { program, line } = event {
                self.0.lock().unwrap().push(format!("{program}: {line}"));
            }
        }
    }

    fn hook(script: &str, timeout: Duration) -> Hook {
        Hook {
            images: vec!["*".to_owned()],
            actions: BTreeSet::from([Action::Add]),
            run: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
            directory: std::env::temp_dir(),
            place: "images.toml:3".to_owned(),
        }
    }

    fn events(count: usize) -> Vec<HookEvent> {
        let event = |number: usize| HookEvent {
            time: "2026-11-29T09:30:02.417Z".to_owned(),
            reference: ImageRef::parse(&format!("r.io/team/app:{number}"), "docker.io").unwrap(),
            platform: Some("linux/amd64".to_owned()),
            action: Action::Add,
            digest: Some(BlobDigest::of(Algorithm::Sha256, b"x")),
            previous: None,
        };
        (0..count).map(event).collect()
    }

    fn run_with(hook: &Hook, count: usize, cancel: &Cancel) -> (Result<(), HookError>, Vec<String>) {
        let heard = Heard::default();
        let variables = ["PATH", "NOTIFY_SOCKET"]
            .map(|name| (OsString::from(name), std::env::var_os(name).unwrap_or_else(|| "/run/x".into())));
        let around = Surroundings { environment: variables.into(), cancel, reporter: &heard };
        let result = run(hook, &events(count), &around);
        (result, heard.0.into_inner().unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_hook_reads_a_line_a_change_and_both_its_outputs_are_told() {
        let script = "cat; printf 'x\\033[2J' >&2; env | cut -d = -f 1 | grep NOTIFY; exit 0";
        let (result, heard) = run_with(&hook(script, LONG), 2, &Cancel::new());
        result.unwrap();
        let json = |number: usize| {
            format!(
                "sh: {{\"action\":\"add\",\"digest\":\"{}\",\"event\":\"image\",\"platform\":\"linux/amd64\",\
                 \"previous\":null,\"reference\":\"r.io/team/app:{number}\",\"status\":\"done\",\
                 \"time\":\"2026-11-29T09:30:02.417Z\",\"version\":1}}",
                BlobDigest::of(Algorithm::Sha256, b"x")
            )
        };
        let mut expected = vec![json(0), json(1), "sh: x\\u{1b}[2J".to_owned()];
        let mut heard = heard;
        heard.sort();
        expected.sort();
        assert_eq!(heard, expected);
    }

    #[test]
    fn a_hook_need_not_read_and_may_flood() {
        let (result, _) = run_with(&hook("exit 0", LONG), 20_000, &Cancel::new());
        result.unwrap();
        let (result, heard) = run_with(&hook("yes | head -c 20000000", LONG), 1, &Cancel::new());
        result.unwrap();
        assert_eq!(heard.len(), 501);
    }

    #[test]
    fn the_end_of_a_hook_is_told_with_its_last_words() {
        let (result, _) = run_with(&hook("echo nope >&2; exit 7", LONG), 1, &Cancel::new());
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "hook images.toml:3: sh failed: exit status: 7: nope");
        assert_eq!((error.exit_code(), error.is_final()), (Some(7), true));

        let (result, _) = run_with(&hook("kill -9 $$", LONG), 1, &Cancel::new());
        assert_eq!(result.unwrap_err().exit_code(), None);

        let nowhere = Hook { run: vec!["/nowhere/at/all".to_owned()], ..hook("", LONG) };
        let error = run_with(&nowhere, 1, &Cancel::new()).0.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("hook images.toml:3: cannot run /nowhere/at/all: "), "{text}");
        assert!(!error.is_final());
    }

    #[test]
    fn a_slow_hook_is_ended_with_all_that_it_started_however_much_it_writes_and_reads() {
        for script in
            ["sleep 600 & sleep 600", "while :; do echo x; done", "while read -r line; do sleep 600; done"]
        {
            let (result, _) = run_with(&hook(script, Duration::from_millis(200)), 20_000, &Cancel::new());
            assert!(matches!(result, Err(HookError::TooSlow { .. })), "{script}: {result:?}");
        }
        let cancel = Cancel::new();
        cancel.cancel();
        let (result, _) = run_with(&hook("sleep 600", LONG), 1, &cancel);
        assert!(matches!(result, Err(HookError::Stopped { .. })), "{result:?}");
    }
}
