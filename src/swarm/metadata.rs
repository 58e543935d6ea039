//! The info dictionary from peers, 16 KiB at a time (BEP 9), and back to those who ask.

use bytes::Bytes;

use crate::swarm::PeerKey;
use crate::units::BLOCK_LEN;

/// What a peer may claim the metadata to be long, bytes (R30).
pub const METADATA_MAX: u32 = 30 << 20;
/// Pieces asked of one peer at a time.
const ASKED_MAX: usize = 4;
/// Peers whose rejected or wrong metadata is remembered.
const REFUSED_MAX: usize = 64;

/// Either collecting, or known and served.
pub struct Metadata {
    known: Option<Bytes>,
    attempt: Option<Attempt>,
    /// Peers that rejected a request or took part in a wrong result; asked only if nobody else is
    /// left.
    refused: Vec<PeerKey>,
    /// Something came since the last tick.
    progress: bool,
}

struct Attempt {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    senders: Vec<PeerKey>,
    /// Handed out for checking; nothing more is asked.
    complete: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Missing,
    Asked(PeerKey),
    Here,
}

impl Metadata {
    pub fn unknown() -> Self {
        Self {
            known: None,
            attempt: None,
            refused: Vec::new(),
            progress: false,
        }
    }

    pub fn know(&mut self, info: Bytes) {
        self.known = Some(info);
        self.attempt = None;
        self.refused.clear();
    }

    pub fn known(&self) -> Option<&Bytes> {
        self.known.as_ref()
    }

    /// The bytes of one 16 KiB piece, for a peer that asks.
    pub fn part(&self, piece: u32) -> Option<&[u8]> {
        let info = self.known.as_ref()?;
        let start = usize::try_from(u64::from(piece) * u64::from(BLOCK_LEN)).ok()?;
        let end = info.len().min(start.checked_add(BLOCK_LEN as usize)?);
        (start < end).then(|| &info[start..end])
    }

    /// What to ask of this peer now, which says that the metadata has `len` bytes.
    pub fn requests(&mut self, peer: PeerKey, len: u32) -> Vec<u32> {
        if self.known.is_some() || len == 0 || len > METADATA_MAX || self.refused.contains(&peer) {
            return Vec::new();
        }
        let attempt = self.attempt.get_or_insert_with(|| Attempt::new(len));
        // Who disagrees about the length waits until this attempt has failed.
        if attempt.complete || attempt.bytes.len() != len as usize {
            return Vec::new();
        }
        let asked = attempt
            .parts
            .iter()
            .filter(|part| **part == Part::Asked(peer));
        let room = ASKED_MAX.saturating_sub(asked.count());
        let mut pieces = Vec::new();
        for (part, piece) in attempt.parts.iter_mut().zip(0..) {
            if pieces.len() == room {
                break;
            }
            if *part == Part::Missing {
                *part = Part::Asked(peer);
                pieces.push(piece);
            }
        }
        pieces
    }

    /// All of it, once the last piece has come; its hash is still to be checked.
    pub fn handle_part(
        &mut self,
        peer: PeerKey,
        piece: u32,
        total: u32,
        data: &[u8],
    ) -> Option<Vec<u8>> {
        let attempt = self.attempt.as_mut()?;
        let part = attempt.parts.get_mut(piece as usize)?;
        let start = piece as usize * BLOCK_LEN as usize;
        let end = attempt.bytes.len().min(start + BLOCK_LEN as usize);
        let fits = total as usize == attempt.bytes.len() && data.len() == end - start;
        if *part != Part::Asked(peer) {
            return None;
        }
        if !fits {
            *part = Part::Missing;
            self.refuse(peer);
            return None;
        }
        *part = Part::Here;
        self.progress = true;
        attempt.bytes[start..end].copy_from_slice(data);
        if !attempt.senders.contains(&peer) {
            attempt.senders.push(peer);
        }
        if attempt.complete || attempt.parts.iter().any(|part| *part != Part::Here) {
            return None;
        }
        attempt.complete = true;
        Some(std::mem::take(&mut attempt.bytes))
    }

    pub fn handle_rejected(&mut self, peer: PeerKey) {
        self.forget(peer);
        self.refuse(peer);
    }

    /// The peer is gone, or has let its requests time out.
    pub fn forget(&mut self, peer: PeerKey) {
        if let Some(attempt) = &mut self.attempt {
            for part in &mut attempt.parts {
                if *part == Part::Asked(peer) {
                    *part = Part::Missing;
                }
            }
            let idle = attempt.parts.iter().all(|part| *part == Part::Missing);
            // Its length need not be the true one.
            if idle && !attempt.complete {
                self.attempt = None;
            }
        }
    }

