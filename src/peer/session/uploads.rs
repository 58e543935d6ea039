//! The peer's requests to us: waiting for a decision, or for the socket (R42).

use std::collections::VecDeque;

use crate::peer::PeerMisbehaved;
use crate::peer::session::downloads::take;
use crate::units::BlockSpan;

/// A request may name up to this many bytes. BEP 3 clients ask for 16 KiB, older ones for more, and
/// the whole of it is served.
pub const REQUEST_MAX: u32 = 128 * 1024;
/// Unanswered requests; we advertise `reqq` 250 and libtorrent ends the connection here (R42).
const WAITING_MAX: usize = 2000;
/// Requests of a peer that we choke: what was under way when the choke left, and some (R42).
const CHOKED_MAX: u32 = 300;

#[derive(Debug, Default)]
pub struct Uploads {
    unchoked: bool,
    asked: VecDeque<BlockSpan>,
    queued: VecDeque<BlockSpan>,
    while_choked: u32,
}

impl Uploads {
    /// By us.
    pub fn choked(&self) -> bool {
        !self.unchoked
    }

    /// Decided, and not sent yet.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.queued.len()
    }

    /// A request that we may serve.
    pub fn ask(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        if self.asked.len() + self.queued.len() == WAITING_MAX {
            return Err(PeerMisbehaved::drop("over-2000-requests"));
        }
        self.asked.push_back(span);
        Ok(())
    }

    /// A request that our choke forbids.
    pub fn ask_choked(&mut self) -> Result<(), PeerMisbehaved> {
        self.while_choked += 1;
        if self.while_choked > CHOKED_MAX {
            return Err(PeerMisbehaved::drop("requests-while-choked"));
        }
        Ok(())
    }

    /// Whether it was asked for, and neither answered nor cancelled since.
    pub fn serve(&mut self, span: BlockSpan) -> bool {
        let found = take(&mut self.asked, span);
        if found {
            self.queued.push_back(span);
        }
        found
    }

    /// Whether it was waiting for a decision or for the socket.
    pub fn remove(&mut self, span: BlockSpan) -> bool {
        take(&mut self.asked, span) || take(&mut self.queued, span)
    }

    /// We choke or unchoke: gives back what is not served any more.
    pub fn choke(&mut self, choke: bool) -> impl Iterator<Item = BlockSpan> {
        self.unchoked = !choke;
        self.while_choked = 0;
        self.asked.drain(..).chain(self.queued.drain(..))
    }

    pub fn next(&self) -> Option<BlockSpan> {
        self.queued.front().copied()
    }

    pub fn pop(&mut self) -> Option<BlockSpan> {
        self.queued.pop_front()
    }
}
