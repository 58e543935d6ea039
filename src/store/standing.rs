//! What is known of each piece: verified, or claimed and still to be hashed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fixedbitset::FixedBitSet;

use crate::store::ledger::Start;
use crate::store::ledger::piece_index;
use crate::torrent::layout::Layout;
use crate::units::PieceIndex;

/// Handed to one rehash job.
const REHASH_LEN: u64 = 64 << 20;

/// A piece is verified, suspect or neither, never two of them.
pub(crate) struct Standing {
    have: FixedBitSet,
    suspect: FixedBitSet,
    /// Of what is suspect: those that stand for all of `have`.
    sample: FixedBitSet,
    /// Suspect pieces before this one were handed out to be hashed.
    rehash_at: usize,
    /// Bytes that rehash jobs have read.
    hashed: Arc<AtomicU64>,
}

impl Standing {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            have: start.have,
            suspect: start.suspect,
            sample: start.sample,
            rehash_at: 0,
            hashed: Arc::default(),
        }
    }

    pub(crate) fn have(&self) -> &FixedBitSet {
        &self.have
    }

    pub(crate) fn suspect(&self) -> &FixedBitSet {
        &self.suspect
    }

    /// Verified or suspect.
    pub(crate) fn claimed(&self) -> FixedBitSet {
        let mut claimed = self.have.clone();
        claimed.union_with(&self.suspect);
        claimed
    }

    pub(crate) fn hashed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.hashed)
    }

    pub(crate) fn is_suspect(&self, piece: PieceIndex) -> bool {
        self.suspect.contains(piece.at())
    }

    /// Whether this piece, should it be bad, puts all others in doubt.
    pub(crate) fn is_sample(&self, piece: PieceIndex) -> bool {
        self.sample.contains(piece.at())
    }

    /// Written to, which ends the doubt: what was there counts no more.
    pub(crate) fn begin(&mut self, piece: PieceIndex) {
        self.suspect.remove(piece.at());
    }

    pub(crate) fn verified(&mut self, piece: PieceIndex) {
        self.suspect.remove(piece.at());
        self.have.insert(piece.at());
    }

    /// Whether it was verified or suspect until now.
    pub(crate) fn lose(&mut self, piece: PieceIndex) -> bool {
        let claimed = self.have.contains(piece.at()) || self.is_suspect(piece);
        self.have.remove(piece.at());
        self.suspect.remove(piece.at());
        claimed
    }

    /// A verified piece becomes suspect, and all suspect ones are handed out anew; false if it was
    /// not verified.
    pub(crate) fn doubt(&mut self, piece: PieceIndex) -> bool {
        if !self.have.contains(piece.at()) {
            return false;
        }
        self.have.remove(piece.at());
        self.suspect.insert(piece.at());
        self.rehash_at = 0;
        true
    }

    /// The sample was bad: what it stood for is suspect. Returns that.
    pub(crate) fn doubt_all(&mut self) -> Vec<PieceIndex> {
        self.sample.clear();
        self.rehash_at = 0;
        let all: Vec<_> = self.have.ones().map(piece_index).collect();
        self.suspect.union_with(&self.have);
        self.have.clear();
        all
    }

    /// The next suspect pieces to hash, some 64 MiB; none when all were handed out.
    pub(crate) fn next_to_hash(&mut self, layout: &Layout) -> Vec<PieceIndex> {
        let mut len = 0;
        let mut pieces = Vec::new();
        while len < REHASH_LEN {
            let Some(piece) = (self.suspect.ones()).find(|piece| *piece >= self.rehash_at) else {
                break;
            };
            self.rehash_at = piece + 1;
            pieces.push(piece_index(piece));
            len += layout.piece_range(piece_index(piece)).len();
        }
        pieces
    }
}
