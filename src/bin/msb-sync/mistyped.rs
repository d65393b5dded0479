//! Hints for command lines that other programs would take: what a thing is called here.
//!
//! clap suggests words that are spelt alike, which for `rm` or `--upgrade` leads astray. A hint
//! names commands that there are.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;

/// Words of other programs, and what to write instead; the first of a line's commands that there
/// is counts.
const COMMANDS: &[(&[&str], &[&str])] = &[
    (&["status", "st", "check"], &["plan"]),
    (&["diff", "changes", "dry-run", "preview"], &["plan"]),
    (&["gc", "clean", "cleanup", "purge", "autoremove"], &["prune"]),
    (&["images", "image", "ls", "ps", "show-all"], &["list"]),
    (&["sync", "up", "install", "ensure", "converge", "reconcile", "run", "start"], &["apply"]),
    (&["update", "refresh"], &["apply"]),
    (&["upgrade", "bump"], &["lock --upgrade"]),
    (&["freeze", "pin", "resolve", "compile"], &["lock"]),
    (&["rm", "rmi", "delete", "del", "uninstall", "untag"], &["forget"]),
    (&["fetch", "get", "download", "copy", "load"], &["pull"]),
    (&["save", "bundle", "dump"], &["export"]),
    (&["import", "restore"], &["apply --from BUNDLE"]),
    (&["show", "info", "describe", "cat"], &["inspect"]),
    (&["fsck", "repair", "validate", "audit"], &["verify"]),
    (&["daemon", "serve", "server", "follow", "monitor"], &["watch"]),
    (&["new", "create", "generate"], &["init"]),
    (&["tags", "newer"], &["outdated"]),
    (&["du", "usage", "size"], &["df"]),
    (&["log"], &["history"]),
    (&["undo", "revert"], &["rollback"]),
    (&["completion"], &["completions"]),
    (&["version"], &["--version"]),
];

/// The deeds of the most frequent of these commands, as far as the name does not say them.
const NOTES: &[(&str, &str)] = &[
    ("apply", "makes the machine match the images file, moved tags included"),
    ("plan", "shows what is not as the images file says"),
    ("lock --upgrade", "moves locked tags; without a lockfile, apply follows them"),
    ("forget", "forgets recorded images; `msb-sync remove` takes them out of the images file"),
    ("prune", "removes what the images file no longer wants, and layers nobody needs"),
];

/// Options of other commands or programs, each with the command it was given to (empty: any).
const OPTIONS: &[(&str, &str, &str)] = &[
    ("apply", "--upgrade", "locked tags move with: msb-sync lock --upgrade; then apply"),
    ("watch", "--upgrade", "locked tags move with: msb-sync lock --upgrade"),
    ("plan", "--upgrade", "what would move is shown by: msb-sync lock --upgrade --check"),
    ("lock", "--update", "locked tags move with: msb-sync lock --upgrade"),
    ("", "--update", "locked tags move with: msb-sync lock --upgrade"),
    ("", "--file", "FILE is given without an option, as in: msb-sync apply images.toml"),
    ("", "-f", "FILE is given without an option, as in: msb-sync apply images.toml"),
    ("", "--force", "nothing needs force; what is refused says why"),
    ("", "--yes", "nothing asks: `plan` shows what would be done"),
    ("", "-y", "nothing asks: `plan` shows what would be done"),
    (
        "",
        "--parallel",
        "`downloads` under [settings] says how many blobs are fetched at once, and -j how many threads write",
    ),
    ("", "--frozen", "what fails unless the lockfile covers the images file is: --locked"),
    ("", "--all", "without names, a command is about all"),
];

/// The next step after a mistake in the command line, where words of other programs were used.
/// `arguments` are those of the process.
pub(crate) fn hint(error: &clap::Error, arguments: &[&str]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => command_hint(text(ContextKind::InvalidSubcommand)?, &known()),
        ErrorKind::UnknownArgument => {
            let (given, known) = (text(ContextKind::InvalidArg)?, known());
            let is_command = |word: &&&str| known.iter().any(|known| known == **word);
            let command = arguments.iter().find(is_command).copied().unwrap_or_default();
            option_hint(command, given.split(['=', ' ']).next()?)
        }
        _ => None,
    }
}

