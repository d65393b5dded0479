//! Groups of images: `[groups]` tables and entries' `groups` put together, `@other` followed,
//! cycles and names of nothing found. Iterative throughout: a file may chain a hundred thousand
//! groups.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Mistake, Span, nearest};
use crate::image_ref::ImageRef;
use crate::images_file::listed::{Listed, Wanted};
use crate::images_file::quoted::{quoted, quoted_reference};
use crate::images_file::reader::{Node, Reader, entries};
use crate::images_file::values;

/// The most memberships that all groups together may have, when resolved.
const MAX_MEMBERSHIPS: usize = 1_000_000;

/// The listed images among which a similar one is sought.
const MAX_COMPARED: usize = 2_000;

/// The members of a group, as indices into the listed entries.
pub(super) type Members = BTreeSet<usize>;

/// A group as the file writes it, with references to other groups.
#[derive(Debug, Default)]
struct Written {
    /// The place where `[groups]` defines the group.
    span: Option<Span>,
    members: Members,
    /// The groups that this one refers to, with the places.
    others: Vec<(String, Span)>,
    /// True if something in the group was refused: then nobody calls it empty on top.
    broken: bool,
}

/// Resolves all groups to indices into `listed`.
pub(super) fn resolve(
    table: Option<Node<'_>>,
    listed: &[Listed],
    reader: &mut Reader<'_>,
) -> BTreeMap<String, Members> {
    let mut groups: BTreeMap<String, Written> = BTreeMap::new();
    for (index, entry) in listed.iter().enumerate() {
        for name in &entry.own_groups {
            groups.entry(name.clone()).or_default().members.insert(index);
        }
    }
    if let Some(table) = table.and_then(|node| reader.any_table(node)) {
        let known = Known::new(listed);
        for (name, node) in entries(table) {
            if !reader.named(node.key_span, "group name", name, values::group_name(name)) {
                continue;
            }
            let group = groups.entry(name.to_owned()).or_default();
            group.span = Some(node.key_span);
            read_members(group, node, &known, reader);
        }
    }
    check_references(&mut groups, reader);
    flatten(&groups, reader)
}

/// The entries that members of groups can name.
struct Known<'a> {
    images: BTreeMap<&'a ImageRef, usize>,
    selections: BTreeMap<&'a ImageRef, Vec<usize>>,
}

impl<'a> Known<'a> {
    fn new(listed: &'a [Listed]) -> Self {
        let mut known = Self { images: BTreeMap::new(), selections: BTreeMap::new() };
        for (index, entry) in listed.iter().enumerate() {
            match &entry.wanted {
                Wanted::Image(reference) => {
                    known.images.insert(reference, index);
                }
                Wanted::Selection { repository, .. } => {
                    known.selections.entry(repository).or_default().push(index);
                }
            }
        }
        known
    }

    /// Finds an image by its full reference, a selection by its repository without a tag.
    fn find(&self, text: &str, reference: &ImageRef) -> Vec<usize> {
        if let Some(index) = self.images.get(reference) {
            return vec![*index];
        }
        let bare =
            reference.digest().is_none() && !text.ends_with(":latest") && reference.tag() == Some("latest");
        let of_repository = || self.selections.get(&reference.repository_alone()).cloned();
        if bare { of_repository().unwrap_or_default() } else { Vec::new() }
    }

    /// Finds the image that was probably meant: the same one of another registry, or with another
    /// tag or digest, or one whose repository looks alike.
    fn similar(&self, wanted: &ImageRef) -> Option<String> {
        let images = || self.images.keys().take(MAX_COMPARED);
        let alike = |same: &dyn Fn(&ImageRef) -> bool| images().find(|image| same(image));
        let found = alike(&|image| {
            image.repository() == wanted.repository()
                && image.tag() == wanted.tag()
                && image.digest() == wanted.digest()
        })
        .or_else(|| alike(&|image| image.repository() == wanted.repository()))
        .or_else(|| {
            let last =
                |image: &ImageRef| image.repository().rsplit('/').next().unwrap_or_default().to_owned();
            let names: Vec<String> = images().map(|image| last(image)).collect();
            let near = nearest(&last(wanted), names.iter().map(String::as_str))?;
            alike(&|image| last(image) == near)
        })?;
        Some(found.to_string())
    }
}

