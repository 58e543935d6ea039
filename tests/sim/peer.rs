//! What a node does to others, and what its messages say.

use std::collections::BTreeMap;

use bittube::swarm::PeerKey;
use bittube::units::BlockSpan;

use crate::store::{Content, RIGHT};

/// How a node behaves; the default is as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Temper {
    /// Of so many blocks one is wrong, never the same way twice.
    pub lies: Option<u32>,
    pub ignores_cancel: bool,
    /// It chokes everybody.
    pub rides_free: bool,
}

impl Temper {
    pub fn content(&self, span: BlockSpan, nonce: u64) -> Content {
        let Some(every) = self.lies else { return RIGHT };
        let mixed = (u64::from(span.piece.0) << 32 | u64::from(span.begin))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if ((mixed >> 40) as u32).is_multiple_of(every) {
            1 + nonce as u32 % 1_000_000
        } else {
            RIGHT
        }
    }
}

const CANCEL: u8 = 8;
const REQUEST: u8 = 6;
const REJECT: u8 = 16;
const HANDSHAKE_LEN: usize = 68;

/// The messages in `bytes`, whole as they always are.
fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = if bytes.first() == Some(&19) {
        HANDSHAKE_LEN
    } else {
        0
    };
    std::iter::from_fn(move || {
        let prefix = bytes.get(at..)?.first_chunk::<4>()?;
        let end = at + 4 + u32::from_be_bytes(*prefix) as usize;
        let message = bytes.get(at..end).expect("messages are sent whole");
        at = end;
        Some(message)
    })
}

pub fn without_cancels(bytes: &[u8]) -> Vec<u8> {
    let head = if bytes.first() == Some(&19) {
        HANDSHAKE_LEN
    } else {
        0
    };
    let mut kept = bytes[..head].to_vec();
    let others = messages(bytes).filter(|message| message.get(4) != Some(&CANCEL));
    kept.extend(others.flatten());
    kept
}

/// Which peers a node has asked for which block, by what it said on the wire.
#[derive(Default)]
pub struct Asked {
    peers: BTreeMap<(u32, u32), Vec<PeerKey>>,
}

impl Asked {
    /// The node said this to `key`. Returns what it asked for.
    pub fn handle_said(&mut self, key: PeerKey, bytes: &[u8]) -> Vec<(u32, u32)> {
        let mut asked = Vec::new();
        for message in messages(bytes) {
            match message.get(4) {
                Some(&REQUEST) => {
                    let block = block(message);
                    self.peers.entry(block).or_default().push(key);
                    asked.push(block);
                }
                Some(&CANCEL) => self.remove(key, block(message)),
                _ => {}
            }
        }
        asked
    }

    pub fn handle_heard(&mut self, key: PeerKey, bytes: &[u8]) {
        for message in messages(bytes).filter(|message| message.get(4) == Some(&REJECT)) {
            self.remove(key, block(message));
        }
    }

    pub fn remove(&mut self, key: PeerKey, block: (u32, u32)) {
        if let Some(peers) = self.peers.get_mut(&block) {
            peers.retain(|peer| *peer != key);
            if peers.is_empty() {
                self.peers.remove(&block);
            }
        }
    }

    pub fn handle_closed(&mut self, key: PeerKey) {
        self.peers.retain(|_, peers| {
            peers.retain(|peer| *peer != key);
            !peers.is_empty()
        });
    }

    pub fn of(&self, block: (u32, u32)) -> &[PeerKey] {
        self.peers.get(&block).map_or(&[], |peers| peers)
    }

    pub fn all(&self) -> impl Iterator<Item = &[PeerKey]> {
        self.peers.values().map(|peers| &peers[..])
    }
}

fn block(message: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(*message[at..].first_chunk().expect("checked"));
    (word(5), word(9))
}
