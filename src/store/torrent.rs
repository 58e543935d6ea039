//! One swarm's pieces: written and hashed as they come, served from the mapping, evicted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fixedbitset::FixedBitSet;

use crate::ring::mapping::Mapping;
use crate::store::Disk;
use crate::store::Store;
use crate::store::files::Files;
use crate::store::files::Place;
use crate::store::files::size;
use crate::store::ledger::Ledger;
use crate::store::ledger::Start;
use crate::store::ledger::piece_index;
use crate::store::rehash::BOUNCE_LEN;
use crate::store::rehash::RehashJob;
use crate::store::rehash::Rehashed;
use crate::store::rehash::digest;
use crate::store::sync::SyncJob;
use crate::store::sync::Synced;
use crate::store::verify::Hashing;
use crate::torrent::hasher::Hasher;
use crate::torrent::layout::Layout;
use crate::units::{BLOCK_LEN, ByteRange, InfoHash, PieceIndex, Time};

/// Pieces begun and not complete at once.
const IN_FLIGHT_MAX: usize = 4096;
/// Handed to one rehash job.
const REHASH_LEN: u64 = 64 << 20;
/// Pieces whose blocks are given back in one call: about 50 µs each.
const PUNCH_MAX: usize = 8;

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

/// Pieces whose state became known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Now in `have`.
    pub good: Vec<PieceIndex>,
    /// Were in `have` and are not any more: to be fetched again, no peer's fault.
    pub lost: Vec<PieceIndex>,
}

/// A run of bytes as they are sent.
#[derive(Clone)]
pub enum Part {
    Mapped {
        map: Arc<Mapping>,
        range: Range<usize>,
    },
    /// Padding (BEP 47), so many bytes.
    Zeros(usize),
}

/// The parts of a range, in order.
pub struct Parts(std::vec::IntoIter<Part>);

/// One swarm's files, used on its shard only. May be opened on a blocking thread and sent there.
pub struct Torrent {
    /// `None`: somebody's own files, never written to.
    home: Option<Home>,
    layout: Arc<Layout>,
    hashes: Arc<[[u8; 20]]>,
    files: Files,
    have: FixedBitSet,
    suspect: FixedBitSet,
    sample: FixedBitSet,
    rehash_at: usize,
    hashed: Arc<AtomicU64>,
    in_flight: BTreeMap<PieceIndex, Hashing>,
    /// Seconds; by piece.
    watched: Vec<u32>,
    bounce: Vec<u8>,
    refused_len: u64,
}

/// What a torrent in the store has besides its files.
struct Home {
    store: Arc<Store>,
    ledger: Ledger,
    /// Pieces of which something may be on disk.
    charged: FixedBitSet,
    /// Their bytes, as counted in the store.
    charged_len: u64,
    /// Evicted, their disk blocks not given back yet.
    holes: BTreeSet<PieceIndex>,
    syncs_failed: u32,
}

impl Torrent {
    pub(super) fn open(
        store: &Arc<Store>,
        info_hash: InfoHash,
        layout: Arc<Layout>,
        hashes: Arc<[[u8; 20]]>,
    ) -> Result<Self, Disk> {
        let place = Arc::new(Place::Store(store.torrent_dir(info_hash)?));
        let files = Files::new(place, Arc::clone(&layout), true);
        let allocated: u64 = stored_files(&layout)
            .map(|index| files.allocated(index))
            .sum();
        let (ledger, start) = Ledger::open(&files, &layout, info_hash, store.boot)?;
        let mut charged = start.have.clone();
        charged.union_with(&start.suspect);
        let charged_len = charged
            .ones()
            .map(|piece| stored_len(&layout, piece_index(piece)))
            .sum();
        store.charge(charged_len);
        store.credit(allocated);
        let home = Home {
            store: Arc::clone(store),
            ledger,
            charged,
            charged_len,
            holes: BTreeSet::new(),
            syncs_failed: 0,
        };
        let mut torrent = Self::with_files(files, layout, hashes, start, Some(home));
        torrent.clear_unclaimed(allocated)?;
        Ok(torrent)
    }

    /// Somebody's own files: every piece is suspect at first, nothing is ever written.
    pub(super) fn external(place: Place, layout: Arc<Layout>, hashes: Arc<[[u8; 20]]>) -> Self {
        let files = Files::new(Arc::new(place), Arc::clone(&layout), false);
        let pieces = layout.piece_count() as usize;
        let none = || FixedBitSet::with_capacity(pieces);
        let mut suspect = none();
        suspect.insert_range(..);
        let start = Start {
            have: none(),
            suspect,
            sample: none(),
        };
        Self::with_files(files, layout, hashes, start, None)
    }