/// The names of all commands.
fn known() -> Vec<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

fn command_hint(given: &str, known: &[String]) -> Option<String> {
    let given = given.to_lowercase();
    let (_, instead) = COMMANDS.iter().find(|(words, _)| words.contains(&given.as_str()))?;
    let is_known = |command: &&&str| {
        let name = command.split(' ').next().unwrap_or_default();
        name.starts_with('-') || known.iter().any(|known| known == name)
    };
    let command = instead.iter().find(is_known)?;
    let note = NOTES.iter().find(|(name, _)| name == command).map(|(_, note)| format!(" ({note})"));
    Some(format!("that is called here: msb-sync {command}{}", note.unwrap_or_default()))
}

fn option_hint(command: &str, given: &str) -> Option<String> {
    let fits = |(of, option, _): &&(&str, &str, &str)| *option == given && (of.is_empty() || *of == command);
    OPTIONS.iter().find(fits).map(|(.., hint)| (*hint).to_owned())
}

/// The same error with `hint` in the place of clap's own suggestions: they are words that are spelt
/// alike, and the usage of those.
pub(crate) fn amended(error: &clap::Error, hint: &str) -> clap::Error {
    let mut amended = clap::Error::new(error.kind()).with_cmd(&Cli::command());
    for kind in [ContextKind::InvalidSubcommand, ContextKind::InvalidArg] {
        if let Some(value) = error.get(kind) {
            amended.insert(kind, value.clone());
        }
    }
    amended.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.to_owned().into()]));
    amended
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn hint_for(line: &str) -> Option<String> {
        let arguments: Vec<&str> = line.split(' ').collect();
        let error = Cli::try_parse_from(&arguments).unwrap_err();
        hint(&error, &arguments[1..])
    }

    #[test]
    fn what_is_called_otherwise_here_is_named() {
        for (line, expected) in [
            ("msb-sync status", "msb-sync plan"),
            ("msb-sync gc", "msb-sync prune"),
            ("msb-sync images", "msb-sync list"),
            ("msb-sync sync images.toml", "msb-sync apply"),
            ("msb-sync update", "msb-sync apply"),
            ("msb-sync rm alpine", "msb-sync forget"),
            ("msb-sync --home x ls -q", "msb-sync list"),
            ("msb-sync apply --upgrade", "msb-sync lock --upgrade"),
            ("msb-sync -v apply --upgrade=alpine x.toml", "msb-sync lock --upgrade"),
            ("msb-sync apply --file x.toml", "without an option"),
        ] {
            let hint = hint_for(line).unwrap_or_default();
            assert!(hint.contains(expected), "{line}: {hint:?}");
        }
        assert_eq!(hint_for("msb-sync aply"), None, "clap knows better");
    }

    #[test]
    fn every_hint_names_a_command_that_there_may_be() {
        let known = known();
        for (words, instead) in COMMANDS {
            for word in *words {
                let hint = command_hint(word, &known);
                assert!(hint.is_none_or(|hint| hint.contains(instead[0])), "{word}");
            }
        }
        assert!(COMMANDS.iter().filter(|(words, _)| command_hint(words[0], &known).is_some()).count() > 15);
    }

    #[test]
    fn guesses_are_replaced() {
        let error = Cli::try_parse_from(["msb-sync", "rmi", "x"]).unwrap_err();
        let text = amended(&error, "that is called here: msb-sync forget").to_string();
        assert!(text.starts_with("error: unrecognized subcommand 'rmi'\n"), "{text}");
        assert!(
            text.contains("tip: that is called here: msb-sync forget\n") && !text.contains("similar"),
            "{text}"
        );
        let error = Cli::try_parse_from(["msb-sync", "apply", "--upgrade"]).unwrap_err();
        let text = amended(&error, "lock --upgrade").to_string();
        assert!(text.starts_with("error: unexpected argument '--upgrade' found\n"), "{text}");
        assert!(text.contains("tip: lock --upgrade\n") && !text.contains("--prune"), "{text}");
    }
}
