//! The groups that name images which are taken out of the file: their members go too, and so do
//! groups in which nothing is left, with whatever refers to them.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::DeValue;

use super::EditedGroup;
use super::splice::Text;
use crate::diagnostic::Tree;
use crate::image_ref::ImageRef;
use crate::images_file::listed::{Listed, Wanted};

/// The parts of `[groups]` that go.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// Members: the path of their array, and their place there.
    pub(super) elements: Vec<(Vec<String>, usize)>,
    /// Groups that go as a whole.
    pub(super) keys: BTreeSet<String>,
    /// The groups for the report.
    pub(super) groups: Vec<EditedGroup>,
}

/// The meaning of a member as it is written.
enum Member {
    Group(String),
    /// An image; true if it may be a repository's selections, too.
    Image(ImageRef, bool),
    /// A member that is no text: the file is wrong, and says so elsewhere.
    Odd,
}

/// Finds what goes with the entries `leaving`.
pub(super) fn cuts(
    text: &Text,
    listed: &[Listed],
    leaving: &BTreeSet<usize>,
    default_registry: &str,
) -> Cuts {
    let written = written(text, default_registry);
    let mut own: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, entry) in listed.iter().enumerate() {
        for name in &entry.own_groups {
            *own.entry(name).or_default() += usize::from(!leaving.contains(&index));
        }
    }
    let leaves = |member: &Member| match member {
        Member::Image(reference, bare) => names_leaving(reference, *bare, listed, leaving),
        Member::Group(_) | Member::Odd => false,
    };
    let mut doomed: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (name, members) in &written {
        let indices = (0..members.len()).filter(|index| leaves(&members[*index]));
        doomed.insert(name, indices.collect());
    }
    let names: BTreeSet<&str> = written.keys().map(String::as_str).chain(own.keys().copied()).collect();
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    // Each round ends a group, or is the last one.
    loop {
        let is_gone = |name: &&str| {
            let of_table = written.get(*name).is_some_and(|members| doomed[*name].len() < members.len());
            !of_table && own.get(*name).is_none_or(|count| *count == 0)
        };
        let next: BTreeSet<&str> = names.iter().copied().filter(is_gone).collect();
        if next == gone {
            break;
        }
        gone = next;
        for (name, members) in &written {
            let refers =
                |member: &Member| matches!(member, Member::Group(other) if gone.contains(other.as_str()));
            let indices = (0..members.len()).filter(|index| refers(&members[*index]));
            doomed.entry(name).or_default().extend(indices);
        }
    }
    let mut cuts = Cuts::default();
    for (name, indices) in doomed.into_iter().filter(|(_, indices)| !indices.is_empty()) {
        let is_gone = gone.contains(name);
        if is_gone {
            cuts.keys.insert(name.to_owned());
        } else {
            let path = vec!["groups".to_owned(), name.to_owned()];
            cuts.elements.extend(indices.into_iter().map(|index| (path.clone(), index)));
        }
        cuts.groups.push(EditedGroup { name: name.to_owned(), is_gone });
    }
    cuts
}

/// Reads `[groups]` as it is written.
fn written(text: &Text, default_registry: &str) -> BTreeMap<String, Vec<Member>> {
    let tree = Tree::parse(text.body());
    let groups = tree.root().get("groups").map(Spanned::get_ref);
    let Some(DeValue::Table(groups)) = groups else { return BTreeMap::new() };
    let member = |value: &DeValue<'_>| {
        let Some(text) = value.as_str() else { return Member::Odd };
        if let Some(name) = text.strip_prefix('@') {
            return Member::Group(name.to_owned());
        }
        match ImageRef::parse(text, default_registry) {
            Ok(reference) => {
                let bare = reference.digest().is_none()
                    && reference.tag() == Some("latest")
                    && !text.ends_with(":latest");
                Member::Image(reference, bare)
            }
            Err(_) => Member::Odd,
        }
    };
    let members = |value: &DeValue<'_>| match value {
        DeValue::Array(array) => array.iter().map(|value| member(value.get_ref())).collect(),
        _ => Vec::new(),
    };
    groups.iter().map(|(name, value)| (name.get_ref().to_string(), members(value.get_ref()))).collect()
}

/// Tells whether a member names only entries that leave.
fn names_leaving(reference: &ImageRef, bare: bool, listed: &[Listed], leaving: &BTreeSet<usize>) -> bool {
    let is_image = |entry: &Listed| matches!(&entry.wanted, Wanted::Image(image) if image == reference);
    if let Some(index) = listed.iter().position(is_image) {
        return leaving.contains(&index);
    }
    let repository = reference.repository_alone();
    let selects = |entry: &Listed| matches!(&entry.wanted, Wanted::Selection { repository: of, .. } if *of == repository);
    let mut selections = (0..listed.len()).filter(|index| bare && selects(&listed[*index])).peekable();
    selections.peek().is_some() && selections.all(|index| leaving.contains(&index))
}
