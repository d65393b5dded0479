//! Earlier digests: those that stay for a way back, and those that fall out.

use super::*;
use crate::state::EarlierImage;

const MINE: &str = "/images.toml";

fn earlier(image: &ResolvedImage) -> EarlierImage {
    let layers = image.layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect();
    EarlierImage { digest: image.digest.clone(), layers }
}

/// A reference that has meant versions 1 to 3 of one layer each, and now means `present`.
fn world(present: usize, keep: u32) -> (Desired, Observed) {
    let name = reference(0);
    let version = |number: usize| resolved(&name, number, &[number, 9]);
    let mut wish = desired(vec![name.clone()], true);
    wish.targets.keeps_earlier = keep;
    let row = RecordedImage {
        earlier_for: [(Owner(MINE.to_owned()), keep)].into(),
        ..row(&version(3), &name, &[MINE])
    };
    let resolution = match present {
        3 => Resolution::AsRecorded,
        other => Resolution::Resolved(Arc::new(version(other))),
    };
    let mut observed = observed_with(resolution, vec![row], &[1, 2, 3, 4, 9]);
    observed.earlier.insert(name.clone(), vec![earlier(&version(2)), earlier(&version(1))]);
    (wish, observed)
}

fn digests_of(layers: &[usize]) -> Vec<BlobDigest> {
    let mut digests: Vec<BlobDigest> = layers.iter().map(|&index| layer(index).digest).collect();
    digests.sort();
    digests
}

#[test]
fn the_newest_earlier_digests_stay_and_the_others_fall_out() {
    for (present, keep, removed, spared, bytes) in [
        (3, 0, &[1, 2][..], 0, 0),
        (3, 1, &[1], 1, 12),
        (3, 2, &[], 2, 23),
        (3, 9, &[], 2, 23),
        // An update: what it replaces is the newest earlier one.
        (4, 0, &[1, 2, 3], 0, 0),
        (4, 1, &[1, 2], 1, 13),
        (4, 2, &[1], 2, 25),
        // The way back: the digest that is present again is no earlier one.
        (1, 0, &[2, 3], 0, 0),
        (1, 1, &[2], 1, 13),
        (1, 2, &[], 2, 25),
    ] {
        let (wish, observed) = world(present, keep);
        let got = plan(&wish, &observed);
        assert_eq!(got.layers_to_remove, digests_of(removed), "{present} {keep}");
        assert_eq!((got.spared.len(), got.spared_bytes), (spared, bytes), "{present} {keep}");
    }
}

#[test]
fn others_spare_too_and_a_removal_takes_what_only_it_spared() {
    let (mut wish, mut observed) = world(3, 0);
    let other = Owner("/other.toml".to_owned());
    let row = observed.recorded.get_mut(&reference(0)).unwrap();
    row.owners.insert(other.clone());
    row.earlier_for.insert(other.clone(), 1);
    // Who wants no layers spares none.
    assert_eq!(plan(&wish, &observed).layers_to_remove, digests_of(&[1, 2]));
    observed.recorded.get_mut(&reference(0)).unwrap().extracted_for.insert(other);
    assert_eq!(plan(&wish, &observed).layers_to_remove, digests_of(&[1]));
    // The file lists the image no more: the other one keeps it, with what it spares.
    wish.images.clear();
    wish.targets.keeps_earlier = 9;
    assert_eq!(plan(&wish, &observed).layers_to_remove, digests_of(&[1]));
    // An image that the run leaves alone is as it was.
    wish.listed_elsewhere.insert(reference(0));
    observed.recorded.get_mut(&reference(0)).unwrap().earlier_for.insert(Owner(MINE.to_owned()), 2);
    assert!(plan(&wish, &observed).layers_to_remove.is_empty());
    let (mut wish, observed) = world(3, 2);
    wish.images.clear();
    assert_eq!(plan(&wish, &observed).layers_to_remove, digests_of(&[1, 2, 3, 9]));
}

#[test]
fn nothing_earlier_goes_without_prune_or_while_removals_wait() {
    let (mut wish, mut observed) = world(4, 0);
    observed.failed = true;
    let held = plan(&wish, &observed);
    assert!(held.layers_to_remove.is_empty() && !held.sweeps_blobs);
    observed.failed = false;
    assert!(plan(&wish, &observed).sweeps_blobs);
    wish.prune = false;
    assert!(plan(&wish, &observed).layers_to_remove.is_empty());
}
