//! One info-hash: its readers, peers and origins, and the decisions between them.
//!
//! `readers` say what is due when, `picker` which block a peer is asked for, `supply` what the
//! origin is asked for, `requests` who is asked for what; this file carries what happens from one
//! to the other, `wire` what peers say, `buy` what the origin brings.

pub mod choker;
pub mod dialer;
pub mod metadata;
pub mod peers;
pub mod picker;
pub mod rarity;
pub mod reader;
pub mod requests;
pub mod stats;
pub mod supply;
pub mod suspects;

mod buy;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use slab::Slab;

use crate::peer::session;
use crate::swarm::choker::{Candidate, Choker};
use crate::swarm::dialer::{Dialer, Found};
use crate::swarm::metadata::Metadata;
use crate::swarm::peers::Peers;
use crate::swarm::picker::{Asker, BAND_S, Picker};
use crate::swarm::rarity::Rarity;
use crate::swarm::reader::{Legacy, Reader};
use crate::swarm::requests::{Only, Requests};
use crate::swarm::stats::{PeerView, ReaderView, Stats};
use crate::swarm::supply::Supply;
use crate::swarm::suspects::{Ruling, Suspects};
use crate::torrent::layout::Layout;
use crate::units::{Block, ByteRange, Cause, InfoHash, OriginPolicy, PeerId, PieceIndex, Time};

/// Connections, and being made.
pub const PEERS_MAX: usize = 200;
/// Requests of players at a time.
pub const READERS_MAX: usize = 4096;
/// Films whose bitrate is remembered.
const RATES_MAX: usize = 64;
/// With fewer peers the tracker is asked for more, not oftener than this.
const PEERS_ENOUGH: usize = 20;
const MORE_PEERS_EVERY: Duration = Duration::from_secs(60);
/// Blocks that are dealt out one slice after the other to the quickest peer; the rest by the queue.
const DEALT_MAX: usize = 256;
const SLICE: usize = 4;
/// Peers that are called or have not unchoked us are waited for so long before the origin alone
/// goes far ahead.
const PROSPECT_WAIT: Duration = Duration::from_secs(3);

/// A connection. The driver's until it has called `handle_closed`, also after `Output::Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderKey(pub usize);

/// Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchKey(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OriginKey(pub usize);

#[derive(Clone, Debug)]
pub struct Setup {
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    pub listen_port: u16,
    pub policy: OriginPolicy,
    /// Random.
    pub seed: u64,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub peers_max: usize,
    pub dials_per_s: u32,
    pub upload_slots: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers_max: PEERS_MAX,
            dials_per_s: dialer::DIALS_PER_S,
            upload_slots: choker::SLOTS,
        }
    }
}

/// What the store found of a piece whose bytes are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With the SHA-1 of each block if [`Swarm::wants_digests`].
    Good {
        digests: Option<Vec<[u8; 20]>>,
    },
    Bad {
        digests: Vec<[u8; 20]>,
    },
    /// A disk error, or evicted: fetched again if wanted, nobody is blamed.
    Lost,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Dial {
        peer: PeerKey,
        addr: SocketAddr,
    },
    Close {
        peer: PeerKey,
    },
    /// There may be something to send: `poll_send` until `None`.
    Wake {
        peer: PeerKey,
    },
    /// Write at once; `handle_piece` when the store has a verdict.
    Store {
        /// Of the torrent, inside one piece.
        range: ByteRange,
        /// In the bytes just handed in.
        at: Range<usize>,
    },
    /// Drop what is stored of this unverified piece.
    Forget {
        piece: PieceIndex,
    },
    Fetch {
        fetch: FetchKey,
        origin: OriginKey,
        range: ByteRange,
        cause: Cause,
    },
    /// Only if it has not begun; else its bytes come to the end. Either way `handle_fetch_done` or
    /// `handle_fetch_failed` ends it.
    CancelFetch {
        fetch: FetchKey,
    },
    /// A reader that had nothing to send has something.
    Readable {
        reader: ReaderKey,
    },
    /// Complete, its hash not checked: `know_metainfo` or `metadata_bad`.
    Metadata {
        info: Vec<u8>,
    },
    /// Ask the tracker.
    MorePeers,
    Complete,
    Banned {
        addr: SocketAddr,
        why: &'static str,
    },
    /// Its bytes are not the torrent's; it is asked no more.
    OriginDiffers {
        origin: OriginKey,
    },
}

