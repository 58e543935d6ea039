//! Work for peers: who is asked for what, as their queues have room.

use std::time::Duration;

use slab::Slab;

use crate::swarm::picker::{Asker, Picker};
use crate::swarm::reader::Reader;
use crate::swarm::{Output, PeerKey, Setup, Swarm, Torrent, wake};
use crate::units::{PieceIndex, Time};

/// Blocks that are dealt out one slice after the other to the quickest peer; the rest by the queue.
const DEALT_MAX: usize = 256;
const SLICE: usize = 4;

impl Swarm {
    /// Work for all peers: what is most urgent goes in small slices to whoever is quickest.
    pub(in crate::swarm) fn deal_out(&mut self, now: Time) {
        if !self.wanting() {
            return;
        }
        self.make_room(now);
        let mut able: Vec<PeerKey> = Vec::new();
        able.extend(
            self.peers
                .iter()
                .filter_map(|(key, peer)| (peer.room() > 0).then_some(key)),
        );
        let quickest = self.peers.least_eta();
        let mut dealt = 0;
        while able.len() > 1 && dealt < DEALT_MAX {
            let eta = |key: &PeerKey| self.peers.get(*key).map(|peer| peer.rank());
            let Some(place) = (0..able.len()).min_by_key(|&place| eta(&able[place])) else {
                break;
            };
            let key = able[place];
            let asked = self.refill(now, key, SLICE, quickest);
            dealt += asked;
            let full = self.peers.get(key).is_none_or(|peer| peer.room() == 0);
            if asked == 0 || full {
                able.swap_remove(place);
            }
        }
        for key in able {
            self.refill(now, key, usize::MAX, quickest);
        }
    }

    /// Pieces begun for a reader that has gone elsewhere make room for what is urgent.
    fn make_room(&mut self, now: Time) {
        while let Some(piece) = self.in_the_way(now) {
            if let Some(torrent) = &mut self.torrent {
                torrent.requests.lose(piece);
            }
            self.outputs.push_back(Output::Forget { piece });
        }
    }

    fn in_the_way(&self, now: Time) -> Option<PieceIndex> {
        let torrent = self.torrent.as_ref()?;
        if torrent.requests.has_room() {
            return None;
        }
        let picker = picker(now, torrent, &self.readers, self.want_all, &self.setup);
        if !picker.lacks_urgent() {
            return None;
        }
        let mut started = torrent.requests.pieces();
        let idle = started.find(|started| {
            let free = started.is_idle() && !started.is_whole() && started.only().is_none();
            free && !picker.is_urgent(started.piece())
        });
        idle.map(|started| started.piece())
    }

    /// Asks a peer for as many blocks as its queue has room for, at most `limit`.
    /// `quickest`: in what time any peer would bring one.
    pub(in crate::swarm) fn refill(
        &mut self,
        now: Time,
        key: PeerKey,
        limit: usize,
        quickest: Duration,
    ) -> usize {
        if !self.wanting() || self.upload_only {
            return 0;
        }
        let Some(torrent) = &mut self.torrent else {
            return 0;
        };
        let Some(peer) = self.peers.get_mut(key) else {
            return 0;
        };
        let room = peer.room().min(limit);
        let piece_len = u64::from(torrent.layout.nominal_piece_len());
        let mut asked = 0;
        while asked < room {
            let eta = peer.eta();
            let Some(session) = peer.ready() else { break };
            let asker = Asker {
                key,
                pieces: session.pieces(),
                eta_s: if eta <= quickest * 2 {
                    0.0
                } else {
                    // A piece is of use when it is whole.
                    peer.pace.eta(piece_len).as_secs_f64()
                },
                allowed: session.choking_us().then_some(&peer.allowed_fast[..]),
            };
            let picker = picker(now, torrent, &self.readers, self.want_all, &self.setup);
            let Some(piece) = picker.next(&asker) else {
                break;
            };
            let before = asked;
            while asked < room
                && let Some(block) = torrent.requests.take(piece, key)
            {
                peer.ask(now, block, torrent.layout.span(block));
                asked += 1;
            }
            if asked == before {
                break;
            }
        }
        if asked > 0 {
            wake(&mut self.outputs, key, &mut peer.woken);
        }
        asked
    }
}

pub(in crate::swarm) fn picker<'a>(
    now: Time,
    torrent: &'a Torrent,
    readers: &'a Slab<Reader>,
    want_all: bool,
    setup: &Setup,
) -> Picker<'a> {
    Picker {
        now,
        layout: &torrent.layout,
        requests: &torrent.requests,
        rarity: &torrent.rarity,
        readers,
        want_all,
        salt: setup.seed,
        pick: setup.lab.pick,
    }
}
