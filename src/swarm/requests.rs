//! What is missing and what is under way: each started piece, block by block.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use slab::Slab;

use crate::swarm::FetchKey;
use crate::swarm::PeerKey;
use crate::swarm::blocks::{Arrival, Look, Only, Poured, Source, blocks, next_common};
use crate::swarm::runs::Runs;
use crate::torrent::layout::Layout;
use crate::units::{Block, BlockIndex, ByteRange, PieceIndex};

/// Bytes of pieces that are started and not yet verified; what lies on disk unverified is bounded
/// by it.
pub const STARTED_BYTES_MAX: u64 = 128 << 20;

const NOBODY: u32 = u32::MAX;
const NO_SOURCE: u16 = u16::MAX;
const NO_SLOT: u32 = u32::MAX;

/// The missing pieces of one torrent. A block has at most two peers and one fetch asked for it,
/// and one writer.
pub struct Requests {
    layout: Arc<Layout>,
    started: Slab<Started>,
    /// For each piece its place in `started`.
    slot_of: Vec<u32>,
    /// Neither verified nor started.
    fresh: FixedBitSet,
    /// Started, with a block that nobody is asked for.
    ragged: BTreeSet<PieceIndex>,
    bytes: u64,
    /// Block tables of finished pieces, for the next ones.
    spare: Vec<Vec<State>>,
}

/// A piece under way.
pub struct Started {
    piece: PieceIndex,
    blocks: Vec<State>,
    /// Blocks that nobody is asked for and that are not whole.
    missing: u32,
    /// Blocks that are not whole.
    left: u32,
    /// Blocks of which some byte is stored.
    touched: u32,
    /// No missing block comes before this one.
    hint: u32,
    sources: Vec<Source>,
    /// R46: after a bad hash one source alone delivers the piece.
    only: Option<Only>,
}

#[derive(Clone, Copy)]
struct State {
    peers: [u32; 2],
    /// Zero: none. A fetch that is to bring this block.
    fetch: u64,
    stored: Runs,
    /// Index in `sources`.
    from: u16,
    /// Zero: none. The fetch in which the origin was asked; not again before it is over.
    bought: u64,
}

const MISSING: State = State {
    peers: [NOBODY; 2],
    fetch: 0,
    stored: Runs::NONE,
    from: NO_SOURCE,
    bought: 0,
};

impl State {
    fn asked(&self) -> bool {
        self.fetch != 0 || self.peers != [NOBODY; 2]
    }

    fn whole(&self, len: u32) -> bool {
        self.stored.is_whole(len)
    }
}

impl Requests {
    pub fn new(layout: Arc<Layout>, have: &FixedBitSet) -> Self {
        let count = layout.piece_count() as usize;
        let mut fresh = FixedBitSet::with_capacity(count);
        fresh.insert_range(..);
        fresh.difference_with(have);
        Self {
            slot_of: vec![NO_SLOT; count],
            started: Slab::new(),
            fresh,
            ragged: BTreeSet::new(),
            bytes: 0,
            spare: Vec::new(),
            layout,
        }
    }

    pub fn fresh(&self) -> &FixedBitSet {
        &self.fresh
    }