/// One swarm. After any `handle_*` or command `poll_output` is to be drained.
pub struct Swarm {
    setup: Setup,
    now: Time,
    torrent: Option<Torrent>,
    /// Verified pieces; empty while the metadata is unknown.
    have: FixedBitSet,
    metadata: Metadata,
    dialer: Dialer,
    choker: Choker<PeerKey>,
    peers: Peers,
    readers: Slab<Reader>,
    legacy: Option<Legacy>,
    /// Bitrates by file, of the last few.
    rates: VecDeque<(ByteRange, f64)>,
    supply: Supply,
    suspects: Suspects,
    want_all: bool,
    upload_only: bool,
    shut_down: bool,
    plan_at: Time,
    /// Blocks became missing, or room for pieces: other peers may have work.
    deal: bool,
    /// The origin may have work.
    replan: bool,
    more_peers_at: Time,
    /// Closed readers' part of the sums.
    stats: Stats,
    outputs: VecDeque<Output>,
}

/// What is known with the metadata.
struct Torrent {
    layout: Arc<Layout>,
    requests: Requests,
    rarity: Rarity,
    /// Pieces that lack.
    left: u32,
    info_len: u32,
}

impl Swarm {
    pub fn new(now: Time, setup: Setup) -> Self {
        let limits = dialer::Limits {
            dials_per_s: setup.limits.dials_per_s,
            ..dialer::Limits::default()
        };
        Self {
            dialer: Dialer::new(now, limits),
            choker: Choker::new(now, setup.limits.upload_slots, setup.seed),
            supply: Supply::new(setup.policy),
            setup,
            now,
            torrent: None,
            have: FixedBitSet::new(),
            metadata: Metadata::unknown(),
            peers: Peers::default(),
            readers: Slab::new(),
            legacy: None,
            rates: VecDeque::new(),
            suspects: Suspects::default(),
            want_all: false,
            upload_only: false,
            shut_down: false,
            plan_at: Time::NEVER,
            deal: false,
            replan: false,
            more_peers_at: now,
            stats: Stats::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The metadata, from a file or from [`Output::Metadata`] once its hash is right. `have`: the
    /// verified pieces in the store.
    pub fn know_metainfo(
        &mut self,
        now: Time,
        layout: Arc<Layout>,
        info: Bytes,
        have: FixedBitSet,
    ) {
        self.now = now;
        let count = layout.piece_count();
        let info_len = u32::try_from(info.len()).expect("R30 bounds metadata");
        self.metadata.know(info);
        self.have = have;
        self.have.grow(count as usize);
        let held = u32::try_from(self.have.count_ones(..)).expect("at most the pieces");
        self.torrent = Some(Torrent {
            requests: Requests::new(Arc::clone(&layout), &self.have),
            rarity: Rarity::new(count),
            left: count - held,
            info_len,
            layout,
        });
        for key in self.peers.keys() {
            self.tell_metainfo(key, count, info_len);
        }
        self.deal = true;
        self.replan = true;
        self.settle(now);
    }

    /// The metadata of [`Output::Metadata`] had another hash.
    pub fn metadata_bad(&mut self, now: Time) {
        self.now = now;
        let liar = self.metadata.handle_bad();
        let liar = liar.and_then(|liar| self.peers.get(liar));
        if let Some(addr) = liar.map(|peer| peer.addr) {
            self.ban(now, addr, "metadata-hash");
        }
        for key in self.peers.keys() {
            self.ask_metadata(key);
        }
        self.settle(now);
    }

    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.torrent.as_ref().map(|torrent| &torrent.layout)
    }

    pub fn have(&self) -> &FixedBitSet {
        &self.have
    }

    pub fn is_complete(&self) -> bool {
        self.torrent
            .as_ref()
            .is_some_and(|torrent| torrent.left == 0)
    }

    /// The whole torrent is wanted (`seed`, `get`), or only what readers need.
    pub fn want_all(&mut self, now: Time, want: bool) {
        self.now = now;
        self.want_all = want;
        self.interest_all();
        self.deal = true;
        self.settle(now);
    }

    /// BEP 21: said to peers that connect from now on.
    pub fn set_upload_only(&mut self, upload_only: bool) {
        self.upload_only = upload_only;
    }

    /// Closes all connections and makes no new ones.
    pub fn shut_down(&mut self, now: Time) {
        self.now = now;
        self.shut_down = true;
        for key in self.peers.keys() {
            self.close(now, key);
        }
        for fetch in self.supply.fetches() {
            self.outputs
                .push_back(Output::CancelFetch { fetch: fetch.key });
        }
    }
}

/// The store.
impl Swarm {
    pub fn handle_piece(&mut self, now: Time, piece: PieceIndex, verdict: Verdict) {
        self.now = now;
        match verdict {
            Verdict::Good { digests } => self.handle_good(now, piece, digests.as_deref()),
            Verdict::Bad { digests } => self.handle_bad(now, piece, digests),
            Verdict::Lost => self.handle_lost(piece),
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
        let was_full = !torrent.requests.has_room();
        let owed = torrent.requests.finish(piece);
        self.deal |= was_full;
        let complete = torrent.left == 0;
        for (block, key) in owed {
            self.cancel(key, block);
        }
        let ruling = self.suspects.handle_good(piece, digests);
        self.carry_out(now, ruling);
        for (key, peer) in self.peers.iter_mut() {
            let Some(session) = peer.session.as_mut().filter(|session| session.ready()) else {
                continue;
            };
            if !session.has(piece) {
                session.have(piece);
                wake(&mut self.outputs, key, &mut peer.woken);
            }
        }
        if complete {
            self.outputs.push_back(Output::Complete);
            self.leave_seeds(now);
        }
    }

    fn handle_bad(&mut self, now: Time, piece: PieceIndex, digests: Vec<[u8; 20]>) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let Some(started) = torrent.requests.get(piece) else {
            return self.handle_lost(piece);
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
    fn refetch(&mut self, now: Time, piece: PieceIndex) {
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

    fn handle_lost(&mut self, piece: PieceIndex) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        if self.have.contains(piece.at()) {
            self.have.set(piece.at(), false);
            torrent.left += 1;
        }
        let owed = torrent.requests.lose(piece);
        for (block, key) in owed {
            self.cancel(key, block);
        }
        let start = torrent_start(self.torrent.as_ref(), piece);
        for (_, reader) in &mut self.readers {
            if reader.ready() > start && reader.pos() < reader.range().end {
                reader.set_ready(self.now, reader.ready().min(start));
            }
        }
        self.deal = true;
        self.replan = true;
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
        }
    }
}

/// Readers. Ranges are offsets in the torrent.
impl Swarm {
    /// `range` is what the player asked for, `file` the file that it lies in. The metadata is known.
    pub fn open_reader(&mut self, now: Time, range: ByteRange, file: ByteRange) -> ReaderKey {
        self.now = now;
        let known = self.rates.iter().find(|(rated, _)| *rated == file);
        let mut reader = Reader::new(now, range, file, known.map(|&(_, rate)| rate));
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
            Some(reader) => ByteRange::new(reader.pos(), reader.ready()),
            None => ByteRange::new(0, 0),
        }
    }

