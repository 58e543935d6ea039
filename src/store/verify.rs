//! One piece on its way: which of its bytes are written, and the hash of those from its start on.

use std::ops::Range;

use crate::torrent::hasher::Hasher;

/// A piece of which some bytes are on disk. Offsets count from its first byte.
pub(crate) struct Hashing {
    hasher: Hasher,
    /// Bytes from the start that are hashed, and so written.
    prefix: u32,
    /// Written but not hashed yet: sorted, apart from each other and from the prefix's end.
    later: Vec<Range<u32>>,
}

impl Hashing {
    pub(crate) fn new() -> Self {
        Self {
            hasher: Hasher::new(),
            prefix: 0,
            later: Vec::new(),
        }
    }

    /// The first bytes within `range` that are not written yet.
    pub(crate) fn gap(&self, range: Range<u32>) -> Option<Range<u32>> {
        let mut start = range.start.max(self.prefix);
        let next = self.later.partition_point(|span| span.end <= start);
        for span in &self.later[next..] {
            if start < span.start {
                break;
            }
            start = span.end;
        }
        let next = self.later.partition_point(|span| span.start <= start);
        let end = self.later.get(next).map_or(range.end, |span| span.start);
        let end = end.min(range.end);
        (start < end).then_some(start..end)
    }

    /// Notes that a gap was filled; hashes `data` if it goes on where the hash stands.
    pub(crate) fn add(&mut self, gap: Range<u32>, data: &[u8]) {
        if gap.start == self.prefix {
            self.hasher.update(data);
            self.prefix = gap.end;
        } else {
            self.add_unhashed(gap);
        }
    }

    /// Notes that a gap is on disk, or reads as zeros.
    pub(crate) fn add_unhashed(&mut self, gap: Range<u32>) {
        let at = self.later.partition_point(|span| span.end < gap.start);
        let mut joined = gap;
        let mut end = at;
        while let Some(span) = self.later.get(end).filter(|span| span.start <= joined.end) {
            joined = joined.start.min(span.start)..joined.end.max(span.end);
            end += 1;
        }
        self.later.splice(at..end, [joined]);
    }

    /// Bytes that are written and are the next to hash.
    pub(crate) fn ready(&self) -> Option<Range<u32>> {
        let first = self.later.first()?;
        (first.start <= self.prefix).then_some(self.prefix..first.end)
    }

    /// Hashes the first bytes of [`Self::ready`], read back from disk.
    pub(crate) fn catch_up(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.prefix += u32::try_from(data.len()).expect("within a piece");
        if self
            .later
            .first()
            .is_some_and(|span| span.end <= self.prefix)
        {
            self.later.remove(0);
        }
    }

    pub(crate) fn prefix(&self) -> u32 {
        self.prefix
    }

    pub(crate) fn digest(self) -> [u8; 20] {
        self.hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_order_gives_the_same_hash(
            writes in proptest::collection::vec((0u32..200, 1u32..40), 1..60),
            pad in 0u32..200,
        ) {
            let piece: Vec<u8> = (0..200u32).map(|at| (at * 7 + 3) as u8).collect();
            let mut hashing = Hashing::new();
            let mut written = [false; 200];
            hashing.add_unhashed(pad..(pad + 10).min(200));
            written[pad as usize..(pad as usize + 10).min(200)].fill(true);
            let all = writes.into_iter().chain([(0, 200)]);
            for (start, len) in all {
                let end = (start + len).min(200);
                let mut at = start;
                while let Some(gap) = hashing.gap(at..end) {
                    at = gap.end;
                    let bytes = gap.start as usize..gap.end as usize;
                    prop_assert!(written[bytes.clone()].iter().all(|written| !written));
                    written[bytes.clone()].fill(true);
                    hashing.add(gap, &piece[bytes]);
                    while let Some(ready) = hashing.ready() {
                        let end = ready.end.min(ready.start + 7);
                        hashing.catch_up(&piece[ready.start as usize..end as usize]);
                    }
                }
                prop_assert!(written[start as usize..end as usize].iter().all(|written| *written));
            }
            prop_assert_eq!(hashing.prefix(), 200);
            let expect: [u8; 20] = Hasher::digest(&piece);
            prop_assert_eq!(hashing.digest(), expect);
        }
    }
}
