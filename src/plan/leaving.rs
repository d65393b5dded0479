//! Images that are given up, by a run, a prune or a forget: their second names, and whoever keeps
//! an image all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::reason::Remains;
use crate::image_ref::ImageRef;
use crate::state::{Owner, RecordedImage};

/// The images that one owner gives up, or that everybody does.
pub(super) struct Leaving<'a> {
    owner: Option<&'a Owner>,
    references: BTreeSet<&'a ImageRef>,
    recorded: &'a BTreeMap<ImageRef, RecordedImage>,
    /// The second names that nobody wants for themselves, by the first.
    second_names: BTreeMap<&'a ImageRef, Vec<&'a RecordedImage>>,
}

impl<'a> Leaving<'a> {
    /// The images `references` of all `recorded` ones, given up by `owner` (`None`: by everybody).
    pub(super) fn of(
        owner: Option<&'a Owner>,
        references: impl IntoIterator<Item = &'a ImageRef>,
        recorded: &'a BTreeMap<ImageRef, RecordedImage>,
    ) -> Self {
        let mut second_names: BTreeMap<&ImageRef, Vec<&RecordedImage>> = BTreeMap::new();
        for row in recorded.values() {
            if let Some(first) = &row.alias_of {
                second_names.entry(first).or_default().push(row);
            }
        }
        Self { owner, references: references.into_iter().collect(), recorded, second_names }
    }

    /// The second names of the image `first`, which go with it.
    pub(super) fn second_names(&self, first: &ImageRef) -> &[&'a RecordedImage] {
        self.second_names.get(first).map_or(&[], Vec::as_slice)
    }

    /// The owners of an image who do not give it up.
    fn others(&self, row: &RecordedImage) -> Vec<Owner> {
        let stays = |other: &&Owner| self.owner.is_some_and(|owner| *other != owner);
        row.owners.iter().filter(stays).cloned().collect()
    }

    /// Finds out who keeps the image of `row` all the same.
    pub(super) fn remains(&self, row: &RecordedImage) -> Vec<Remains> {
        let others = self.others(row);
        let mut remains = if others.is_empty() { Vec::new() } else { vec![Remains::For(others)] };
        match &row.second_name_of {
            Some(first) if self.stays(first) => remains.push(Remains::SecondNameOf(first.clone())),
            _ if row.preexisting => remains.push(Remains::ForMicrosandbox),
            _ => {}
        }
        remains
    }

    /// True if somebody still wants the image `first`, which somebody wants now.
    fn stays(&self, first: &ImageRef) -> bool {
        !self.references.contains(first)
            // The one who gives it up need not be the only one.
            || self.recorded.get(first).is_some_and(|row| !self.others(row).is_empty())
    }
}