    /// Bytes of the pieces under way.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, piece: PieceIndex) -> Option<&Started> {
        self.started.get(self.slot_of[piece.at()] as usize)
    }

    pub fn pieces(&self) -> impl Iterator<Item = &Started> {
        self.started.iter().map(|(_, started)| started)
    }

    /// Whether one more piece may be started.
    pub fn has_room(&self) -> bool {
        self.bytes + u64::from(self.layout.nominal_piece_len()) <= STARTED_BYTES_MAX
            || self.started.is_empty()
    }

    /// The first started piece of `range` with a missing block that `key` may be asked for.
    pub fn next_ragged(
        &self,
        range: Range<u32>,
        key: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        if range.is_empty() {
            return None;
        }
        let mut pieces = self
            .ragged
            .range(PieceIndex(range.start)..PieceIndex(range.end));
        pieces
            .find(|piece| {
                let only = self.get(**piece).and_then(|started| started.only);
                has(**piece) && only.is_none_or(|only| only == Only::Peer(key))
            })
            .copied()
    }

    /// The first piece of `range` that is neither verified nor started and that is in `bits`.
    pub fn next_fresh(&self, range: Range<u32>, bits: &FixedBitSet) -> Option<PieceIndex> {
        next_common(&self.fresh, bits, range).map(PieceIndex)
    }

    /// Asks `peer` for the first missing block of a piece, which is started if need be. The caller
    /// has seen to [`Requests::has_room`].
    pub fn take(&mut self, piece: PieceIndex, peer: PeerKey) -> Option<Block> {
        let slot = self.slot(piece);
        let started = &mut self.started[slot];
        let tail = started.blocks[started.hint as usize..].iter();
        let whole = |index: u32, state: &State| {
            let len = block_len(&self.layout, piece, index);
            state.whole(len)
        };
        let found = tail
            .zip(started.hint..)
            .find_map(|(state, index)| (!state.asked() && !whole(index, state)).then_some(index))?;
        started.hint = found + 1;
        started.missing -= 1;
        started.blocks[found as usize].peers[0] = number(peer);
        if started.missing == 0 {
            self.ragged.remove(&piece);
        }
        Some(Block {
            piece,
            block: BlockIndex(found),
        })
    }

    /// Asks a second peer for a block; false if two are asked already, this one is among them, or
    /// the block is stored.
    pub fn take_second(&mut self, block: Block, peer: PeerKey) -> bool {
        let len = self.layout.span(block).len;
        let Some(state) = self.state_mut(block) else {
            return false;
        };
        let number = number(peer);
        if state.whole(len) || state.peers.contains(&number) || !state.peers.contains(&NOBODY) {
            return false;
        }
        let was_missing = !state.asked();
        let place = usize::from(state.peers[0] != NOBODY);
        state.peers[place] = number;
        if was_missing {
            self.no_longer_missing(block.piece);
        }
        true
    }

    /// `peer` will not bring this block after all.
    pub fn release(&mut self, block: Block, peer: PeerKey) {
        let len = self.layout.span(block).len;
        let number = number(peer);
        let Some(state) = self.state_mut(block) else {
            return;
        };
        let Some(place) = state.peers.iter().position(|&asked| asked == number) else {
            return;
        };
        state.peers[place] = NOBODY;
        if !state.asked() && !state.whole(len) {
            self.missing_again(block);
        }
    }

    /// A whole block from `peer`, asked for or cancelled too late.
    pub fn arrive(&mut self, block: Block, peer: PeerKey, source: Source) -> Arrival {
        let len = self.layout.span(block).len;
        let number = number(peer);
        if self.get(block.piece).is_none() {
            if !self.fresh.contains(block.piece.at()) || !self.has_room() {
                return Arrival::default();
            }
            self.slot(block.piece);
        }
        let slot = self.slot(block.piece);
        let only = self.started[slot].only;
        if only.is_some_and(|only| only != Only::Peer(peer)) {
            self.release(block, peer);
            return Arrival::default();
        }
        let started = &mut self.started[slot];
        let from = started.source(source);
        let state = &mut started.blocks[block.block.0 as usize];
        let was_missing = !state.asked() && !state.whole(len);
        for asked in &mut state.peers {
            if *asked == number {
                *asked = NOBODY;
            }
        }
        let untouched = state.stored.is_empty();
        let begun = state.fetch != 0 && !untouched;
        if state.whole(len) || begun {
            return Arrival::default();
        }
        let rival = state.peers.iter().find(|&&asked| asked != NOBODY);
        let rival = rival.map(|&asked| PeerKey(asked as usize));
        let parts = state.stored.add(&(0..len));
        state.from = if untouched { from } else { NO_SOURCE };
        state.peers = [NOBODY; 2];
        state.fetch = 0;
        started.left -= 1;
        started.touched += u32::from(untouched);
        if was_missing {
            self.no_longer_missing(block.piece);
        }
        Arrival { parts, rival }
    }

    /// Gives the blocks of `range` that are not whole to a fetch.
    pub fn buy(&mut self, range: ByteRange, fetch: FetchKey) {
        let layout = Arc::clone(&self.layout);
        for block in blocks(&layout, range) {
            let known = self.get(block.piece).is_some();
            if !known && !self.fresh.contains(block.piece.at()) {
                continue;
            }
            let slot = self.slot(block.piece);
            let state = &mut self.started[slot].blocks[block.block.0 as usize];
            if state.whole(layout.span(block).len) || state.fetch != 0 {
                continue;
            }
            let was_missing = !state.asked();
            state.fetch = fetch.0;
            state.bought = fetch.0;
            if was_missing {
                self.no_longer_missing(block.piece);
            }
        }
    }

    /// Bytes of one block from a fetch, in order. Nothing is to be stored if another source has
    /// it, or the fetch does not own it.
    pub fn pour(&mut self, range: ByteRange, fetch: FetchKey, source: Source) -> Poured {
        let block = self.layout.block_of(range.start);
        let len = self.layout.span(block).len;
        let poured = self.within(block, range);
        let slot = self.slot_of[block.piece.at()] as usize;
        let Some(started) = self.started.get_mut(slot) else {
            return Poured::default();
        };
        let from = started.source(source);
        let state = &mut started.blocks[block.block.0 as usize];
        if state.fetch != fetch.0 {
            return Poured::default();
        }
        if state.stored.is_empty() {
            state.from = from;
            started.touched += 1;
        } else if state.from != from {
            state.from = NO_SOURCE;
        }
        // What is stored already is not written twice: a resumed fetch meets its own first bytes.
        let parts = state.stored.add(&poured);
        let mut rivals = [None; 2];
        if state.whole(len) {
            state.fetch = 0;
            started.left -= 1;
            for (asked, rival) in state.peers.iter_mut().zip(&mut rivals) {
                *rival = (*asked != NOBODY).then_some(PeerKey(*asked as usize));
                *asked = NOBODY;
            }
        } else if poured.end == len {
            // Its first bytes lack: the origin may be asked for them.
            state.fetch = 0;
            state.bought = 0;
            if !state.asked() {
                self.missing_again(block);
            }
        }
        Poured { parts, rivals }
    }

    /// The fetch brings nothing more for now: what lacks is missing again. Once it is over the
    /// origin may be asked for that again, whatever the fetch was to bring of the block.
    pub fn unbuy(&mut self, range: ByteRange, fetch: FetchKey, over: bool) {
        let layout = Arc::clone(&self.layout);
        for block in blocks(&layout, range) {
            let Some(state) = self.state_mut(block) else {
                continue;
            };
            // Of blocks that the fetch was late with, too.
            if over && state.bought == fetch.0 {
                state.bought = 0;
            }
            if state.fetch != fetch.0 {
                continue;
            }
            state.fetch = 0;
            if !state.asked() {
                self.missing_again(block);
            }
        }
    }

    pub fn look(&self, block: Block) -> Look {
        let Some(started) = self.get(block.piece) else {
            let fresh = self.fresh.contains(block.piece.at());
            return if fresh {
                Look::Missing { bought: false }
            } else {
                Look::Stored
            };
        };
        let state = &started.blocks[block.block.0 as usize];
        // R46: what one peer alone is to bring is not for the origin.
        let bought = state.bought != 0 || matches!(started.only, Some(Only::Peer(_)));
        if state.whole(block_len(&self.layout, block.piece, block.block.0)) {
            Look::Stored
        } else if state.fetch != 0 {
            Look::Bought
        } else if state.asked() {
            let peers = state
                .peers
                .map(|asked| (asked != NOBODY).then_some(PeerKey(asked as usize)));
            Look::Asked { peers, bought }
        } else {
            Look::Missing { bought }
        }
    }

    /// Whether of `range` this block lacks nothing: a file's edge within a block is all that the
    /// file's origin can bring.
    pub fn covers(&self, block: Block, range: ByteRange) -> bool {
        let wanted = self.layout.block_range(block).and(range);
        self.stored(block).covers(&self.within(block, wanted))
    }

    /// The first byte of the block that lacks, as far as it is missing.
    pub fn lacks_from(&self, block: Block) -> u64 {
        self.layout.block_range(block).start + u64::from(self.stored(block).until(0))
    }

    fn stored(&self, block: Block) -> Runs {
        let started = self.get(block.piece);
        started.map_or(Runs::NONE, |started| {
            started.blocks[block.block.0 as usize].stored
        })
    }

    /// `range`, which lies in the block, from the block's start.
    fn within(&self, block: Block, range: ByteRange) -> Range<u32> {
        let base = self.layout.block_range(block).start;
        let offset = |at: u64| u32::try_from(at.saturating_sub(base)).expect("inside the block");
        offset(range.start)..offset(range.end)
    }

    /// Nothing is left that somebody could be asked for first.
    pub fn is_all_asked(&self) -> bool {
        self.ragged.is_empty() && self.fresh.is_clear()
    }

    /// How far from `at`, inside its piece, the bytes came from an origin whose bytes may be shown
    /// before their hash.
    pub fn shown_until(&self, at: u64) -> u64 {
        let first = self.layout.block_of(at);
        let Some(started) = self.get(first.piece) else {
            return at;
        };
        let mut end = at;
        for (state, index) in started.blocks[first.block.0 as usize..]
            .iter()
            .zip(first.block.0..)
        {
            let direct = started.sources.get(usize::from(state.from));
            let Some(Source::Origin { direct: true, .. }) = direct else {
                break;
            };
            let block = Block {
                piece: first.piece,
                block: BlockIndex(index),
            };
            let range = self.layout.block_range(block);
            let within = u32::try_from(end - range.start).expect("inside the block");
            let until = range.start + u64::from(state.stored.until(within));
            if until == end {
                break;
            }
            end = until;
            if end < range.end {
                break;
            }
        }
        end
    }

    /// The piece is verified. Blocks that peers still owe are returned.
    pub fn finish(&mut self, piece: PieceIndex) -> Vec<(Block, PeerKey)> {
        let owed = self.owed(piece);
        self.drop_started(piece);
        self.fresh.set(piece.at(), false);
        owed
    }

    /// Nothing of the piece is stored any more: all its blocks are missing.
    pub fn lose(&mut self, piece: PieceIndex) -> Vec<(Block, PeerKey)> {
        let owed = self.owed(piece);
        self.drop_started(piece);
        self.fresh.insert(piece.at());
        owed
    }

    /// R46: starts the piece afresh, for one source alone.
    pub fn restart(&mut self, piece: PieceIndex, only: Option<Only>) {
        let slot = self.slot(piece);
        self.started[slot].only = only;
    }

    fn owed(&self, piece: PieceIndex) -> Vec<(Block, PeerKey)> {
        let mut owed = Vec::new();
        if let Some(started) = self.get(piece) {
            for (state, index) in started.blocks.iter().zip(0..) {
                let block = Block {
                    piece,
                    block: BlockIndex(index),
                };
                let asked = state.peers.iter().filter(|&&asked| asked != NOBODY);
                owed.extend(asked.map(|&asked| (block, PeerKey(asked as usize))));
            }
        }
        owed
    }

    fn drop_started(&mut self, piece: PieceIndex) {
        let slot = std::mem::replace(&mut self.slot_of[piece.at()], NO_SLOT);
        if let Some(mut started) = self.started.try_remove(slot as usize) {
            started.blocks.clear();
            self.spare.push(started.blocks);
            self.bytes -= u64::from(self.layout.piece_len(piece));
            self.ragged.remove(&piece);
        }
    }

    /// Where the piece is in `started`, which it enters if it was fresh.
    fn slot(&mut self, piece: PieceIndex) -> usize {
        let slot = self.slot_of[piece.at()];
        if slot != NO_SLOT {
            return slot as usize;
        }
        let count = self.layout.block_count(piece);
        let mut blocks = self.spare.pop().unwrap_or_default();
        blocks.resize(count as usize, MISSING);
        let slot = self.started.insert(Started {
            piece,
            blocks,
            missing: count,
            left: count,
            touched: 0,
            hint: 0,
            sources: Vec::new(),
            only: None,
        });
        self.slot_of[piece.at()] = u32::try_from(slot).expect("STARTED_BYTES_MAX bounds it");
        self.fresh.set(piece.at(), false);
        self.ragged.insert(piece);
        self.bytes += u64::from(self.layout.piece_len(piece));
        slot
    }

    fn state_mut(&mut self, block: Block) -> Option<&mut State> {
        let slot = self.slot_of[block.piece.at()];
        let started = self.started.get_mut(slot as usize)?;
        started.blocks.get_mut(block.block.0 as usize)
    }

    fn no_longer_missing(&mut self, piece: PieceIndex) {
        let slot = self.slot_of[piece.at()] as usize;
        let started = &mut self.started[slot];
        started.missing -= 1;
        if started.missing == 0 {
            self.ragged.remove(&piece);
        }
    }

    /// A piece of which nothing is stored or asked for is fresh again: it costs no room.
    fn missing_again(&mut self, block: Block) {
        let slot = self.slot_of[block.piece.at()] as usize;
        let started = &mut self.started[slot];
        started.missing += 1;
        started.hint = started.hint.min(block.block.0);
        let idle = started.missing as usize == started.blocks.len();
        if idle && started.touched == 0 && started.only.is_none() && !started.bought() {
            self.drop_started(block.piece);
            self.fresh.insert(block.piece.at());
        } else {
            self.ragged.insert(block.piece);
        }
    }
}

impl Started {
    pub fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// Every block is stored; the verdict is awaited.
    pub fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// Nobody is asked for any of its blocks.
    pub fn is_idle(&self) -> bool {
        self.missing == self.left
    }

    pub fn only(&self) -> Option<Only> {
        self.only
    }

    /// For each block who sent it.
    pub fn senders(&self) -> impl Iterator<Item = Source> + '_ {
        self.blocks.iter().map(|state| {
            let source = self.sources.get(usize::from(state.from));
            source.copied().unwrap_or(Source::Mixed)
        })
    }

    fn bought(&self) -> bool {
        self.blocks.iter().any(|state| state.bought != 0)
    }

    fn source(&mut self, source: Source) -> u16 {
        let known = self.sources.iter().rposition(|&known| known == source);
        let place = known.unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        u16::try_from(place).unwrap_or(NO_SOURCE)
    }
}

fn block_len(layout: &Layout, piece: PieceIndex, index: u32) -> u32 {
    let block = BlockIndex(index);
    layout.span(Block { piece, block }).len
}

fn number(peer: PeerKey) -> u32 {
    u32::try_from(peer.0).expect("peers_max bounds keys")
}

#[cfg(test)]
mod tests;
