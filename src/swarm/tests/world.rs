//! A few swarms in memory: links with a rate and a delay, stores that hash, scripted origins,
//! players, one virtual clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use sha1::{Digest, Sha1};

use crate::peer::message::piece_head;
use crate::peer::session::Send;
use crate::swarm::dialer::Found;
use crate::swarm::{
    FetchKey, Limits, OriginKey, Output, PeerKey, ReaderKey, Setup, Swarm, Verdict,
};
use crate::torrent::layout::Layout;
use crate::units::lab::Lab;
use crate::units::{
    BLOCK_LEN, BlockSpan, ByteRange, InfoHash, OriginPolicy, PeerId, PieceIndex, Time,
};

pub const INFO: &[u8] = &[b'i'; 40_000];

pub struct World {
    pub now: Time,
    pub layout: Arc<Layout>,
    pub truth: Arc<Vec<u8>>,
    pub nodes: Vec<Node>,
    links: Vec<Link>,
    /// Whose turn it is: no link is always the first to use an uplink.
    turn: usize,
    /// Of links made from now on, one way.
    pub delay: Duration,
    /// Of nodes made from now on.
    pub lab: Lab,
}

pub struct Node {
    pub swarm: Swarm,
    pub store: Store,
    pub addr: SocketAddr,
    pub players: Vec<Player>,
    pub origins: BTreeMap<OriginKey, Origin>,
    pub banned: Vec<SocketAddr>,
    pub differs: Vec<OriginKey>,
    pub complete: bool,
    /// Every range asked of an origin.
    pub asked: Vec<ByteRange>,
    /// Spoils this block when it sends it.
    pub lies: Option<fn(BlockSpan) -> bool>,
    /// Upload, bytes/s.
    pub rate: f64,
    /// Sends nothing more, and says nothing about it.
    pub mute: bool,
    /// Wrong metadata is served by it.
    up_free: Time,
}

/// Holds what is stored, and who wrote it.
pub struct Store {
    layout: Arc<Layout>,
    truth: Arc<Vec<u8>>,
    pub data: Vec<u8>,
    written: FixedBitSet,
    by_origin: FixedBitSet,
    counts: Vec<u32>,
    pub verified: FixedBitSet,
    /// It has no room for this piece.
    pub full: Option<fn(PieceIndex) -> bool>,
}

pub struct Player {
    pub reader: ReaderKey,
    pub range: ByteRange,
    pub pos: u64,
    pub first_byte: Option<Time>,
    /// Reads no further ahead than this of its film; `None`: takes all it can get.
    pub film: Option<Film>,
    pub open: bool,
    pub paused: bool,
}

#[derive(Clone, Copy)]
pub struct Film {
    pub rate: f64,
    pub buffer_s: f64,
}

/// A film of 2 Mbit/s, as most tests play it, bytes/s.
pub const RATE: f64 = 250_000.0;
pub const FILM: Film = Film {
    rate: RATE,
    buffer_s: 10.0,
};

pub struct Origin {
    pub first_byte: Duration,
    pub rate: f64,
    pub down: bool,
    /// Ignores ranges, and always will.
    pub refuses: bool,
    pub wrong: bool,
    base: u64,
    free: Time,
    fetches: VecDeque<(FetchKey, ByteRange, Time)>,
}

struct Link {
    ends: [(usize, PeerKey); 2],
    /// On the way to each end.
    wire: [VecDeque<(Time, Vec<u8>)>; 2],
    /// What the end has not taken yet.
    rest: [Vec<u8>; 2],
    woken: [bool; 2],
    delay: Duration,
    open: bool,
}

impl World {
    pub fn new(length: u64, piece_len: u32) -> Self {
        // Repeats with a period that no piece shares.
        let mut seed = 1u64;
        let tile: Vec<u8> = (0..99_991)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        let mut truth = tile.repeat(length as usize / tile.len() + 1);
        truth.truncate(length as usize);
        Self {
            now: Time::from_secs(1),
            layout: Arc::new(Layout::single(length, piece_len)),
            truth: Arc::new(truth),
            nodes: Vec::new(),
            links: Vec::new(),
            turn: 0,
            delay: Duration::from_millis(10),
            lab: Lab::default(),
        }
    }

