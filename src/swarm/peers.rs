//! The connections of one swarm, and what each was asked for.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;

use crate::peer::pace::Pace;
use crate::peer::session::Session;
use crate::swarm::PeerKey;
use crate::units::{Block, BlockSpan, PieceIndex, Time};

/// Blocks asked of one peer: at most what a fast peer sends in 2 ms, so that a seek is not behind
/// more than that.
pub const QUEUE_MAX: u32 = 128;
/// A block is late when it is so much later than expected, at least.
const LATE_MIN: Duration = Duration::from_millis(250);
/// A late peer's blocks are looked at again after this long.
const LATE_AGAIN: Duration = Duration::from_millis(500);
/// A peer that brings nothing for so long is asked for nothing more than one block.
pub const SNUB_AFTER: Duration = Duration::from_secs(20);

/// All connections, by key. A key is free again only after the driver's `handle_closed`.
#[derive(Default)]
pub struct Peers {
    table: Slab<Peer>,
}

pub struct Peer {
    pub addr: SocketAddr,
    pub incoming: bool,
    /// `None` while it is dialled, and again once it is given up.
    pub session: Option<Session>,
    pub stage: Stage,
    pub pace: Pace,
    queue: VecDeque<Asked>,
    /// The front of the queue is overdue.
    pub late: bool,
    pub snubbed: bool,
    look_at: Time,
    /// Told to the driver, who has not drained it yet.
    pub woken: bool,
    /// Counted in the rarity table, as a seed or not.
    pub counted: Option<bool>,
    pub allowed_fast: Vec<PieceIndex>,
    /// The last piece it asked us for.
    pub serving: Option<PieceIndex>,
    pub bytes_down: u64,
    pub bytes_up: u64,
    /// Both as they were at the choker's last choice.
    pub marks: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Dialling,
    Open,
    /// Given up; the driver is closing it.
    Closing,
}

#[derive(Clone, Copy)]
struct Asked {
    block: Block,
    at: Time,
    expect: Time,
}

impl Peers {
    pub fn add(&mut self, addr: SocketAddr, session: Option<Session>) -> PeerKey {
        PeerKey(self.table.insert(Peer {
            addr,
            incoming: session.is_some(),
            stage: match session {
                Some(_) => Stage::Open,
                None => Stage::Dialling,
            },
            session,
            pace: Pace::new(),
            queue: VecDeque::new(),
            late: false,
            snubbed: false,
            look_at: Time::NEVER,
            woken: false,
            counted: None,
            allowed_fast: Vec::new(),
            serving: None,
            bytes_down: 0,
            bytes_up: 0,
            marks: (0, 0),
        }))
    }

    pub fn remove(&mut self, key: PeerKey) -> Option<Peer> {
        self.table.try_remove(key.0)
    }

    pub fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.table.get(key.0)
    }

    pub fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.table.get_mut(key.0)
    }

    pub fn session(&mut self, key: PeerKey) -> Option<&mut Session> {
        self.table.get_mut(key.0)?.session.as_mut()
    }

    pub fn count(&self) -> usize {
        self.table.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerKey, &Peer)> {
        self.table.iter().map(|(key, peer)| (PeerKey(key), peer))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PeerKey, &mut Peer)> {
        self.table
            .iter_mut()
            .map(|(key, peer)| (PeerKey(key), peer))
    }

    pub fn keys(&self) -> Vec<PeerKey> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// The shortest time in which any peer that delivers would bring a block asked now.
    pub fn least_eta(&self) -> Duration {
        let delivering = self.iter().filter(|(_, peer)| peer.delivers());
        let eta = delivering.map(|(_, peer)| peer.eta());
        eta.min().unwrap_or(Duration::ZERO)
    }
}

impl Peer {
    /// The session of a connection that shook hands and is not given up.
    pub fn ready(&self) -> Option<&Session> {
        self.session.as_ref().filter(|session| session.ready())
    }

    /// It has unchoked us and keeps its promises.
    pub fn delivers(&self) -> bool {
        !self.late && !self.snubbed && self.ready().is_some_and(|session| !session.choking_us())
    }

    /// It may yet deliver: it is being called, or has not unchoked us.
    pub fn is_prospect(&self) -> bool {
        match (self.stage, self.ready()) {
            (Stage::Closing, _) => false,
            (_, None) => true,
            (_, Some(session)) => session.choking_us() && !session.pieces().is_clear(),
        }
    }

