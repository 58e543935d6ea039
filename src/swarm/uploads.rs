//! What peers ask of us: taken in, given its turn, sent.

use std::time::Duration;

use crate::peer::session::Send;
use crate::peer::session::Session;
use crate::swarm::serving::Through;
use crate::swarm::{PeerKey, Swarm, wake};
use crate::units::{BlockSpan, Time};

/// What a peer asks for so soon after it took something back is where it has gone.
const SEEKS_WITHIN: Duration = Duration::from_secs(1);
/// A line is thin that sends less than this part of the film's bitrate.
const THIN: f64 = 0.5;
/// A player with less ahead, s, has its line to itself, for so long at a time.
const STARVES_S: f64 = 1.0;
const REST: Duration = Duration::from_millis(500);
/// How long a piece plays if no reader's film tells, s.
const PIECE_S: f64 = 0.5;

impl Swarm {
    pub fn poll_send(&mut self, key: PeerKey) -> Option<Send> {
        let peer = self.peers.get_mut(key)?;
        let session = peer.session.as_mut()?;
        if let Some(control) = session.poll_control() {
            return Some(control);
        }
        while let Some(span) = session.next_upload() {
            // Evicted since it was asked for.
            let held = self.have.contains(span.piece.at());
            if held && !self.serving.holds(key, span.piece) {
                break;
            }
            let block = session.poll_block();
            if held {
                self.serving.handle_begun(self.now, key);
                return block;
            }
        }
        peer.woken = false;
        None
    }

    /// When a block is through that was just written.
    pub fn upload_through(&self, span: BlockSpan) -> Through {
        self.serving.through(u64::from(span.len))
    }

    /// Payload of blocks that is through: see [`Swarm::upload_through`].
    pub fn sent(&mut self, now: Time, key: PeerKey, bytes: usize) {
        self.now = now;
        let bytes = u64::try_from(bytes).expect("usize fits");
        self.stats.bytes.to_peers += bytes;
        if let Some(peer) = self.peers.get_mut(key) {
            peer.bytes_up += bytes;
            peer.took_at = now;
            peer.asks_since = now;
        }
        let width = self.serving.width();
        self.serving.handle_sent(now, key, bytes);
        if self.serving.width() > width {
            // More are served at once: more may ask.
            self.choker.handle_news(now);
        }
        self.take_turns(now);
    }

    /// Who is served next: as far as can be told, whose piece is due first.
    pub(in crate::swarm) fn take_turns(&mut self, now: Time) {
        let piece_s = self.piece_s();
        let peers = &self.peers;
        let next = |key| Some(peers.get(key)?.ready()?.next_upload()?.piece);
        self.serving.end_turns(now, next);
        let mut waiting = Vec::new();
        for (key, peer) in peers.iter() {
            let Some(piece) = next(key) else { continue };
            if !self.serving.holds(key, piece) {
                let front = peer.front.map_or(0, |front| front.at());
                let ahead = f64::from(piece.0.saturating_sub(front));
                let due = peer.asks_since.since(Time::ZERO).as_secs_f64() + ahead * piece_s;
                waiting.push((due, key, piece));
            }
        }
        waiting.sort_by(|a, b| a.0.total_cmp(&b.0));
        if self.starves_on_a_thin_line(now) {
            self.serving.rest(now + REST);
        }
        let free = self.serving.free(now);
        for &(_, key, piece) in waiting.iter().take(free) {
            self.serving.begin_turn(now, key, piece);
            if let Some(peer) = self.peers.get_mut(key) {
                wake(&mut self.outputs, key, &mut peer.woken);
            }
        }
        let left = waiting.len().saturating_sub(free);
        self.serving.set_waiting(now, left);
    }

    /// What is sent hides the requests and acknowledgements of what a player waits for; on a line
    /// that sends but a part of a film it is of little use to others.
    fn starves_on_a_thin_line(&self, now: Time) -> bool {
        let sends = self.serving.rate();
        let mut readers = self.readers.iter();
        readers.any(|(_, reader)| {
            let thin = sends > 0.0 && sends < THIN * reader.rate();
            let plays = reader.is_hungry() && reader.knows_rate() && !reader.is_frozen();
            thin && plays && reader.slack_s(now, reader.ready()) < STARVES_S
        })
    }

    /// How long a piece of what is watched here plays, s.
    fn piece_s(&self) -> f64 {
        let torrent = self.torrent.as_ref();
        let reader = self.readers.iter().next();
        let known = torrent
            .zip(reader)
            .filter(|(_, (_, reader))| reader.knows_rate());
        known.map_or(PIECE_S, |(torrent, (_, reader))| {
            f64::from(torrent.layout.nominal_piece_len()) / reader.rate()
        })
    }

    pub(in crate::swarm) fn handle_cancelled(&mut self, now: Time, key: PeerKey) {
        self.turn = true;
        if let Some(peer) = self.peers.get_mut(key) {
            peer.cancelled = Some(now);
            let next = peer.ready().and_then(Session::next_upload);
            if next.is_none() {
                self.serving.end_turn(key);
            }
        }
    }

    pub(in crate::swarm) fn handle_request(&mut self, key: PeerKey, span: BlockSpan) {
        let held = self.have.contains(span.piece.at());
        let valid = self
            .torrent
            .as_ref()
            .is_some_and(|torrent| torrent.layout.holds(span));
        let band = self.band();
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(session) = &mut peer.session else {
            return;
        };
        if held && valid {
            if session.next_upload().is_none() {
                peer.asks_since = self.now;
            }
            let cancelled = peer.cancelled.take();
            let seeks = cancelled.is_some_and(|at| self.now.since(at) < SEEKS_WITHIN);
            if let Some(front) = peer.front.as_mut().filter(|_| seeks) {
                front.handle_seek(span.piece, session.pieces(), band);
            }
            session.upload(span);
            self.turn = true;
            peer.serving = Some(span.piece);
        } else {
            session.reject(span);
        }
    }
}