    pub fn handle_sent(&mut self, now: Time, reader: ReaderKey, bytes: u64) {
        self.now = now;
        let Some(reader) = self.readers.get_mut(reader.0) else {
            return;
        };
        let was_starting = reader.is_starting();
        reader.handle_sent(now, bytes);
        self.stats.bytes.to_players += bytes;
        // With the origin alone each byte read makes room for another.
        self.replan |= was_starting || self.plan_at == Time::NEVER;
        self.settle(now);
    }

    /// The player takes everything and there is nothing to send.
    pub fn handle_starved(&mut self, now: Time, reader: ReaderKey) {
        self.now = now;
        if let Some(reader) = self.readers.get_mut(reader.0) {
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

    fn advance_readers(&mut self, now: Time) {
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
        let waited = reader.pos() == before;
        reader.set_ready(now, ready);
        if waited && tell {
            let reader = ReaderKey(key);
            self.outputs.push_back(Output::Readable { reader });
        }
    }

    /// A seek: peers take back what no reader needs soon, if they have what the new one waits for.
    fn cancel_stale(&mut self, now: Time, key: usize) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let picker = picker(now, torrent, &self.readers, self.want_all, self.setup.seed);
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
            let blocks = peer.asked().filter(|block| !picker.is_urgent(block.piece));
            stale.extend(blocks.map(|block| (key, block)));
        }
        for (key, block) in stale {
            self.stats.cancelled += 1;
            self.cancel(key, block);
            self.release(block, key);
        }
    }
}

/// What follows from each input.
impl Swarm {
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_timeout(&self) -> Time {
        if self.shut_down {
            return Time::NEVER;
        }
        let mut next = self
            .dial_at()
            .min(self.choker.next_timeout())
            .min(self.plan_at)
            .min(self.supply.next_late());
        for (_, peer) in self.peers.iter() {
            if let Some(session) = &peer.session {
                next = next.min(session.next_timeout()).min(peer.next_look());
            }
        }
        next
    }

    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        if self.shut_down {
            return;
        }
        for key in self.peers.keys() {
            self.check_peer(now, key);
        }
        for fetch in self.supply.late(now) {
            self.disown(&fetch);
        }
        if now >= self.choker.next_timeout() {
            self.choose_uploads(now, false);
        }
        self.replan |= now >= self.plan_at;
        self.settle(now);
    }

