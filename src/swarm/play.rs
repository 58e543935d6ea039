//! Players: their requests, and what may be sent to them.

use crate::swarm::deal::picker;
use crate::swarm::picker::Asker;
use crate::swarm::reader::Reader;
use crate::swarm::requests::Started;
use crate::swarm::{Output, RATES_MAX, ReaderKey, Swarm};
use crate::units::{Block, ByteRange, Time};

/// Readers. Ranges are offsets in the torrent.
impl Swarm {
    /// `range` is what the player asked for, `file` the file that it lies in. The metadata must be
    /// known.
    /// `asked`: since when its player waits.
    pub fn open_reader(
        &mut self,
        now: Time,
        asked: Time,
        range: ByteRange,
        file: ByteRange,
    ) -> ReaderKey {
        self.now = now;
        let known = self.rates.iter().find(|(rated, _)| *rated == file);
        let mut reader = Reader::new(now, range, file, known.map(|&(_, rate)| rate));
        reader.handle_asked(asked);
        if let Some(legacy) = &self.legacy {
            reader.inherit(now, legacy);
        }
        let key = self.readers.insert(reader);
        self.advance(now, key, false);
        self.interest_all();
        self.cancel_stale(now, key);
        self.deal = true;
        self.replan = true;
        self.settle(now);
        ReaderKey(key)
    }

    pub fn close_reader(&mut self, now: Time, reader: ReaderKey) {
        self.now = now;
        let Some(closed) = self.readers.try_remove(reader.0) else {
            return;
        };
        self.legacy = Some(closed.legacy(now));
        self.stats.stalls += u64::from(closed.stalls());
        self.stats.stall_s += closed.stall_s(now);
        self.stats.deadline_missed += closed.missed();
        self.settle(now);
    }

    /// From its position: bytes that may be sent to this player now, all of them in the store.
    pub fn readable(&self, reader: ReaderKey) -> ByteRange {
        match self.readers.get(reader.0) {
            Some(reader) => ByteRange::new(reader.pos(), reader.sendable()),
            None => ByteRange::new(0, 0),
        }
    }

    /// Whether a reader waits for its first byte, and for the piece that holds byte `at`.
    pub fn is_awaited(&self, at: u64) -> bool {
        let Some(torrent) = &self.torrent else {
            return false;
        };
        let piece = torrent.layout.piece_of(at);
        let mut readers = self.readers.iter();
        readers.any(|(_, reader)| reader.is_unserved() && reader.waits_for(&torrent.layout, piece))
    }

    /// Nothing can come for this reader as things stand, though it lacks bytes: no origin that has
    /// its next byte will be asked again, and no peer that is called or connected could have it.
    /// An origin that is down for a while is not given up, nor is a peer that chokes us. To be
    /// looked at again after every input: a new peer or origin changes it.
    pub fn is_stranded(&self, reader: ReaderKey) -> bool {
        let (Some(reader), Some(torrent)) = (self.readers.get(reader.0), &self.torrent) else {
            return false;
        };
        let at = reader.ready();
        if !reader.is_hungry() || at >= torrent.layout.length() || self.supply.may_bring(at) {
            return false;
        }
        let piece = torrent.layout.piece_of(at);
        let whole = torrent.requests.get(piece).is_some_and(Started::is_whole);
        !whole && !self.peers.iter().any(|(_, peer)| peer.may_have(piece))
    }

    /// Payload that was written to a player; `unread`: so much of all has not left our socket yet.
    pub fn handle_sent(&mut self, now: Time, reader: ReaderKey, bytes: u64, unread: u64) {
        self.now = now;
        let Some(reader) = self.readers.get_mut(reader.0) else {
            return;
        };
        let was_starting = reader.is_starting();
        let was_frozen = reader.is_frozen();
        reader.handle_sent(now, bytes, unread);
        self.stats.bytes.to_players += bytes;
        // With the origin alone each byte read makes room for another.
        self.replan |= was_starting || was_frozen || self.alone;
        self.settle(now);
    }

    /// The player takes everything and there is nothing to send.
    pub fn handle_starved(&mut self, now: Time, reader: ReaderKey) {
        self.now = now;
        if let Some(reader) = self.readers.get_mut(reader.0) {
            self.replan |= reader.is_frozen();
            reader.handle_starved(now);
        }
        self.settle(now);
    }

    /// Its socket is full: the player is paused, or has enough.
    pub fn handle_blocked(&mut self, now: Time, reader: ReaderKey) {
        self.now = now;
        if let Some(reader) = self.readers.get_mut(reader.0) {
            reader.handle_blocked(now);
        }
        self.settle(now);
    }

    /// Films that were held back for so long are let go.
    pub(in crate::swarm) fn release_readers(&mut self, now: Time) {
        for (key, reader) in &mut self.readers {
            if reader.release(now) && reader.sendable() > reader.pos() {
                let reader = ReaderKey(key);
                self.outputs.push_back(Output::Readable { reader });
            }
        }
    }

    /// What the container says of a file.
    pub fn set_bitrate(&mut self, now: Time, file: ByteRange, bytes_per_s: f64) {
        self.now = now;
        self.rates.retain(|(rated, _)| *rated != file);
        if self.rates.len() == RATES_MAX {
            self.rates.pop_front();
        }
        self.rates.push_back((file, bytes_per_s));
        for (_, reader) in &mut self.readers {
            if reader.file() == file {
                reader.set_rate(now, bytes_per_s);
            }
        }
        self.replan = true;
        self.settle(now);
    }

    pub(in crate::swarm) fn advance_readers(&mut self, now: Time) {
        let keys: Vec<usize> = self.readers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.advance(now, key, true);
        }
    }

    /// Moves a reader's end of readable bytes as far as verified pieces and shown bytes go.
    fn advance(&mut self, now: Time, key: usize, tell: bool) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let reader = &mut self.readers[key];
        let (before, end) = (reader.ready(), reader.range().end);
        let mut ready = before;
        while ready < end {
            let piece = torrent.layout.piece_of(ready);
            let further = if self.have.contains(piece.at()) {
                torrent.layout.piece_range(piece).end
            } else {
                torrent.requests.shown_until(ready)
            };
            if further == ready {
                break;
            }
            ready = further;
        }
        if ready == before {
            return;
        }
        let waited = reader.pos() == reader.sendable();
        reader.set_ready(now, ready);
        reader.release(now);
        if waited && tell && reader.sendable() > reader.pos() {
            let reader = ReaderKey(key);
            self.outputs.push_back(Output::Readable { reader });
        }
    }

    /// A seek: peers take back what no reader needs soon, if they have what the new one waits for.
    fn cancel_stale(&mut self, now: Time, key: usize) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let picker = picker(now, torrent, &self.readers, self.want_all, &self.setup);
        let window = picker.window(&self.readers[key]);
        let mut stale = Vec::new();
        for (key, peer) in self.peers.iter() {
            let Some(session) = peer.ready().filter(|_| peer.asked_len() > 0) else {
                continue;
            };
            let asker = Asker {
                key,
                pieces: session.pieces(),
                eta_s: 0.0,
                allowed: None,
            };
            if !picker.has_any(&asker, window.clone()) {
                continue;
            }
            let needed =
                |block: &Block| window.contains(&block.piece.0) || picker.is_due(block.piece);
            let blocks = peer.asked().filter(|block| !needed(block));
            stale.extend(blocks.map(|block| (key, block)));
        }
        for (key, block) in stale {
            self.stats.cancelled += 1;
            self.cancel(key, block);
            self.release(block, key);
        }
    }
}
