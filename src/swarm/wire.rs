//! What peers say, and what that changes.

use std::net::SocketAddr;
use std::ops::Range;

use crate::peer::PeerMisbehaved;
use crate::peer::session::{Event, Session};
use crate::swarm::blocks::{Only, Source};
use crate::swarm::front::Front;
use crate::swarm::peers::Stage;
use crate::swarm::picker::BAND_S;
use crate::swarm::reader::RATE_GUESS_MAX;
use crate::swarm::rendezvous::Lot;
use crate::swarm::{Output, PeerKey, Swarm, wake};
use crate::units::{Block, BlockSpan, ByteRange, PieceIndex, Time};

/// Connections.
impl Swarm {
    /// The dialled connection stands.
    pub fn handle_connected(&mut self, now: Time, key: PeerKey) {
        self.now = now;
        let setup = self.session_setup();
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.stage != Stage::Dialling {
            return;
        }
        peer.stage = Stage::Open;
        peer.session = Some(Session::outgoing(now, setup));
        wake(&mut self.outputs, key, &mut peer.woken);
        let addr = peer.addr;
        self.dialer.handle_connected(now, addr);
        self.settle(now);
    }

    /// The dial failed, or the connection ended; the key is free.
    pub fn handle_closed(&mut self, now: Time, key: PeerKey) {
        self.now = now;
        self.retire(now, key);
        self.peers.remove(key);
        self.serving.handle_closed(key);
        self.turn = true;
        self.settle(now);
    }

    /// An incoming connection; `None`: the table is full, or the address banned. What has been read
    /// of it is then given to `handle_bytes`.
    pub fn accept(&mut self, now: Time, addr: SocketAddr) -> Option<PeerKey> {
        self.now = now;
        if !self.wants_peers() || !self.dialer.accept(now, addr) {
            return None;
        }
        let session = Session::incoming(now, self.session_setup());
        Some(self.peers.add(addr, Some(session)))
    }

    /// How many bytes were taken; the rest comes again with more behind it. All of them if the peer
    /// is given up.
    pub fn handle_bytes(&mut self, now: Time, key: PeerKey, bytes: &[u8]) -> usize {
        self.now = now;
        let mut taken = 0;
        loop {
            let Some(session) = self.peers.session(key) else {
                return bytes.len();
            };
            match session.handle_bytes(now, &bytes[taken..]) {
                Ok(used) => {
                    self.take_in(now, key, bytes, taken);
                    taken += used;
                    if used == 0 {
                        break;
                    }
                }
                Err(fault) => {
                    self.give_up(now, key, fault);
                    taken = bytes.len();
                    break;
                }
            }
        }
        if self.peers.get(key).is_some_and(|peer| peer.room() > 0) {
            let quickest = self.peers.least_eta();
            self.refill(now, key, usize::MAX, quickest);
        }
        // Answers that the session wrote by itself.
        if let Some(peer) = self.peers.get_mut(key)
            && peer.session.is_some()
        {
            wake(&mut self.outputs, key, &mut peer.woken);
        }
        self.settle(now);
        taken
    }

    /// Ends a connection on our side; the driver confirms by `handle_closed`.
    pub(in crate::swarm) fn close(&mut self, now: Time, key: PeerKey) {
        let open = self.peers.get(key).map(|peer| peer.stage);
        if open.is_some_and(|stage| stage != Stage::Closing) {
            self.retire(now, key);
            self.outputs.push_back(Output::Close { peer: key });
        }
    }

    pub(in crate::swarm) fn ban(&mut self, now: Time, addr: SocketAddr, why: &'static str) {
        if !self.dialer.is_banned(now, addr) {
            self.dialer.ban(now, addr);
            self.outputs.push_back(Output::Banned { addr, why });
        }
        let known = self.peers.iter().filter(|(_, peer)| peer.addr == addr);
        let known: Vec<_> = known.map(|(key, peer)| (key, peer.listens)).collect();
        for (key, listens) in known {
            // Where addresses are shared, whoever calls us comes from another port each time.
            if let Some(listens) = listens {
                self.dialer.ban(now, listens);
            }
            self.close(now, key);
        }
    }

