//! Control messages that wait for the socket. Blocks wait in `uploads`, and go after these.

use crate::peer::PeerMisbehaved;
use crate::peer::handshake::Handshake;
use crate::peer::message::{Message, PIECES_MAX};

/// Control bytes that wait for a peer that does not read.
pub const BACKLOG_MAX: usize = 1024 * 1024;
/// Beyond this backlog no metadata is added to it.
const METADATA_BACKLOG_MAX: usize = BACKLOG_MAX / 2;

const _: () = assert!(BACKLOG_MAX > PIECES_MAX as usize / 8 + METADATA_BACKLOG_MAX);

#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
}

impl Outbox {
    pub fn write(&mut self, message: Message<'_>) {
        message.write(&mut self.bytes);
    }

    pub fn write_handshake(&mut self, ours: &Handshake) {
        self.bytes.extend(ours.encode());
    }

    /// All that waits, if anything does.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }

    /// Whether metadata may be added.
    pub fn takes_metadata(&self) -> bool {
        self.bytes.len() <= METADATA_BACKLOG_MAX
    }

    /// Fails once the peer leaves too much unread.
    pub fn check(&self) -> Result<(), PeerMisbehaved> {
        if self.bytes.len() > BACKLOG_MAX {
            return Err(PeerMisbehaved::drop("does-not-read"));
        }
        Ok(())
    }
}
