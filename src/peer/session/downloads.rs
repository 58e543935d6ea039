//! What we may ask of one peer and did, and the blocks it sends unasked (R43).

use std::collections::VecDeque;

use crate::peer::PeerMisbehaved;
use crate::units::{BlockSpan, PieceIndex};

/// Pieces that a peer lets us ask for while it chokes us (BEP 6).
const ALLOWED_FAST_MAX: usize = 64;
/// Cancelled requests that may still be answered.
const CANCELLED_MAX: usize = 512;
/// Unrequested blocks: beyond this number and this part of all bytes the connection ends (R43).
const UNREQUESTED_MAX: u32 = 64;
const UNREQUESTED_DIVISOR: u64 = 10;

#[derive(Debug, Default)]
pub struct Downloads {
    unchoked: bool,
    allowed_fast: Vec<PieceIndex>,
    /// In the order asked, which is nearly always the order answered.
    outstanding: VecDeque<BlockSpan>,
    /// Cancelled, or dropped by a choke: a block that was under way is no fault.
    cancelled: VecDeque<BlockSpan>,
    bytes: u64,
    unrequested: u32,
    unrequested_bytes: u64,
}

impl Downloads {
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    pub fn ask(&mut self, span: BlockSpan) {
        self.outstanding.push_back(span);
    }

    /// Whether it was outstanding.
    pub fn cancel(&mut self, span: BlockSpan) -> bool {
        let found = take(&mut self.outstanding, span);
        if found {
            self.remember(span);
        }
        found
    }

    pub fn choking_us(&self) -> bool {
        !self.unchoked
    }

    /// Whether that is new.
    pub fn unchoke(&mut self) -> bool {
        !std::mem::replace(&mut self.unchoked, true)
    }

    /// Whether that is new. Without the fast extension the peer then answers nothing of what is
    /// outstanding (BEP 3).
    pub fn choke(&mut self, fast: bool) -> bool {
        let new = std::mem::replace(&mut self.unchoked, false);
        if new && !fast {
            while let Some(span) = self.outstanding.pop_front() {
                self.remember(span);
            }
        }
        new
    }

    pub fn allowed_fast(&self, piece: PieceIndex) -> bool {
        self.allowed_fast.contains(&piece)
    }

    /// Whether that is new, and kept.
    pub fn allow_fast(&mut self, piece: PieceIndex) -> bool {
        let new = self.allowed_fast.len() < ALLOWED_FAST_MAX && !self.allowed_fast(piece);
        if new {
            self.allowed_fast.push(piece);
        }
        new
    }

    /// Whether a request is over that was not cancelled. What was asked for again after a cancel is
    /// answered after what was cancelled.
    pub fn rejected(&mut self, span: BlockSpan) -> Rejected {
        if take(&mut self.cancelled, span) {
            Rejected::Cancelled
        } else if take(&mut self.outstanding, span) {
            Rejected::Outstanding
        } else {
            Rejected::Unknown
        }
    }

    /// Whether the block was asked for, if only before a cancel.
    pub fn arrived(&mut self, span: BlockSpan) -> Result<bool, PeerMisbehaved> {
        self.bytes += u64::from(span.len);
        if take(&mut self.outstanding, span) || take(&mut self.cancelled, span) {
            return Ok(true);
        }
        self.unrequested += 1;
        self.unrequested_bytes += u64::from(span.len);
        if self.unrequested > UNREQUESTED_MAX
            && self.unrequested_bytes > self.bytes / UNREQUESTED_DIVISOR
        {
            return Err(PeerMisbehaved::drop("unrequested-blocks"));
        }
        Ok(false)
    }

    fn remember(&mut self, span: BlockSpan) {
        if self.cancelled.len() == CANCELLED_MAX {
            self.cancelled.pop_front();
        }
        self.cancelled.push_back(span);
    }
}

/// Which request a rejection answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    Outstanding,
    Cancelled,
    Unknown,
}

/// Removes the first `span` of the queue.
pub fn take(queue: &mut VecDeque<BlockSpan>, span: BlockSpan) -> bool {
    match queue.iter().position(|held| *held == span) {
        Some(at) => queue.remove(at).is_some(),
        None => false,
    }
}
