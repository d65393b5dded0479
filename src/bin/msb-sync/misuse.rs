//! A command line that clap refuses, for people and for machines.
//!
//! `--json` may stand anywhere on such a line, and nothing of the line is understood yet: so the
//! words themselves are looked at.

use std::ffi::{OsStr, OsString};

use anstream::adapter::strip_str;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser as _, ValueEnum as _};
use msb_sync::error::without_secrets;

use crate::args::{Cli, Printed, When};
use crate::exit::Exit;
use crate::text::printable;
use crate::{json, mistyped, streams};

/// The words of a command line, as far as they matter where it is wrong.
struct Words {
    json: bool,
    /// The form of the command's result with `--json`.
    printed: Printed,
    color: When,
}

impl Words {
    fn of(arguments: &[OsString]) -> Self {
        let options = || arguments.iter().skip(1).take_while(|word| *word != "--");
        let has = |option: &str| options().any(|word| word == option);
        let program = Cli::command();
        let is_command = |word: &&OsString| program.find_subcommand(word).is_some();
        let command = options().find(is_command).and_then(|word| word.to_str());
        let printed = match command {
            Some("apply") if !has("--dry-run") => Printed::Events,
            Some("rollback") if !has("--release") => Printed::Events,
            Some("watch" | "pull") => Printed::Events,
            Some("export")
                if ["--output=-", "-o-", "-o=-"].into_iter().any(has)
                    || ["--output", "-o"].iter().any(|name| value_of(arguments, name) == Some("-")) =>
            {
                Printed::Bundle
            }
            _ => Printed::Document,
        };
        let is_json = |word: &OsString| word.to_str().is_some_and(|word| word.starts_with("--json="));
        let color = options().filter_map(|word| word.to_str()?.strip_prefix("--color="));
        let color = color.last().or_else(|| value_of(arguments, "--color"));
        let color = color.and_then(|word| When::from_str(word, false).ok()).unwrap_or(When::Auto);
        Self { json: has("--json") || options().any(is_json), printed, color }
    }
}

/// The word that follows `option`, which counts wherever it stands before the end of options.
fn value_of<'a>(arguments: &'a [OsString], option: &str) -> Option<&'a str> {
    let mut words = arguments.iter().skip(1).take_while(|word| *word != "--");
    words.find(|word| *word == option)?;
    words.next()?.to_str()
}

/// The word of a command line as it may be shown: no control character, no password, no query.
fn shown(word: &OsStr) -> OsString {
    let shown = |text: &str| printable(&without_secrets(text), false);
    match word.to_str() {
        Some(text) => shown(text).into(),
        // Bytes that are no text stay so, unless there is something to hide or to escape.
        None => match word.to_string_lossy() {
            text if shown(&text) == text => word.to_owned(),
            text => shown(&text).into(),
        },
    }
}

/// The same error of the words as they may be shown; clap repeats them as they are.
fn harmless(error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let words: Vec<OsString> = arguments.iter().map(|word| shown(word)).collect();
    if words == arguments {
        return error;
    }
    match Cli::try_parse_from(words) {
        Err(error) => error,
        Ok(_) => Cli::command().error(error.kind(), "a word of the command line cannot be read"),
    }
}

/// Prints why `arguments` are no command line of msb-sync; also what was asked for instead of a
/// command: help, or the version.
pub(crate) fn explain(error: clap::Error, arguments: &[OsString]) -> Exit {
    let words = Words::of(arguments);
    streams::color(words.color);
    if !error.use_stderr() {
        // A closed standard output is no reason for another exit code.
        streams::print(&error.render().ansi().to_string());
        return Exit::Done;
    }
    let error = harmless(error, arguments);
    let given: Vec<&str> = arguments.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let amended = mistyped::hint(&error, &given).map(|hint| mistyped::amended(&error, &hint));
    let error = amended.as_ref().unwrap_or(&error);
    streams::tell(with_hints(&error.render().ansi().to_string()).trim_end_matches('\n'));
    if words.json {
        let (message, hint) = message_and_hint(error, arguments);
        let document = json::misuse(&message, Some(&hint));
        match words.printed {
            Printed::Events => json::print_failure(document),
            Printed::Document => streams::print(&format!("{document:#}\n")),
            Printed::Bundle => {}
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
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    ) {
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
        for (line, json, printed) in [
            ("msb-sync --json aply", true, Printed::Document),
            ("msb-sync apply --nonsense --json", true, Printed::Events),
            ("msb-sync apply --dry-run --nonsense --json", true, Printed::Document),
            ("msb-sync --jsn watch", false, Printed::Events),
            ("msb-sync --json=yes pull", true, Printed::Events),
            ("msb-sync rollback --json", true, Printed::Events),
            ("msb-sync rollback --release --json", true, Printed::Document),
            ("msb-sync export --output - --json --nonsense", true, Printed::Bundle),
            ("msb-sync export -o - --json --nonsense", true, Printed::Bundle),
            ("msb-sync export --output x --json --nonsense", true, Printed::Document),
            ("msb-sync list -- --json", false, Printed::Document),
        ] {
            let words = Words::of(&arguments(line));
            assert_eq!((words.json, words.printed), (json, printed), "{line}");
        }
    }

    #[test]
    fn colours_are_as_the_line_says_even_if_it_is_wrong() {
        for (line, color) in [
            ("msb-sync aply", When::Auto),
            ("msb-sync --color never aply", When::Never),
            ("msb-sync aply --color=always", When::Always),
            ("msb-sync aply --color pink", When::Auto),
            ("msb-sync aply -- --color=always", When::Auto),
        ] {
            assert_eq!(Words::of(&arguments(line)).color, color, "{line}");
        }
    }

    #[test]
    fn words_are_shown_without_control_characters_and_without_passwords() {
        for (line, message) in [
            ("msb-sync a\u{1b}[31mpply", r"unrecognized subcommand 'a\u{1b}[31mpply'"),
            ("msb-sync plan a b\r\u{9b}\u{202e}", r"unexpected argument 'b\r\u{9b}\u{202e}' found"),
            ("msb-sync plan a https://b:hunter2@c", "unexpected argument 'https://***@c' found"),
        ] {
            let error = Cli::try_parse_from(arguments(line)).unwrap_err();
            let error = harmless(error, &arguments(line));
            assert_eq!(message_and_hint(&error, &arguments(line)).0, message, "{line:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_one_message_and_a_hint() {
        for (line, message, hint) in [
            ("msb-sync", "no command is given", "see msb-sync --help"),
            ("msb-sync --json", "no command is given", "see msb-sync --help"),
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