    fn with_files(
        files: Files,
        layout: Arc<Layout>,
        hashes: Arc<[[u8; 20]]>,
        start: Start,
        home: Option<Home>,
    ) -> Self {
        let pieces = layout.piece_count() as usize;
        assert_eq!(hashes.len(), pieces, "the metainfo has a hash a piece");
        Self {
            home,
            layout,
            hashes,
            files,
            have: start.have,
            suspect: start.suspect,
            sample: start.sample,
            rehash_at: 0,
            hashed: Arc::default(),
            in_flight: BTreeMap::new(),
            watched: vec![0; pieces],
            bounce: Vec::new(),
            refused_len: 0,
        }
    }

    /// What was in flight when the last session was killed is fetched again.
    fn clear_unclaimed(&mut self, allocated: u64) -> Result<(), Disk> {
        let Some(home) = &mut self.home else {
            return Ok(());
        };
        if allocated <= home.charged_len {
            return Ok(());
        }
        for index in stored_files(&self.layout) {
            if self.files.mark(index).is_none() || self.files.allocated(index) == 0 {
                continue;
            }
            for data in self.files.data(index)? {
                for piece in self.layout.pieces_of(data) {
                    if !home.charged.contains(piece as usize) {
                        home.holes.insert(PieceIndex(piece));
                    }
                }
            }
        }
        Ok(())
    }

    pub fn have(&self) -> &FixedBitSet {
        &self.have
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether bytes of this piece were written that have no verdict yet.
    pub fn has_begun(&self, piece: PieceIndex) -> bool {
        self.in_flight.contains_key(&piece)
    }

    /// Claimed, to be hashed before they count: see [`Self::rehash_job`]. Writing to one is
    /// allowed and ends the doubt.
    pub fn suspect(&self) -> &FixedBitSet {
        &self.suspect
    }

    /// Bytes that came a second time and were not written.
    pub fn refused_len(&self) -> u64 {
        self.refused_len
    }

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
        if self.have.contains(piece.at()) {
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
            write_segments(&self.files, &self.layout, whole, &gap, bytes)?;
            at = gap.end;
            written += bytes.len() as u64;
            hashing.add(gap, bytes);
        }
        if written < range.len() {
            self.refused_len += stored_range_len(&self.layout, range).saturating_sub(written);
        }
        while let Some(ready) = hashing.ready() {
            let len = (ready.len()).min(BOUNCE_LEN);
            self.bounce.resize(BOUNCE_LEN, 0);
            let from = whole.start + u64::from(ready.start);
            let part = ByteRange::new(from, from + len as u64);
            self.files.read(part, &mut self.bounce[..len])?;
            hashing.catch_up(&self.bounce[..len]);
        }
        if u64::from(hashing.prefix()) < whole.len() {
            return Ok(Progress::Partial);
        }
        Ok(self.judge(now, piece))
    }

