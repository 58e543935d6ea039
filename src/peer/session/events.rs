//! What the peer said, until the swarm has heard it.

use std::collections::VecDeque;
use std::ops::Range;

use crate::units::{BlockSpan, InfoHash, PeerId, PieceIndex};

/// Events that one call leaves behind.
pub const EVENTS_MAX: usize = 64;

/// What the peer said. Ranges `at` index the bytes given to the `handle_bytes` call that made the
/// event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answered by [`Session::start`](crate::peer::session::Session::start).
    Handshake {
        peer_id: PeerId,
        info_hash: InfoHash,
    },
    /// An extended handshake: `client`, `reqq`, `metadata_len`, `upload_only` may have changed.
    Extended,
    /// A bitfield, have-all or have-none. While the number of pieces is unknown neither this nor
    /// `Have` is told: look at `pieces` after `know_pieces`.
    Bitfield,
    /// Of a piece that the peer did not have before.
    Have(PieceIndex),
    /// Without the fast extension, all that was asked is thereby forgotten; with it the peer
    /// rejects each.
    Choked,
    Unchoked,
    Interested,
    NotInterested,
    /// Asked for, even if cancelled since.
    Block {
        span: BlockSpan,
        at: Range<usize>,
    },
    /// A request that was not cancelled will not be served.
    Rejected(BlockSpan),
    AllowedFast(PieceIndex),
    Suggested(PieceIndex),
    /// To be answered by `upload` or `reject`; that it lies inside its piece is not checked here.
    Request(BlockSpan),
    /// The peer takes a request back; what was queued of it is gone.
    Cancelled(BlockSpan),
    /// To be answered by `send_metadata` or `reject_metadata`.
    MetadataRequest {
        piece: u32,
    },
    Metadata {
        piece: u32,
        total: u32,
        at: Range<usize>,
    },
    MetadataRejected {
        piece: u32,
    },
    /// Where the peer accepts connections (BEP 10 `p`).
    ListenPort(u16),
}

/// In the order said.
#[derive(Debug)]
pub struct Events {
    queue: VecDeque<Event>,
}

impl Events {
    pub fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(EVENTS_MAX),
        }
    }

    /// No further message is to be read before these are drained.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= EVENTS_MAX
    }

    pub fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}