fn read_members(group: &mut Written, node: Node<'_>, known: &Known<'_>, reader: &mut Reader<'_>) {
    if !node.value.is_array() {
        group.broken = true;
    }
    for member in reader.array(node) {
        let Some(text) = reader.string(member) else {
            group.broken = true;
            continue;
        };
        if let Some(other) = text.strip_prefix('@') {
            group.others.push((other.to_owned(), member.span));
            continue;
        }
        match ImageRef::parse(text, reader.source.default_registry) {
            Ok(reference) => {
                let found = known.find(text, &reference);
                if found.is_empty() {
                    let full = reference.to_string();
                    let hint = known.similar(&reference).map_or_else(
                        || "groups select among the images of this file; they add none".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    let message = format!("no image {} is listed in this file", quoted_reference(&full));
                    reader.error(Mistake::new(member.span, message).hint(hint));
                    group.broken = true;
                }
                group.members.extend(found);
            }
            Err(error) => {
                let message =
                    format!("invalid image reference {}: {}", quoted_reference(text), error.reason());
                let hint = match error.instead() {
                    Some(instead) => format!("write {}", quoted(instead)),
                    None => "a group is referred to as \"@name\"".to_owned(),
                };
                reader.error(Mistake::new(member.span, message).hint(hint));
                group.broken = true;
            }
        }
    }
}

/// Drops references to groups that do not exist, and finds groups that name nothing.
fn check_references(groups: &mut BTreeMap<String, Written>, reader: &mut Reader<'_>) {
    let names: BTreeSet<String> = groups.keys().cloned().collect();
    for (name, group) in groups.iter_mut() {
        let before = group.others.len();
        group.others.retain(|(other, span)| {
            let known = names.contains(other);
            if !known {
                let message = format!("unknown group {}", quoted(&format!("@{other}")));
                let near = nearest(other, names.iter().filter(|other| *other != name).map(String::as_str));
                let hint = near.map(|near| format!("did you mean `@{near}`?"));
                reader.error(Mistake::new(*span, message).maybe_hint(hint));
            }
            known
        });
        group.broken |= group.others.len() < before;
        if let Some(span) = group.span
            && group.members.is_empty()
            && group.others.is_empty()
            && !group.broken
        {
            reader.error(
                Mistake::new(span, format!("group {} names nothing", quoted(name)))
                    .hint("list images or other groups in it, or remove it"),
            );
        }
    }
}

/// Follows references from the groups that have none upwards; what is left over are cycles.
fn flatten(groups: &BTreeMap<String, Written>, reader: &mut Reader<'_>) -> BTreeMap<String, Members> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, group) in groups {
        open.insert(name, group.others.len());
        for (other, _) in &group.others {
            users.entry(other).or_default().push(name);
        }
    }
    let mut ready: Vec<&str> = open.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let mut resolved: BTreeMap<String, Members> = BTreeMap::new();
    let mut memberships = 0;
    while let Some(name) = ready.pop() {
        let group = &groups[name];
        open.remove(name);
        let mut members = group.members.clone();
        for (other, _) in &group.others {
            members.extend(resolved.get(other).into_iter().flatten());
        }
        memberships += members.len();
        if memberships > MAX_MEMBERSHIPS {
            let span = group.span.or_else(|| groups.values().find_map(|group| group.span));
            let message = format!("the groups have more than {MAX_MEMBERSHIPS} members in all");
            reader.error(Mistake::new(span.unwrap_or_default(), message));
            return BTreeMap::new();
        }
        resolved.insert(name.to_owned(), members);
        for user in users.get(name).into_iter().flatten() {
            if let Some(count) = open.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    ready.push(user);
                }
            }
        }
    }
    report_cycles(groups, open.into_keys().collect(), reader);
    resolved
}

/// Every group in `left` refers to another one in `left`: walking along must come back.
fn report_cycles(groups: &BTreeMap<String, Written>, mut left: BTreeSet<&str>, reader: &mut Reader<'_>) {
    while let Some(first) = left.first().copied() {
        let mut walk: Vec<(&str, Span)> = Vec::new();
        let mut position: BTreeMap<&str, usize> = BTreeMap::new();
        let mut at = first;
        // Ends at a group of an earlier walk (`left` lacks it) or at one of this walk: a new cycle.
        let cycle = loop {
            if let Some(start) = position.get(at) {
                break Some(*start);
            }
            let next = groups[at].others.iter().find(|(other, _)| left.contains(other.as_str()));
            let Some((next, span)) = next else { break None };
            position.insert(at, walk.len());
            walk.push((at, *span));
            at = next;
        };
        if let Some(start) = cycle {
            let cycle = &walk[start..];
            let mut path: Vec<String> = cycle.iter().take(10).map(|(name, _)| (*name).to_owned()).collect();
            if cycle.len() > 10 {
                path.push("…".to_owned());
            }
            path.push(cycle[0].0.to_owned());
            let message = if cycle.len() == 1 {
                format!("group {} contains itself", quoted(cycle[0].0))
            } else {
                format!("group {} contains itself: {}", quoted(cycle[0].0), path.join(" → "))
            };
            reader.error(Mistake::new(cycle[0].1, message).hint("remove one of these references"));
        }
        left.remove(first);
        for (name, _) in walk {
            left.remove(name);
        }
    }
}
