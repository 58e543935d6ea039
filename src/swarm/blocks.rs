//! What is said of blocks: who sent them, what became of them, and who may bring them.

use std::net::SocketAddr;
use std::ops::Range;

use fixedbitset::FixedBitSet;

use crate::swarm::OriginKey;
use crate::swarm::PeerKey;
use crate::swarm::runs::Gaps;
use crate::torrent::layout::Layout;
use crate::units::{Block, ByteRange};

/// Who sent bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By address: the connection may be gone when the hash is known.
    Peer(SocketAddr),
    Origin {
        origin: OriginKey,
        direct: bool,
    },
    /// Several; nobody can be blamed.
    Mixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    Peer(PeerKey),
    Origin(OriginKey),
}

/// What became of a block that a peer sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Parts of the block to store; all empty: wasted.
    pub parts: Gaps,
    /// The other peer that was asked for it.
    pub rival: Option<PeerKey>,
}

/// What the supply wants to know of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nobody is asked. `bought`: the origin has been.
    Missing {
        bought: bool,
    },
    /// Peers are asked, the origin may be (unless `bought`).
    Asked {
        peers: [Option<PeerKey>; 2],
        bought: bool,
    },
    /// The origin is asked.
    Bought,
    Stored,
}

/// What became of bytes from a fetch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Poured {
    /// Parts of the block to store.
    pub parts: Gaps,
    /// Peers that were asked for the block, which is whole now.
    pub rivals: [Option<PeerKey>; 2],
}

/// The blocks that `range` touches.
pub fn blocks(layout: &Layout, range: ByteRange) -> impl Iterator<Item = Block> + '_ {
    let mut next = (!range.is_empty()).then(|| layout.block_of(range.start));
    std::iter::from_fn(move || {
        let block = next.filter(|block| layout.block_range(*block).start < range.end)?;
        next = layout.next_block(block);
        Some(block)
    })
}

/// The first bit of `range` that both sets have.
pub fn next_common(a: &FixedBitSet, b: &FixedBitSet, range: Range<u32>) -> Option<u32> {
    let end = (range.end as usize).min(a.len()).min(b.len());
    let mut at = range.start as usize;
    let bits = usize::BITS as usize;
    let (a, b) = (a.as_slice(), b.as_slice());
    while at < end {
        let word = at / bits;
        let both = (a[word] & b[word]) >> (at % bits);
        if both != 0 {
            let found = at + both.trailing_zeros() as usize;
            return (found < end).then(|| u32::try_from(found).expect("a u32 range"));
        }
        at = (word + 1) * bits;
    }
    None
}