    pub fn file(&self) -> ByteRange {
        ByteRange::new(0, self.layout.length())
    }

    fn node(&mut self, policy: OriginPolicy, have: FixedBitSet, knows: bool) -> usize {
        let id = self.nodes.len();
        let mut swarm = Swarm::new(
            self.now,
            Setup {
                info_hash: InfoHash([9; 20]),
                peer_id: PeerId([id as u8 + 1; 20]),
                listen_port: 6881,
                policy,
                seed: id as u64 * 77,
                limits: Limits::default(),
                lab: self.lab,
            },
        );
        let store = Store::new(&self.layout, &self.truth, &have);
        if knows {
            let info = Bytes::from_static(INFO);
            swarm.know_metainfo(self.now, Arc::clone(&self.layout), info, have);
        }
        self.nodes.push(Node {
            swarm,
            store,
            addr: SocketAddr::from(([10, 0, 0, id as u8 + 1], 6881)),
            players: Vec::new(),
            origins: BTreeMap::new(),
            banned: Vec::new(),
            differs: Vec::new(),
            complete: false,
            asked: Vec::new(),
            lies: None,
            rate: 10e6,
            mute: false,
            up_free: self.now,
        });
        self.drain(id, &[], false);
        id
    }

    pub fn viewer(&mut self) -> usize {
        self.viewer_with(OriginPolicy::Hybrid)
    }

    pub fn viewer_with(&mut self, policy: OriginPolicy) -> usize {
        let none = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        self.node(policy, none, true)
    }

    /// Knows the info-hash only.
    pub fn stranger(&mut self) -> usize {
        let none = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        self.node(OriginPolicy::Hybrid, none, false)
    }

    pub fn seed(&mut self, rate: f64) -> usize {
        let mut all = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        all.insert_range(..);
        let id = self.node(OriginPolicy::Never, all, true);
        self.nodes[id].rate = rate;
        id
    }

    pub fn connect(&mut self, from: usize, to: usize) {
        let addr = self.nodes[to].addr;
        let now = self.now;
        self.nodes[from]
            .swarm
            .add_addresses(now, &[addr], Found::User);
        self.drain(from, &[], false);
    }

    /// Also those that are over.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// The connection breaks.
    pub fn cut(&mut self, node: usize) {
        for link in 0..self.links.len() {
            if self.links[link].ends.iter().any(|end| end.0 == node) {
                self.close(link);
            }
        }
    }

    pub fn origin(
        &mut self,
        node: usize,
        first_byte_ms: u64,
        rate: f64,
        direct: bool,
    ) -> OriginKey {
        let (now, file) = (self.now, self.file());
        let key = self.nodes[node].swarm.add_origin(now, file, direct);
        let first_byte = Duration::from_millis(first_byte_ms);
        self.nodes[node].swarm.set_estimate(key, first_byte, rate);
        let origin = Origin {
            first_byte,
            rate,
            down: false,
            refuses: false,
            wrong: false,
            base: file.start,
            free: now,
            fetches: VecDeque::new(),
        };
        self.nodes[node].origins.insert(key, origin);
        self.drain(node, &[], false);
        key
    }

