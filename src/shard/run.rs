//! Blocks that arrived together, gathered so that they are written at a stroke.

use std::sync::Arc;

use crate::torrent::layout::Layout;
use crate::units::ByteRange;

/// Bytes that follow each other in a piece.
#[derive(Default)]
pub struct Run<'a> {
    /// Of the torrent.
    range: Option<ByteRange>,
    parts: Vec<&'a [u8]>,
}

impl<'a> Run<'a> {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether `range` goes on where the run ends, in the same piece.
    pub fn takes(&self, range: ByteRange, layout: Option<&Arc<Layout>>) -> bool {
        let (Some(run), Some(layout)) = (self.range, layout) else {
            return self.is_empty();
        };
        run.end == range.start && layout.piece_of(run.start) == layout.piece_of(range.start)
    }

    pub fn add(&mut self, range: ByteRange, bytes: &'a [u8]) {
        let start = self.range.map_or(range.start, |run| run.start);
        self.range = Some(ByteRange::new(start, range.end));
        self.parts.push(bytes);
    }

    pub fn take(&mut self) -> (ByteRange, Vec<&'a [u8]>) {
        let range = self.range.take().unwrap_or(ByteRange { start: 0, end: 0 });
        (range, std::mem::take(&mut self.parts))
    }
}