    /// Whoever calls us says where it listens (BEP 10): it is not called there, and known again.
    fn handle_listens(&mut self, now: Time, key: PeerKey, port: u16) {
        let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.incoming) else {
            return;
        };
        let listens = SocketAddr::new(peer.addr.ip(), port);
        peer.listens = Some(listens);
        if self.dialer.is_banned(now, listens) {
            self.close(now, key);
        }
    }

    pub(in crate::swarm) fn give_up(&mut self, now: Time, key: PeerKey, fault: PeerMisbehaved) {
        let Some(peer) = self.peers.get(key) else {
            return;
        };
        let addr = peer.addr;
        if fault.why == "self" {
            // We called from any port; where we listen is not called again.
            let port = if peer.incoming {
                self.setup.listen_port
            } else {
                addr.port()
            };
            self.dialer.refuse(now, SocketAddr::new(addr.ip(), port));
        } else if fault.ban {
            self.ban(now, addr, fault.why);
        }
        self.close(now, key);
    }

    /// Takes back all that hangs on a connection; it says and hears nothing more.
    fn retire(&mut self, now: Time, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.stage == Stage::Closing {
            return;
        }
        peer.stage = Stage::Closing;
        let addr = peer.addr;
        let asked: Vec<Block> = peer.asked().collect();
        let session = peer.session.take();
        let counted = peer.counted.take();
        for block in asked {
            self.release(block, key);
            if let Some(peer) = self.peers.get_mut(key) {
                peer.handle_lost(block, 0);
            }
        }
        let unchoked = session.as_ref().is_some_and(|session| !session.choked());
        if let (Some(torrent), Some(session), Some(as_seed)) =
            (&mut self.torrent, &session, counted)
        {
            torrent.rarity.leave(session.pieces(), as_seed);
        }
        self.metadata.handle_closed(key);
        self.dialer.handle_closed(now, addr);
        self.choker.handle_closed(key);
        self.turn = true;
        if unchoked {
            self.choose_uploads(now, true);
        }
        self.orphan(now, Only::Peer(key));
        self.ask_all_for_metadata();
        self.replan = true;
    }

    /// Pieces that this source alone was to bring are for another.
    pub(in crate::swarm) fn orphan(&mut self, now: Time, source: Only) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let started = torrent.requests.pieces();
        let orphans: Vec<_> = started
            .filter(|started| started.only() == Some(source))
            .map(|started| started.piece())
            .collect();
        for piece in orphans {
            self.refetch(now, piece);
        }
    }

    /// Peers that want nothing of a seed make room for those that do.
    pub(in crate::swarm) fn leave_seeds(&mut self, now: Time) {
        if !self.is_complete() {
            return;
        }
        for key in self.peers.keys() {
            let Some(session) = self.peers.session(key).filter(|session| session.ready()) else {
                continue;
            };
            if session.is_seed() {
                self.close(now, key);
            } else {
                session.interested(false);
            }
        }
    }
}

/// Events.
impl Swarm {
    fn take_in(&mut self, now: Time, key: PeerKey, bytes: &[u8], base: usize) {
        while let Some(event) = self.peers.session(key).and_then(Session::poll_event) {
            self.handle_event(now, key, event, bytes, base);
        }
    }

