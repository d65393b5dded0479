//! Row ids for layers, so that `ORDER BY layers.id` is the order of every image's layers.
//!
//! microsandbox lists an image's layers by `layers.id`, but a layer has one id however many images
//! use it. A new base under a layer that is already recorded (`COPY --link` makes such images)
//! therefore has to lift that layer, and with it all that lies above it in other images. Only when
//! two images want two layers in opposite orders is there no numbering; then nothing that exists is
//! renumbered, and the new image's order is the one that is lost.

use std::collections::{BTreeMap, BTreeSet};

/// More layers than this are not lifted for one image; nobody waits for a catalog to be rewritten.
const MAX_LIFTED: usize = 5_000;

/// The ids that one image's layers get, and the rows that have to move for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Numbering {
    /// One id for each layer asked for, in their order.
    pub(super) ids: Vec<i64>,
    /// Existing rows to renumber: old id, new id. All new ids are above every old one.
    pub(super) moves: Vec<(i64, i64)>,
}

impl Numbering {
    /// True if the layers asked for are stacked in their order.
    pub(super) fn is_in_order(&self) -> bool {
        self.ids.is_sorted()
    }
}

/// A layer that gets a number: an existing row, or the layer at an index of the wanted ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Existing(i64),
    New(usize),
}

/// Numbers `wanted` (the id of each layer, base first, where it has a row). `above` tells which
/// layers other images have above a layer; `first_free` is an id above all in use.
pub(super) fn number<E>(
    wanted: &[Option<i64>],
    first_free: i64,
    mut above: impl FnMut(i64) -> Result<Vec<i64>, E>,
) -> Result<Numbering, E> {
    let mut highest = i64::MIN;
    let kept = wanted
        .iter()
        .take_while(|id| match id {
            Some(id) if *id > highest => {
                highest = *id;
                true
            }
            _ => false,
        })
        .count();
    let chain: Vec<Node> = wanted
        .iter()
        .enumerate()
        .skip(kept)
        .map(|(index, id)| id.map_or(Node::New(index), Node::Existing))
        .collect();

    let below: BTreeSet<i64> = wanted.iter().take(kept).flatten().copied().collect();
    let order = match lifted(&chain, &below, &mut above)? {
        Some(order) => order,
        None => chain.iter().copied().filter(|node| matches!(node, Node::New(_))).collect(),
    };
    let fresh: BTreeMap<Node, i64> = order.iter().copied().zip(first_free..).collect();
    let ids = wanted
        .iter()
        .enumerate()
        .map(|(index, id)| {
            let node = id.map_or(Node::New(index), Node::Existing);
            fresh.get(&node).copied().or(*id).unwrap_or(first_free)
        })
        .collect();
    let moves = fresh
        .iter()
        .filter_map(|(node, new)| match node {
            Node::Existing(old) => Some((*old, *new)),
            Node::New(_) => None,
        })
        .collect();
    Ok(Numbering { ids, moves })
}

