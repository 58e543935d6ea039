//! Bytes on their way into pieces: written as they come, hashed at once or a little later.

use std::io;
use std::sync::Arc;

use crate::store::Disk;
use crate::store::Torrent;
use crate::store::footprint;
use crate::store::rehash::BOUNCE_LEN;
use crate::store::torrent::read_only;
use crate::store::verify::Hashing;
use crate::torrent::layout::Segment;
use crate::units::{ByteRange, PieceIndex, Time};

/// Pieces begun and not complete at once.
const IN_FLIGHT_MAX: usize = 4096;

/// What a write did to its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes are missing.
    Partial,
    /// Complete and verified: in `have`, and claimed in the journal.
    Good,
    /// Complete and wrong. Forgotten; [`Torrent::block_digests`] still reads it until the next
    /// write to it.
    Bad,
}

/// When written bytes are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    Now,
    /// By [`Torrent::hash_some`], or the next write to the piece that hashes.
    Later,
}

impl Torrent {
    /// Writes `data` at `range` of the torrent, which lies inside one piece, and hashes it. Bytes
    /// already written are refused and counted. After an error the same bytes may come again.
    pub fn write(&mut self, now: Time, range: ByteRange, data: &[u8]) -> Result<Progress, Disk> {
        let inside = !range.is_empty() && range.end <= self.layout.length();
        if !inside || range.len() != data.len() as u64 {
            return Err(Disk::Io(io::ErrorKind::InvalidInput.into()));
        }
        let piece = self.layout.piece_of(range.start);
        let whole = self.layout.piece_range(piece);
        if range.end > whole.end {
            return Err(Disk::Io(io::ErrorKind::InvalidInput.into()));
        }
        if self.have().contains(piece.at()) {
            self.refused_len += range.len();
            return Ok(Progress::Partial);
        }
        if !self.in_flight.contains_key(&piece) {
            self.begin(piece, whole)?;
        }
        let hashing = self.in_flight.get_mut(&piece).expect("begun above");
        let begin = within(whole, range.start);
        let end = within(whole, range.end);
        let (mut at, mut written) = (begin, 0);
        while let Some(gap) = hashing.gap(at..end) {
            let bytes = &data[(gap.start - begin) as usize..(gap.end - begin) as usize];
            let range = ByteRange::new(u64::from(gap.start), u64::from(gap.end)).up(whole.start);
            self.files.write(range, bytes)?;
            at = gap.end;
            written += bytes.len() as u64;
            hashing.add(gap, bytes);
        }
        if written < range.len() {
            self.refused_len +=
                footprint::stored_range_len(&self.layout, range).saturating_sub(written);
        }
        self.hash_on(now, piece, whole)
    }

    /// As [`Self::write`], for bytes that lie apart in memory but follow each other in the piece:
    /// one system call where nothing of them is written yet; only then can `hash` wait.
    pub fn write_run(
        &mut self,
        now: Time,
        range: ByteRange,
        parts: &[&[u8]],
        hash: Hash,
    ) -> Result<Progress, Disk> {
        let Some((piece, segment)) = self.untouched(range, parts)? else {
            let (mut at, mut progress) = (range.start, Progress::Partial);
            for part in parts {
                let end = at + part.len() as u64;
                progress = self.write(now, ByteRange::new(at, end), part)?;
                at = end;
            }
            return Ok(progress);
        };
        self.files.write_run(segment, parts)?;
        let whole = self.layout.piece_range(piece);
        let hashing = self
            .in_flight
            .get_mut(&piece)
            .expect("begun by `untouched`");
        let mut at = within(whole, range.start);
        if hash == Hash::Later {
            hashing.add_unhashed(at..within(whole, range.end));
            self.later.insert(piece);
            return Ok(Progress::Partial);
        }
        for part in parts {
            let end = at + u32::try_from(part.len()).expect("no longer than a piece");
            hashing.add(at..end, part);
            at = end;
        }
        self.hash_on(now, piece, whole)
    }

