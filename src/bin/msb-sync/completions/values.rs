//! The values that an argument may have, by the name that its value has in the help: what is
//! recorded and what the images file of the line lists, files, and words.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Arg;
use msb_sync::image_ref::ImageRef;
use msb_sync::sync::{self, ImagesSource, Names};

use crate::args::DEFAULT_FILE;
use crate::environment;

/// Architectures that images are often made for.
const ARCHITECTURES: [&str; 8] = ["amd64", "arm64", "arm/v7", "arm/v6", "386", "ppc64le", "riscv64", "s390x"];

/// The values of `argument` of `command` that begin with `current`, each with its meaning, behind
/// the words `before`.
pub(super) fn of(command: &str, argument: &Arg, current: &str, before: &[OsString]) -> Vec<(String, String)> {
    let names = |with_file| names(before, with_file);
    let values = match (value_name(argument).as_str(), command) {
        ("FILE", _) if argument.get_id() == "owner" => {
            let owners = names(false).owners.into_iter();
            beginning(current, owners.filter_map(|path| path.into_os_string().into_string().ok()))
        }
        ("FILE", _) => files(current, |path| has_extension(path, "toml")),
        ("OLD.lock" | "NEW.lock", _) => files(current, |path| has_extension(path, "lock")),
        ("DIR", _) => files(current, |_| false),
        ("OUT" | "BUNDLE" | "SOURCE", _) => files(current, |_| true),
        ("REF", "add") => Vec::new(),
        ("REF", "apply" | "export" | "lock" | "remove") => references(current, &names(true).listed),
        ("REF", "pull") => {
            let names = names(true);
            let groups = names.groups.iter().map(|name| format!("@{name}"));
            let mut found = references(current, names.listed.union(&names.recorded));
            found.extend(beginning(current, groups));
            found
        }
        ("DIGEST", _) => return digests(current, before),
        ("REF" | "PATTERN", _) => references(current, &names(false).recorded),
        ("NAME", _) => beginning(current, names(true).groups),
        ("PLATFORM", _) => beginning(current, ARCHITECTURES.map(|name| format!("linux/{name}"))),
        _ => return possible(argument, current),
    };
    values.into_iter().map(|value| (value, String::new())).collect()
}

/// The digests that the image among `words` meant before, the latest first, each with the day when
/// it was replaced: whole, or without `sha256:` if that is how somebody has begun.
fn digests(current: &str, words: &[OsString]) -> Vec<(String, String)> {
    let Ok(session) = environment::session(value_of(words, "--home").map(expanded)) else {
        return Vec::new();
    };
    let references = words.iter().skip(1).filter_map(|word| session.reference(word.to_str()?).ok());
    let mut histories = references.filter_map(|reference| sync::history(&session, Some(&reference)).ok());
    let Some(history) = histories.find_map(|mut found| found.pop()) else { return Vec::new() };
    let present = history.entries.first().map(|entry| entry.digest.clone());
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in history.entries {
        let Some(until) = entry.until.filter(|_| Some(&entry.digest) != present.as_ref()) else { continue };
        let digest = entry.digest.to_string();
        let form = match digest.split_once(':') {
            Some((_, hex)) if hex.starts_with(current) && !current.is_empty() => hex,
            _ => &digest,
        };
        if form.starts_with(current) && !found.iter().any(|(known, _)| known == form) {
            found.push((form.to_owned(), format!("until {}", until.strftime("%F %R"))));
        }
    }
    found
}

/// The name of an argument's value.
fn value_name(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names.first().map(ToString::to_string).unwrap_or_default()
}

/// The words that alone are possible.
fn possible(argument: &Arg, current: &str) -> Vec<(String, String)> {
    let words = argument.get_possible_values().into_iter().filter(|word| !word.is_hide_set());
    let fitting = words.filter(|word| word.get_name().starts_with(current));
    let help = |word: &clap::builder::PossibleValue| word.get_help().map(ToString::to_string);
    fitting.map(|word| (word.get_name().to_owned(), help(&word).unwrap_or_default())).collect()
}

/// The `texts` that begin with `current`.
fn beginning(current: &str, texts: impl IntoIterator<Item = String>) -> Vec<String> {
    texts.into_iter().filter(|text| text.starts_with(current)).collect()
}

/// The forms of references that begin with `current`: the full one, or the short one of Docker
/// Hub's if that is what somebody has begun to write.
fn references<'r>(current: &str, references: impl IntoIterator<Item = &'r ImageRef>) -> Vec<String> {
    let is_default = std::env::var_os("OCI_REGISTRY_DOMAIN").is_none_or(|value| value.is_empty());
    let form = |reference: &ImageRef| {
        let full = reference.to_string();
        if full.starts_with(current) {
            return Some(full);
        }
        let short = full.strip_prefix("docker.io/").filter(|_| is_default)?;
        let forms = [Some(short), short.strip_prefix("library/")];
        forms.into_iter().flatten().find(|text| text.starts_with(current)).map(str::to_owned)
    };
    references.into_iter().filter_map(form).collect()
}