    /// What the input just handled calls for, once it is all taken in.
    fn settle(&mut self, now: Time) {
        if self.shut_down {
            return;
        }
        if std::mem::take(&mut self.deal) {
            self.deal_out(now);
        }
        if std::mem::take(&mut self.replan) {
            self.plan(now);
        }
        self.dial(now);
    }

    /// Work for all peers: what is most urgent goes in small slices to whoever is quickest.
    fn deal_out(&mut self, now: Time) {
        if !self.wanting() {
            return;
        }
        let mut able: Vec<PeerKey> = Vec::new();
        able.extend(
            self.peers
                .iter()
                .filter_map(|(key, peer)| (peer.room() > 0).then_some(key)),
        );
        let mut dealt = 0;
        while able.len() > 1 && dealt < DEALT_MAX {
            let eta = |key: &PeerKey| self.peers.get(*key).map(|peer| peer.eta());
            let Some(place) = (0..able.len()).min_by_key(|&place| eta(&able[place])) else {
                break;
            };
            let key = able[place];
            let asked = self.refill(now, key, SLICE);
            dealt += asked;
            let full = self.peers.get(key).is_none_or(|peer| peer.room() == 0);
            if asked == 0 || full {
                able.swap_remove(place);
            }
        }
        for key in able {
            self.refill(now, key, usize::MAX);
        }
    }

    /// Asks a peer for as many blocks as its queue has room for, at most `limit`.
    fn refill(&mut self, now: Time, key: PeerKey, limit: usize) -> usize {
        if !self.wanting() || self.upload_only {
            return 0;
        }
        let Some(torrent) = &mut self.torrent else {
            return 0;
        };
        let quickest = self.peers.least_eta();
        let Some(peer) = self.peers.get_mut(key) else {
            return 0;
        };
        let room = peer.room().min(limit);
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
                    eta.as_secs_f64()
                },
                allowed: session.choking_us().then_some(&peer.allowed_fast[..]),
            };
            let picker = picker(now, torrent, &self.readers, self.want_all, self.setup.seed);
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

    /// Somebody wants bytes that lack.
    fn wanting(&self) -> bool {
        !self.is_complete() && (self.want_all || !self.readers.is_empty())
    }

    /// Nobody is to bring this block any more, as far as this peer goes.
    fn release(&mut self, block: Block, key: PeerKey) {
        if let Some(torrent) = &mut self.torrent {
            torrent.requests.release(block, key);
            self.deal = true;
        }
    }

    /// Takes a request back, if it is still out.
    fn cancel(&mut self, key: PeerKey, block: Block) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(key)
            && peer.cancel(block, torrent.layout.span(block))
        {
            wake(&mut self.outputs, key, &mut peer.woken);
            self.deal = true;
        }
    }
}

/// Addresses, choking, and what is shown.
impl Swarm {
    /// The driver has checked that they may be connected to (R19, R20).
    pub fn add_addresses(&mut self, now: Time, addrs: &[SocketAddr], found: Found) {
        self.now = now;
        for &addr in addrs {
            self.dialer.add(now, addr, found);
        }
        self.settle(now);
    }

    fn dial(&mut self, now: Time) {
        while self.wants_peers() {
            let Some(addr) = self.dialer.poll_dial(now) else {
                break;
            };
            let peer = self.peers.add(addr, None);
            self.outputs.push_back(Output::Dial { peer, addr });
        }
        let few = self.peers.count() < PEERS_ENOUGH.min(self.setup.limits.peers_max);
        if few && self.wanting_peers() && now >= self.more_peers_at {
            self.more_peers_at = now + MORE_PEERS_EVERY;
            self.outputs.push_back(Output::MorePeers);
        }
    }

    /// Whether peers are of use: for readers, for metadata, or to seed.
    fn wanting_peers(&self) -> bool {
        !self.shut_down && (self.torrent.is_none() || self.wanting())
    }

    fn wants_peers(&self) -> bool {
        !self.shut_down && self.peers.count() < self.setup.limits.peers_max
    }

    fn dial_at(&self) -> Time {
        if self.wants_peers() {
            self.dialer.next_timeout()
        } else {
            Time::NEVER
        }
    }