    /// Where `range` goes if it can be written at a stroke; its piece is begun then.
    fn untouched(
        &mut self,
        range: ByteRange,
        parts: &[&[u8]],
    ) -> Result<Option<(PieceIndex, Segment)>, Disk> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let inside = !range.is_empty() && range.end <= self.layout.length();
        if !inside || range.len() != len as u64 {
            return Ok(None);
        }
        let piece = self.layout.piece_of(range.start);
        let whole = self.layout.piece_range(piece);
        let layout = Arc::clone(&self.layout);
        let mut segments = layout.segments(range);
        let (Some(segment), None) = (segments.next(), segments.next()) else {
            return Ok(None);
        };
        if range.end > whole.end || segment.pad || self.have().contains(piece.at()) {
            return Ok(None);
        }
        if !self.in_flight.contains_key(&piece) {
            self.begin(piece, whole)?;
        }
        let span = within(whole, range.start)..within(whole, range.end);
        let hashing = self.in_flight.get(&piece).expect("begun above");
        let untouched = hashing.gap(span.clone()) == Some(span);
        Ok(untouched.then_some((piece, segment)))
    }

    /// Hashes some of what was to be hashed later; `None` if there is nothing left of that.
    pub fn hash_some(&mut self, now: Time) -> Option<(PieceIndex, Result<Progress, Disk>)> {
        loop {
            let piece = *self.later.first()?;
            let whole = self.layout.piece_range(piece);
            let hashed = self.hash_next(piece, whole);
            if matches!(hashed, Ok(true)) {
                return Some((piece, Ok(Progress::Partial)));
            }
            self.later.remove(&piece);
            if !self.has_begun(piece) {
                continue;
            }
            return Some((piece, hashed.and_then(|_| self.hash_on(now, piece, whole))));
        }
    }

    /// Hashes all that can be hashed now; the verdict if that was the last of it.
    fn hash_on(
        &mut self,
        now: Time,
        piece: PieceIndex,
        whole: ByteRange,
    ) -> Result<Progress, Disk> {
        while self.hash_next(piece, whole)? {}
        let hashing = self.in_flight.get(&piece).expect("was just written to");
        if u64::from(hashing.prefix()) < whole.len() {
            return Ok(Progress::Partial);
        }
        Ok(self.judge(now, piece))
    }

    /// Hashes the next bytes that are written but not hashed; false if there are none.
    fn hash_next(&mut self, piece: PieceIndex, whole: ByteRange) -> Result<bool, Disk> {
        let Some(hashing) = self.in_flight.get_mut(&piece) else {
            return Ok(false);
        };
        let Some(ready) = hashing.ready() else {
            return Ok(false);
        };
        let len = ready.len().min(BOUNCE_LEN);
        self.bounce.resize(BOUNCE_LEN, 0);
        let from = whole.start + u64::from(ready.start);
        let part = ByteRange::new(from, from + len as u64);
        self.files.read(part, &mut self.bounce[..len])?;
        hashing.catch_up(&self.bounce[..len]);
        Ok(true)
    }

    fn begin(&mut self, piece: PieceIndex, whole: ByteRange) -> Result<(), Disk> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(Disk::Full);
        }
        let Some(home) = self.home.as_mut().filter(|home| !home.is_failed()) else {
            return Err(read_only());
        };
        home.ledger.begin(piece)?;
        let mut hashing = Hashing::new();
        for segment in self.layout.segments(whole) {
            if segment.pad {
                let base = self.layout.file_range(segment.file).start;
                let range = segment.range.up(base);
                hashing.add_unhashed(within(whole, range.start)..within(whole, range.end));
            } else {
                home.ledger.stir(segment.file, &self.files)?;
            }
        }
        self.standing.begin(piece);
        home.footprint.charge(piece);
        self.in_flight.insert(piece, hashing);
        Ok(())
    }

    fn judge(&mut self, now: Time, piece: PieceIndex) -> Progress {
        let hashing = self.in_flight.remove(&piece).expect("was just written to");
        if hashing.digest() != self.hashes[piece.at()] {
            return Progress::Bad;
        }
        self.standing.verified(piece);
        let home = self.home.as_mut().expect("written to, so in the store");
        home.footprint.touch(now, piece);
        home.ledger.have(now, piece, &self.layout);
        Progress::Good
    }
}

/// Offset of `at` from the piece's first byte.
fn within(whole: ByteRange, at: u64) -> u32 {
    u32::try_from(at - whole.start).expect("R31 bounds a piece")
}