    fn handle_event(&mut self, now: Time, key: PeerKey, event: Event, bytes: &[u8], base: usize) {
        let bytes = &bytes[base..];
        match event {
            Event::Block { span, at } => {
                self.handle_block(now, key, span, base + at.start..base + at.end);
            }
            Event::Have(piece) => self.handle_have(now, key, piece),
            Event::Request(span) => self.handle_request(key, span),
            Event::Rejected(span) => self.handle_rejected(key, span),
            Event::Handshake { .. } => self.handle_handshake(now, key),
            Event::Bitfield => self.handle_bitfield(now, key),
            Event::Extended => {
                let reqq = self.peers.session(key).map_or(1, |session| session.reqq());
                if let Some(peer) = self.peers.get_mut(key) {
                    peer.pace.set_depth_max(reqq);
                }
                self.ask_metadata(key);
            }
            Event::Choked => self.handle_choked(now, key),
            Event::Unchoked => self.replan = true,
            Event::Interested | Event::NotInterested => self.choose_uploads(now, true),
            Event::AllowedFast(piece) => {
                if let Some(peer) = self.peers.get_mut(key) {
                    peer.allowed_fast.push(piece);
                }
            }
            Event::MetadataRequest { piece } => self.handle_metadata_request(key, piece),
            Event::Metadata { piece, total, at } => {
                let info = self.metadata.handle_part(key, piece, total, &bytes[at]);
                match info {
                    Some(info) => self.outputs.push_back(Output::Metadata { info }),
                    None => self.ask_metadata(key),
                }
            }
            Event::MetadataRejected { .. } => {
                self.metadata.handle_rejected(key);
                self.ask_all_for_metadata();
            }
            Event::Cancelled(_) => self.handle_cancelled(now, key),
            Event::ListenPort(port) => self.handle_listens(now, key, port),
            Event::Suggested(_) => {}
        }
    }

    fn handle_handshake(&mut self, now: Time, key: PeerKey) {
        if let Some(twin) = self.peers.superfluous(now, key, self.setup.peer_id) {
            self.close(now, twin);
            if twin == key {
                return;
            }
        }
        let complete = self.is_complete();
        if let Some(peer) = self.peers.get_mut(key)
            && let Some(session) = &mut peer.session
        {
            session.start(&self.have, complete);
            let id = session.remote_id();
            peer.shaken = Some(now);
            peer.lot = id.map(|id| Lot::new(self.setup.info_hash, id));
            let addr = peer.addr;
            self.dialer.handle_shaken(addr);
        }
    }

