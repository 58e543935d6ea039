//! How many connected peers have each piece.

use fixedbitset::FixedBitSet;

use crate::units::PieceIndex;

/// Counts for one torrent. Seeds are counted apart, so that one coming or going costs nothing.
pub struct Rarity {
    counts: Vec<u16>,
    seeds: u16,
    others: u16,
}

impl Rarity {
    pub fn new(pieces: u32) -> Self {
        Self {
            counts: vec![0; pieces as usize],
            seeds: 0,
            others: 0,
        }
    }

    pub fn join(&mut self, pieces: &FixedBitSet, seed: bool) {
        if seed {
            self.seeds = self.seeds.saturating_add(1);
            return;
        }
        self.others = self.others.saturating_add(1);
        for piece in pieces.ones() {
            if let Some(count) = self.counts.get_mut(piece) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// `pieces` as they were counted: what [`Rarity::join`] got and [`Rarity::have`] added.
    pub fn leave(&mut self, pieces: &FixedBitSet, seed: bool) {
        if seed {
            self.seeds = self.seeds.saturating_sub(1);
            return;
        }
        self.others = self.others.saturating_sub(1);
        for piece in pieces.ones() {
            if let Some(count) = self.counts.get_mut(piece) {
                *count = count.saturating_sub(1);
            }
        }
    }

    pub fn have(&mut self, piece: PieceIndex) {
        if let Some(count) = self.counts.get_mut(piece.at()) {
            *count = count.saturating_add(1);
        }
    }

    pub fn of(&self, piece: PieceIndex) -> u32 {
        u32::from(self.counts[piece.at()]) + u32::from(self.seeds)
    }

    /// Somebody has everything: there is no piece that nobody has.
    pub fn has_seeds(&self) -> bool {
        self.seeds > 0
    }

    /// Whether somebody lacks pieces: then it matters which one is fetched first.
    pub fn has_traders(&self) -> bool {
        self.others > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_peers_and_seeds() {
        let mut rarity = Rarity::new(3);
        let mut some = FixedBitSet::with_capacity(3);
        some.insert(1);
        let mut all = FixedBitSet::with_capacity(3);
        all.insert_range(..);
        rarity.join(&all, true);
        assert!(!rarity.has_traders());
        rarity.join(&some, false);
        rarity.have(PieceIndex(2));
        some.insert(2);
        let counts: Vec<_> = (0..3).map(|piece| rarity.of(PieceIndex(piece))).collect();
        assert_eq!(counts, [1, 2, 2]);
        rarity.leave(&some, false);
        rarity.leave(&all, true);
        assert_eq!(rarity.of(PieceIndex(1)), 0);
        assert!(!rarity.has_traders());
    }
}
