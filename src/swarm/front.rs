//! Where a peer is in the film, as far as its haves tell.

use std::time::Duration;

use fixedbitset::FixedBitSet;

use crate::units::{PieceIndex, Time};

/// Haves in one place that are not where the peer was: a seek. One alone may be a rare piece.
const SEEK_HAVES: u32 = 3;
/// Haves are in one place if no more than this part of the band lies between them.
const TOGETHER: u32 = 5;
/// A viewer that got nothing for so long is paused, or not watching.
const RESTS_AFTER: Duration = Duration::from_secs(20);

/// The first piece that the peer lacks of what it is watching.
#[derive(Clone, Copy, Debug)]
pub struct Front {
    at: u32,
    /// Where else it got pieces, and how many in a row.
    elsewhere: (u32, u32),
    moved: Time,
}

impl Front {
    pub fn new(now: Time, pieces: &FixedBitSet) -> Self {
        Self {
            at: first_missing(pieces, 0),
            elsewhere: (0, 0),
            moved: now,
        }
    }

    /// `pieces` has `piece` already. `band`: pieces within which a viewer fetches ahead.
    pub fn handle_have(&mut self, now: Time, piece: PieceIndex, pieces: &FixedBitSet, band: u32) {
        self.moved = now;
        let near = |at: u32| (at..at.saturating_add(band)).contains(&piece.0);
        if near(self.at) {
            self.elsewhere = (0, 0);
        } else {
            let (at, haves) = self.elsewhere;
            let again = haves > 0 && piece.0.abs_diff(at) <= band / TOGETHER;
            self.elsewhere = match again {
                true => (at.min(piece.0), haves + 1),
                false => (piece.0, 1),
            };
            if self.elsewhere.1 >= SEEK_HAVES {
                self.at = self.elsewhere.0;
                self.elsewhere = (0, 0);
            }
        }
        self.at = first_missing(pieces, self.at);
    }

    /// It asks for `piece` and took back what it had asked for before: a seek.
    pub fn handle_seek(&mut self, piece: PieceIndex, pieces: &FixedBitSet, band: u32) {
        if !(self.at..self.at.saturating_add(band)).contains(&piece.0) {
            self.at = first_missing(pieces, piece.0);
            self.elsewhere = (0, 0);
        }
    }

    /// As many pieces as the torrent has: it lacks nothing further on.
    pub fn at(&self) -> u32 {
        self.at
    }

    pub fn rests(&self, now: Time) -> bool {
        now.since(self.moved) >= RESTS_AFTER
    }
}

fn count(pieces: &FixedBitSet) -> u32 {
    u32::try_from(pieces.len()).unwrap_or(u32::MAX)
}

fn first_missing(pieces: &FixedBitSet, from: u32) -> u32 {
    let end = count(pieces);
    (from..end)
        .find(|&piece| !pieces.contains(piece as usize))
        .unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1);
    const BAND: u32 = 120;

    struct Watched {
        pieces: FixedBitSet,
        front: Front,
    }

    fn watched() -> Watched {
        let pieces = FixedBitSet::with_capacity(1000);
        let front = Front::new(NOW, &pieces);
        Watched { pieces, front }
    }

    impl Watched {
        fn have(&mut self, piece: u32) -> u32 {
            self.pieces.insert(piece as usize);
            let piece = PieceIndex(piece);
            self.front.handle_have(NOW, piece, &self.pieces, BAND);
            self.front.at()
        }
    }

    #[test]
    fn pieces_in_any_order_move_it_to_the_first_that_lacks() {
        let mut peer = watched();
        assert_eq!([2, 1, 0, 90].map(|piece| peer.have(piece)), [0, 0, 3, 3]);
        assert_eq!(peer.have(3), 4);
    }

    #[test]
    fn a_seek_shows_after_a_few_pieces_and_a_rare_one_is_none() {
        let mut peer = watched();
        for piece in 0..10 {
            peer.have(piece);
        }
        assert_eq!([700, 300, 900, 500].map(|piece| peer.have(piece)), [10; 4]);
        // Forwards, in the order in which blocks come.
        assert_eq!([601, 600].map(|piece| peer.have(piece)), [10; 2]);
        assert_eq!(peer.have(602), 603);
        // And backwards.
        assert_eq!(
            [100, 101, 102].map(|piece| peer.have(piece)),
            [603, 603, 103]
        );
    }

    #[test]
    fn what_is_asked_for_after_a_cancel_is_a_seek_if_it_lies_elsewhere() {
        let mut peer = watched();
        for piece in 0..10 {
            peer.have(piece);
        }
        let seek = |peer: &mut Watched, piece| {
            peer.front
                .handle_seek(PieceIndex(piece), &peer.pieces, BAND);
            peer.front.at()
        };
        assert_eq!(seek(&mut peer, 10 + BAND - 1), 10);
        assert_eq!(seek(&mut peer, 10 + BAND), 10 + BAND);
        // Back to where it has been: what it lacks comes after.
        assert_eq!(seek(&mut peer, 4), 10);
    }

    #[test]
    fn who_gets_nothing_rests_and_the_end_is_the_end() {
        let mut peer = watched();
        assert!(!peer.front.rests(Time::from_secs(20)));
        assert!(peer.front.rests(Time::from_secs(21)));
        for piece in 0..1000 {
            peer.have(piece);
        }
        assert_eq!(peer.front.at(), 1000);
    }
}