/// All that has to be numbered anew, lowest first: `chain` in its order, and what other images have
/// above its parts. `None` if there is no such order (one of `below`, which stay, would have to
/// rise too), or too much to lift.
fn lifted<E>(
    chain: &[Node],
    below: &BTreeSet<i64>,
    above: &mut impl FnMut(i64) -> Result<Vec<i64>, E>,
) -> Result<Option<Vec<Node>>, E> {
    let mut successors: BTreeMap<Node, BTreeSet<Node>> =
        chain.iter().map(|node| (*node, BTreeSet::new())).collect();
    let mut todo: Vec<i64> = Vec::new();
    for node in chain {
        if let Node::Existing(id) = node {
            todo.push(*id);
        }
    }
    while let Some(id) = todo.pop() {
        let higher = above(id)?;
        for other in &higher {
            successors.entry(Node::Existing(*other)).or_insert_with(|| {
                todo.push(*other);
                BTreeSet::new()
            });
        }
        if successors.len() > MAX_LIFTED || higher.iter().any(|other| below.contains(other)) {
            return Ok(None);
        }
        successors.entry(Node::Existing(id)).or_default().extend(higher.into_iter().map(Node::Existing));
    }
    for pair in chain.windows(2) {
        if let [lower, upper] = pair {
            successors.entry(*lower).or_default().insert(*upper);
        }
    }

    // Kahn's algorithm; the ordered sets make the result the same on every run.
    let mut waiting_for: BTreeMap<Node, usize> = successors.keys().map(|node| (*node, 0)).collect();
    for upper in successors.values().flatten() {
        *waiting_for.entry(*upper).or_default() += 1;
    }
    let mut ready: BTreeSet<Node> =
        waiting_for.iter().filter(|(_, count)| **count == 0).map(|(node, _)| *node).collect();
    let mut order = Vec::with_capacity(successors.len());
    while let Some(node) = ready.pop_first() {
        order.push(node);
        for upper in successors.get(&node).into_iter().flatten() {
            if let Some(count) = waiting_for.get_mut(upper) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(*upper);
                }
            }
        }
    }
    Ok((order.len() == successors.len()).then_some(order))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn numbered(wanted: &[Option<i64>], others: &[Vec<i64>]) -> Numbering {
        let highest =
            others.iter().flatten().chain(wanted.iter().flatten()).copied().max().unwrap_or_default();
        number(wanted, highest + 1, |id| {
            Ok::<_, Infallible>(
                others
                    .iter()
                    .filter(|image| image.contains(&id))
                    .flatten()
                    .copied()
                    .filter(|other| *other > id)
                    .collect(),
            )
        })
        .unwrap()
    }

    #[test]
    fn ids_in_order_are_kept_and_new_layers_go_on_top() {
        let numbering = numbered(&[Some(1), Some(4), None, None], &[vec![1, 2, 4]]);
        assert_eq!(numbering, Numbering { ids: vec![1, 4, 5, 6], moves: vec![] });
    }

    #[test]
    fn a_new_base_lifts_what_lies_above_it_and_what_others_have_above_that() {
        let numbering = numbered(&[None, Some(2)], &[vec![1, 2, 3], vec![7]]);
        assert_eq!(numbering, Numbering { ids: vec![8, 9], moves: vec![(2, 9), (3, 10)] });
    }

    #[test]
    fn opposite_orders_leave_what_exists_alone() {
        let numbering = numbered(&[Some(2), None, Some(1)], &[vec![1, 2]]);
        assert_eq!(numbering, Numbering { ids: vec![2, 3, 1], moves: vec![] });
    }

    proptest! {
        #[test]
        fn every_image_keeps_its_order_and_the_new_one_gets_its_own_unless_they_conflict(
            others in proptest::collection::vec(proptest::collection::btree_set(1_i64..9, 1..5), 0..5),
            wanted in proptest::sample::subsequence((1_i64..13).collect::<Vec<_>>(), 1..7).prop_shuffle(),
        ) {
            let others: Vec<Vec<i64>> = others.into_iter().map(|image| image.into_iter().collect()).collect();
            // Ids from 9 on stand for layers without a row.
            let wanted: Vec<Option<i64>> = wanted.into_iter().map(|id| (id < 9).then_some(id)).collect();
            let numbering = numbered(&wanted, &others);
            let moves: BTreeMap<i64, i64> = numbering.moves.iter().copied().collect();
            let now = |id: &i64| moves.get(id).copied().unwrap_or(*id);
            for image in &others {
                prop_assert!(image.iter().map(now).is_sorted(), "{:?} {:?}", image, moves);
            }
            for (id, wanted) in numbering.ids.iter().zip(&wanted) {
                if let Some(old) = wanted { prop_assert_eq!(*id, now(old)); }
            }
            let distinct: BTreeSet<i64> = numbering.ids.iter().copied().collect();
            prop_assert_eq!(distinct.len(), wanted.len());
            let conflict = wanted.iter().flatten().enumerate().any(|(place, lower)| {
                wanted.iter().flatten().take(place).any(|upper| {
                    upper > lower && reaches(*lower, *upper, &others)
                })
            });
            if !conflict {
                prop_assert!(numbering.ids.is_sorted(), "{:?} for {:?} beside {:?}", numbering, wanted, others);
            }
        }
    }

    /// Whether some chain of images has `upper` above `lower`.
    fn reaches(lower: i64, upper: i64, others: &[Vec<i64>]) -> bool {
        let mut seen = BTreeSet::from([lower]);
        let mut todo = vec![lower];
        while let Some(id) = todo.pop() {
            for image in others.iter().filter(|image| image.contains(&id)) {
                for next in image.iter().filter(|next| **next > id) {
                    if seen.insert(*next) {
                        todo.push(*next);
                    }
                }
            }
        }
        seen.contains(&upper)
    }
}
