//! What one torrent takes of the disk, and which of its pieces go first when it is too much.

use std::collections::BTreeSet;
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use crate::store::Disk;
use crate::store::Store;
use crate::store::files::Files;
use crate::store::ledger::piece_index;
use crate::store::standing::Standing;
use crate::torrent::layout::Layout;
use crate::units::{ByteRange, PieceIndex, Time};

/// Pieces whose blocks are given back in one call: about 50 µs each.
const PUNCH_MAX: usize = 8;

/// A torrent's part of the store's bytes: counted by pieces while it is open, else by disk blocks.
pub(crate) struct Footprint {
    store: Arc<Store>,
    layout: Arc<Layout>,
    /// Pieces of which something may be on disk.
    charged: FixedBitSet,
    /// Their bytes, as counted in the store.
    charged_len: u64,
    /// Evicted, their disk blocks not given back yet.
    holes: BTreeSet<PieceIndex>,
    /// Seconds; by piece.
    watched: Vec<u32>,
}

impl Footprint {
    /// From now on the torrent counts by its pieces, of which it claims those. What else lies in
    /// its files was in flight when the last session was killed, and is fetched again.
    pub(crate) fn open(
        store: &Arc<Store>,
        layout: &Arc<Layout>,
        files: &Files,
        allocated: u64,
        claimed: FixedBitSet,
    ) -> Result<Self, Disk> {
        let charged_len = claimed
            .ones()
            .map(|piece| stored_len(layout, piece_index(piece)))
            .sum();
        let mut footprint = Self {
            store: Arc::clone(store),
            layout: Arc::clone(layout),
            charged: claimed,
            charged_len,
            holes: BTreeSet::new(),
            watched: vec![0; layout.piece_count() as usize],
        };
        if allocated > charged_len {
            footprint.find_unclaimed(files)?;
        }
        store.charge(charged_len);
        store.credit(allocated);
        Ok(footprint)
    }

    fn find_unclaimed(&mut self, files: &Files) -> Result<(), Disk> {
        for index in stored_files(&self.layout) {
            if files.mark(index).is_none() || files.allocated(index) == 0 {
                continue;
            }
            for data in files.data(index)? {
                for piece in self.layout.pieces_of(data) {
                    if !self.charged.contains(piece as usize) {
                        self.holes.insert(PieceIndex(piece));
                    }
                }
            }
        }
        Ok(())
    }

    /// Something of this piece is about to be written.
    pub(crate) fn charge(&mut self, piece: PieceIndex) {
        self.holes.remove(&piece);
        if !self.charged.put(piece.at()) {
            let len = stored_len(&self.layout, piece);
            self.charged_len += len;
            self.store.charge(len);
        }
    }

    /// The piece goes: it counts no more, and its blocks are among [`Self::take_holes`]. Returns
    /// its bytes.
    pub(crate) fn credit(&mut self, piece: PieceIndex) -> u64 {
        let len = stored_len(&self.layout, piece);
        self.charged.remove(piece.at());
        self.holes.insert(piece);
        self.charged_len = self.charged_len.saturating_sub(len);
        self.store.credit(len);
        len
    }

    /// A reader was sent this piece.
    pub(crate) fn touch(&mut self, now: Time, piece: PieceIndex) {
        let seconds = now.as_millis() / 1000;
        self.watched[piece.at()] = u32::try_from(seconds).unwrap_or(u32::MAX);
    }

    pub(crate) fn room_for(&self, bytes: u64) -> Result<(), Disk> {
        // Blocks that are as good as free already.
        let pending: u64 = self
            .holes
            .iter()
            .map(|&piece| stored_len(&self.layout, piece))
            .sum();
        match self.store.shortage_with(bytes, pending)? {
            0 => Ok(()),
            _ => Err(Disk::Full),
        }
    }

    /// Pieces that take room and that nobody claims; some may be in flight.
    pub(crate) fn scraps(&self, standing: &Standing) -> Vec<PieceIndex> {
        let mut scraps = self.charged.clone();
        scraps.difference_with(standing.have());
        scraps.difference_with(standing.suspect());
        scraps.ones().map(piece_index).collect()
    }

    /// What is verified, that which was watched longest ago first.
    pub(crate) fn oldest(&self, standing: &Standing) -> Vec<PieceIndex> {
        let mut oldest: Vec<_> = standing.have().ones().map(piece_index).collect();
        oldest.sort_by_key(|piece| self.watched[piece.at()]);
        oldest
    }

    /// Some of the pieces whose disk blocks are to be given back, of those that are `ready`.
    pub(crate) fn take_holes(&mut self, ready: impl Fn(PieceIndex) -> bool) -> Vec<PieceIndex> {
        let holes = self.holes.iter().copied();
        let taken: Vec<_> = holes
            .filter(|&piece| ready(piece))
            .take(PUNCH_MAX)
            .collect();
        for piece in &taken {
            self.holes.remove(piece);
        }
        taken
    }

    /// From now on the torrent counts by its disk blocks.
    pub(crate) fn settle(&mut self, files: &Files) {
        self.store.charge(allocated(files, &self.layout));
        self.store.credit(std::mem::take(&mut self.charged_len));
    }
}

/// Bytes of disk blocks under all files.
pub(crate) fn allocated(files: &Files, layout: &Layout) -> u64 {
    stored_files(layout)
        .map(|index| files.allocated(index))
        .sum()
}

fn stored_files(layout: &Layout) -> impl Iterator<Item = usize> + '_ {
    let files = layout.files().iter().enumerate();
    files
        .filter(|(_, file)| !file.pad && !file.range.is_empty())
        .map(|(index, _)| index)
}

fn stored_len(layout: &Layout, piece: PieceIndex) -> u64 {
    stored_range_len(layout, layout.piece_range(piece))
}

/// Bytes of the range that are not padding.
pub(crate) fn stored_range_len(layout: &Layout, range: ByteRange) -> u64 {
    let segments = layout.segments(range);
    segments
        .filter(|segment| !segment.pad)
        .map(|segment| segment.range.len())
        .sum()
}
