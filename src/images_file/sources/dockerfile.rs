//! Dockerfiles and Containerfiles: the images of `FROM`, of `COPY --from`, and of mounts. Stages of
//! the file itself, and `scratch`, are none.

use std::collections::BTreeMap;

use super::Gathered;
use super::variables::expand;
use crate::state::Platform;

/// Reads the whole file.
pub(super) fn read(text: &str, gathered: &mut Gathered) {
    let mut build = Build::default();
    for instruction in instructions(text) {
        build.take(&instruction, gathered);
    }
}

/// An instruction with its line; continued lines are put together.
struct Instruction {
    line: usize,
    keyword: String,
    rest: String,
}

/// Splits a file into instructions; comments, and what here-documents hold, are left out.
fn instructions(text: &str) -> Vec<Instruction> {
    let escape = escape(text);
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        if is_passed_over(first) {
            continue;
        }
        let mut whole = String::new();
        let mut next = Some(first);
        while let Some(line) = next {
            let Some(continued) = line.trim_end().strip_suffix(escape) else {
                whole.push_str(line);
                break;
            };
            whole.push_str(continued);
            next = lines.by_ref().map(|(_, line)| line).find(|line| !is_passed_over(line));
        }
        let whole = whole.trim();
        let (keyword, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
        let (keyword, rest) = (keyword.to_ascii_uppercase(), rest.trim().to_owned());
        if matches!(keyword.as_str(), "RUN" | "COPY" | "ADD") {
            for end in here_documents(&rest) {
                let is_end = |line: &str| line.trim_start_matches('\t').trim_end() == end;
                lines.by_ref().find(|(_, line)| is_end(line));
            }
        }
        found.push(Instruction { line: index + 1, keyword, rest });
    }
    found
}

fn is_passed_over(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// Finds the character that continues lines: a directive at the top may change it.
fn escape(text: &str) -> char {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#')?.split_once('='));
    let mut directives = directives.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
    let changed = directives.find(|(name, _)| name == "escape").is_some_and(|(_, value)| value == "`");
    if changed { '`' } else { '\\' }
}

/// Lists the words that end the here-documents of an instruction.
fn here_documents(rest: &str) -> Vec<String> {
    let word = |text: &str| {
        let text = text.strip_prefix('-').unwrap_or(text);
        let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
        let text = text.trim_start_matches(['"', '\'']);
        let is_of_word = |c: char| c.is_alphanumeric() || c == '_' || quote.is_some() && Some(c) != quote;
        let end = text.find(|c| !is_of_word(c)).unwrap_or(text.len());
        text[..end].to_owned()
    };
    // `<<<` gives a text, and no document.
    let words = rest.split("<<").skip(1).filter(|text| !text.starts_with('<')).map(word);
    words.filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_')).collect()
}

/// The state of a build.
#[derive(Default)]
struct Build {
    /// The arguments before the first stage, with their defaults.
    global: BTreeMap<String, String>,
    /// The arguments of the present stage.
    local: BTreeMap<String, String>,
    /// The names of the stages so far; one without a name is empty.
    stages: Vec<String>,
}

impl Build {
    fn take(&mut self, instruction: &Instruction, gathered: &mut Gathered) {
        let Instruction { line, keyword, rest } = instruction;
        match keyword.as_str() {
            "ARG" => self.argument(rest),
            "FROM" => self.from(*line, rest, gathered),
            "COPY" | "ADD" | "RUN" => {
                for word in rest.split_whitespace().take_while(|word| word.starts_with("--")) {
                    let of_mount = || {
                        word.strip_prefix("--mount=")?.split(',').find_map(|part| part.strip_prefix("from="))
                    };
                    if let Some(from) = word.strip_prefix("--from=").or_else(of_mount) {
                        self.other(*line, from, gathered);
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes arguments with their defaults.
    fn argument(&mut self, rest: &str) {
        for word in rest.split_whitespace() {
            let (name, default) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let default = match default {
                Some(default) => expand(unquoted(default), &|name| self.value(name)).ok(),
                None => self.global.get(name).cloned(),
            };
            let arguments = if self.stages.is_empty() { &mut self.global } else { &mut self.local };
            arguments.extend(default.map(|default| (name.to_owned(), default)));
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        self.local.get(name).or_else(|| self.global.get(name).filter(|_| self.stages.is_empty())).cloned()
    }

    fn from(&mut self, line: usize, rest: &str, gathered: &mut Gathered) {
        self.local.clear();
        let mut words = rest.split_whitespace();
        let mut platform = None;
        let mut image = words.next().unwrap_or_default();
        let global = |name: &str| self.global.get(name).cloned();
        while let Some(flag) = image.strip_prefix("--") {
            if let Some(text) = flag.strip_prefix("platform=") {
                // The builder knows platforms that the file does not say, such as $BUILDPLATFORM.
                platform = expand(unquoted(text), &global).ok().map(|text| Platform::parse(&text));
            }
            image = words.next().unwrap_or_default();
        }
        let expanded = expand(unquoted(image), &global);
        let is_named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"));
        let name = words.next().filter(|_| is_named).unwrap_or_default().to_ascii_lowercase();
        match (expanded, platform.transpose()) {
            (Ok(text), _) if self.is_stage(&text) => {}
            (Ok(text), Ok(platform)) => gathered.image(line, &text, platform),
            (Ok(_), Err(reason)) => gathered.refuse(line, Some(image), reason),
            (Err(reason), _) => gathered.refuse(line, Some(image), &reason),
        }
        self.stages.push(name);
    }

    /// Takes what files are copied from, or mounted.
    fn other(&self, line: usize, from: &str, gathered: &mut Gathered) {
        match expand(unquoted(from), &|name| self.value(name)) {
            Ok(text) if self.is_stage(&text) || text.bytes().all(|byte| byte.is_ascii_digit()) => {}
            Ok(text) => gathered.image(line, &text, None),
            Err(reason) => gathered.refuse(line, Some(from), &reason),
        }
    }

    /// Tells whether a name is that of a stage, or of the empty image.
    fn is_stage(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        name == "scratch" || self.stages.iter().any(|stage| !stage.is_empty() && *stage == name)
    }
}

/// Drops the quotes around a word.
fn unquoted(word: &str) -> &str {
    let inside = |quote| word.strip_prefix(quote).and_then(|word| word.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(word)
}