    /// `at_once`: somebody became interested, or a slot free.
    fn choose_uploads(&mut self, now: Time, at_once: bool) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let count = torrent.layout.piece_count();
        let span = choker::RECHOKE.as_secs_f64();
        let mut candidates = Vec::new();
        for (key, peer) in self.peers.iter_mut() {
            let Some(session) = peer.session.as_ref().filter(|session| session.ready()) else {
                continue;
            };
            let (down, up) = (peer.bytes_down - peer.marks.0, peer.bytes_up - peer.marks.1);
            if !at_once {
                peer.marks = (peer.bytes_down, peer.bytes_up);
            }
            let pieces = session.pieces();
            let first_missing = pieces.zeroes().next().map_or(count, |piece| {
                u32::try_from(piece).expect("at most the pieces")
            });
            candidates.push(Candidate {
                key,
                interested: session.interested_in_us(),
                first_missing,
                have_count: u32::try_from(pieces.count_ones(..)).expect("at most the pieces"),
                rate_to_us: float(down) / span,
                rate_from_us: float(up) / span,
            });
        }
        let ours = self.have.zeroes().next();
        let ours = ours.map(|piece| u32::try_from(piece).expect("at most the pieces"));
        if at_once {
            self.choker.handle_interested(now, ours, &candidates);
        } else {
            self.choker.handle_timeout(now, ours, &candidates);
        }
        for candidate in candidates {
            let choke = !self.choker.unchoked().contains(&candidate.key);
            let Some(peer) = self.peers.get_mut(candidate.key) else {
                continue;
            };
            if let Some(session) = &mut peer.session
                && session.choked() != choke
            {
                session.choke(choke);
                wake(&mut self.outputs, candidate.key, &mut peer.woken);
            }
        }
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        if let Some(torrent) = &self.torrent {
            stats.length = torrent.layout.length();
            stats.pieces = torrent.layout.piece_count();
            stats.have_pieces = stats.pieces - torrent.left;
        }
        let sessions = || self.peers.iter().filter_map(|(_, peer)| peer.ready());
        stats.peers = sessions().count();
        stats.peers_unchoked = sessions().filter(|session| !session.choking_us()).count();
        for (_, reader) in &self.readers {
            stats.stalls += u64::from(reader.stalls());
            stats.stall_s += reader.stall_s(self.now);
            stats.deadline_missed += reader.missed();
            stats.readers.push(ReaderView {
                offset: reader.pos(),
                slack_s: reader.slack_s(self.now, reader.ready()),
                stalls: reader.stalls(),
                stall_s: reader.stall_s(self.now),
            });
        }
        stats
    }

    /// Those that shook hands.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.iter().filter_map(|(key, peer)| {
            let session = peer.ready()?;
            let held = session.pieces().count_ones(..);
            Some(PeerView {
                key,
                addr: peer.addr,
                incoming: peer.incoming,
                client: session.client().map(str::to_owned),
                have_pieces: u32::try_from(held).unwrap_or(u32::MAX),
                choking_us: session.choking_us(),
                choked: session.choked(),
                interested_in_us: session.interested_in_us(),
                late: peer.late,
                rate: peer.pace.rate(),
                srtt_s: peer.pace.srtt().as_secs_f64(),
                outstanding: peer.pace.outstanding(),
                bytes_down: peer.bytes_down,
                bytes_up: peer.bytes_up,
            })
        })
    }

    fn session_setup(&self) -> session::Setup {
        session::Setup {
            info_hash: self.setup.info_hash,
            peer_id: self.setup.peer_id,
            listen_port: self.setup.listen_port,
            pieces: self
                .torrent
                .as_ref()
                .map(|torrent| torrent.layout.piece_count()),
            metadata_len: self.torrent.as_ref().map(|torrent| torrent.info_len),
            upload_only: self.upload_only || self.is_complete(),
        }
    }
}

fn picker<'a>(
    now: Time,
    torrent: &'a Torrent,
    readers: &'a Slab<Reader>,
    want_all: bool,
    salt: u64,
) -> Picker<'a> {
    Picker {
        now,
        layout: &torrent.layout,
        requests: &torrent.requests,
        rarity: &torrent.rarity,
        readers,
        want_all,
        salt,
    }
}

/// Tells the driver, once, that a peer has something to send.
fn wake(outputs: &mut VecDeque<Output>, peer: PeerKey, woken: &mut bool) {
    if !std::mem::replace(woken, true) {
        outputs.push_back(Output::Wake { peer });
    }
}

fn torrent_start(torrent: Option<&Torrent>, piece: PieceIndex) -> u64 {
    torrent.map_or(0, |torrent| torrent.layout.piece_range(piece).start)
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;
