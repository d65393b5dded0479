//! A text as TOML, as far as it can be read: one that is broken still has values to judge.

use std::mem;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// The values of a TOML text, each with its place, and what is wrong with the text.
pub(crate) struct Tree<'t> {
    root: DeTable<'t>,
    errors: Vec<Error>,
}

impl<'t> Tree<'t> {
    /// Reads `text`.
    pub(crate) fn parse(text: &'t str) -> Self {
        let (root, mut errors) = DeTable::parse_recoverable(text);
        errors.sort_by_key(|error| error.span().map_or((0, 0), |span| (span.start, span.end)));
        Self { root: root.into_inner(), errors }
    }

    /// The top level.
    pub(crate) fn root(&self) -> &DeTable<'t> {
        &self.root
    }

    /// The errors of syntax, by their place. While there are some, the tree may lack values that
    /// the text has.
    pub(crate) fn errors(&self) -> &[Error] {
        &self.errors
    }
}

impl Drop for Tree<'_> {
    /// Drops the values without recursion: dotted keys in nested inline tables make a tree that is
    /// deep enough to exhaust a thread's stack.
    fn drop(&mut self) {
        let mut work: Vec<DeValue<'_>> = vec![DeValue::Table(mem::take(&mut self.root))];
        while let Some(value) = work.pop() {
            match value {
                DeValue::Table(table) => {
                    work.extend(table.into_iter().map(|(_, value)| value.into_inner()));
                }
                DeValue::Array(array) => work.extend(array.into_iter().map(Spanned::into_inner)),
                _ => {}
            }
        }
    }
}
