//! Which pieces the peer has, also while their number is not known yet (R41).

use fixedbitset::FixedBitSet;

use crate::peer::PeerMisbehaved;
use crate::peer::message::{PIECES_MAX, bitfield_pieces};
use crate::units::PieceIndex;

/// `have`s kept until the number of pieces is known; more end the connection.
const EARLY_MAX: usize = 4096;

#[derive(Debug)]
pub struct Holdings {
    /// `None`: the metadata is still to come.
    count: Option<u32>,
    pieces: FixedBitSet,
    /// Bits set in `pieces`.
    held: u32,
    all: bool,
    raw: Option<Vec<u8>>,
    early: Vec<PieceIndex>,
    /// Something came that a bitfield may not follow.
    late: bool,
}

/// What a `have` told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    New,
    Known,
    /// To be counted when the number of pieces is known.
    Kept,
}

impl Holdings {
    pub fn new(count: Option<u32>) -> Self {
        Self {
            count,
            pieces: FixedBitSet::with_capacity(count.map_or(0, |count| count as usize)),
            held: 0,
            all: false,
            raw: None,
            early: Vec::new(),
            late: false,
        }
    }

    pub fn count(&self) -> Option<u32> {
        self.count
    }

    /// Empty while the number of pieces is unknown.
    pub fn pieces(&self) -> &FixedBitSet {
        &self.pieces
    }

    pub fn held(&self) -> u32 {
        self.held
    }

    pub fn has(&self, piece: PieceIndex) -> bool {
        self.all || self.pieces.contains(piece.at())
    }

    pub fn is_seed(&self) -> bool {
        self.all || self.count.is_some_and(|count| self.held == count)
    }

    /// R41: what a peer has is said once, and before anything that depends on it.
    pub fn expect_first(&mut self) -> Result<(), PeerMisbehaved> {
        if std::mem::replace(&mut self.late, true) {
            return Err(PeerMisbehaved::drop("bitfield-late"));
        }
        Ok(())
    }

    /// A message came that depends on what the peer has.
    pub fn pass_first(&mut self) {
        self.late = true;
    }

    /// While the number of pieces is unknown there is nothing to hold it against.
    pub fn expect_piece(&self, piece: PieceIndex) -> Result<(), PeerMisbehaved> {
        match self.count {
            Some(count) if piece.0 >= count => Err(PeerMisbehaved::drop("no-such-piece")),
            _ => Ok(()),
        }
    }

    /// A bitfield that comes late: aria2 sends one in place of several `have`s. What it adds is
    /// returned; what it leaves out is not taken away.
    pub fn late_bitfield(&mut self, body: &[u8]) -> Result<Vec<PieceIndex>, PeerMisbehaved> {
        let Some(count) = self.count else {
            match &mut self.raw {
                Some(raw) if raw.len() == body.len() => {
                    raw.iter_mut()
                        .zip(body)
                        .for_each(|(have, more)| *have |= more);
                }
                Some(_) => return Err(PeerMisbehaved::drop("bitfield-of-another-size")),
                raw => *raw = Some(body.to_vec()),
            }
            return Ok(Vec::new());
        };
        let told =
            bitfield_pieces(body, count).ok_or(PeerMisbehaved::drop("bitfield-of-another-size"))?;
        let new: Vec<_> = told.difference(&self.pieces).collect();
        for piece in &new {
            self.pieces.insert(*piece);
        }
        self.held += u32::try_from(new.len()).expect("at most the pieces");
        let index = |piece| PieceIndex(u32::try_from(piece).expect("at most the pieces"));
        Ok(new.into_iter().map(index).collect())
    }

    pub fn is_late(&self) -> bool {
        self.late
    }

    pub fn bitfield(&mut self, body: &[u8]) -> Result<(), PeerMisbehaved> {
        match self.count {
            Some(count) => self.set(body, count),
            None => {
                self.raw = Some(body.to_vec());
                Ok(())
            }
        }
    }

    fn set(&mut self, body: &[u8], count: u32) -> Result<(), PeerMisbehaved> {
        self.pieces =
            bitfield_pieces(body, count).ok_or(PeerMisbehaved::drop("bitfield-of-another-size"))?;
        self.held = u32::try_from(self.pieces.count_ones(..)).expect("at most the pieces");
        Ok(())
    }

    pub fn have_all(&mut self) {
        self.all = true;
        self.pieces.insert_range(..);
        self.held = self.count.unwrap_or(0);
    }

    pub fn have(&mut self, piece: PieceIndex) -> Result<Told, PeerMisbehaved> {
        let Some(count) = self.count else {
            if piece.0 >= PIECES_MAX || self.early.len() == EARLY_MAX {
                return Err(PeerMisbehaved::drop("have-before-metadata"));
            }
            self.early.push(piece);
            return Ok(Told::Kept);
        };
        if piece.0 >= count {
            return Err(PeerMisbehaved::drop("have-of-no-piece"));
        }
        if self.pieces.put(piece.at()) {
            return Ok(Told::Known);
        }
        self.held += 1;
        Ok(Told::New)
    }

    /// The metadata has come: what was kept is judged and applied.
    pub fn know(&mut self, count: u32) -> Result<(), PeerMisbehaved> {
        if self.count.is_some() {
            return Ok(());
        }
        self.count = Some(count);
        self.pieces = FixedBitSet::with_capacity(count as usize);
        if let Some(raw) = self.raw.take() {
            self.set(&raw, count)?;
        }
        if self.all {
            self.have_all();
        }
        for piece in std::mem::take(&mut self.early) {
            self.have(piece)?;
        }
        Ok(())
    }
}