    fn handle_bitfield(&mut self, now: Time, key: PeerKey) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(key)
            && let Some(session) = &peer.session
            && peer.counted.is_none()
        {
            torrent.rarity.join(session.pieces(), session.is_seed());
            peer.counted = Some(session.is_seed());
            peer.front = Some(Front::new(now, session.pieces()));
        }
        if self.is_complete() {
            self.leave_seeds(now);
        }
        self.show_interest(key);
        self.replan = true;
    }

    fn handle_have(&mut self, now: Time, key: PeerKey, piece: PieceIndex) {
        if self
            .peers
            .get(key)
            .is_some_and(|peer| peer.counted.is_none())
        {
            // Fast peers say so, others may begin with a `have`.
            self.handle_bitfield(now, key);
            return;
        }
        let band = self.band();
        let (Some(torrent), Some(peer)) = (&mut self.torrent, self.peers.get_mut(key)) else {
            return;
        };
        torrent.rarity.have(piece);
        let Some(session) = &peer.session else { return };
        if let Some(front) = &mut peer.front {
            front.handle_have(now, piece, session.pieces(), band);
        }
        if session.is_seed() && peer.counted == Some(false) {
            torrent.rarity.leave(session.pieces(), false);
            torrent.rarity.join(session.pieces(), true);
            peer.counted = Some(true);
            self.leave_seeds(now);
        }
        if !self.have.contains(piece.at()) {
            self.show_interest(key);
        }
    }

    /// The pieces within which a viewer of this film fetches ahead.
    pub(in crate::swarm) fn band(&self) -> u32 {
        let Some(torrent) = &self.torrent else {
            return 0;
        };
        let mut readers = self.readers.iter();
        let rate = readers.next().map(|(_, reader)| reader.rate());
        let known = || self.rates.back().map(|&(_, rate)| rate);
        let rate = rate.or_else(known).unwrap_or(RATE_GUESS_MAX);
        let pieces = rate * BAND_S / f64::from(torrent.layout.nominal_piece_len());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates"
        )]
        let pieces = pieces as u32;
        pieces.max(1)
    }

    fn handle_choked(&mut self, now: Time, key: PeerKey) {
        let Some(peer) = self.peers.get(key) else {
            return;
        };
        // A fast peer rejects each (BEP 6).
        if peer.ready().is_some_and(|session| !session.fast()) {
            let asked: Vec<Block> = peer.asked().collect();
            for block in asked {
                self.forget(key, block);
            }
        }
        self.orphan(now, Only::Peer(key));
        self.replan = true;
    }

    fn handle_rejected(&mut self, key: PeerKey, span: BlockSpan) {
        let block = self
            .torrent
            .as_ref()
            .and_then(|torrent| torrent.layout.block_at(span));
        if let Some(block) = block {
            self.forget(key, block);
            self.replan = true;
        }
    }

    /// The peer will not bring this block.
    fn forget(&mut self, key: PeerKey, block: Block) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let len = torrent.layout.span(block).len;
        if let Some(peer) = self.peers.get_mut(key)
            && peer.handle_lost(block, len)
        {
            self.release(block, key);
        }
    }

    fn handle_block(&mut self, now: Time, key: PeerKey, span: BlockSpan, at: Range<usize>) {
        let len = u64::from(span.len);
        self.stats.bytes.from_peers += len;
        let (Some(torrent), Some(peer)) = (&mut self.torrent, self.peers.get_mut(key)) else {
            return;
        };
        let Some(block) = torrent.layout.block_at(span) else {
            self.stats.bytes.wasted += len;
            return;
        };
        if let Some(error_s) = peer.handle_block(now, block, span.len) {
            self.supply.handle_arrival(error_s);
        }
        let arrival = torrent.requests.arrive(block, key, Source::Peer(peer.addr));
        let base = torrent.layout.span_range(span).start;
        let mut stored = 0;
        for part in arrival.parts {
            if part.is_empty() {
                continue;
            }
            stored += u64::from(part.end - part.start);
            let range = ByteRange::new(base + u64::from(part.start), base + u64::from(part.end));
            let at = at.start + part.start as usize..at.start + part.end as usize;
            self.outputs.push_back(Output::Store { range, at });
        }
        self.stats.bytes.wasted += len - stored;
        if let Some(rival) = arrival.rival {
            self.cancel(rival, block);
        }
    }

    fn handle_metadata_request(&mut self, key: PeerKey, piece: u32) {
        let Some(session) = self.peers.session(key) else {
            return;
        };
        match (self.metadata.part(piece), self.metadata.known()) {
            (Some(part), Some(info)) => {
                let total = u32::try_from(info.len()).expect("R30 bounds metadata");
                session.send_metadata(piece, total, part);
            }
            _ => session.reject_metadata(piece),
        }
    }

    pub(in crate::swarm) fn ask_metadata(&mut self, key: PeerKey) {
        if self.torrent.is_some() {
            return;
        }
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(session) = &mut peer.session else {
            return;
        };
        let Some(len) = session.metadata_len() else {
            return;
        };
        let pieces = self.metadata.requests(key, len);
        for piece in &pieces {
            session.request_metadata(*piece);
        }
        if !pieces.is_empty() {
            wake(&mut self.outputs, key, &mut peer.woken);
        }
    }

    /// What the peer said before is judged by the metadata, and it hears what we have.
    pub(in crate::swarm) fn tell_metainfo(&mut self, key: PeerKey, count: u32, info_len: u32) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(session) = &mut peer.session else {
            return;
        };
        if let Err(fault) = session.know_pieces(count, info_len) {
            return self.give_up(now, key, fault);
        }
        if !session.ready() {
            return;
        }
        for piece in self.have.ones() {
            let piece = u32::try_from(piece).expect("at most the pieces");
            session.have(PieceIndex(piece));
        }
        session.hurry();
        wake(&mut self.outputs, key, &mut peer.woken);
        self.handle_bitfield(now, key);
    }
}
