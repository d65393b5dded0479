//! Completions of command lines in shells: small scripts (`completions SHELL`) that ask the program
//! itself, `msb-sync __complete SHELL -- WORD…`, what may stand in the place of the last word.
//!
//! Recorded references, groups and images files are known only then. Somebody waits for a key's
//! effect: so nothing is written, every failure is silent, and there is little time. Shells other
//! than the three get clap's own script, which knows commands and options alone.

mod line;
mod values;

use std::ffi::OsString;
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::Shell;
use msb_sync::threads;

use crate::args::Cli;
use crate::streams;
use line::{Line, Place};

/// The hidden command of the scripts.
const COMPLETE: &str = "__complete";
/// A home on a disk that hangs keeps no shell waiting for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The script for `shell`.
pub(crate) fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => include_str!("completions/msb-sync.bash").to_owned(),
        Shell::Zsh => include_str!("completions/msb-sync.zsh").to_owned(),
        Shell::Fish => include_str!("completions/msb-sync.fish").to_owned(),
        other => {
            let mut script = Vec::new();
            clap_complete::generate(other, &mut Cli::command(), "msb-sync", &mut script);
            String::from_utf8_lossy(&script).into_owned()
        }
    }
}

/// Answers a script, if one asks: `arguments` are those of the whole process.
pub(crate) fn answered(arguments: &[OsString]) -> bool {
    let [_, command, shell, escape, words @ ..] = arguments else { return false };
    if command != COMPLETE || escape != "--" {
        return false;
    }
    // Without a thread to spare, there is no limit.
    let _ = threads::start("patience", || {
        std::thread::sleep(PATIENCE);
        std::process::exit(1);
    });
    let mut text = String::new();
    for Candidate { value, help } in candidates(words) {
        // One candidate a line: what would be several lines, or more, is left out.
        if value.chars().any(char::is_control) {
            continue;
        }
        text.push_str(&value);
        if !help.is_empty() && shell != "bash" {
            text.push('\t');
            text.push_str(&help);
        }
        text.push('\n');
    }
    streams::print(&text);
    true
}

/// A word that may stand there, and what it means.
struct Candidate {
    value: String,
    help: String,
}

/// The candidates for the last of `words`. Options are offered to those who begin one, or where
/// nothing else fits.
fn candidates(words: &[OsString]) -> Vec<Candidate> {
    let mut program = Cli::command();
    program.build();
    let Some((current, before)) = words.split_last() else { return Vec::new() };
    let Some(current) = current.to_str() else { return Vec::new() };
    let line = Line::read(&program, before);
    let of_values = |argument, current: &str, front: &str| {
        let values = values::of(line.command.get_name(), argument, current, before);
        values.into_iter().map(|(value, help)| Candidate { value: format!("{front}{value}"), help }).collect()
    };
    let mut found: Vec<Candidate> = Vec::new();
    match line.place(current) {
        Place::Value { argument, front } => return of_values(argument, &current[front.len()..], front),
        Place::Option => return options(&line, current),
        Place::Word { argument, option } => {
            found.extend(commands(&line, current));
            for argument in option.into_iter().chain(argument) {
                found.extend(of_values(argument, current, ""));
            }
        }
    }
    if found.is_empty() && current.is_empty() { options(&line, "--") } else { found }
}

/// The commands that begin with `current`.
fn commands(line: &Line<'_>, current: &str) -> Vec<Candidate> {
    if !line.takes_command {
        return Vec::new();
    }
    let commands = line.command.get_subcommands().filter(|command| !command.is_hide_set());
    let fitting = commands.filter(|command| command.get_name().starts_with(current));
    let candidate = |command: &clap::Command| Candidate {
        value: command.get_name().to_owned(),
        help: first_line(command.get_about()),
    };
    fitting.map(candidate).collect()
}

/// The options that begin with `current`, by their long names; all of them have one.
fn options(line: &Line<'_>, current: &str) -> Vec<Candidate> {
    let arguments = line.command.get_arguments().filter(|argument| !argument.is_hide_set());
    let named = arguments.filter_map(|argument| Some((format!("--{}", argument.get_long()?), argument)));
    let fitting = named.filter(|(name, _)| name.starts_with(current));
    fitting.map(|(value, argument)| Candidate { value, help: first_line(argument.get_help()) }).collect()
}

fn first_line(help: Option<&clap::builder::StyledStr>) -> String {
    help.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        candidates(&words).into_iter().map(|candidate| candidate.value).collect()
    }

    #[test]
    fn commands_come_first_and_options_when_they_are_begun() {
        let commands = offered("msb-sync ");
        assert!(commands.contains(&"apply".to_owned()) && commands.contains(&"trust-root".to_owned()));
        assert!(!commands.iter().any(|word| word.starts_with('-') || word == COMPLETE), "{commands:?}");
        assert_eq!(offered("msb-sync trus"), ["trust-root"]);
        assert_eq!(offered("msb-sync plan --det"), ["--detailed-exitcode"]);
        assert_eq!(offered("msb-sync plan --color=al"), ["--color=always"]);
        assert_eq!(offered("msb-sync plan --color al"), ["always"]);
        assert_eq!(offered("msb-sync -q completions fi"), ["fish"]);
        assert_eq!(offered("msb-sync -qj 3 completions fi"), ["fish"]);
        assert_eq!(offered("msb-sync --jobs=3 completions fi"), ["fish"]);
        assert_eq!(offered("msb-sync pull --platform linux/arm6"), ["linux/arm64"]);
        assert_eq!(offered("msb-sync schema out"), ["output"]);
        assert!(offered("msb-sync init ").contains(&"--home".to_owned()));
        assert!(offered("msb-sync plan -- --det").is_empty());
        assert!(offered("msb-sync nonsense appl").is_empty());
        assert!(offered("msb-sync apply plan").is_empty());
    }
}