    /// It could bring the piece: it has it, or has not said yet what it has.
    pub fn may_have(&self, piece: PieceIndex) -> bool {
        match (self.stage, self.ready()) {
            (Stage::Closing, _) => false,
            (_, None) => true,
            (_, Some(session)) => !self.snubbed && (self.counted.is_none() || session.has(piece)),
        }
    }

    /// How many more blocks it is to be asked for now.
    pub fn room(&self) -> usize {
        let Some(session) = self.ready() else {
            return 0;
        };
        let fast_only = session.fast() && !self.allowed_fast.is_empty();
        if session.choking_us() && !fast_only {
            return 0;
        }
        let depth = if self.snubbed || self.late {
            1
        } else {
            self.pace.depth().min(QUEUE_MAX).min(session.reqq().max(1))
        };
        (depth as usize).saturating_sub(self.queue.len())
    }

    pub fn eta(&self) -> Duration {
        self.pace.eta(u64::from(crate::units::BLOCK_LEN))
    }

    /// Until its whole queue is here, s; infinite if it has stopped bringing.
    pub fn finish_s(&self) -> f64 {
        if self.late || self.snubbed {
            f64::INFINITY
        } else {
            self.pace.eta(0).as_secs_f64()
        }
    }

    pub fn ask(&mut self, now: Time, block: Block, span: BlockSpan) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.request(span);
        let expect = now + self.pace.eta(u64::from(span.len));
        self.pace.handle_requested(now, u64::from(span.len));
        if self.queue.is_empty() {
            self.look_at = now + grace(now, expect);
        }
        self.queue.push_back(Asked {
            block,
            at: now,
            expect,
        });
    }

    /// A block has come. How far from when it was expected, s; `None` if it was not asked for (any
    /// more).
    pub fn handle_block(&mut self, now: Time, block: Block, len: u32) -> Option<f64> {
        self.bytes_down += u64::from(len);
        self.late = false;
        self.snubbed = false;
        let asked = self.take(block)?;
        self.pace.handle_received(now, u64::from(len));
        self.look_at = match self.queue.front() {
            Some(next) => now + grace(next.at.max(now), next.expect),
            None => Time::NEVER,
        };
        let error = now.since(asked.expect).max(asked.expect.since(now));
        Some(error.as_secs_f64())
    }

    /// The block will not come: rejected, or forgotten by a choke.
    pub fn handle_lost(&mut self, block: Block, len: u32) -> bool {
        let known = self.take(block).is_some();
        if known {
            self.pace.handle_lost(u64::from(len));
        }
        known
    }

    pub fn cancel(&mut self, block: Block, span: BlockSpan) -> bool {
        let known = self.handle_lost(block, span.len);
        if known && let Some(session) = &mut self.session {
            session.cancel(span);
        }
        known
    }

    pub fn is_asked(&self, block: Block) -> bool {
        self.queue.iter().any(|asked| asked.block == block)
    }

    /// What it was asked for, in that order.
    pub fn asked(&self) -> impl DoubleEndedIterator<Item = Block> + '_ {
        self.queue.iter().map(|asked| asked.block)
    }

    pub fn asked_len(&self) -> usize {
        self.queue.len()
    }

    pub fn next_look(&self) -> Time {
        if self.queue.is_empty() {
            Time::NEVER
        } else {
            self.look_at
        }
    }

    /// At `next_look`: whether its blocks are overdue.
    pub fn look(&mut self, now: Time) -> bool {
        if now < self.next_look() {
            return false;
        }
        self.late = true;
        self.look_at = now + LATE_AGAIN;
        true
    }

    /// It has brought nothing for far too long.
    pub fn is_dead(&self, now: Time) -> bool {
        let quiet = self.pace.quiet_since();
        self.late && quiet.is_some_and(|since| now.since(since) >= SNUB_AFTER)
    }

    fn take(&mut self, block: Block) -> Option<Asked> {
        let place = self.queue.iter().position(|asked| asked.block == block)?;
        self.queue.remove(place)
    }
}

/// How long to wait for what is expected at `expect`.
fn grace(now: Time, expect: Time) -> Duration {
    let wait = expect.since(now);
    wait + LATE_MIN.max(wait / 2)
}
