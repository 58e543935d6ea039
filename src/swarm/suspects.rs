//! Who sent the bad block of a piece that failed its hash (R46).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::swarm::OriginKey;
use crate::swarm::blocks::Source;
use crate::units::PieceIndex;

/// Pieces whose failures are remembered at a time.
const PIECES_MAX: usize = 64;
/// Failures of one piece that are remembered.
const ATTEMPTS_MAX: usize = 4;
/// A peer that took part in so many bad pieces of which nobody was convicted is banned.
const STRIKES_MAX: u8 = 5;
/// Peers whose strikes are remembered.
const STRUCK_MAX: usize = 1024;

/// Bad pieces whose liar is not known yet.
#[derive(Default)]
pub struct Suspects {
    pieces: BTreeMap<PieceIndex, Vec<Attempt>>,
    strikes: BTreeMap<SocketAddr, u8>,
}

/// Who sent which block, and what it hashed to.
struct Attempt {
    senders: Vec<Source>,
    digests: Vec<[u8; 20]>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    pub ban: Vec<SocketAddr>,
    /// Its bytes are not the torrent's.
    pub differs: Vec<OriginKey>,
}

impl Suspects {
    /// A piece failed its hash. If one source sent all of it the case is clear; else the piece is
    /// to be fetched again from one source, while [`Suspects::wants_digests`].
    pub fn handle_bad(
        &mut self,
        piece: PieceIndex,
        senders: Vec<Source>,
        digests: Vec<[u8; 20]>,
    ) -> Ruling {
        let mut ruling = Ruling::default();
        let first = senders.first().copied().unwrap_or(Source::Mixed);
        if first != Source::Mixed && senders.iter().all(|&sender| sender == first) {
            ruling.blame(first);
            return ruling;
        }
        if self.pieces.len() >= PIECES_MAX && !self.pieces.contains_key(&piece) {
            self.pieces.pop_first();
        }
        let attempts = self.pieces.entry(piece).or_default();
        if attempts.len() < ATTEMPTS_MAX {
            attempts.push(Attempt { senders, digests });
        }
        ruling
    }

    /// The piece is good at last: senders of blocks that differ lied.
    pub fn handle_good(&mut self, piece: PieceIndex, digests: Option<&[[u8; 20]]>) -> Ruling {
        let mut ruling = Ruling::default();
        for attempt in self.pieces.remove(&piece).unwrap_or_default() {
            let told = attempt.digests.iter().zip(&attempt.senders);
            let mut proven = false;
            for ((told, sender), truth) in told.zip(digests.unwrap_or_default()) {
                if told != truth && *sender != Source::Mixed {
                    ruling.blame(*sender);
                    proven = true;
                }
            }
            if !proven {
                self.strike(&attempt.senders, &mut ruling);
            }
        }
        ruling
    }

    /// Whether the block digests of this piece are needed once it is good.
    pub fn wants_digests(&self, piece: PieceIndex) -> bool {
        self.pieces.contains_key(&piece)
    }

    /// Whether this peer took part in a failure of the piece.
    pub fn took_part(&self, piece: PieceIndex, addr: SocketAddr) -> bool {
        let attempts = self.pieces.get(&piece).into_iter().flatten();
        attempts
            .flat_map(|attempt| &attempt.senders)
            .any(|sender| *sender == Source::Peer(addr))
    }

    fn strike(&mut self, senders: &[Source], ruling: &mut Ruling) {
        let mut struck = Vec::new();
        for sender in senders {
            if let Source::Peer(addr) = sender
                && !struck.contains(addr)
            {
                struck.push(*addr);
            }
        }
        for addr in struck {
            if self.strikes.len() >= STRUCK_MAX && !self.strikes.contains_key(&addr) {
                self.strikes.pop_first();
            }
            let strikes = self.strikes.entry(addr).or_default();
            *strikes += 1;
            if *strikes >= STRIKES_MAX {
                ruling.blame(Source::Peer(addr));
            }
        }
    }
}

impl Ruling {
    fn blame(&mut self, source: Source) {
        match source {
            Source::Peer(addr) if !self.ban.contains(&addr) => self.ban.push(addr),
            Source::Origin { origin, .. } if !self.differs.contains(&origin) => {
                self.differs.push(origin);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: PieceIndex = PieceIndex(7);

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6881))
    }

    fn peer(n: u8) -> Source {
        Source::Peer(addr(n))
    }

    #[test]
    fn exactly_the_liar_is_banned() {
        let mut suspects = Suspects::default();
        let senders = vec![peer(1), peer(2), peer(1), peer(3)];
        let told = vec![[1; 20], [2; 20], [9; 20], [4; 20]];
        assert_eq!(suspects.handle_bad(PIECE, senders, told), Ruling::default());
        assert!(suspects.wants_digests(PIECE) && suspects.took_part(PIECE, addr(3)));
        let truth = [[1; 20], [2; 20], [3; 20], [4; 20]];
        assert_eq!(suspects.handle_good(PIECE, Some(&truth)).ban, [addr(1)]);
        assert!(!suspects.wants_digests(PIECE));
    }

    #[test]
    fn a_sole_sender_is_judged_at_once() {
        let mut suspects = Suspects::default();
        let ruling = suspects.handle_bad(PIECE, vec![peer(1); 2], vec![[0; 20]; 2]);
        assert_eq!(ruling.ban, [addr(1)]);
        let origin = OriginKey(3);
        let source = Source::Origin {
            origin,
            direct: true,
        };
        let ruling = suspects.handle_bad(PIECE, vec![source; 2], vec![[0; 20]; 2]);
        assert_eq!((ruling.ban, ruling.differs), (vec![], vec![origin]));
    }

    #[test]
    fn nobody_is_blamed_for_a_block_of_two_hands_or_without_digests() {
        let mut suspects = Suspects::default();
        let senders = vec![Source::Mixed, peer(2)];
        suspects.handle_bad(PIECE, senders.clone(), vec![[0; 20]; 2]);
        let ruling = suspects.handle_good(PIECE, Some(&[[1; 20], [0; 20]]));
        assert_eq!(ruling, Ruling::default());
        suspects.handle_bad(PIECE, senders, vec![[0; 20]; 2]);
        assert_eq!(suspects.handle_good(PIECE, None), Ruling::default());
    }

    #[test]
    fn five_unsolved_failures_ban() {
        let mut suspects = Suspects::default();
        for piece in 0..4 {
            let senders = vec![peer(1), peer(piece + 2)];
            suspects.handle_bad(PieceIndex(piece.into()), senders, vec![[0; 20]; 2]);
            let ruling = suspects.handle_good(PieceIndex(piece.into()), None);
            assert_eq!(ruling, Ruling::default());
        }
        suspects.handle_bad(PieceIndex(4), vec![peer(1), peer(9)], vec![[0; 20]; 2]);
        let ruling = suspects.handle_good(PieceIndex(4), None);
        assert_eq!(ruling.ban, [addr(1)]);
    }
}
