//! Interest in peers, and what is asked again of another when one of them is late.

use fixedbitset::FixedBitSet;

use crate::swarm::blocks::Only;
use crate::swarm::deal::picker;
use crate::swarm::{PeerKey, Swarm, wake};
use crate::units::{Block, Time};

/// Duplicates allowed beside their share, bytes.
const SPARE_BYTES: u64 = 256 << 10;
/// Duplicates may be this part of what peers brought, and that part for what a player waits for.
const SPARE_DIVISOR: u64 = 100;
const SPARE_DIVISOR_WAITED: u64 = 50;

/// Interest, and peers that are late.
impl Swarm {
    pub(in crate::swarm) fn interest_all(&mut self) {
        for key in self.peers.keys() {
            self.show_interest(key);
        }
    }

    /// Shown once and kept: some clients punish those who change their mind.
    pub(in crate::swarm) fn show_interest(&mut self, key: PeerKey) {
        if !self.wanting() || self.upload_only {
            return;
        }
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(session) = peer.session.as_mut().filter(|session| session.ready()) else {
            return;
        };
        if !session.is_interesting() && lacks_some(&self.have, session.pieces()) {
            session.interested(true);
            wake(&mut self.outputs, key, &mut peer.woken);
        }
    }

    /// At a timeout: keep-alive, hand-shake and idle limits, and overdue blocks.
    pub(in crate::swarm) fn check_peer(&mut self, now: Time, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(session) = &mut peer.session else {
            return;
        };
        if now >= session.next_timeout() {
            if let Err(fault) = session.handle_timeout(now) {
                return self.give_up(now, key, fault);
            }
            wake(&mut self.outputs, key, &mut peer.woken);
        }
        if !peer.look(now) {
            return;
        }
        self.replan = true;
        if peer.is_dead(now) {
            peer.snubbed = true;
            self.orphan(now, Only::Peer(key));
            let asked: Vec<Block> = self.asked_of(key);
            for block in asked {
                self.cancel(key, block);
                self.release(block, key);
            }
        } else {
            self.hedge(now, key);
        }
    }

    /// The overdue blocks of a peer that a reader needs soon, or that are the last ones, are asked
    /// of the next best.
    fn hedge(&mut self, now: Time, late: PeerKey) {
        for block in self.asked_of(late) {
            let Some(torrent) = &mut self.torrent else {
                return;
            };
            let picker = picker(now, torrent, &self.readers, self.want_all, &self.setup);
            let urgent = picker.is_urgent(block.piece);
            let mut readers = self.readers.iter();
            let waited_for =
                readers.any(|(_, reader)| reader.waits_for(&torrent.layout, block.piece));
            let last = torrent.requests.is_all_asked();
            let divisor = match waited_for {
                true => SPARE_DIVISOR_WAITED,
                false => SPARE_DIVISOR,
            };
            let spare = SPARE_BYTES + self.stats.bytes.from_peers / divisor;
            let spent = self.stats.duplicates * u64::from(crate::units::BLOCK_LEN);
            if !(urgent || last) || spent >= spare {
                continue;
            }
            let able = self.peers.iter().filter(|(other, peer)| {
                let session = peer.ready();
                *other != late
                    && peer.delivers()
                    && peer.room() > 0
                    && session.is_some_and(|session| session.has(block.piece))
            });
            let Some(other) = able.min_by_key(|(_, peer)| peer.rank()).map(|(key, _)| key) else {
                continue;
            };
            if torrent.requests.take_second(block, other)
                && let Some(peer) = self.peers.get_mut(other)
            {
                peer.ask(now, block, torrent.layout.span(block));
                wake(&mut self.outputs, other, &mut peer.woken);
                self.stats.duplicates += 1;
            }
        }
    }

    fn asked_of(&self, key: PeerKey) -> Vec<Block> {
        self.peers
            .get(key)
            .map_or_else(Vec::new, |peer| peer.asked().collect())
    }
}

fn lacks_some(have: &FixedBitSet, theirs: &FixedBitSet) -> bool {
    !theirs.is_subset(have)
}
