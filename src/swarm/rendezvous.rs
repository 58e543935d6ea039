//! Which of several viewers fetches a piece that nobody has: all reckon alike, so none need ask.
//!
//! A naive fallback near the deadline fails when viewers are at the same place of the film: all
//! miss the same piece, all fetch it, and have nothing to trade. Here each piece orders the viewers
//! that will need it by a rendezvous hash. The first fetches it far ahead; each next one only when
//! the copies that relaying should have made by then have not come.

use crate::torrent::hasher::Hasher;
use crate::units::{InfoHash, PeerId, PieceIndex};

/// The first in order fetches what is due within this many seconds: later leaves too little time
/// for spreading, earlier buys what is left unwatched.
pub const AHEAD_S: f64 = 20.0;
/// A viewer counts for a piece if it needs it no earlier than the first of these seconds from now,
/// and no later after us than the second.
const NEEDED_S: (f64, f64) = (-0.5, 4.0);
/// How much longer than from peer to peer the copies of a piece take to double.
const DOUBLING: f64 = 1.5;
/// Share of the margin that the last in order leaves.
const LAST_MARGIN: f64 = 0.5;

/// What one peer throws in; the same whoever reckons it. Other implementations must do likewise:
/// the first eight bytes, as a big-endian number, of SHA-1 of info-hash and peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lot(u64);

/// A viewer's place in the order for one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub rank: u32,
    /// Viewers that the order has.
    pub of: u32,
}

impl Lot {
    pub fn new(info_hash: InfoHash, peer: PeerId) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&info_hash.0);
        hasher.update(&peer.0);
        let hash = hasher.finish();
        Self(u64::from_be_bytes(*hash.first_chunk().expect("of twenty")))
    }

    /// The least of a piece goes first.
    fn draw(self, piece: PieceIndex) -> (u64, Self) {
        (mixed(self.0, piece), self)
    }
}

/// Orders pieces as no other salt does (splitmix64).
pub fn mixed(salt: u64, piece: PieceIndex) -> u64 {
    let mut mix = salt ^ u64::from(piece.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mix = (mix ^ (mix >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mix ^ (mix >> 31)
}

/// Whether a viewer that needs a piece in `theirs_s` competes with one that needs it in `ours_s`.
pub fn competes(theirs_s: f64, ours_s: f64) -> bool {
    let (earliest, later) = NEEDED_S;
    theirs_s >= earliest && theirs_s <= ours_s + later
}

impl Turn {
    pub fn of(piece: PieceIndex, ours: Lot, others: impl Iterator<Item = Lot>) -> Self {
        let draw = ours.draw(piece);
        let (mut rank, mut of) = (0, 1);
        for other in others {
            of += 1;
            rank += u32::from(other.draw(piece) < draw);
        }
        Self { rank, of }
    }

    /// So many seconds before its deadline this viewer fetches the piece. The origin answers in
    /// `origin_s`; a peer passes a piece on in `relay_s`.
    pub fn due_s(self, origin_s: f64, margin_s: f64, relay_s: f64) -> f64 {
        if self.rank == 0 {
            return AHEAD_S;
        }
        let more = f64::from(self.of) / f64::from(self.rank + 1);
        let spread = DOUBLING * relay_s * more.log2().max(0.0);
        (origin_s + LAST_MARGIN * margin_s + spread).min(AHEAD_S)
    }
}

#[cfg(test)]
mod tests {
    use sha1::{Digest, Sha1};

    use super::*;

    fn lots(count: u8) -> Vec<Lot> {
        let hash = InfoHash([7; 20]);
        (0..count)
            .map(|id| Lot::new(hash, PeerId([id; 20])))
            .collect()
    }

    #[test]
    fn each_piece_has_one_first_whoever_reckons_and_all_get_their_share() {
        let lots = lots(24);
        let mut firsts = [0; 24];
        for piece in (0..2400).map(PieceIndex) {
            let mut ranks: Vec<u32> = Vec::new();
            for (place, &ours) in lots.iter().enumerate() {
                // Each knows the others in another order.
                let others = lots.iter().cycle().skip(place + 1).take(23).copied();
                let turn = Turn::of(piece, ours, others);
                assert_eq!(turn.of, 24);
                firsts[place] += u32::from(turn.rank == 0);
                ranks.push(turn.rank);
            }
            ranks.sort_unstable();
            assert_eq!(ranks, (0..24).collect::<Vec<_>>());
        }
        // A hundred each, give or take.
        assert!(
            firsts.iter().all(|&first| (60..140).contains(&first)),
            "{firsts:?}"
        );
    }

    #[test]
    fn who_joins_takes_pieces_from_all_and_moves_none_between_the_others() {
        let lots = lots(9);
        let first = |among: &[Lot], piece| {
            let draws = among.iter().min_by_key(|lot| lot.draw(PieceIndex(piece)));
            *draws.unwrap()
        };
        let mut moved = 0;
        for piece in 0..900 {
            let (before, after) = (first(&lots[..8], piece), first(&lots, piece));
            if before != after {
                assert_eq!(after, lots[8]);
                moved += 1;
            }
        }
        assert!((60..140).contains(&moved), "{moved}");
    }

    #[test]
    fn the_order_is_by_the_hash_that_is_written_down() {
        // Other versions and implementations reckon with the same: it is part of the protocol.
        let lot = Lot::new(InfoHash([1; 20]), PeerId([2; 20]));
        let hash = Sha1::digest([[1u8; 20], [2u8; 20]].concat());
        assert_eq!(lot.0.to_be_bytes(), hash[..8]);
        assert_eq!(mixed(1, PieceIndex(1)), 0xe4d9_7177_1b65_2c20_u64);
    }

    #[test]
    fn each_next_one_waits_longer_and_all_before_the_deadline() {
        let due = |rank| Turn { rank, of: 24 }.due_s(0.4, 3.0, 0.5);
        assert_eq!(due(0).to_bits(), AHEAD_S.to_bits());
        for rank in 0..23 {
            assert!(due(rank + 1) < due(rank));
        }
        assert!((4.5..5.0).contains(&due(1)), "{}", due(1));
        assert!((due(23) - 1.9).abs() < 1e-9, "{}", due(23));
        // A piece that takes long to pass on is no reason to fetch it before the first does.
        assert!(Turn { rank: 1, of: 200 }.due_s(0.4, 3.0, 60.0) <= AHEAD_S);
    }

    #[test]
    fn who_has_played_past_a_piece_or_is_far_behind_does_not_compete() {
        for (theirs, competing) in [(-1.0, false), (0.0, true), (13.0, true), (15.0, false)] {
            assert_eq!(competes(theirs, 10.0), competing, "{theirs}");
        }
    }
}
