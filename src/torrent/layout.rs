//! All arithmetic between pieces, blocks, files and bytes of a torrent (BEP 3, BEP 47).

use std::ops::Range;

use crate::units::{BLOCK_LEN, Block, BlockIndex, BlockSpan, ByteRange, PieceIndex};

/// How a torrent's bytes are cut. Offsets named `at` count from the torrent's first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    length: u64,
    piece_len: u32,
    files: Vec<Extent>,
}

/// Where one file lies in the torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub range: ByteRange,
    /// BEP 47: zeros that align the next file; never stored.
    pub pad: bool,
}

/// Part of one file, for a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index in the torrent's file list.
    pub file: usize,
    /// Bytes within the file.
    pub range: ByteRange,
    pub pad: bool,
}

impl Layout {
    /// `files`: length and whether it is padding, in the torrent's order. The metainfo parser has
    /// checked the limits of R31; sums here cannot overflow.
    pub fn new(piece_len: u32, files: impl IntoIterator<Item = (u64, bool)>) -> Self {
        assert!(piece_len > 0, "a piece has bytes");
        let mut at = 0;
        let files = files
            .into_iter()
            .map(|(len, pad)| {
                let range = ByteRange::new(at, at + len);
                at += len;
                Extent { range, pad }
            })
            .collect();
        Self {
            length: at,
            piece_len,
            files,
        }
    }

    pub fn single(length: u64, piece_len: u32) -> Self {
        Self::new(piece_len, [(length, false)])
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Of every piece but the last.
    pub fn nominal_piece_len(&self) -> u32 {
        self.piece_len
    }

    pub fn files(&self) -> &[Extent] {
        &self.files
    }

    pub fn piece_count(&self) -> u32 {
        u32::try_from(self.length.div_ceil(u64::from(self.piece_len))).expect("R31 bounds pieces")
    }

    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// Zero beyond the last piece.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        let left = self.length.saturating_sub(self.piece_at(piece));
        u32::try_from(left.min(u64::from(self.piece_len))).expect("at most a piece")
    }

