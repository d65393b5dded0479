//! The one chooser of tags: selections choose from the list of a repository while the registry
//! sends it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, RegistryError, SelectionError};
use crate::image_ref::ImageRef;
use crate::registry::Registries;
use crate::selection::{Chooser, Chosen, CompiledRule, MAX_CHOSEN, NewerTags, describe};
use crate::state::{Platform, TagSelection};

/// The choice of each of several selections; or why it chooses nothing.
pub(crate) type Choices = Vec<Result<FromList, Arc<Error>>>;

/// The choice of a selection from the list of a repository's tags.
#[derive(Clone, Debug, Default)]
pub(crate) struct FromList {
    /// The chosen tags, newest first.
    pub(crate) tags: Vec<String>,
    /// The tags known before that the list has and the rule allows, among the newest or not.
    pub(crate) known: Vec<String>,
    /// The tags taken before that the list has no more, and that stay until others have waited.
    pub(crate) gone: Vec<String>,
}

/// A choice under way, with the tags known before that were found.
type Choosing = (Chooser, BTreeSet<String>);

/// Lets `selections` choose from the tags of `repository`, and returns their choices in their
/// order, with the `known` tags that they found. The list is never whole in memory.
///
/// # Errors
/// The list cannot be read to its end.
pub(super) fn choose_from_list(
    registries: &Registries,
    repository: &ImageRef,
    selections: &[&TagSelection],
    known: &BTreeSet<String>,
) -> Result<Choices, RegistryError> {
    let begin = || -> Vec<Result<Choosing, Arc<Error>>> {
        let rules = selections.iter().map(|selection| compile(selection));
        rules.map(|rule| Ok((rule.map_err(Arc::new)?.chooser(), BTreeSet::new()))).collect()
    };
    let choosers = registries.fold_tags(repository, begin, |choosers, tag| {
        for (chooser, found) in choosers.iter_mut().flatten() {
            if chooser.add(tag) && known.contains(tag) {
                found.insert(tag.to_owned());
            }
        }
    })?;
    let judge = |(selection, chooser): (&&TagSelection, Result<Choosing, _>)| {
        let (chooser, found) = chooser?;
        let tags = judge(selection, chooser.finish()).map_err(Arc::new)?;
        Ok(FromList { tags, known: found.into_iter().collect(), gone: Vec::new() })
    };
    Ok(selections.iter().zip(choosers).map(judge).collect())
}

/// Returns the tags of `repository` that are newer than each of the tags `than`, newest first.
///
/// # Errors
/// The list cannot be read to its end.
pub(super) fn newer_in_list(
    registries: &Registries,
    repository: &ImageRef,
    than: &[String],
) -> Result<Vec<Vec<String>>, RegistryError> {
    let begin = || -> Vec<Option<NewerTags>> { than.iter().map(|tag| NewerTags::than(tag)).collect() };
    let newer = registries.fold_tags(repository, begin, |newer, tag| {
        newer.iter_mut().flatten().for_each(|newer| newer.add(tag));
    })?;
    Ok(newer.into_iter().map(|newer| newer.map(NewerTags::finish).unwrap_or_default()).collect())
}

/// Compiles the rule of a selection.
pub(super) fn compile(selection: &TagSelection) -> Result<CompiledRule, Error> {
    CompiledRule::new(&selection.rule).map_err(|reason| SelectionError::Rule { reason }.into())
}

/// Accepts the chosen tags, if they are some and not too many.
fn judge(selection: &TagSelection, chosen: Chosen) -> Result<Vec<String>, Error> {
    let rule = describe(&selection.rule);
    match chosen.count {
        0 => Err(SelectionError::NoTagFits { of: chosen.of, rule }.into()),
        1..=MAX_CHOSEN => Ok(chosen.tags),
        count => Err(SelectionError::TooManyTags { rule, count, most: MAX_CHOSEN }.into()),
    }
}

/// Makes the error for a tag that two entries want for different platforms.
pub(crate) fn two_platforms(tag: &str, one: &Platform, other: &Platform) -> Error {
    let (tag, one, other) = (tag.to_owned(), one.to_string(), other.to_string());
    SelectionError::TwoPlatforms { tag, one, other }.into()
}