    /// Its connections break, and nobody answers there any more.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].addr = SocketAddr::from(([10, 9, 9, 9], 6881));
        self.cut(node);
    }

    /// A passthrough's bytes of `range` are handed over, all at once or only so many of them.
    pub fn adopt(&mut self, node: usize, origin: OriginKey, range: ByteRange, brought: u64) {
        let now = self.now;
        let fetch = self.nodes[node].swarm.adopt(now, origin, range).unwrap();
        self.drain(node, &[], false);
        let bytes = self.truth[range.start as usize..(range.start + brought) as usize].to_vec();
        self.nodes[node]
            .swarm
            .handle_fetch_bytes(now, fetch, &bytes);
        self.drain(node, &bytes, true);
        self.nodes[node].swarm.handle_fetch_done(now, fetch);
        self.drain(node, &[], false);
    }

    pub fn bitrate(&mut self, node: usize, bytes_per_s: f64) {
        let (now, file) = (self.now, self.file());
        self.nodes[node].swarm.set_bitrate(now, file, bytes_per_s);
        self.drain(node, &[], false);
    }

    pub fn play(&mut self, node: usize, range: ByteRange, film: Option<Film>) -> usize {
        let (now, file) = (self.now, self.file());
        let reader = self.nodes[node].swarm.open_reader(now, now, range, file);
        self.nodes[node].players.push(Player {
            reader,
            range,
            pos: range.start,
            first_byte: None,
            film,
            open: true,
            paused: false,
        });
        self.drain(node, &[], false);
        self.read(node);
        self.nodes[node].players.len() - 1
    }

    pub fn hang_up(&mut self, node: usize, player: usize) {
        let now = self.now;
        let entry = &mut self.nodes[node];
        entry.players[player].open = false;
        let reader = entry.players[player].reader;
        entry.swarm.close_reader(now, reader);
        self.drain(node, &[], false);
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Until `done`, or `end`.
    pub fn run_until(&mut self, end: Time, done: impl Fn(&Self) -> bool) {
        let mut stuck = 0;
        while !done(self) {
            let next = self.next();
            if next > end {
                self.now = end;
                return;
            }
            stuck = if next <= self.now { stuck + 1 } else { 0 };
            assert!(stuck < 100_000, "time stands still at {:?}", self.now);
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn next(&self) -> Time {
        let mut next = Time::NEVER;
        for link in self.links.iter().filter(|link| link.open) {
            for wire in &link.wire {
                next = next.min(wire.front().map_or(Time::NEVER, |(at, _)| *at));
            }
            for (end, woken) in link.ends.iter().zip(link.woken) {
                if woken && !self.nodes[end.0].mute {
                    next = next.min(self.nodes[end.0].up_free);
                }
            }
        }
        for node in &self.nodes {
            next = next.min(node.swarm.next_timeout());
            for origin in node.origins.values() {
                let ready = origin.fetches.iter().map(|(_, _, ready)| *ready).min();
                next = next.min(ready.map_or(Time::NEVER, |ready| ready.max(origin.free)));
            }
            for player in node.players.iter().filter(|player| player.open) {
                next = next.min(player.wakes(self.now));
            }
        }
        next
    }

    fn step(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let links = self.links.len();
        for place in 0..links {
            let link = (place + self.turn) % links;
            for end in 0..2 {
                self.deliver(link, end);
                self.send(link, end);
            }
        }
        for node in 0..self.nodes.len() {
            self.serve(node);
            if self.nodes[node].swarm.next_timeout() <= self.now {
                let now = self.now;
                self.nodes[node].swarm.handle_timeout(now);
                self.drain(node, &[], false);
            }
            self.read(node);
        }
    }

    fn deliver(&mut self, link: usize, end: usize) {
        while self.links[link].open {
            let entry = &mut self.links[link];
            if entry.wire[end].front().is_none_or(|(at, _)| *at > self.now) {
                return;
            }
            let (_, bytes) = entry.wire[end].pop_front().unwrap();
            entry.rest[end].extend(bytes);
            let buffer = std::mem::take(&mut entry.rest[end]);
            let (node, key) = entry.ends[end];
            let now = self.now;
            let taken = self.nodes[node].swarm.handle_bytes(now, key, &buffer);
            self.links[link].rest[end] = buffer[taken..].to_vec();
            self.drain(node, &buffer, false);
        }
    }

    /// One thing at a time: what waits in the session can still be taken back.
    fn send(&mut self, link: usize, end: usize) {
        let (id, key) = self.links[link].ends[end];
        while self.links[link].open && self.links[link].woken[end] {
            let now = self.now;
            let node = &mut self.nodes[id];
            if node.mute || node.up_free > now {
                return;
            }
            let bytes = match node.swarm.poll_send(key) {
                None => {
                    self.links[link].woken[end] = false;
                    return;
                }
                Some(Send::Bytes(bytes)) => bytes,
                Some(Send::Block(span)) => {
                    let range = self.layout.span_range(span);
                    let mut bytes = piece_head(span).to_vec();
                    bytes.extend(&node.store.data[range.start as usize..range.end as usize]);
                    if node.lies.is_some_and(|lies| lies(span)) {
                        *bytes.last_mut().unwrap() ^= 1;
                    }
                    node.swarm.sent(now, key, span.len as usize);
                    bytes
                }
            };
            let took = Duration::from_secs_f64(bytes.len() as f64 / node.rate);
            node.up_free = now + took;
            let arrives = node.up_free + self.links[link].delay;
            self.links[link].wire[1 - end].push_back((arrives, bytes));
        }
    }

    fn serve(&mut self, id: usize) {
        let now = self.now;
        let keys: Vec<_> = self.nodes[id].origins.keys().copied().collect();
        for key in keys {
            loop {
                let origin = self.nodes[id].origins.get_mut(&key).unwrap();
                let ready = |fetch: &(_, _, Time)| fetch.2.max(origin.free) <= now;
                let Some(place) = origin.fetches.iter().position(ready) else {
                    break;
                };
                let (fetch, range, _) = origin.fetches.remove(place).unwrap();
                if origin.down || origin.refuses {
                    let retry = origin.down.then(|| now + Duration::from_secs(5));
                    self.nodes[id].swarm.handle_fetch_failed(now, fetch, retry);
                    self.drain(id, &[], false);
                    continue;
                }
                let end = range.end.min(range.start + 32_768);
                let took = Duration::from_secs_f64((end - range.start) as f64 / origin.rate);
                origin.free = now + took;
                let slice = (range.start - origin.base) as usize..(end - origin.base) as usize;
                let mut bytes = self.truth[slice].to_vec();
                if origin.wrong {
                    bytes[0] ^= 1;
                }
                if end < range.end {
                    let rest = ByteRange::new(end, range.end);
                    origin.fetches.push_back((fetch, rest, now));
                }
                self.nodes[id].swarm.handle_fetch_bytes(now, fetch, &bytes);
                self.drain(id, &bytes, true);
                if end == range.end {
                    self.nodes[id].swarm.handle_fetch_done(now, fetch);
                    self.drain(id, &[], false);
                }
            }
        }
    }

    fn read(&mut self, id: usize) {
        for place in 0..self.nodes[id].players.len() {
            let now = self.now;
            let node = &mut self.nodes[id];
            let player = &mut node.players[place];
            if !player.open || player.paused {
                continue;
            }
            let ready = node.swarm.readable(player.reader);
            assert_eq!(ready.start, player.pos);
            let limit = player.limit(now);
            let end = ready.end.min(limit);
            if end > player.pos {
                let sent = ByteRange::new(player.pos, end);
                node.store.assert_shown(sent);
                player.first_byte.get_or_insert(now);
                player.pos = end;
                node.swarm.handle_sent(now, player.reader, sent.len(), 0);
            } else if player.pos < player.range.end {
                if player.pos >= limit {
                    node.swarm.handle_blocked(now, player.reader);
                } else {
                    node.swarm.handle_starved(now, player.reader);
                }
            }
            self.drain(id, &[], false);
        }
    }

    fn drain(&mut self, id: usize, bytes: &[u8], origin: bool) {
        let (mut verdicts, mut dials) = (VecDeque::new(), Vec::new());
        let mut first = true;
        loop {
            while let Some(output) = self.nodes[id].swarm.poll_output() {
                let node = &mut self.nodes[id];
                match output {
                    Output::Store { range, at } => {
                        assert!(first, "bytes are named only in the call that brings them");
                        let digests = |piece| node.swarm.wants_digests(piece);
                        verdicts.extend(node.store.write(range, &bytes[at], origin, digests));
                    }
                    Output::Forget { piece } => node.store.forget(piece),
                    Output::Fetch {
                        fetch,
                        origin,
                        range,
                        ..
                    } => {
                        node.asked.push(range);
                        let origin = node.origins.get_mut(&origin).unwrap();
                        let ready = self.now + origin.first_byte;
                        origin.fetches.push_back((fetch, range, ready));
                    }
                    Output::CancelFetch { .. } | Output::Readable { .. } => {}
                    // The tracker knows nobody else.
                    Output::MorePeers => node.swarm.add_addresses(self.now, &[], Found::Tracker),
                    Output::Dial { peer, addr } => dials.push((peer, addr)),
                    Output::Close { peer } => {
                        let place = |link: &&mut Link| link.open && link.ends.contains(&(id, peer));
                        if let Some(link) = self.links.iter_mut().find(place) {
                            // Both ends hear of it when the drain is over.
                            link.woken = [false; 2];
                            verdicts.push_back((PieceIndex(u32::MAX), Verdict::Lost));
                            link.wire = [VecDeque::new(), VecDeque::new()];
                            link.rest = [Vec::new(), Vec::new()];
                            link.delay = Duration::MAX;
                        }
                    }
                    Output::Wake { peer } => {
                        for link in self.links.iter_mut().filter(|link| link.open) {
                            for end in 0..2 {
                                link.woken[end] |= link.ends[end] == (id, peer);
                            }
                        }
                    }
                    Output::Metadata { info } => {
                        assert_eq!(info, INFO);
                        dials.push((PeerKey(usize::MAX), node.addr));
                    }
                    Output::Complete => node.complete = true,
                    Output::Banned { addr, .. } => node.banned.push(addr),
                    Output::OriginDiffers { origin } => node.differs.push(origin),
                }
            }
            first = false;
            if let Some((piece, verdict)) = verdicts.pop_front() {
                if piece.0 == u32::MAX {
                    let doomed = |link: &Link| link.open && link.delay == Duration::MAX;
                    while let Some(link) = self.links.iter().position(doomed) {
                        self.close(link);
                    }
                    continue;
                }
                let now = self.now;
                self.nodes[id].swarm.handle_piece(now, piece, verdict);
                continue;
            }
            let Some((peer, addr)) = dials.pop() else {
                break;
            };
            self.answer(id, peer, addr);
        }
    }

    /// A dial, or metadata that has come.
    fn answer(&mut self, id: usize, peer: PeerKey, addr: SocketAddr) {
        let now = self.now;
        if peer.0 == usize::MAX {
            let none = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
            let layout = Arc::clone(&self.layout);
            let info = Bytes::from_static(INFO);
            self.nodes[id].swarm.know_metainfo(now, layout, info, none);
            return;
        }
        // It calls from a port of its own.
        let port = 32_768 + u16::try_from(self.links.len()).unwrap();
        let from = SocketAddr::new(self.nodes[id].addr.ip(), port);
        let to = self.nodes.iter().position(|node| node.addr == addr);
        let accepted = to.and_then(|to| Some((to, self.nodes[to].swarm.accept(now, from)?)));
        let Some((to, key)) = accepted else {
            self.nodes[id].swarm.handle_closed(now, peer);
            return;
        };
        self.links.push(Link {
            ends: [(id, peer), (to, key)],
            wire: [VecDeque::new(), VecDeque::new()],
            rest: [Vec::new(), Vec::new()],
            woken: [false; 2],
            delay: self.delay,
            open: true,
        });
        self.drain(to, &[], false);
        self.nodes[id].swarm.handle_connected(now, peer);
    }

    fn close(&mut self, link: usize) {
        if std::mem::replace(&mut self.links[link].open, false) {
            let now = self.now;
            for (node, key) in self.links[link].ends {
                self.nodes[node].swarm.handle_closed(now, key);
                self.drain(node, &[], false);
            }
        }
    }
}

impl Player {
    fn limit(&self, now: Time) -> u64 {
        let Some(film) = self.film else {
            return self.range.end;
        };
        let played = self
            .first_byte
            .map_or(0.0, |at| now.since(at).as_secs_f64());
        let film = (played + film.buffer_s) * film.rate;
        self.range.end.min(self.range.start + film as u64)
    }

    /// When it reads on without being told: a film goes on in steps.
    fn wakes(&self, now: Time) -> Time {
        if self.film.is_some()
            && !self.paused
            && self.pos < self.range.end
            && self.pos >= self.limit(now)
        {
            now + Duration::from_millis(100)
        } else {
            Time::NEVER
        }
    }
}

impl Store {
    fn new(layout: &Arc<Layout>, truth: &Arc<Vec<u8>>, have: &FixedBitSet) -> Self {
        let length = layout.length() as usize;
        let mut data = vec![0; length];
        for piece in have.ones() {
            let range = layout.piece_range(PieceIndex(piece as u32));
            let range = range.start as usize..range.end as usize;
            data[range.clone()].copy_from_slice(&truth[range]);
        }
        Self {
            layout: Arc::clone(layout),
            truth: Arc::clone(truth),
            data,
            written: FixedBitSet::with_capacity(length),
            by_origin: FixedBitSet::with_capacity(length),
            counts: vec![0; layout.piece_count() as usize],
            verified: have.clone(),
            full: None,
        }
    }

    fn write(
        &mut self,
        range: ByteRange,
        bytes: &[u8],
        origin: bool,
        wants_digests: impl Fn(PieceIndex) -> bool,
    ) -> Option<(PieceIndex, Verdict)> {
        let piece = self.layout.piece_of(range.start);
        let whole = self.layout.piece_range(piece);
        assert!(range.end <= whole.end, "a write lies inside one piece");
        assert_eq!(range.len(), bytes.len() as u64);
        if self.full.is_some_and(|full| full(piece)) {
            return Some((piece, Verdict::Lost));
        }
        assert!(
            !self.verified.contains(piece.at()),
            "a verified piece is not written"
        );
        let place = range.start as usize..range.end as usize;
        assert!(
            !self.written.contains_any_in_range(place.clone()),
            "one writer for each byte of {piece:?}"
        );
        self.written.insert_range(place.clone());
        self.by_origin.set_range(place.clone(), origin);
        self.data[place].copy_from_slice(bytes);
        self.counts[piece.at()] += bytes.len() as u32;
        if self.counts[piece.at()] < self.layout.piece_len(piece) {
            return None;
        }
        let whole = whole.start as usize..whole.end as usize;
        let digests = || {
            let blocks = self.data[whole.clone()].chunks(BLOCK_LEN as usize);
            blocks.map(|block| Sha1::digest(block).into()).collect()
        };
        let good =
            Sha1::digest(&self.data[whole.clone()]) == Sha1::digest(&self.truth[whole.clone()]);
        let verdict = if good {
            let digests = wants_digests(piece).then(digests);
            self.verified.insert(piece.at());
            Verdict::Good { digests }
        } else {
            Verdict::Bad { digests: digests() }
        };
        Some((piece, verdict))
    }

    pub fn lose(&mut self, piece: PieceIndex) {
        self.forget(piece);
    }

    fn forget(&mut self, piece: PieceIndex) {
        let range = self.layout.piece_range(piece);
        let range = range.start as usize..range.end as usize;
        self.written.remove_range(range.clone());
        self.by_origin.remove_range(range);
        self.counts[piece.at()] = 0;
        self.verified.set(piece.at(), false);
    }

    /// What a player gets is verified, or from the origin that it asked for; and it is right.
    fn assert_shown(&self, range: ByteRange) {
        for piece in self.layout.pieces_of(range) {
            let piece = PieceIndex(piece);
            let part = self.layout.piece_range(piece).and(range);
            let part = part.start as usize..part.end as usize;
            assert!(
                self.verified.contains(piece.at())
                    || self.by_origin.contains_all_in_range(part.clone()),
                "{range:?} is shown unverified"
            );
        }
    }
}