    fn piece_at(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_len)
    }

    pub fn piece_range(&self, piece: PieceIndex) -> ByteRange {
        let start = self.piece_at(piece);
        ByteRange::new(start, start + u64::from(self.piece_len(piece)))
    }

    /// The piece that holds the byte `at`, which is below `length`.
    pub fn piece_of(&self, at: u64) -> PieceIndex {
        debug_assert!(at < self.length);
        PieceIndex(u32::try_from(at / u64::from(self.piece_len)).expect("R31 bounds pieces"))
    }

    /// The pieces that `range` touches.
    pub fn pieces_of(&self, range: ByteRange) -> Range<u32> {
        if range.is_empty() {
            return 0..0;
        }
        self.piece_of(range.start).0..self.piece_of(range.end - 1).0 + 1
    }

    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_len(piece).div_ceil(BLOCK_LEN)
    }

    pub fn span(&self, block: Block) -> BlockSpan {
        let begin = block.block.0 * BLOCK_LEN;
        let len = self
            .piece_len(block.piece)
            .saturating_sub(begin)
            .min(BLOCK_LEN);
        BlockSpan {
            piece: block.piece,
            begin,
            len,
        }
    }

    /// The block that a span names exactly, or `None` if it is no block of this torrent.
    pub fn block_at(&self, span: BlockSpan) -> Option<Block> {
        if span.piece.0 >= self.piece_count() || !span.begin.is_multiple_of(BLOCK_LEN) {
            return None;
        }
        let block = Block {
            piece: span.piece,
            block: BlockIndex(span.begin / BLOCK_LEN),
        };
        (span.len > 0 && self.span(block) == span).then_some(block)
    }

    /// Whether a peer may ask for this (R42): inside its piece, and not empty.
    pub fn holds(&self, span: BlockSpan) -> bool {
        span.piece.0 < self.piece_count()
            && span.len > 0
            && u64::from(span.begin) + u64::from(span.len) <= u64::from(self.piece_len(span.piece))
    }

    pub fn block_range(&self, block: Block) -> ByteRange {
        self.span_range(self.span(block))
    }

    pub fn span_range(&self, span: BlockSpan) -> ByteRange {
        let start = self.piece_at(span.piece) + u64::from(span.begin);
        ByteRange::new(start, start + u64::from(span.len))
    }

    /// The block that holds the byte `at`, which is below `length`.
    pub fn block_of(&self, at: u64) -> Block {
        let piece = self.piece_of(at);
        let within = u32::try_from(at - self.piece_at(piece)).expect("inside its piece");
        Block {
            piece,
            block: BlockIndex(within / BLOCK_LEN),
        }
    }

    /// The block after this one in the torrent, if any.
    pub fn next_block(&self, block: Block) -> Option<Block> {
        if block.block.0 + 1 < self.block_count(block.piece) {
            return Some(Block {
                block: BlockIndex(block.block.0 + 1),
                ..block
            });
        }
        let piece = PieceIndex(block.piece.0 + 1);
        (piece.0 < self.piece_count()).then_some(Block {
            piece,
            block: BlockIndex(0),
        })
    }

    /// Bytes of the torrent that one file holds.
    pub fn file_range(&self, file: usize) -> ByteRange {
        self.files[file].range
    }

    /// The parts of files that `range` of the torrent covers, in order; empty files are left out.
    pub fn segments(&self, range: ByteRange) -> impl Iterator<Item = Segment> + '_ {
        let first = self
            .files
            .partition_point(|file| file.range.end <= range.start);
        let files = self.files.iter().enumerate().skip(first);
        files
            .take_while(move |(_, file)| file.range.start < range.end)
            .filter_map(move |(index, file)| {
                let part = file.range.and(range);
                let start = part.start - file.range.start;
                (!part.is_empty()).then_some(Segment {
                    file: index,
                    range: ByteRange::new(start, start + part.len()),
                    pad: file.pad,
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_piece_and_block_are_short() {
        let layout = Layout::single(100_000, 32_768);
        assert_eq!(layout.piece_count(), 4);
        assert_eq!(layout.piece_len(PieceIndex(3)), 1_696);
        assert_eq!(layout.piece_len(PieceIndex(4)), 0);
        let last = layout.block_of(99_999);
        assert_eq!(
            layout.span(last),
            BlockSpan {
                piece: PieceIndex(3),
                begin: 0,
                len: 1_696
            }
        );
        assert_eq!(layout.next_block(last), None);
        assert_eq!(layout.block_at(layout.span(last)), Some(last));
    }

    #[test]
    fn segments_cross_files_and_skip_empty_ones() {
        let layout = Layout::new(16_384, [(10, false), (0, false), (6, true), (20, false)]);
        let parts: Vec<_> = layout.segments(ByteRange::new(5, 20)).collect();
        assert_eq!(
            parts,
            [
                Segment {
                    file: 0,
                    range: ByteRange::new(5, 10),
                    pad: false
                },
                Segment {
                    file: 2,
                    range: ByteRange::new(0, 6),
                    pad: true
                },
                Segment {
                    file: 3,
                    range: ByteRange::new(0, 4),
                    pad: false
                },
            ]
        );
    }

    #[test]
    fn requests_are_held_to_their_piece() {
        let layout = Layout::single(40_000, 32_768);
        let span = |piece, begin, len| BlockSpan {
            piece: PieceIndex(piece),
            begin,
            len,
        };
        assert!(layout.holds(span(1, 0, 7_232)));
        assert!(!layout.holds(span(1, 0, 7_233)));
        assert!(!layout.holds(span(2, 0, 1)));
        assert!(!layout.holds(span(0, u32::MAX, u32::MAX)));
        assert_eq!(
            layout.block_at(span(0, 16_384, 16_384)).unwrap().block,
            BlockIndex(1)
        );
        assert_eq!(layout.block_at(span(0, 16_384, 100)), None);
    }
}