/// The files that `fits` says are meant, then directories, which may lead to some.
fn files(current: &str, fits: impl Fn(&Path) -> bool) -> Vec<String> {
    let (front, begun) = current.split_at(current.rfind('/').map_or(0, |end| end + 1));
    let directory = if front.is_empty() { PathBuf::from(".") } else { expanded(OsStr::new(front)) };
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with(begun) || (name.starts_with('.') && begun.is_empty()) {
            continue;
        }
        if entry.path().is_dir() {
            directories.push(format!("{front}{name}/"));
        } else if fits(&entry.path()) {
            files.push(format!("{front}{name}"));
        }
    }
    files.sort();
    directories.sort();
    files.append(&mut directories);
    files
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|end| end == extension)
}

/// `~` and `~/…` as a shell means them, which has not seen to it yet.
fn expanded(path: &OsStr) -> PathBuf {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty());
    match (Path::new(path).strip_prefix("~"), home()) {
        (Ok(below), Some(home)) => Path::new(&home).join(below),
        _ => PathBuf::from(path),
    }
}

/// The names of the home and, if wanted, of the images file that `words` name.
fn names(words: &[OsString], with_file: bool) -> Names {
    let home = value_of(words, "--home").map(expanded);
    let Ok(session) = environment::session(home) else { return Names::default() };
    let file = with_file.then(|| ImagesSource::Path(images_file(words)));
    sync::names(&session, file.as_ref())
}

/// The images file among `words`: that of `--file`, else the first that looks like one.
fn images_file(words: &[OsString]) -> PathBuf {
    let is_file = |word: &&OsStr| has_extension(Path::new(word), "toml");
    let first = || words.iter().skip(1).map(OsString::as_os_str).find(is_file);
    value_of(words, "--file").or_else(first).map_or_else(|| PathBuf::from(DEFAULT_FILE), expanded)
}

/// The value of an option among `words`, as `--name VALUE` or `--name=VALUE`.
fn value_of<'w>(words: &'w [OsString], name: &str) -> Option<&'w OsStr> {
    let follows = words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let joined = || {
        let mut values = words.iter().filter_map(|word| word.to_str()?.strip_prefix(name)?.strip_prefix('='));
        values.next().map(OsStr::new)
    };
    follows.map(OsString::as_os_str).or_else(joined)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn every_value_has_a_source_or_none_on_purpose() {
        const SOURCES: [&str; 12] = [
            "FILE", "OLD.lock", "NEW.lock", "DIR", "OUT", "BUNDLE", "SOURCE", "REF", "PATTERN", "NAME",
            "PLATFORM", "DIGEST",
        ];
        const NONE: [&str; 3] = ["ADDR", "SECONDS", "N"];
        let mut program = Cli::command();
        program.build();
        for command in
            program.get_subcommands().chain([&program]).filter(|command| command.get_name() != "help")
        {
            for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
                let name = value_name(argument);
                let known = SOURCES.contains(&&*name) || NONE.contains(&&*name);
                let has_words = !argument.get_possible_values().is_empty();
                assert!(
                    known || has_words || argument.is_hide_set(),
                    "{} {argument}: {name:?}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn a_reference_may_be_begun_in_its_short_form() {
        let all: Vec<ImageRef> = ["alpine:3.20", "ghcr.io/a/b:1", "bitnami/redis:7"]
            .iter()
            .map(|text| ImageRef::parse(text, "docker.io").unwrap())
            .collect();
        let offered = |current| references(current, &all);
        assert_eq!(offered("").len(), 3);
        assert_eq!(offered("alp"), ["alpine:3.20"]);
        assert_eq!(offered("library/"), ["library/alpine:3.20"]);
        assert_eq!(offered("bitnami/redis:"), ["bitnami/redis:7"]);
        assert_eq!(offered("docker.io/b"), ["docker.io/bitnami/redis:7"]);
        assert_eq!(offered("ghcr.io/a/b:1"), ["ghcr.io/a/b:1"]);
        assert!(offered("b:").is_empty());
    }

    #[test]
    fn the_file_and_the_home_are_those_of_the_line() {
        assert_eq!(images_file(&words("msb-sync apply")), Path::new("images.toml"));
        assert_eq!(images_file(&words("msb-sync apply web.toml --group")), Path::new("web.toml"));
        assert_eq!(images_file(&words("msb-sync pull --file=a/b.toml @")), Path::new("a/b.toml"));
        assert_eq!(value_of(&words("msb-sync --home /x list"), "--home"), Some(OsStr::new("/x")));
        assert_eq!(value_of(&words("msb-sync list --home"), "--home"), None);
    }
}
