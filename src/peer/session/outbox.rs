//! Control messages that wait for the socket. Blocks wait in `uploads`, and go after these.

use crate::peer::PeerMisbehaved;
use crate::peer::handshake::Handshake;
use crate::peer::message::{Message, PIECES_MAX};
use crate::peer::session::Session;
use crate::units::PieceIndex;

/// Control bytes that wait for a peer that does not read.
pub const BACKLOG_MAX: usize = 1024 * 1024;
/// Beyond this backlog no metadata is added to it.
const METADATA_BACKLOG_MAX: usize = BACKLOG_MAX / 2;

const _: () = assert!(BACKLOG_MAX > PIECES_MAX as usize / 8 + METADATA_BACKLOG_MAX);

#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Goes with the others, or by [`Session::hurry`].
    late: Vec<u8>,
}

impl Outbox {
    pub fn write(&mut self, message: Message<'_>) {
        message.write(&mut self.bytes);
    }

    pub fn write_handshake(&mut self, ours: &Handshake) {
        self.bytes.extend(ours.encode());
    }

    /// All that waits, if anything does that is not late.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.bytes.is_empty() {
            return None;
        }
        self.bytes.append(&mut self.late);
        Some(std::mem::take(&mut self.bytes))
    }

    /// Whether metadata may be added.
    pub fn takes_metadata(&self) -> bool {
        self.bytes.len() <= METADATA_BACKLOG_MAX
    }

    /// Fails once the peer leaves too much unread.
    pub fn check(&self) -> Result<(), PeerMisbehaved> {
        if self.bytes.len() + self.late.len() > BACKLOG_MAX {
            return Err(PeerMisbehaved::drop("does-not-read"));
        }
        Ok(())
    }
}

/// What we have.
impl Session {
    /// Who has it too learns from it only where we are in the film: that can wait for whatever else
    /// is said, or for [`Session::hurry`]. Whether it does.
    pub fn have(&mut self, piece: PieceIndex) -> bool {
        let late = self.holdings.has(piece);
        if self.started {
            let outbox = &mut self.outbox;
            Message::Have(piece).write(match late {
                true => &mut outbox.late,
                false => &mut outbox.bytes,
            });
        }
        self.started && late
    }

    /// What could wait goes out; whether there is anything to send.
    pub fn hurry(&mut self) -> bool {
        let outbox = &mut self.outbox;
        outbox.bytes.append(&mut outbox.late);
        !outbox.bytes.is_empty()
    }
}