    /// The peer's key may name another from now on.
    pub fn handle_closed(&mut self, peer: PeerKey) {
        self.forget(peer);
        self.refused.retain(|refused| *refused != peer);
    }

    /// The result had the wrong hash: the one peer to blame, if all came from it. Those who took
    /// part are asked no more while there are others.
    pub fn handle_bad(&mut self) -> Option<PeerKey> {
        let attempt = self.attempt.take()?;
        for &peer in &attempt.senders {
            self.refuse(peer);
        }
        match attempt.senders[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Now and then: who is asked and has sent nothing since the last time makes way for others,
    /// and who made way before is asked again.
    pub fn handle_tick(&mut self) {
        if std::mem::take(&mut self.progress) {
            return;
        }
        self.refused.clear();
        let parts = self.attempt.iter().flat_map(|attempt| &attempt.parts);
        let mut silent: Vec<_> = parts
            .filter_map(|part| match part {
                Part::Asked(peer) => Some(*peer),
                Part::Missing | Part::Here => None,
            })
            .collect();
        silent.dedup();
        for peer in silent {
            self.forget(peer);
            if !self.refused.contains(&peer) {
                self.refuse(peer);
            }
        }
    }

    fn refuse(&mut self, peer: PeerKey) {
        if self.refused.len() == REFUSED_MAX {
            self.refused.remove(0);
        }
        self.refused.push(peer);
    }
}

impl Attempt {
    fn new(len: u32) -> Self {
        Self {
            bytes: vec![0; len as usize],
            parts: vec![Part::Missing; len.div_ceil(BLOCK_LEN) as usize],
            senders: Vec::new(),
            complete: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[test]
    fn two_peers_share_the_pieces_and_one_leaves() {
        let info: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let part = |piece: u32| {
            let start = piece as usize * 16_384;
            &info[start..info.len().min(start + 16_384)]
        };
        let mut metadata = Metadata::unknown();
        assert_eq!(metadata.requests(A, 100_000), [0, 1, 2, 3]);
        assert_eq!(metadata.requests(B, 100_000), [4, 5, 6]);
        assert_eq!(metadata.requests(A, 100_000), [0u32; 0]);
        for piece in 4..7 {
            assert_eq!(metadata.handle_part(B, piece, 100_000, part(piece)), None);
        }
        assert_eq!(metadata.handle_part(B, 0, 100_000, part(0)), None);
        metadata.handle_closed(A);
        assert_eq!(metadata.requests(B, 100_000), [0, 1, 2, 3]);
        for piece in 0..3 {
            assert_eq!(metadata.handle_part(B, piece, 100_000, part(piece)), None);
        }
        assert_eq!(
            metadata.handle_part(B, 3, 100_000, part(3)),
            Some(info.clone())
        );
        metadata.know(Bytes::from(info.clone()));
        assert_eq!(metadata.part(6), Some(part(6)));
        assert_eq!(metadata.part(7), None);
        assert_eq!(metadata.part(u32::MAX), None);
    }

    #[test]
    fn wrong_metadata_blames_its_only_sender() {
        let mut metadata = Metadata::unknown();
        assert_eq!(metadata.requests(A, 10), [0]);
        assert!(metadata.handle_part(A, 0, 10, &[0; 10]).is_some());
        assert_eq!(metadata.handle_bad(), Some(A));
        assert_eq!(metadata.requests(A, 10), [0u32; 0]);
        assert_eq!(metadata.requests(B, 20), [0]);
        metadata.handle_rejected(B);
        assert_eq!(metadata.requests(B, 20), [0u32; 0]);
    }

    #[test]
    fn a_silent_peer_makes_way_and_is_asked_again_later() {
        let mut metadata = Metadata::unknown();
        assert_eq!(metadata.requests(A, 10), [0]);
        assert_eq!(metadata.requests(B, 10), [0u32; 0]);
        metadata.handle_tick();
        assert_eq!(metadata.requests(A, 10), [0u32; 0]);
        assert_eq!(metadata.requests(B, 10), [0]);
        metadata.handle_tick();
        assert_eq!(metadata.requests(A, 10), [0]);
        assert!(metadata.handle_part(A, 0, 10, &[0; 10]).is_some());
    }

    #[test]
    fn absurd_length_is_not_believed() {
        let mut metadata = Metadata::unknown();
        assert_eq!(metadata.requests(A, METADATA_MAX + 1), [0u32; 0]);
        assert_eq!(metadata.requests(A, 0), [0u32; 0]);
    }
}
