//! What the store found: good pieces are told to all, bad ones fetched again to find the liar.

use std::time::Duration;

use crate::peer::session::Session;
use crate::swarm::blocks::Only;
use crate::swarm::picker::BAND_S;
use crate::swarm::suspects::Ruling;
use crate::swarm::{Output, Swarm, Torrent, Verdict, wake};
use crate::units::{Cause, PieceIndex, Time};

/// A peer that has a piece too is told that we have it with whatever else it is told, or so late.
const TELL_WITHIN: Duration = Duration::from_secs(2);

/// The store.
impl Swarm {
    pub fn handle_piece(&mut self, now: Time, piece: PieceIndex, verdict: Verdict) {
        self.now = now;
        match verdict {
            Verdict::Good { digests } => self.handle_good(now, piece, digests.as_deref()),
            Verdict::Bad { digests } => self.handle_bad(now, piece, digests),
            Verdict::Lost => self.handle_lost(now, piece),
        }
        self.advance_readers(now);
        self.settle(now);
    }

    /// R46: whether the block digests of this piece are needed even if it is good.
    pub fn wants_digests(&self, piece: PieceIndex) -> bool {
        self.suspects.wants_digests(piece)
    }

    /// Neither in a reader's window nor being uploaded.
    pub fn evictable(&self, piece: PieceIndex) -> bool {
        let Some(torrent) = &self.torrent else {
            return true;
        };
        let range = torrent.layout.piece_range(piece);
        let read = self.readers.iter().any(|(_, reader)| {
            let end = reader.reach(self.now, BAND_S).max(
                reader
                    .ready()
                    .min(reader.pos() + u64::from(torrent.layout.nominal_piece_len())),
            );
            range.end > reader.pos() && range.start <= end
        });
        let uploaded = self.peers.iter().any(|(_, peer)| {
            peer.serving == Some(piece) && peer.ready().is_some_and(|session| !session.choked())
        });
        !read && !uploaded
    }

