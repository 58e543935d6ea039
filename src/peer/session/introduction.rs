//! Who the two sides are, and what both speak: the handshakes (BEP 3, BEP 6, BEP 10).

use crate::peer::PeerMisbehaved;
use crate::peer::handshake::Handshake;
use crate::units::{InfoHash, PeerId};

#[derive(Debug)]
pub struct Introduction {
    ours: Handshake,
    theirs: Option<Handshake>,
}

impl Introduction {
    pub fn new(info_hash: InfoHash, peer_id: PeerId) -> Self {
        Self {
            ours: Handshake::ours(info_hash, peer_id),
            theirs: None,
        }
    }

    pub fn ours(&self) -> &Handshake {
        &self.ours
    }

    /// Takes the peer's handshake off the front of its bytes; `None`: more are needed.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Handshake>, PeerMisbehaved> {
        let Some(theirs) = Handshake::parse(bytes)? else {
            return Ok(None);
        };
        if theirs.info_hash != self.ours.info_hash {
            return Err(PeerMisbehaved::drop("info-hash"));
        }
        if theirs.peer_id == self.ours.peer_id {
            return Err(PeerMisbehaved::drop("self"));
        }
        self.theirs = Some(theirs);
        Ok(Some(theirs))
    }

    pub fn is_done(&self) -> bool {
        self.theirs.is_some()
    }

    pub fn remote_id(&self) -> Option<PeerId> {
        self.theirs.map(|theirs| theirs.peer_id)
    }

    /// Both sides offer it.
    pub fn fast(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.fast())
    }

    /// As `fast`.
    pub fn extended(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.extended())
    }
}
