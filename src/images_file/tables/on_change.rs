//! `[[on-change]]`: programs that are run after images have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rules::{self, Patterns};
use crate::diagnostic::{Mistake, Span, suggest};
use crate::images_file::keys;
use crate::images_file::quoted::quoted;
use crate::images_file::reader::{Node, Reader, Table};
use crate::images_file::values::{self, Fault, quantities};
use crate::state::{Action, Hook};

const ACTION_WORDS: [(&str, Action); 4] = [
    ("add", Action::Add),
    ("update", Action::Update),
    ("remove", Action::Remove),
    ("repair", Action::Repair),
];
/// The actions of a table that names none. A repair puts back what was there.
const USUAL_ACTIONS: [Action; 3] = [Action::Add, Action::Update, Action::Remove];

/// The most tables: each is a program that is started.
const MAX_TABLES: usize = 100;
/// The time that a program gets: the usual one, the least and the most.
const TIMEOUT: Duration = Duration::from_secs(30);
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Reads the tables, in the order of the file.
pub(super) fn read(reader: &mut Reader<'_>, node: Option<Node<'_>>) -> Vec<Hook> {
    let tables = rules::tables(reader, node);
    if let Some(node) = tables.get(MAX_TABLES) {
        let message = format!("more than {MAX_TABLES} [[on-change]] tables");
        reader.error(Mistake::new(node.span, message));
    }
    let (mut hooks, mut left) = (Vec::new(), Patterns::new("[[on-change]]"));
    let mut known: BTreeMap<String, Span> = BTreeMap::new();
    for node in tables.into_iter().take(MAX_TABLES) {
        let Some(hook) = hook(reader, node, &mut left) else { continue };
        if let Some(first) = known.get(&hook.key()) {
            let message = "this [[on-change]] table says the same as an earlier one";
            reader.error(Mistake::new(node.span, message).related(*first, "the earlier one"));
        }
        known.entry(hook.key()).or_insert(node.span);
        hooks.push(hook);
    }
    hooks
}

fn hook(reader: &mut Reader<'_>, node: Node<'_>, left: &mut Patterns) -> Option<Hook> {
    let table = reader.table(node, &keys::ON_CHANGE)?;
    // Everything is read before anything is given up, so that one run reports all that is wrong.
    let images = match table.get("images") {
        Some(list) => left.read(reader, list).into_iter().map(|(pattern, _)| pattern).collect(),
        None => vec!["*".to_owned()],
    };
    let actions = actions(reader, table);
    let timeout = reader.text(table, "timeout", timeout);
    let run = run(reader, node, table)?;
    let directory = reader.source.directory.to_owned();
    let place = reader.place(node.span);
    Some(Hook { images, actions, run, timeout: timeout.unwrap_or(TIMEOUT), directory, place })
}

/// Reads the actions; the usual ones where the table names none.
fn actions(reader: &mut Reader<'_>, table: Table<'_>) -> BTreeSet<Action> {
    let Some(list) = table.get("actions") else { return USUAL_ACTIONS.into() };
    let names = ACTION_WORDS.map(|(name, _)| name);
    if list.value.as_array().is_some_and(|list| list.is_empty()) {
        let hint = format!("leave it out for add, update and remove, or name some of {}", names.join(", "));
        reader.error(Mistake::new(list.span, "`actions` of [[on-change]] is empty").hint(hint));
    }
    let mut actions = BTreeSet::new();
    for node in reader.array(list) {
        let Some(word) = reader.string(node) else { continue };
        if let Some((_, action)) = ACTION_WORDS.iter().find(|(name, _)| *name == word) {
            actions.insert(*action);
        } else {
            let message = format!("{} is no action that changes an image", quoted(word));
            reader.error(Mistake::new(node.span, message).hint(suggest(word, &names)));
        }
    }
    actions
}

fn timeout(text: &str) -> Result<Duration, Fault> {
    let timeout = quantities::duration(text, MIN_TIMEOUT)?;
    if timeout > MAX_TIMEOUT {
        return Err(Fault::new("is longer than a day"));
    }
    Ok(timeout)
}

/// Reads the program and its arguments.
fn run(reader: &mut Reader<'_>, node: Node<'_>, table: Table<'_>) -> Option<Vec<String>> {
    let hint = "name a program and its arguments: run = [\"systemctl\", \"restart\", \"acme\"]";
    let Some(list) = table.get("run") else {
        reader.error(Mistake::new(node.span, "an [[on-change]] table without `run`").hint(hint));
        return None;
    };
    if list.value.is_str() {
        let hint = "no shell reads it: write each word as a string of its own, or [\"sh\", \"-c\", …]";
        let mistake = Mistake::new(list.span, "`run` must be an array of strings, found a string");
        reader.error(mistake.hint(hint));
        return None;
    }
    if list.value.as_array().is_some_and(|list| list.is_empty()) {
        reader.error(Mistake::new(list.span, "`run` of [[on-change]] is empty").hint(hint));
        return None;
    }
    let (source, mut words, mut is_good) = (reader.source, Vec::new(), list.value.is_array());
    for node in reader.array(list) {
        let word = reader.string(node).and_then(|text| {
            let word = if words.is_empty() { values::program(text, source) } else { Ok(text.to_owned()) };
            reader.checked(node, word.and_then(without_nul))
        });
        is_good &= word.is_some();
        words.push(word.unwrap_or_default());
    }
    is_good.then_some(words)
}

/// Refuses what no program can be given.
fn without_nul(word: String) -> Result<String, Fault> {
    if word.contains('\0') { Err(Fault::new("has a NUL byte")) } else { Ok(word) }
}
