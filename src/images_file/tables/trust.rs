//! `[[trust]]`: the images that somebody has to have signed, and the rules that never decide.

use std::collections::BTreeSet;

use super::signer;
use crate::diagnostic::{Mistake, Span, nearest};
use crate::images_file::keys;
use crate::images_file::listed::{Listed, Wanted};
use crate::images_file::quoted::quoted;
use crate::images_file::reader::{Node, Reader, Table};
use crate::images_file::values::signers;
use crate::state::TrustRule;
use crate::wildcard;

/// The most patterns of images that all tables together may have: each image is held to each.
const MAX_PATTERNS: usize = 1_000;
/// The listed images among which a similar one is sought.
const MAX_COMPARED: usize = 2_000;

/// A table's rule, and its places.
pub(super) struct Rule {
    table: TrustRule,
    span: Span,
    /// The places of the patterns.
    patterns: Vec<Span>,
}

impl Rule {
    /// Forgets the places.
    pub(super) fn into_rule(self) -> TrustRule {
        self.table
    }

    /// Lists the patterns with their places.
    fn patterns(&self) -> impl Iterator<Item = (&str, Span)> {
        self.table.images.iter().map(String::as_str).zip(self.patterns.iter().copied())
    }

    /// True if the rule names every image that `pattern` stands for.
    fn covers(&self, pattern: &str) -> bool {
        self.table.images.iter().any(|own| wildcard::fits(own, pattern))
    }
}

/// Reads the tables, in the order of the file.
pub(super) fn read(reader: &mut Reader<'_>, node: Option<Node<'_>>) -> Vec<Rule> {
    let Some(node) = node else { return Vec::new() };
    if node.value.is_table() {
        let hint = "write [[trust]] in double brackets: each such table is a rule";
        let mistake = Mistake::new(node.key_span, "`trust` must be an array of tables");
        reader.error(mistake.hint(hint));
        return Vec::new();
    }
    let mut rules = Vec::new();
    let mut left = MAX_PATTERNS;
    for node in reader.array(node) {
        rules.extend(rule(reader, node, &mut left));
    }
    rules
}

fn rule(reader: &mut Reader<'_>, node: Node<'_>, left: &mut usize) -> Option<Rule> {
    let table = reader.table(node, &keys::TRUST)?;
    // Everything is read before anything is given up, so that one run reports all that is wrong.
    let (images, patterns) = images(reader, node, table, left).unzip();
    let signer = signer::read(reader, node, table);
    let provenance = reader.flag(table, "provenance").unwrap_or(false);
    let place = reader.place(node.span);
    let table = TrustRule { images, signer: signer?, provenance, place };
    Some(Rule { table, span: node.span, patterns })
}

/// Reads the patterns of the images, each with its place.
fn images(
    reader: &mut Reader<'_>,
    node: Node<'_>,
    table: Table<'_>,
    left: &mut usize,
) -> impl Iterator<Item = (String, Span)> + use<> {
    let mut images = Vec::new();
    let hint = "name them as in images = [\"ghcr.io/acme/*\"], or images = [\"*\"] for all";
    match table.get("images") {
        None => reader.error(Mistake::new(node.span, "a [[trust]] table without `images`").hint(hint)),
        Some(list) if list.value.as_array().is_some_and(|list| list.is_empty()) => {
            reader.error(Mistake::new(list.span, "`images` of [[trust]] names no image").hint(hint));
        }
        Some(list) => {
            for node in reader.array(list) {
                let Some(text) = reader.string(node) else { continue };
                if *left == 0 {
                    let message = format!("[[trust]] names more than {MAX_PATTERNS} images");
                    let hint = "one `*` can stand for many: \"ghcr.io/acme/*\"";
                    reader.error(Mistake::new(node.span, message).hint(hint));
                    break;
                }
                *left -= 1;
                let pattern = signers::image_pattern(text, reader.source.default_registry);
                images.extend(reader.checked(node, pattern).map(|pattern| (pattern, node.span)));
            }
        }
    }
    images.into_iter()
}

/// Warns of rules, and of names in them, that never decide: an earlier rule names these images
/// already, or the file does not list them.
pub(super) fn check(reader: &mut Reader<'_>, rules: &[Rule], listed: &[Listed]) {
    for (index, rule) in rules.iter().enumerate() {
        let earlier = |pattern: &str| rules[..index].iter().find(|other| other.covers(pattern));
        let covered: Vec<(&str, Span, &Rule)> =
            rule.patterns().filter_map(|(pattern, span)| Some((pattern, span, earlier(pattern)?))).collect();
        let hint = "the first table that names an image decides: put the narrower one first";
        if let Some((_, _, first)) = covered.first()
            && covered.len() == rule.patterns.len()
        {
            let message = "this [[trust]] table never decides: an earlier one names all its images";
            reader.warn(Mistake::new(rule.span, message).hint(hint).related(first.span, "the earlier one"));
        } else {
            for (pattern, span, first) in covered {
                let message = format!("this table never decides about {}", quoted(pattern));
                let mistake = Mistake::new(span, message).hint(hint);
                reader.warn(mistake.related(first.span, "an earlier one names it"));
            }
        }
    }
    unlisted(reader, rules, listed);
}

/// Warns of single images that the file does not list.
fn unlisted(reader: &mut Reader<'_>, rules: &[Rule], listed: &[Listed]) {
    let patterns = || rules.iter().flat_map(Rule::patterns).filter(|(pattern, _)| !pattern.contains('*'));
    if patterns().next().is_none() {
        return;
    }
    let names: BTreeSet<String> = listed
        .iter()
        .flat_map(|entry| match &entry.wanted {
            Wanted::Image(reference) => reference.recorded_names(),
            Wanted::Selection { repository, .. } => repository.recorded_names(),
        })
        .map(|name| name.repository_alone().to_string())
        .collect();
    for (pattern, span) in patterns().filter(|(pattern, _)| !names.contains(*pattern)) {
        let hint = nearest(pattern, names.iter().take(MAX_COMPARED).map(String::as_str))
            .map(|near| format!("did you mean {}?", quoted(near)));
        let message = format!("{} is an image that this file does not list", quoted(pattern));
        reader.warn(Mistake::new(span, message).maybe_hint(hint));
    }
}
