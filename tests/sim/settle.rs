//! The driver of a node: carries out what its swarm says until nothing is left to do.

use std::collections::VecDeque;

use bittube::origin::pool::{self, Pool};
use bittube::swarm::{FetchKey, Output, PeerKey, Verdict};
use bittube::units::{BLOCK_LEN, ByteRange, Cause, PieceIndex, Time};

use crate::node::{Feed, Fetch};
use crate::play::ANSWERS_AFTER;
use crate::store::Content;
use crate::world::{Event, World};

/// The bytes that a call has handed to the swarm.
#[derive(Clone, Copy)]
pub struct Input {
    /// Which bytes of the torrent they are.
    pub range: ByteRange,
    /// Where they begin in what was handed in.
    pub offset: usize,
    pub content: Content,
    pub by_origin: bool,
}

/// What a drain leaves to be done.
#[derive(Default)]
struct Left {
    verdicts: VecDeque<(PieceIndex, Verdict)>,
    woken: Vec<PeerKey>,
    closes: Vec<PeerKey>,
}

/// A part of the film; nobody looks at it.
pub static BODY: [u8; crate::origin::QUANTUM as usize] = [0; crate::origin::QUANTUM as usize];

impl World {
    pub fn settle(&mut self, id: usize) {
        self.settle_all(id, None);
    }

    pub fn settle_with(&mut self, id: usize, input: Input) {
        self.settle_all(id, Some(input));
    }

    fn settle_all(&mut self, id: usize, mut input: Option<Input>) {
        let now = self.now();
        let mut left = Left::default();
        loop {
            while let Some(output) = self.node(id).swarm.poll_output() {
                self.carry_out(id, output, input, &mut left);
            }
            input = None;
            if let Some((piece, verdict)) = left.verdicts.pop_front() {
                let good = matches!(verdict, Verdict::Good { .. });
                self.node(id).swarm.handle_piece(now, piece, verdict);
                if good && piece.0 == 0 && !self.node(id).knows_rate {
                    self.tell_rate(id, &mut left);
                }
            } else if let Some(key) = left.closes.pop() {
                if let Some((conn, end)) = self.node(id).conn(key) {
                    self.close(conn, end);
                } else {
                    let node = self.node(id);
                    node.calls.remove(&key);
                    node.swarm.handle_closed(now, key);
                }
            } else if let Some(feed) = self.node(id).feed.pop_front() {
                input = self.give(id, feed);
            } else if !self.read(id) {
                break;
            }
        }
        for key in left.woken {
            if let Some((conn, end)) = self.node(id).conn(key) {
                self.conns[conn].ends[end].woken = true;
                self.poll(conn, end);
            }
        }
        self.set_timers(id);
        self.plan_leave(id);
    }

    /// The container's head was read.
    fn tell_rate(&mut self, id: usize, left: &mut Left) {
        let (now, file, rate) = (self.now(), self.file(), self.setup.rate);
        self.node(id).knows_rate = true;
        while let Some(output) = self.node(id).swarm.poll_output() {
            self.carry_out(id, output, None, left);
        }
        self.node(id).swarm.set_bitrate(now, file, rate);
    }

    fn carry_out(&mut self, id: usize, output: Output, input: Option<Input>, left: &mut Left) {
        let now = self.now();
        let node = self.nodes[id].as_mut().expect("alive");
        match output {
            Output::Store { range, at } => {
                let input = input.expect("bytes are named only in the call that brings them");
                let offset = at.start.checked_sub(input.offset).expect("in the input") as u64;
                assert_eq!(
                    range.start,
                    input.range.start + offset,
                    "the bytes are those"
                );
                assert_eq!(range.len(), at.len() as u64);
                assert!(range.end <= input.range.end);
                let digests = node.swarm.wants_digests(self.layout.piece_of(range.start));
                let verdict = node
                    .store
                    .write(range, input.content, input.by_origin, digests);
                left.verdicts.extend(verdict);
            }
            Output::Forget { piece } => {
                node.store.forget(piece);
                // What was shown of it before its hash was known is not shown any more.
                node.viewer.withdraw(self.layout.piece_range(piece).start);
                for fetch in node.fetches.values_mut() {
                    fetch.void.insert(piece);
                }
            }
            Output::Wake { peer } => left.woken.push(peer),
            Output::Close { peer } => left.closes.push(peer),
            Output::Dial { peer, addr } => {
                let at = now + node.spec.delay * 4;
                node.called += 1;
                node.calls.insert(peer, (addr, node.called));
                self.clock
                    .plan(at, Event::Dialled(id, peer, node.called, false));
            }
            Output::Fetch {
                fetch,
                range,
                cause,
                ..
            } => self.fetch(id, fetch, range, cause),
            Output::CancelFetch { fetch } => {
                let (_, pool) = node.pool.as_mut().expect("it was asked");
                if pool.cancel(now, fetch.0) {
                    node.feed.push_back(Feed::Failed(fetch.0, None));
                }
                self.drain_pool(id, None);
            }
            Output::MorePeers => {
                let at = now + ANSWERS_AFTER;
                self.clock.plan(at, Event::Announce(id, false));
            }
            Output::Banned { addr, .. } => node.counts.banned.push(addr),
            Output::OriginDiffers { .. } => node.counts.differs = true,
            Output::Readable { .. } | Output::Complete => {}
            Output::Metadata { .. } => panic!("the metadata was known"),
        }
    }

