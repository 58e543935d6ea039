//! Which bytes of a block are stored: a fetch may begin and end anywhere in it.

use std::ops::Range;

/// Runs of bytes apart from each other; what would make one more is not stored.
const RUNS_MAX: usize = 2;
/// Around the runs.
pub type Gaps = [Range<u32>; RUNS_MAX + 1];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// In order, not touching; those that are empty last.
    runs: [(u32, u32); RUNS_MAX],
}

impl Runs {
    pub const NONE: Self = Self {
        runs: [(0, 0); RUNS_MAX],
    };

    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    pub fn is_whole(&self, len: u32) -> bool {
        self.runs[0] == (0, len)
    }

    pub fn covers(&self, range: &Range<u32>) -> bool {
        range.is_empty() || self.until(range.start) >= range.end
    }

    /// Where the run with the byte at `at` ends; `at` if that byte lacks.
    pub fn until(&self, at: u32) -> u32 {
        let mut runs = self.runs.iter();
        let run = runs.find(|(begin, end)| (*begin..*end).contains(&at));
        run.map_or(at, |(_, end)| *end)
    }

    /// What of `range` is to be stored now: nothing of it was, and it is from now on.
    pub fn add(&mut self, range: &Range<u32>) -> Gaps {
        let mut gaps = Gaps::default();
        let (mut count, mut at) = (0, range.start);
        let edge = (range.end, range.end);
        for (begin, end) in self.filled().chain([edge]) {
            let gap = at..begin.min(range.end);
            if !gap.is_empty() {
                gaps[count] = gap;
                count += 1;
            }
            at = at.max(end);
        }
        if count == 0 {
            return gaps;
        }
        let mut joined = (range.start, range.end);
        let mut apart: Vec<(u32, u32)> = Vec::new();
        for (begin, end) in self.filled() {
            if end < joined.0 || begin > joined.1 {
                apart.push((begin, end));
            } else {
                joined = (joined.0.min(begin), joined.1.max(end));
            }
        }
        if apart.len() == RUNS_MAX {
            return Gaps::default();
        }
        apart.push(joined);
        apart.sort_unstable();
        self.runs = [(0, 0); RUNS_MAX];
        self.runs[..apart.len()].copy_from_slice(&apart);
        gaps
    }

    fn filled(self) -> impl Iterator<Item = (u32, u32)> {
        self.runs.into_iter().filter(|(begin, end)| begin < end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each byte is stored once, and a second pass over the block leaves nothing out.
        #[test]
        fn every_byte_once(adds in proptest::collection::vec((0u32..64, 1u32..40), 0..12)) {
            let mut runs = Runs::NONE;
            let mut stored = [false; 64];
            for (start, len) in adds.into_iter().chain([(0, 64), (0, 64)]) {
                let range = start..(start + len).min(64);
                for at in runs.add(&range).into_iter().flatten() {
                    prop_assert!(range.contains(&at));
                    prop_assert!(!std::mem::replace(&mut stored[at as usize], true));
                }
                for at in 0..64 {
                    prop_assert_eq!(runs.until(at) > at, stored[at as usize]);
                }
            }
            prop_assert!(runs.is_whole(64) && runs.covers(&(3..64)));
        }
    }
}
