//! What a node holds: who wrote which bytes, and whether they are right, but not the bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bittube::swarm::Verdict;
use bittube::torrent::layout::Layout;
use bittube::units::{BLOCK_LEN, ByteRange, PieceIndex};
use fixedbitset::FixedBitSet;

/// Zero: right. Anything else names a wrong version of the bytes.
pub type Content = u32;
pub const RIGHT: Content = 0;
/// The other file that an origin has once it changed.
pub const CHANGED: Content = u32::MAX;

pub struct Store {
    layout: Arc<Layout>,
    verified: FixedBitSet,
    begun: BTreeMap<PieceIndex, Begun>,
    /// The origin's part of pieces that were forgotten: it stays in the file until written over.
    ghosts: BTreeMap<PieceIndex, Vec<Part>>,
    /// The origin brought right bytes: from then on it is known by them.
    knows_origin: bool,
    /// Bytes written, less those of pieces that were forgotten.
    pub kept: u64,
}

#[derive(Default)]
struct Begun {
    /// Apart from each other, in order.
    parts: Vec<Part>,
    written: u64,
}

#[derive(Clone, Copy)]
struct Part {
    range: ByteRange,
    content: Content,
    by_origin: bool,
}

impl Store {
    pub fn new(layout: Arc<Layout>, whole: bool) -> Self {
        let mut verified = FixedBitSet::with_capacity(layout.piece_count() as usize);
        verified.set_range(.., whole);
        Self {
            layout,
            verified,
            begun: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            knows_origin: false,
            kept: 0,
        }
    }

    pub fn verified(&self) -> &FixedBitSet {
        &self.verified
    }

    /// A verdict once the piece is whole. `digests`: the swarm wants them of a good piece.
    pub fn write(
        &mut self,
        range: ByteRange,
        content: Content,
        by_origin: bool,
        digests: bool,
    ) -> Option<(PieceIndex, Verdict)> {
        let piece = self.layout.piece_of(range.start);
        let whole = self.layout.piece_range(piece);
        assert!(range.end <= whole.end, "a write lies inside one piece");
        assert!(!self.verified[piece.at()], "a verified piece is written");
        let begun = self.begun.entry(piece).or_default();
        let place = begun
            .parts
            .partition_point(|part| part.range.start < range.start);
        let before = place.checked_sub(1).map(|place| begun.parts[place].range);
        let after = begun.parts.get(place).map(|part| part.range);
        assert!(
            before.is_none_or(|before| before.end <= range.start)
                && after.is_none_or(|after| range.end <= after.start),
            "{range:?} of {piece:?} is written twice"
        );
        let part = Part {
            range,
            content,
            by_origin,
        };
        begun.parts.insert(place, part);
        begun.written += range.len();
        self.knows_origin |= by_origin && content == RIGHT;
        self.kept += range.len();
        if begun.written < whole.len() {
            return None;
        }
        let begun = self.begun.remove(&piece).expect("just written");
        let verdict = if begun.parts.iter().all(|part| part.content == RIGHT) {
            self.verified.insert(piece.at());
            let digests = digests.then(|| self.digests(piece, &[]));
            Verdict::Good { digests }
        } else {
            let digests = self.digests(piece, &begun.parts);
            self.begun.insert(piece, begun);
            Verdict::Bad { digests }
        };
        Some((piece, verdict))
    }

    pub fn forget(&mut self, piece: PieceIndex) {
        assert!(!self.verified[piece.at()], "a verified piece is forgotten");
        if let Some(begun) = self.begun.remove(&piece) {
            self.kept -= begun.written;
            let ghosts = self.ghosts.entry(piece).or_default();
            let written = |ghost: &Part| {
                begun
                    .parts
                    .iter()
                    .any(|part| !part.range.and(ghost.range).is_empty())
            };
            ghosts.retain(|ghost| !written(ghost));
            ghosts.extend(begun.parts.iter().filter(|part| part.by_origin));
        }
    }

    /// Each byte is verified, or right and straight from the origin; whoever never saw the right
    /// film cannot know it by its validator.
    pub fn assert_readable(&self, range: ByteRange) {
        for piece in self.layout.pieces_of(range).map(PieceIndex) {
            if self.verified[piece.at()] {
                continue;
            }
            let wanted = self.layout.piece_range(piece).and(range);
            let begun = self.begun.get(&piece);
            let parts = begun.map_or(&[][..], |begun| &begun.parts);
            let mut shown = 0;
            for part in parts {
                let common = part.range.and(wanted).len();
                shown += common;
                assert!(
                    common == 0 || part.by_origin,
                    "{wanted:?} of a peer is shown unverified"
                );
                let other = part.content == CHANGED && !self.knows_origin;
                assert!(
                    common == 0 || part.content == RIGHT || other,
                    "{wanted:?} is shown and wrong"
                );
            }
            for ghost in self.ghosts.get(&piece).into_iter().flatten() {
                let common = ghost.range.and(wanted);
                let over = parts.iter().map(|part| part.range.and(common).len());
                shown += common.len() - over.sum::<u64>();
                assert!(
                    common.is_empty() || ghost.content == RIGHT || !self.knows_origin,
                    "{wanted:?} is shown and wrong"
                );
            }
            assert_eq!(shown, wanted.len(), "{wanted:?} is shown and not there");
        }
    }

    /// One a block; equal exactly if the content is.
    fn digests(&self, piece: PieceIndex, parts: &[Part]) -> Vec<[u8; 20]> {
        let start = self.layout.piece_range(piece).start;
        let block = |index: u32| {
            let start = start + u64::from(index * BLOCK_LEN);
            let block = ByteRange::new(start, start + u64::from(BLOCK_LEN));
            let mut digest = [0; 20];
            for part in parts {
                if part.content != RIGHT && !part.range.and(block).is_empty() {
                    let told = u64::from(part.content) << 32 | part.range.and(block).len();
                    digest[..8].copy_from_slice(&told.to_be_bytes());
                }
            }
            digest
        };
        (0..self.layout.block_count(piece)).map(block).collect()
    }
}
