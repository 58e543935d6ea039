//! The wire between two nodes: in order each way, never faster than their access lines.

use std::collections::VecDeque;
use std::time::Duration;

use bittube::swarm::PeerKey;
use bittube::units::{BlockSpan, Time};

use crate::store::Content;

/// What waits before a node's downlink is no more than this; senders wait instead.
pub const QUEUE_MAX: Duration = Duration::from_millis(200);

pub enum Packet {
    /// Whole messages.
    Control(Vec<u8>),
    Block {
        span: BlockSpan,
        content: Content,
    },
}

/// What was written.
pub enum Item {
    Control(Vec<u8>),
    Block(BlockSpan),
}

pub struct Conn {
    pub ends: [End; 2],
    pub delay: Duration,
    pub open: bool,
}

pub struct End {
    pub node: usize,
    pub key: PeerKey,
    /// On the way to this end.
    pub wire: VecDeque<Packet>,
    /// When the last of them arrives.
    pub last: Time,
    /// There may be something to send.
    pub woken: bool,
    /// In the socket, in order: it can no longer be taken back.
    pub socket: VecDeque<Item>,
    /// Bytes of the block that the driver has written and not told the swarm of.
    pub written: Option<u32>,
    /// It waits for its turn on the uplink, or has it.
    pub queued: bool,
    /// The driver has told the swarm that it is over.
    pub closed: bool,
}

impl End {
    pub fn new(node: usize, key: PeerKey) -> Self {
        Self {
            node,
            key,
            wire: VecDeque::new(),
            last: Time::ZERO,
            woken: false,
            socket: VecDeque::new(),
            written: None,
            queued: false,
            closed: false,
        }
    }
}

/// A frame on the line, and what of it is the stream's: the rest are headers of Ethernet, IP, TCP.
const FRAME: (f64, f64) = (1514.0, 1448.0);

/// One way of a node's access line, bytes/s. One block after the other, in turns.
pub struct Line {
    pub rate: f64,
    pub free: Time,
}

impl Line {
    pub fn new(rate: f64) -> Self {
        Self {
            rate,
            free: Time::ZERO,
        }
    }

    pub fn took(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 * FRAME.0 / FRAME.1 / self.rate)
    }

    /// When `bytes` that come at `at` are through.
    pub fn pass(&mut self, at: Time, bytes: u64) -> Time {
        self.free = self.free.max(at) + self.took(bytes);
        self.free
    }

    /// The same of bytes that come until `at`, from now on: what else comes goes between them.
    pub fn mix(&mut self, now: Time, at: Time, bytes: u64) -> Time {
        self.pass(now, bytes).max(at)
    }
}

/// Connections of a node that take turns on its uplink, as in a router that is fair to each
/// receiver.
pub struct Uplink {
    pub line: Line,
    pub turns: VecDeque<(usize, usize)>,
    /// On the line: the connection and its end.
    pub current: Option<(usize, usize)>,
    /// When it looks again because all that is to be sent is for full downlinks.
    pub retry: Time,
}

impl Uplink {
    pub fn new(rate: f64) -> Self {
        Self {
            line: Line::new(rate),
            turns: VecDeque::new(),
            current: None,
            retry: Time::NEVER,
        }
    }
}
