//! `[[trust]]`: the images that somebody has to have signed, and the rules that never decide.

use std::collections::BTreeSet;

use super::rules::{self, Patterns};
use super::signer;
use crate::diagnostic::{Mistake, Span, nearest};
use crate::images_file::keys;
use crate::images_file::listed::{Listed, Wanted};
use crate::images_file::quoted::quoted;
use crate::images_file::reader::{Node, Reader};
use crate::state::TrustRule;
use crate::wildcard;

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
    let mut left = Patterns::new("[[trust]]");
    let nodes = rules::tables(reader, node);
    nodes.into_iter().filter_map(|node| rule(reader, node, &mut left)).collect()
}

fn rule(reader: &mut Reader<'_>, node: Node<'_>, left: &mut Patterns) -> Option<Rule> {
    let table = reader.table(node, &keys::TRUST)?;
    // Everything is read before anything is given up, so that one run reports all that is wrong.
    let images = if let Some(list) = table.get("images") {
        left.read(reader, list)
    } else {
        let mistake = Mistake::new(node.span, "a [[trust]] table without `images`");
        reader.error(mistake.hint(rules::IMAGES_HINT));
        Vec::new()
    };
    let (images, patterns) = images.into_iter().unzip();
    let signer = signer::read(reader, node, table);
    let provenance = reader.flag(table, "provenance").unwrap_or(false);
    let place = reader.place(node.span);
    let table = TrustRule { images, signer: signer?, provenance, place };
    Some(Rule { table, span: node.span, patterns })
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
