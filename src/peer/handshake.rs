//! The 68 bytes that open a connection (BEP 3) and the extensions they offer (BEP 6, BEP 10).

use crate::peer::PeerMisbehaved;
use crate::units::{InfoHash, PeerId};

pub const LEN: usize = 68;

/// What precedes the reserved bytes: also how a shard tells a peer from a stray connection.
pub const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// Byte and mask of each bit that we know (BEP 4).
const EXTENDED: (usize, u8) = (5, 0x10);
const FAST: (usize, u8) = (7, 0x04);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    pub reserved: [u8; 8],
}

impl Handshake {
    /// Ours: it offers the fast extension and extended messages.
    pub fn ours(info_hash: InfoHash, peer_id: PeerId) -> Self {
        let mut reserved = [0; 8];
        for (byte, mask) in [EXTENDED, FAST] {
            reserved[byte] |= mask;
        }
        Self {
            info_hash,
            peer_id,
            reserved,
        }
    }

    /// `None`: more bytes are needed. Another protocol fails at its first wrong byte.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, PeerMisbehaved> {
        let said = bytes.len().min(PROTOCOL.len());
        if bytes[..said] != PROTOCOL[..said] {
            return Err(PeerMisbehaved::drop("not-bittorrent"));
        }
        let Some(bytes) = bytes.first_chunk::<LEN>() else {
            return Ok(None);
        };
        let mut handshake = Self {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            reserved: [0; 8],
        };
        handshake.reserved.copy_from_slice(&bytes[20..28]);
        handshake.info_hash.0.copy_from_slice(&bytes[28..48]);
        handshake.peer_id.0.copy_from_slice(&bytes[48..]);
        if handshake.info_hash.is_zero() {
            return Err(PeerMisbehaved::drop("zero-info-hash"));
        }
        Ok(Some(handshake))
    }

    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..20].copy_from_slice(PROTOCOL);
        out[20..28].copy_from_slice(&self.reserved);
        out[28..48].copy_from_slice(&self.info_hash.0);
        out[48..].copy_from_slice(&self.peer_id.0);
        out
    }

    /// BEP 6.
    pub fn fast(&self) -> bool {
        self.offers(FAST)
    }

    /// BEP 10.
    pub fn extended(&self) -> bool {
        self.offers(EXTENDED)
    }

    fn offers(&self, (byte, mask): (usize, u8)) -> bool {
        self.reserved[byte] & mask != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Handshake {
        Handshake::ours(InfoHash([7; 20]), PeerId([9; 20]))
    }

    #[test]
    fn reads_what_it_writes_and_waits_for_all_of_it() {
        let wire = ours().encode();
        for cut in 0..LEN {
            assert_eq!(Handshake::parse(&wire[..cut]), Ok(None), "at {cut}");
        }
        let read = Handshake::parse(&wire).unwrap().unwrap();
        assert_eq!(read, ours());
        assert!(read.fast() && read.extended());
    }

    #[test]
    fn another_protocol_fails_at_its_first_wrong_byte() {
        assert!(Handshake::parse(b"G").is_err());
        assert!(Handshake::parse(b"\x13BitTorrenT").is_err());
    }

    #[test]
    fn r45_zero_info_hash_is_refused() {
        let wire = Handshake::ours(InfoHash([0; 20]), PeerId([9; 20])).encode();
        assert_eq!(
            Handshake::parse(&wire),
            Err(PeerMisbehaved::drop("zero-info-hash"))
        );
    }
}
