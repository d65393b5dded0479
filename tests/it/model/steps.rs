//! What can happen, and how it is drawn.

use std::collections::BTreeSet;

use super::kinds::{File, Policy, Rule, Selection, TAGS};

/// An `apply` with its options.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(super) struct Apply {
    pub(super) f: usize,
    pub(super) prune: bool,
    pub(super) allow_empty: bool,
    pub(super) locked: bool,
    pub(super) offline: bool,
    pub(super) stage: bool,
    pub(super) now: Option<&'static str>,
}

/// What can happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Edit(usize),
    Move,
    Untag,
    Down(bool),
    Lose,
    Damage,
    Unrecord,
    Apply(Apply),
    Prune {
        f: usize,
        allow_empty: bool,
    },
    Remove(&'static str),
    Pull(&'static str),
    Lock {
        f: usize,
        upgrade: bool,
    },
    Repair,
    /// Hours pass.
    Pass(u32),
    Rollback(&'static str),
    Release(&'static str),
}

/// The hours after which nothing that was staged before is spared any more.
const LONG: u32 = 400;

/// Numbers that look random, the same for the same seed (`SplitMix64`).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(super) fn step(&mut self) -> Step {
        let f = self.below(2);
        match self.below(39) {
            0..=5 => Step::Edit(f),
            6..=8 => Step::Move,
            9 => Step::Untag,
            10 => Step::Down(true),
            11..=12 => Step::Lose,
            13 => Step::Damage,
            14 => Step::Unrecord,
            15..=20 | 36..=37 => {
                let (prune, locked) = (self.one_in(2), self.one_in(5));
                let (offline, allow_empty) = (self.one_in(6), self.one_in(2));
                let (stage, now) = (self.one_in(4), self.one_in(6).then(|| self.of(TAGS)));
                Step::Apply(Apply { f, prune, allow_empty, locked, offline, stage, now })
            }
            21..=22 => Step::Prune { f, allow_empty: self.one_in(2) },
            23 => Step::Remove(self.of(TAGS)),
            24 => Step::Pull(self.of(TAGS)),
            25..=27 => Step::Lock { f, upgrade: self.one_in(3) },
            28 => Step::Repair,
            29..=31 => Step::Pass(self.of(&[1, 1, 1, 2, 2, 2, LONG])),
            32..=34 => Step::Rollback(self.of(TAGS)),
            35 => Step::Release(self.of(TAGS)),
            _ => Step::Down(false),
        }
    }

    pub(super) fn file(&mut self) -> File {
        let names: BTreeSet<_> = TAGS.iter().filter(|_| self.one_in(3)).copied().collect();
        let cooling = names.iter().filter(|_| self.one_in(2)).copied().collect();
        let rule = Rule { below: self.of(&[2, 3]), newest: self.of(&[1, 2, 9]) };
        let selection = Selection { rule, cools: self.one_in(2) };
        let policy = self.of(&[Policy::Always, Policy::Always, Policy::Missing, Policy::Never]);
        let (selection, keep) = (self.one_in(2).then_some(selection), self.of(&[0, 0, 1, 2]));
        File { names, cooling, selection, policy, keep }
    }
}