    fn fetch(&mut self, id: usize, key: FetchKey, range: ByteRange, cause: Cause) {
        let now = self.now();
        // Whole blocks.
        let block = u64::from(BLOCK_LEN);
        let whole = |range: ByteRange| {
            ByteRange::new(
                range.start / block * block,
                range.end.next_multiple_of(block),
            )
        };
        let layout = std::sync::Arc::clone(&self.layout);
        let node = self.node(id);
        for fetch in node.fetches.values() {
            let common = whole(range).and(whole(fetch.range));
            let common = common.and(ByteRange::new(0, layout.length()));
            let mut pieces = layout.pieces_of(common).map(PieceIndex);
            assert!(
                pieces.all(|piece| fetch.void.contains(&piece)),
                "{range:?} is asked of the origin beside {:?}",
                fetch.range
            );
        }
        let at = range.start;
        let void = Default::default();
        node.fetches.insert(
            key.0,
            Fetch {
                range,
                cause,
                at,
                void,
            },
        );
        let (_, pool) = node.pool.as_mut().expect("it was asked");
        pool.fetch(now, key.0, range, true);
        self.drain_pool(id, None);
    }

    /// Hands over what the origin's connections brought.
    fn give(&mut self, id: usize, feed: Feed) -> Option<Input> {
        let now = self.now();
        let node = self.node(id);
        match feed {
            Feed::Bytes {
                key,
                range,
                content,
            } => {
                let fetch = node
                    .fetches
                    .get_mut(&key)
                    .expect("bytes come before its end");
                assert_eq!(fetch.at, range.start, "the bytes come in order");
                fetch.at = range.end;
                let place = Cause::ALL.iter().position(|cause| *cause == fetch.cause);
                node.counts.by_cause[place.expect("ALL")] += range.len();
                node.counts.from_origin += range.len();
                let body = &BODY[..range.len() as usize];
                node.swarm.handle_fetch_bytes(now, FetchKey(key), body);
                Some(Input {
                    range,
                    offset: 0,
                    content,
                    by_origin: true,
                })
            }
            Feed::Done(key) => {
                node.fetches.remove(&key);
                node.swarm.handle_fetch_done(now, FetchKey(key));
                let (origin, pool) = node.pool.as_ref().expect("it was asked");
                let (first_byte, rate) = pool.estimate();
                node.swarm.set_estimate(*origin, first_byte, rate);
                None
            }
            Feed::Failed(key, retry) => {
                node.fetches.remove(&key);
                let until = retry.map(|retry| now + retry);
                node.swarm.handle_fetch_failed(now, FetchKey(key), until);
                let (origin, pool) = node.pool.as_ref().expect("it was asked");
                if let Some(until) = pool.down_until() {
                    node.swarm.origin_down(now, *origin, until);
                }
                None
            }
        }
    }

    pub fn with_pool(&mut self, id: usize, call: impl FnOnce(&mut Pool)) {
        if let Some((_, pool)) = &mut self.node(id).pool {
            call(pool);
        }
        self.drain_pool(id, None);
        self.settle(id);
    }

    /// `body`: what of the file the bytes just handed in are, and their content.
    pub fn drain_pool(&mut self, id: usize, body: Option<(ByteRange, Content)>) {
        let now = self.now();
        loop {
            let node = self.nodes[id].as_mut().expect("alive");
            let Some((_, pool)) = &mut node.pool else {
                return;
            };
            let Some(output) = pool.poll_output() else {
                return;
            };
            let delay = self
                .server
                .as_ref()
                .map_or(node.spec.delay, |server| server.spec.delay);
            match output {
                pool::Output::Connect { conn, .. } => {
                    self.clock.plan(now + delay * 2, Event::Connected(id, conn));
                }
                pool::Output::Send { conn, bytes } => {
                    self.clock.plan(now + delay, Event::Asked(id, conn, bytes));
                }
                pool::Output::Close { conn } => {
                    if let Some(server) = &mut self.server {
                        server.handle_closed(id, Some(conn));
                    }
                }
                pool::Output::Body { key, at, offset } => {
                    let (range, content) = body.expect("a body's bytes were handed in");
                    let start = range.start + at.start as u64;
                    assert_eq!(start, offset, "the pool knows where it is");
                    let range = ByteRange::new(start, start + at.len() as u64);
                    node.feed.push_back(Feed::Bytes {
                        key,
                        range,
                        content,
                    });
                }
                pool::Output::Done { key } => node.feed.push_back(Feed::Done(key)),
                pool::Output::Failed { key, error } => {
                    node.feed.push_back(Feed::Failed(key, error.retry));
                }
                pool::Output::Head { .. } | pool::Output::Changed => {}
            }
        }
    }

    fn set_timers(&mut self, id: usize) {
        let now = self.now();
        let node = self.nodes[id].as_mut().expect("alive");
        let next = node.swarm.next_timeout().max(now);
        if next < node.timer {
            node.timer = next;
            self.clock.plan(next, Event::Timer(id));
        }
        let next = node
            .pool
            .as_ref()
            .map_or(Time::NEVER, |(_, pool)| pool.next_timeout().max(now));
        if next < node.pool_timer {
            node.pool_timer = next;
            self.clock.plan(next, Event::Pool(id));
        }
    }
}
