//! The one chooser of tags: selections choose from the list of a repository while the registry
//! sends it.

use std::sync::Arc;

use crate::error::{Error, RegistryError, SelectionError};
use crate::image_ref::ImageRef;
use crate::registry::Registries;
use crate::selection::{Chooser, Chosen, CompiledRule, MAX_CHOSEN, NewerTags, describe};
use crate::state::{Platform, TagSelection};

/// The tags that each of several selections chooses, newest first; or why it chooses nothing.
pub(crate) type Choices = Vec<Result<Vec<String>, Arc<Error>>>;

/// Lets `selections` choose from the tags of `repository`, and returns their choices in their
/// order. The list is never whole in memory.
///
/// # Errors
/// The list cannot be read to its end.
pub(super) fn choose_from_list(
    registries: &Registries,
    repository: &ImageRef,
    selections: &[&TagSelection],
) -> Result<Choices, RegistryError> {
    let begin = || -> Vec<Result<Chooser, Arc<Error>>> {
        let rules = selections.iter().map(|selection| compile(selection));
        rules.map(|rule| rule.map(CompiledRule::chooser).map_err(Arc::new)).collect()
    };
    let choosers = registries.fold_tags(repository, begin, |choosers, tag| {
        choosers.iter_mut().flatten().for_each(|chooser| chooser.add(tag));
    })?;
    let choices = selections.iter().zip(choosers);
    Ok(choices.map(|(selection, chooser)| judge(selection, chooser?.finish()).map_err(Arc::new)).collect())
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
