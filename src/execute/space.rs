//! Free space, compared with a plan before anything is fetched.
//!
//! A layer is hardly ever smaller than its blob: less space than that cannot be enough, and is
//! refused. Unpacked, a compressed one is as a rule about three times as large: less space than
//! that may not be enough, and is worth a warning. Downloads are gone one by one, so each counts
//! for itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, StoreError};
use crate::image_ref::ImageRef;
use crate::plan::{Fetch, Plan};
use crate::store::Store;

/// A compressed layer is about so many times as large when it is unpacked.
const UNPACKED: u64 = 3;

/// Warns where the layers to fetch may not have enough space once they are unpacked.
pub(super) fn doubt(plan: &Plan, store: &Store) -> Result<Option<String>, StoreError> {
    if plan.download_bytes() == 0 {
        return Ok(None);
    }
    let needed = plan.fetches.iter().map(unpacked).fold(0, u64::saturating_add);
    let free = store.free_space()?.layers;
    let path = store.layers().display();
    Ok((needed > free).then(|| {
        format!(
            "the layers to fetch may take about {} MiB unpacked, and {} MiB are free in {path}",
            needed >> 20,
            free >> 20
        )
    }))
}

/// The size, in bytes, that a layer has on disk, as far as it can be told before.
fn unpacked(fetch: &Fetch) -> u64 {
    let mut kinds = fetch.claims().map(|claim| claim.layer().media_type.as_str());
    let is_compressed = |kind: &str| kind.ends_with("gzip") || kind.ends_with("zstd");
    if kinds.all(is_compressed) { fetch.size().saturating_mul(UNPACKED) } else { fetch.size() }
}

/// The fetches of a plan, by position, for which there cannot be enough space, each with its error.
pub(super) type TooLarge = Vec<(usize, Arc<Error>)>;

/// Finds the fetches for which there cannot be enough space: those that are larger than all that is
/// free (whose registry may be lying), and of the others as many images as it takes.
pub(super) fn too_large(plan: &Plan, store: &Store) -> Result<TooLarge, StoreError> {
    let mut too_large = Vec::new();
    if plan.download_bytes() == 0 {
        return Ok(too_large);
    }
    let free = store.free_space()?;
    let refused = |path: &Path, needed, free| {
        Arc::new(Error::from(StoreError::NoSpace { path: path.to_owned(), needed, free }))
    };
    let mut needed = 0_u64;
    for (index, fetch) in plan.fetches.iter().enumerate() {
        let size = fetch.size();
        let to_come = size.saturating_sub(store.spooled(fetch.digest()));
        if size > free.layers {
            too_large.push((index, refused(store.layers(), size, free.layers)));
        } else if to_come > free.downloads {
            too_large.push((index, refused(store.downloads(), to_come, free.downloads)));
        } else {
            needed = needed.saturating_add(size);
        }
    }
    if needed > free.layers {
        let known = too_large.iter().map(|(index, _)| *index).collect();
        let error = refused(store.layers(), needed, free.layers);
        let given_up = give_up(plan, known, needed - free.layers);
        too_large.extend(given_up.into_iter().map(|index| (index, Arc::clone(&error))));
    }
    Ok(too_large)
}

/// Chooses the fetches to leave out beside `known`, the biggest first with all that only its images
/// need, so that at least `excess` bytes less are needed.
fn give_up(plan: &Plan, known: BTreeSet<usize>, mut excess: u64) -> Vec<usize> {
    let mut failed: BTreeSet<&ImageRef> = BTreeSet::new();
    let images = |fetch: usize| plan.fetches[fetch].claims().flat_map(|claim| claim.images.iter());
    let (mut left_out, mut given_up) = (known, Vec::new());
    for biggest in 0..plan.fetches.len() {
        if excess == 0 {
            break;
        }
        if left_out.contains(&biggest) {
            continue;
        }
        failed.extend(images(biggest));
        for fetch in biggest..plan.fetches.len() {
            if !left_out.contains(&fetch) && images(fetch).all(|image| failed.contains(image)) {
                left_out.insert(fetch);
                given_up.push(fetch);
                excess = excess.saturating_sub(plan.fetches[fetch].size());
            }
        }
    }
    given_up
}