    fn begin(&mut self, piece: PieceIndex, whole: ByteRange) -> Result<(), Disk> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(Disk::Full);
        }
        let Some(home) = self.home.as_mut().filter(|home| home.syncs_failed < 2) else {
            return Err(Disk::Io(io::ErrorKind::ReadOnlyFilesystem.into()));
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
        self.suspect.remove(piece.at());
        home.charge(piece, &self.layout);
        self.in_flight.insert(piece, hashing);
        Ok(())
    }

    fn judge(&mut self, now: Time, piece: PieceIndex) -> Progress {
        let hashing = self.in_flight.remove(&piece).expect("was just written to");
        if hashing.digest() != self.hashes[piece.at()] {
            return Progress::Bad;
        }
        self.have.insert(piece.at());
        self.touch(now, piece);
        let home = self.home.as_mut().expect("written to, so in the store");
        home.ledger.have(now, piece, &self.layout);
        Progress::Good
    }

    /// Drops what is stored of an unverified piece.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.in_flight.remove(&piece);
    }

    /// One SHA-1 a block, of what is on disk: right after [`Progress::Good`] or
    /// [`Progress::Bad`], before anything else of the piece is written.
    pub fn block_digests(&self, piece: PieceIndex) -> Result<Vec<[u8; 20]>, Disk> {
        let range = self.layout.piece_range(piece);
        let mut block = vec![0; BLOCK_LEN as usize];
        let mut out = Vec::with_capacity(self.layout.block_count(piece) as usize);
        let mut at = range.start;
        while at < range.end {
            let part = ByteRange::new(at, range.end.min(at + u64::from(BLOCK_LEN)));
            let bytes = &mut block[..usize::try_from(part.len()).expect("at most a block")];
            self.files.read(part, bytes)?;
            out.push(Hasher::digest(bytes));
            at = part.end;
        }
        Ok(out)
    }

    /// The bytes of `range` for sending; the caller knows that they are verified. Checks that no
    /// file was cut short since.
    pub fn parts(&self, range: ByteRange) -> Result<Parts, Disk> {
        let mut out = Vec::with_capacity(1);
        for segment in self.layout.segments(range) {
            let offset = |at| usize::try_from(at).map_err(|_| Disk::Full);
            out.push(if segment.pad {
                Part::Zeros(offset(segment.range.len())?)
            } else {
                Part::Mapped {
                    map: self.files.map(segment.file)?,
                    range: offset(segment.range.start)?..offset(segment.range.end)?,
                }
            });
        }
        Ok(Parts(out.into_iter()))
    }

    /// Fills `out` with the bytes of `range`, which is as long.
    pub fn read(&self, range: ByteRange, out: &mut [u8]) -> Result<(), Disk> {
        if range.end > self.layout.length() || range.len() != out.len() as u64 {
            return Err(Disk::Io(io::ErrorKind::InvalidInput.into()));
        }
        self.files.read(range, out)
    }

    /// Asks the kernel to have these bytes in memory soon.
    pub fn will_need(&self, range: ByteRange) {
        self.files.will_need(range);
    }

    /// A reader was sent this piece; it is evicted after those that wait longer.
    pub fn touch(&mut self, now: Time, piece: PieceIndex) {
        let seconds = now.as_millis() / 1000;
        self.watched[piece.at()] = u32::try_from(seconds).unwrap_or(u32::MAX);
    }

    /// Hashes a piece as it is on disk; reads all of it.
    pub fn verify_piece(&mut self, piece: PieceIndex) -> Result<bool, Disk> {
        let range = self.layout.piece_range(piece);
        let digest = digest(&self.files, range, &mut self.bounce)?;
        Ok(digest == self.hashes[piece.at()])
    }

    /// The piece was found bad on disk: it is to be fetched again.
    pub fn lose(&mut self, piece: PieceIndex) {
        self.in_flight.remove(&piece);
        let claimed = self.have.put(piece.at()) | self.suspect.put(piece.at());
        self.have.remove(piece.at());
        self.suspect.remove(piece.at());
        if let Some(home) = self.home.as_mut().filter(|_| claimed) {
            home.ledger.lose(piece);
        }
    }

    /// After [`Disk::Truncated`]: loses the pieces that were cut off, those in flight included, and
    /// gives the files their length back.
    pub fn lose_truncated(&mut self) -> Vec<PieceIndex> {
        let mut begun = self.have.clone();
        begun.union_with(&self.suspect);
        begun.extend(self.in_flight.keys().map(|piece| piece.at()));
        let mut sizes = BTreeMap::new();
        let mut lost = Vec::new();
        for piece in begun.ones().map(piece_index) {
            let range = self.layout.piece_range(piece);
            let cut = self.layout.segments(range).any(|segment| {
                let on_disk = *sizes.entry(segment.file).or_insert_with(|| {
                    let file = self.files.file(segment.file);
                    file.ok().and_then(|file| size(&file).ok()).unwrap_or(0)
                });
                !segment.pad && on_disk < segment.range.end
            });
            if cut {
                lost.push(piece);
            }
        }
        for &piece in &lost {
            self.lose(piece);
        }
        if self.home.is_some() {
            for (index, on_disk) in sizes {
                let len = self.files.len(index);
                if on_disk < len && !self.layout.files()[index].pad {
                    // What fails here is told by the next write.
                    let _ = self.files.file(index).map(|file| file.set_len(len));
                }
            }
        }
        lost
    }

    /// Whether `bytes` more may be stored; to be asked before a piece is begun. If not, evict.
    pub fn room_for(&mut self, bytes: u64) -> Result<(), Disk> {
        self.punch_some();
        let Some(home) = &self.home else {
            return Err(Disk::Full);
        };
        // Blocks that are as good as free already.
        let pending: u64 = home
            .holes
            .iter()
            .map(|&piece| stored_len(&self.layout, piece))
            .sum();
        match home.store.shortage_with(bytes, pending)? {
            0 => Ok(()),
            _ => Err(Disk::Full),
        }
    }

    /// Loses pieces worth `bytes`, what nobody claims first, then the least recently watched that
    /// `can` go. Their disk blocks are given back once the journal's word is on the medium, so a
    /// sync job is due after this. Returns the pieces that were in `have`.
    pub fn evict(&mut self, bytes: u64, can: impl Fn(PieceIndex) -> bool) -> Vec<PieceIndex> {
        let Some(home) = &mut self.home else {
            return Vec::new();
        };
        let (mut freed, mut lost) = (0, Vec::new());
        let mut scraps = home.charged.clone();
        scraps.difference_with(&self.have);
        scraps.difference_with(&self.suspect);
        for piece in scraps.ones().map(piece_index) {
            if freed < bytes && !self.in_flight.contains_key(&piece) {
                freed += home.credit(piece, &self.layout);
            }
        }
        if freed < bytes {
            let mut oldest: Vec<_> = self.have.ones().map(|at| (self.watched[at], at)).collect();
            oldest.sort_unstable();
            for (_, at) in oldest {
                let piece = piece_index(at);
                if freed >= bytes {
                    break;
                }
                if can(piece) {
                    self.have.remove(at);
                    home.ledger.lose(piece);
                    freed += home.credit(piece, &self.layout);
                    lost.push(piece);
                }
            }
        }
        self.punch_some();
        lost
    }

    fn punch_some(&mut self) {
        let Some(home) = &mut self.home else {
            return;
        };
        let ledger = &home.ledger;
        let ready = |piece: &PieceIndex| ledger.is_lost_for_good(*piece);
        let ready: Vec<_> = home.holes.iter().copied().filter(ready).collect();
        for piece in ready.into_iter().take(PUNCH_MAX) {
            home.holes.remove(&piece);
            let range = self.layout.piece_range(piece);
            let stirred = self
                .layout
                .segments(range)
                .filter(|segment| !segment.pad)
                .try_for_each(|segment| home.ledger.stir(segment.file, &self.files));
            if let Err(error) = stirred.and_then(|()| self.files.punch(range)) {
                tracing::debug!(piece = piece.0, %error, "disk blocks not given back");
            }
        }
    }

    /// Whether a [`Self::sync_job`] should run now; to be asked every second or so.
    pub fn sync_due(&self, now: Time) -> bool {
        self.home
            .as_ref()
            .is_some_and(|home| home.ledger.sync_due(now) && home.syncs_failed < 2)
    }

    /// Makes what is verified outlive the machine; one at a time. `None` if nothing is to be done.
    pub fn sync_job(&mut self) -> Option<SyncJob> {
        self.punch_some();
        let home = self.home.as_mut()?;
        if home.syncs_failed >= 2 {
            return None;
        }
        home.ledger.job(&self.files, &self.suspect, &self.have)
    }

    /// Normally settles nothing. If the disk failed, what the job was to make safe is suspect, and
    /// after the second time nothing is written any more.
    pub fn handle_synced(&mut self, synced: Synced) -> Settled {
        let mut settled = Settled::default();
        let Some(home) = &mut self.home else {
            return settled;
        };
        if let Err(error) = &synced.0 {
            tracing::warn!(%error, "pieces not synced");
            home.syncs_failed += 1;
        }
        for piece in home.ledger.handle_synced(&synced.0) {
            if self.have.contains(piece.at()) {
                self.have.remove(piece.at());
                self.suspect.insert(piece.at());
                self.rehash_at = 0;
                home.ledger.doubt(piece);
                settled.lost.push(piece);
            }
        }
        self.punch_some();
        settled
    }

    /// The next suspect pieces to hash, some 64 MiB; `None` when all were handed out.
    pub fn rehash_job(&mut self) -> Option<RehashJob> {
        let mut len = 0;
        let mut pieces = Vec::new();
        while len < REHASH_LEN {
            let Some(piece) = (self.suspect.ones()).find(|piece| *piece >= self.rehash_at) else {
                break;
            };
            self.rehash_at = piece + 1;
            pieces.push(piece_index(piece));
            len += self.layout.piece_range(piece_index(piece)).len();
        }
        let place = Arc::clone(self.files.place());
        (!pieces.is_empty()).then(|| RehashJob {
            files: Files::new(place, Arc::clone(&self.layout), false),
            layout: Arc::clone(&self.layout),
            hashes: Arc::clone(&self.hashes),
            pieces: pieces.into_iter(),
            hashed: Arc::clone(&self.hashed),
            result: Rehashed::default(),
        })
    }

    /// Good pieces are in `have` from now on, bad ones are given up. A bad one of the sample that
    /// stood for others makes those suspect.
    pub fn handle_rehashed(&mut self, rehashed: Rehashed) -> Settled {
        let mut settled = Settled::default();
        for piece in rehashed.good {
            if self.suspect.contains(piece.at()) {
                self.suspect.remove(piece.at());
                self.have.insert(piece.at());
                if let Some(home) = &mut self.home {
                    home.ledger.have(Time::ZERO, piece, &self.layout);
                }
                settled.good.push(piece);
            }
        }
        let mut sample_failed = false;
        for piece in rehashed.bad {
            if self.suspect.contains(piece.at()) {
                sample_failed |= self.sample.contains(piece.at());
                self.lose(piece);
            }
        }
        if sample_failed {
            self.sample.clear();
            let all: Vec<_> = self.have.ones().map(piece_index).collect();
            for piece in all {
                self.have.remove(piece.at());
                self.suspect.insert(piece.at());
                if let Some(home) = &mut self.home {
                    home.ledger.doubt(piece);
                }
                settled.lost.push(piece);
            }
            settled.good.clear();
            self.rehash_at = 0;
        }
        settled
    }

    /// Ends the session so that the next one trusts it without hashing. Waits for the disk. A
    /// torrent that is only dropped is opened as after a kill.
    pub fn close(mut self) -> Result<(), Disk> {
        let Some(mut home) = self.home.take() else {
            return Ok(());
        };
        home.settle(&self.files, &self.layout);
        home.ledger.close(&self.files)
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        if let Some(home) = &mut self.home {
            home.settle(&self.files, &self.layout);
        }
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        self.0.next()
    }
}

