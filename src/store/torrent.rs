//! One swarm's pieces: written and hashed as they come, served from the mapping, evicted.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use crate::store::Disk;
use crate::store::Store;
use crate::store::files::Files;
use crate::store::files::Place;
use crate::store::files::size;
use crate::store::footprint;
use crate::store::footprint::Footprint;
use crate::store::ledger::Ledger;
use crate::store::ledger::Start;
use crate::store::ledger::piece_index;
use crate::store::part::Parts;
use crate::store::rehash::RehashJob;
use crate::store::rehash::Rehashed;
use crate::store::standing::Standing;
use crate::store::sync::SyncJob;
use crate::store::sync::Synced;
use crate::store::verify::Hashing;
use crate::torrent::hasher::Hasher;
use crate::torrent::layout::Layout;
use crate::units::{BLOCK_LEN, ByteRange, InfoHash, PieceIndex, Time};

/// After so many failed syncs nothing of a torrent is written any more, nor called safe.
const SYNCS_FAILED_MAX: u32 = 2;

/// Pieces whose state became known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Now in `have`.
    pub good: Vec<PieceIndex>,
    /// Were in `have` and are not any more: to be fetched again, no peer's fault.
    pub lost: Vec<PieceIndex>,
}

/// One swarm's files, used on its shard only. May be opened on a blocking thread and sent there.
pub struct Torrent {
    /// `None`: somebody's own files, never written to.
    pub(super) home: Option<Home>,
    pub(super) layout: Arc<Layout>,
    pub(super) hashes: Arc<[[u8; 20]]>,
    pub(super) files: Files,
    pub(super) standing: Standing,
    pub(super) in_flight: BTreeMap<PieceIndex, Hashing>,
    /// Of those, the ones that have bytes to hash later.
    pub(super) later: BTreeSet<PieceIndex>,
    pub(super) bounce: Vec<u8>,
    pub(super) refused_len: u64,
}