    fn handle_good(&mut self, now: Time, piece: PieceIndex, digests: Option<&[[u8; 20]]>) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        if self.have.put(piece.at()) {
            return;
        }
        torrent.left -= 1;
        self.losses.handle_good(piece);
        let was_full = !torrent.requests.has_room();
        let owed = torrent.requests.finish(piece);
        self.deal |= was_full;
        let complete = torrent.left == 0;
        for (block, key) in owed {
            self.cancel(key, block);
        }
        let ruling = self.suspects.handle_good(piece, digests);
        self.carry_out(now, ruling);
        let mut given = false;
        for (key, peer) in self.peers.iter_mut() {
            let Some(session) = peer.session.as_mut().filter(|session| session.ready()) else {
                continue;
            };
            if session.is_seed() {
                continue;
            }
            if session.have(piece) {
                self.tell_at = self.tell_at.min(now + TELL_WITHIN);
            } else {
                wake(&mut self.outputs, key, &mut peer.woken);
                given = true;
            }
        }
        if given {
            self.choker.handle_news(now);
        }
        if complete {
            self.outputs.push_back(Output::Complete);
            self.leave_seeds(now);
        }
    }

    /// Peers are told what could wait.
    pub(in crate::swarm) fn tell(&mut self, now: Time) {
        if now < self.tell_at {
            return;
        }
        self.tell_at = Time::NEVER;
        for (key, peer) in self.peers.iter_mut() {
            if peer.session.as_mut().is_some_and(Session::hurry) {
                wake(&mut self.outputs, key, &mut peer.woken);
            }
        }
    }

    fn handle_bad(&mut self, now: Time, piece: PieceIndex, digests: Vec<[u8; 20]>) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let Some(started) = torrent.requests.get(piece) else {
            return self.handle_lost(now, piece);
        };
        let senders: Vec<_> = started.senders().collect();
        self.stats.bad_pieces += 1;
        self.stats.bytes.wasted += u64::from(torrent.layout.piece_len(piece));
        let ruling = self.suspects.handle_bad(piece, senders, digests);
        self.carry_out(now, ruling);
        self.refetch(now, piece);
    }

    /// R46: a piece that failed comes from one source the next time, so that the result judges the
    /// blocks of the failure.
    pub(in crate::swarm) fn refetch(&mut self, now: Time, piece: PieceIndex) {
        let suspect = self.suspects.wants_digests(piece);
        let only = if suspect {
            self.sole_source(now, piece)
        } else {
            None
        };
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let range = torrent.layout.piece_range(piece);
        let owed = torrent.requests.lose(piece);
        self.outputs.push_back(Output::Forget { piece });
        if only.is_some() {
            torrent.requests.restart(piece, only);
        }
        for (block, key) in owed {
            self.cancel(key, block);
        }
        self.withdraw(piece);
        self.deal = true;
        self.replan = true;
        if let Some(Only::Origin(origin)) = only {
            self.fetch(now, origin, range, Cause::Hedge);
        }
    }

    /// The origin, else a peer that took no part in the failure, else any.
    fn sole_source(&self, now: Time, piece: PieceIndex) -> Option<Only> {
        let torrent = self.torrent.as_ref()?;
        let range = torrent.layout.piece_range(piece);
        if let Some(origin) = self.supply.able(now, range) {
            return Some(Only::Origin(origin));
        }
        let able = self.peers.iter().filter(|(_, peer)| {
            let session = peer.ready();
            peer.delivers() && session.is_some_and(|session| session.has(piece))
        });
        let best = able.min_by_key(|(_, peer)| {
            let took_part = self.suspects.took_part(piece, peer.addr);
            (took_part, peer.eta())
        });
        best.map(|(key, _)| Only::Peer(key))
    }

    fn handle_lost(&mut self, now: Time, piece: PieceIndex) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let owed = if self.have.contains(piece.at()) {
            self.have.set(piece.at(), false);
            torrent.left += 1;
            torrent.requests.lose(piece)
        } else {
            self.losses.handle_lost(now, piece);
            // As if it were here nobody is asked for it, until `retry_lost`.
            torrent.requests.finish(piece)
        };
        // What the same input brings of it is written after this verdict.
        self.outputs.push_back(Output::Forget { piece });
        for (block, key) in owed {
            self.cancel(key, block);
        }
        self.withdraw(piece);
        self.deal = true;
        self.replan = true;
    }

    /// Readers are shown no more of this piece, nor of what follows it.
    fn withdraw(&mut self, piece: PieceIndex) {
        let start = torrent_start(self.torrent.as_ref(), piece);
        for (_, reader) in &mut self.readers {
            if reader.ready() > start && reader.pos() < reader.range().end {
                reader.set_ready(self.now, start);
            }
        }
    }

    /// Pieces that the disk did not take may be asked for again, if their pause is over.
    pub(in crate::swarm) fn retry_lost(&mut self, now: Time) {
        let paused = self.losses.pauses_all();
        let lost = self.losses.handle_timeout(now);
        let resumed = paused && !self.losses.pauses_all();
        if let Some(torrent) = &mut self.torrent {
            for &piece in &lost {
                torrent.requests.lose(piece);
            }
        }
        if resumed {
            self.interest_all();
        }
        self.deal |= resumed || !lost.is_empty();
        self.replan |= self.deal;
    }

    fn carry_out(&mut self, now: Time, ruling: Ruling) {
        for addr in ruling.ban {
            self.ban(now, addr, "bad-block");
        }
        for origin in ruling.differs {
            if self.supply.is_expelled(origin) {
                continue;
            }
            // What else comes from it is not stored.
            for fetch in self.supply.expel(origin) {
                self.give_back(&fetch, true);
                self.outputs
                    .push_back(Output::CancelFetch { fetch: fetch.key });
            }
            self.outputs.push_back(Output::OriginDiffers { origin });
            self.orphan(now, Only::Origin(origin));
        }
    }
}

fn torrent_start(torrent: Option<&Torrent>, piece: PieceIndex) -> u64 {
    torrent.map_or(0, |torrent| torrent.layout.piece_range(piece).start)
}
