//! A command line that clap refuses, for people and for machines.
//!
//! `--json` may stand anywhere on such a line, and nothing of the line is understood yet: so the
//! words themselves are looked at.

use std::ffi::OsString;

use anstream::adapter::strip_str;
use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::exit::Exit;
use crate::{json, mistyped, streams};

/// The words of a command line, as far as they matter where it is wrong.
struct Words {
    json: bool,
    /// The command prints events.
    events: bool,
}

impl Words {
    fn of(arguments: &[OsString]) -> Self {
        let options = || arguments.iter().skip(1).take_while(|word| *word != "--");
        let has = |option: &str| options().any(|word| word == option);
        let program = Cli::command();
        let is_command = |word: &&OsString| program.find_subcommand(word).is_some();
        let command = options().find(is_command).and_then(|word| word.to_str());
        let events = match command {
            Some("apply") => !has("--dry-run"),
            Some("watch" | "pull") => true,
            _ => false,
        };
        let is_json = |word: &OsString| word.to_str().is_some_and(|word| word.starts_with("--json="));
        Self { json: has("--json") || options().any(is_json), events }
    }
}

/// Prints why `arguments` are no command line of msb-sync; also what was asked for instead of a
/// command: help, or the version.
pub(crate) fn explain(error: &clap::Error, arguments: &[OsString]) -> Exit {
    let words: Vec<&str> = arguments.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let amended = mistyped::hint(error, &words).map(|hint| mistyped::amended(error, &hint));
    let error = amended.as_ref().unwrap_or(error);
    if !error.use_stderr() {
        // A closed standard output is no reason for another exit code.
        let _ = error.print();
        return Exit::Done;
    }
    streams::tell_styled(&with_hints(&error.render().ansi().to_string()));
    let words = Words::of(arguments);
    if words.json {
        let (message, hint) = message_and_hint(error, arguments);
        let document = json::misuse(&message, Some(&hint));
        if words.events {
            json::print_failure(document);
        } else {
            streams::print(&format!("{document:#}\n"));
        }
    }
    Exit::Usage
}

/// The text of clap, where a tip is called a hint as everywhere else.
fn with_hints(text: &str) -> String {
    let hinted = |line: &str| {
        let is_tip = strip_str(line).to_string().trim_start().starts_with("tip:");
        if is_tip { line.replacen("tip:", "hint:", 1) } else { line.to_owned() }
    };
    text.split_inclusive('\n').map(hinted).collect()
}

/// The message of clap's text in one line, and its tips; without one, where help is to be had.
fn message_and_hint(error: &clap::Error, arguments: &[OsString]) -> (String, String) {
    let help = || {
        let program = Cli::command();
        let command = arguments.iter().skip(1).find_map(|word| program.find_subcommand(word));
        let name = command.map(|command| format!(" {}", command.get_name())).unwrap_or_default();
        format!("see msb-sync{name} --help")
    };
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return ("no command is given".to_owned(), help());
    }
    let text = error.render().to_string();
    let message: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let tips: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    (message, if tips.is_empty() { help() } else { tips.join("; ") })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn json_is_found_anywhere_but_behind_the_end_of_options() {
        for (line, json, events) in [
            ("msb-sync --json aply", true, false),
            ("msb-sync apply --nonsense --json", true, true),
            ("msb-sync apply --dry-run --nonsense --json", true, false),
            ("msb-sync --jsn watch", false, true),
            ("msb-sync --json=yes pull", true, true),
            ("msb-sync list -- --json", false, false),
        ] {
            let words = Words::of(&arguments(line));
            assert_eq!((words.json, words.events), (json, events), "{line}");
        }
    }

    #[test]
    fn a_wrong_line_is_one_message_and_a_hint() {
        for (line, message, hint) in [
            ("msb-sync", "no command is given", "see msb-sync --help"),
            (
                "msb-sync inspect",
                "the following required arguments were not provided: <REF>",
                "see msb-sync inspect --help",
            ),
            (
                "msb-sync plan --offlin",
                "unexpected argument '--offlin' found",
                "a similar argument exists: '--offline'",
            ),
        ] {
            let error = Cli::try_parse_from(arguments(line)).unwrap_err();
            let expected = (message.to_owned(), hint.to_owned());
            assert_eq!(message_and_hint(&error, &arguments(line)), expected, "{line}");
        }
    }

    #[test]
    fn a_tip_is_called_a_hint() {
        let error = Cli::try_parse_from(arguments("msb-sync plan --offlin tip:")).unwrap_err();
        let shown = with_hints(&error.render().ansi().to_string());
        let plain = strip_str(&shown).to_string();
        assert!(plain.contains("\n  hint: a similar argument exists: '--offline'\n"), "{plain}");
        assert!(!plain.contains("tip:") && shown.len() > plain.len(), "{plain}");
    }
}
