//! A set of paths by their hashes: exact as long as they are few, then a superset of a fixed size.

use std::collections::HashSet;

/// The number of hashes that are kept as they are.
const FEW: usize = 1 << 15;
/// Bits of the superset: in a layer of 100,000 directories one other path in eighty is taken for
/// one.
const MANY_BITS: usize = 1 << 23;

/// Hashes of paths.
#[derive(Default)]
pub(super) struct PathSet {
    few: HashSet<u64>,
    many: Vec<u64>,
}

impl PathSet {
    fn bit(hash: u64) -> (usize, u64) {
        #[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
        let bit = hash as usize % MANY_BITS;
        (bit / 64, 1 << (bit % 64))
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if self.many.is_empty() {
            self.few.insert(hash);
            if self.few.len() < FEW {
                return;
            }
            self.many = vec![0; MANY_BITS / 64];
        }
        for hash in std::mem::take(&mut self.few).into_iter().chain([hash]) {
            let (word, bit) = Self::bit(hash);
            self.many[word] |= bit;
        }
    }

    /// True for every hash that was inserted, and for few others.
    pub(super) fn may_have(&self, hash: u64) -> bool {
        if self.many.is_empty() {
            return self.few.contains(&hash);
        }
        let (word, bit) = Self::bit(hash);
        self.many[word] & bit != 0
    }

    /// Forgets a hash, as long as the set is exact.
    pub(super) fn remove(&mut self, hash: u64) {
        self.few.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_paths_forgets_none_however_many() {
        let mut set = PathSet::default();
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for number in 0..2 * FEW as u64 {
            set.insert(hash(number));
        }
        assert!((0..2 * FEW as u64).all(|number| set.may_have(hash(number))));
        let wrong = (3 * FEW as u64..4 * FEW as u64).filter(|&number| set.may_have(hash(number))).count();
        assert!(wrong < FEW / 50, "{wrong} of {FEW} others are taken for one");
        let mut few = PathSet::default();
        few.insert(1);
        few.remove(1);
        assert!(!few.may_have(1) && !few.may_have(2));
    }
}