impl Home {
    fn charge(&mut self, piece: PieceIndex, layout: &Layout) {
        self.holes.remove(&piece);
        if !self.charged.put(piece.at()) {
            let len = stored_len(layout, piece);
            self.charged_len += len;
            self.store.charge(len);
        }
    }

    fn credit(&mut self, piece: PieceIndex, layout: &Layout) -> u64 {
        let len = stored_len(layout, piece);
        self.charged.remove(piece.at());
        self.holes.insert(piece);
        self.charged_len = self.charged_len.saturating_sub(len);
        self.store.credit(len);
        len
    }

    /// From now on the torrent counts by its disk blocks.
    fn settle(&mut self, files: &Files, layout: &Layout) {
        let allocated = stored_files(layout)
            .map(|index| files.allocated(index))
            .sum();
        self.store.charge(allocated);
        self.store.credit(std::mem::take(&mut self.charged_len));
    }
}

fn stored_files(layout: &Layout) -> impl Iterator<Item = usize> + '_ {
    let files = layout.files().iter().enumerate();
    files
        .filter(|(_, file)| !file.pad && !file.range.is_empty())
        .map(|(index, _)| index)
}

/// Bytes of a piece that are not padding.
fn stored_len(layout: &Layout, piece: PieceIndex) -> u64 {
    stored_range_len(layout, layout.piece_range(piece))
}

fn stored_range_len(layout: &Layout, range: ByteRange) -> u64 {
    let segments = layout.segments(range);
    segments
        .filter(|segment| !segment.pad)
        .map(|segment| segment.range.len())
        .sum()
}

/// Offset of `at` from the piece's first byte.
fn within(whole: ByteRange, at: u64) -> u32 {
    u32::try_from(at - whole.start).expect("R31 bounds a piece")
}

fn write_segments(
    files: &Files,
    layout: &Layout,
    whole: ByteRange,
    gap: &Range<u32>,
    data: &[u8],
) -> Result<(), Disk> {
    let range = ByteRange::new(u64::from(gap.start), u64::from(gap.end)).up(whole.start);
    let mut rest = data;
    for segment in layout.segments(range) {
        let len = usize::try_from(segment.range.len()).expect("no longer than `data`");
        let (part, after) = rest.split_at(len);
        rest = after;
        if !segment.pad {
            files.write(segment, part)?;
        }
    }
    Ok(())
}