/// What a torrent in the store has besides its files.
pub(super) struct Home {
    pub(super) ledger: Ledger,
    pub(super) footprint: Footprint,
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
        // Counted so by the store until now; opening the ledger may change it.
        let allocated = footprint::allocated(&files, &layout);
        let (ledger, start) = Ledger::open(&files, &layout, info_hash, store.boot)?;
        let standing = Standing::new(start);
        let claimed = standing.claimed();
        let footprint = Footprint::open(store, &layout, &files, allocated, claimed)?;
        let home = Some(Home {
            ledger,
            footprint,
            syncs_failed: 0,
        });
        Ok(Self::with_files(files, layout, hashes, standing, home))
    }

    /// Somebody's own files: every piece is suspect at first, nothing is ever written.
    pub(super) fn external(place: Place, layout: Arc<Layout>, hashes: Arc<[[u8; 20]]>) -> Self {
        let files = Files::new(Arc::new(place), Arc::clone(&layout), false);
        let pieces = layout.piece_count() as usize;
        let none = || FixedBitSet::with_capacity(pieces);
        let mut suspect = none();
        suspect.insert_range(..);
        let standing = Standing::new(Start {
            have: none(),
            suspect,
            sample: none(),
        });
        Self::with_files(files, layout, hashes, standing, None)
    }

    fn with_files(
        files: Files,
        layout: Arc<Layout>,
        hashes: Arc<[[u8; 20]]>,
        standing: Standing,
        home: Option<Home>,
    ) -> Self {
        let pieces = layout.piece_count() as usize;
        assert_eq!(hashes.len(), pieces, "the metainfo has a hash a piece");
        Self {
            home,
            layout,
            hashes,
            files,
            standing,
            in_flight: BTreeMap::new(),
            later: BTreeSet::new(),
            bounce: Vec::new(),
            refused_len: 0,
        }
    }

    pub fn have(&self) -> &FixedBitSet {
        self.standing.have()
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
        self.standing.suspect()
    }

    /// Bytes that came a second time and were not written.
    pub fn refused_len(&self) -> u64 {
        self.refused_len
    }

    /// Drops what is stored of an unverified piece.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.in_flight.remove(&piece);
    }

    /// One SHA-1 a block, of what is on disk: right after the piece's verdict, before anything else
    /// of it is written.
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
        Parts::of(&self.files, &self.layout, range)
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
        if let Some(home) = &mut self.home {
            home.footprint.touch(now, piece);
        }
    }

    /// The piece was found bad on disk: it is to be fetched again.
    pub fn lose(&mut self, piece: PieceIndex) {
        self.in_flight.remove(&piece);
        let claimed = self.standing.lose(piece);
        if let Some(home) = self.home.as_mut().filter(|_| claimed) {
            home.ledger.lose(piece);
        }
    }

    /// After [`Disk::Truncated`]: loses the pieces that were cut off, those in flight included, and
    /// gives the files their length back.
    pub fn lose_truncated(&mut self) -> Vec<PieceIndex> {
        let mut begun = self.standing.claimed();
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
                    let _ = self.files.writable(index).map(|file| file.set_len(len));
                }
            }
        }
        lost
    }

    /// Whether `bytes` more may be stored; to be asked before a piece is begun. If not, evict.
    pub fn room_for(&mut self, bytes: u64) -> Result<(), Disk> {
        self.punch_some();
        let home = self.home.as_ref().ok_or(Disk::Full)?;
        home.footprint.room_for(bytes)
    }

    /// Loses pieces worth `bytes`, what nobody claims first, then the least recently watched that
    /// `can` go. Their disk blocks are given back once the journal's word is on the medium, so a
    /// sync job is due after this. Returns the pieces that were in `have`.
    pub fn evict(&mut self, bytes: u64, can: impl Fn(PieceIndex) -> bool) -> Vec<PieceIndex> {
        let Some(home) = &mut self.home else {
            return Vec::new();
        };
        let (mut freed, mut lost) = (0, Vec::new());
        for piece in home.footprint.scraps(&self.standing) {
            if freed < bytes && !self.in_flight.contains_key(&piece) {
                freed += home.footprint.credit(piece);
            }
        }
        if freed < bytes {
            for piece in home.footprint.oldest(&self.standing) {
                if freed >= bytes {
                    break;
                }
                if can(piece) {
                    self.standing.lose(piece);
                    home.ledger.lose(piece);
                    freed += home.footprint.credit(piece);
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
        let ready = |piece| ledger.is_lost_for_good(piece);
        for piece in home.footprint.take_holes(ready) {
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
            .is_some_and(|home| home.ledger.sync_due(now) && !home.is_failed())
    }

    /// Makes what is verified outlive the machine; one at a time. `None` if nothing is to be done.
    pub fn sync_job(&mut self) -> Option<SyncJob> {
        self.punch_some();
        let home = self.home.as_mut()?;
        if home.is_failed() {
            return None;
        }
        let (suspect, have) = (self.standing.suspect(), self.standing.have());
        home.ledger.job(&self.files, suspect, have)
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
            if self.standing.doubt(piece) {
                home.ledger.doubt(piece);
                settled.lost.push(piece);
            }
        }
        self.punch_some();
        settled
    }

    /// The job of [`Self::sync_job`] was dropped before it ran: it is due again.
    pub fn handle_unsynced(&mut self) {
        if let Some(home) = &mut self.home {
            home.ledger.handle_unrun();
        }
    }

    /// The next suspect pieces to hash, some 64 MiB; `None` when all were handed out.
    pub fn rehash_job(&mut self) -> Option<RehashJob> {
        let pieces = self.standing.next_to_hash(&self.layout);
        let place = Arc::clone(self.files.place());
        (!pieces.is_empty()).then(|| RehashJob {
            files: Files::new(place, Arc::clone(&self.layout), false),
            layout: Arc::clone(&self.layout),
            hashes: Arc::clone(&self.hashes),
            pieces: pieces.into_iter(),
            hashed: self.standing.hashed(),
            result: Rehashed::default(),
        })
    }

    /// Good pieces are in `have` from now on, bad ones are given up. A bad one of the sample that
    /// stood for others makes those suspect.
    pub fn handle_rehashed(&mut self, rehashed: Rehashed) -> Settled {
        let mut settled = Settled::default();
        for piece in rehashed.good {
            if self.standing.is_suspect(piece) {
                self.standing.verified(piece);
                if let Some(home) = &mut self.home {
                    home.ledger.have(Time::ZERO, piece, &self.layout);
                }
                settled.good.push(piece);
            }
        }
        let mut sample_failed = false;
        for piece in rehashed.bad {
            if self.standing.is_suspect(piece) {
                sample_failed |= self.standing.is_sample(piece);
                self.lose(piece);
            }
        }
        if sample_failed {
            settled.lost = self.standing.doubt_all();
            settled.good.clear();
            if let Some(home) = &mut self.home {
                for &piece in &settled.lost {
                    home.ledger.doubt(piece);
                }
            }
        }
        settled
    }

    /// Ends the session so that the next one trusts it without hashing. Waits for the disk. A
    /// torrent that is only dropped is opened as after a kill; so is one whose sync job was not
    /// handed back, and one whose disk failed twice, for a sync that works after all proves
    /// nothing: both are errors.
    pub fn close(mut self) -> Result<(), Disk> {
        if self.home.as_ref().is_some_and(Home::is_failed) {
            return Err(read_only());
        }
        let Some(mut home) = self.home.take() else {
            return Ok(());
        };
        home.footprint.settle(&self.files);
        home.ledger.close(&self.files)
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        if let Some(home) = &mut self.home {
            home.footprint.settle(&self.files);
        }
    }
}

impl Home {
    pub(super) fn is_failed(&self) -> bool {
        self.syncs_failed >= SYNCS_FAILED_MAX
    }
}

pub(super) fn read_only() -> Disk {
    Disk::Io(io::ErrorKind::ReadOnlyFilesystem.into())
}
