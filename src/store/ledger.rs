//! What a torrent's journal knows and must still learn: records, files touched, marks outstanding.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;

use crate::store::Disk;
use crate::store::files::Files;
use crate::store::files::Place;
use crate::store::resume::BootId;
use crate::store::resume::Claims;
use crate::store::resume::FileMark;
use crate::store::resume::Journal;
use crate::store::resume::Record;
use crate::store::sync::SyncJob;
use crate::torrent::layout::Layout;
use crate::units::{InfoHash, PieceIndex, Time};

/// After a power cut at most this much of the last is hashed again.
pub(crate) const SYNC_EVERY: Duration = Duration::from_secs(30);
pub(crate) const SYNC_LEN: u64 = 64 << 20;
/// One in so many synced pieces is hashed after a power cut; one bad makes all of them suspect.
const SAMPLE_EVERY: usize = 50;

/// What a torrent starts with.
pub(crate) struct Start {
    pub(crate) have: FixedBitSet,
    pub(crate) suspect: FixedBitSet,
    /// Of `suspect`: those that stand for all of `have`.
    pub(crate) sample: FixedBitSet,
}

pub(crate) struct Ledger {
    journal: Journal,
    info_hash: InfoHash,
    boot: BootId,
    marks: BTreeMap<u32, FileMark>,
    /// Files changed in this session: their marks have no time until they are closed.
    stirred: BTreeSet<usize>,
    /// Files that hold pieces whose data is not synced.
    dirty: BTreeSet<usize>,
    made_files: bool,
    unsynced: FixedBitSet,
    unsynced_len: u64,
    unsynced_since: Time,
    /// Pieces whose `Lost` record a power cut could undo: not to be overwritten or punched yet.
    lost: BTreeSet<PieceIndex>,
    /// Records that the disk had no room for.
    backlog: Vec<Record>,
    epoch: u32,
    job: Option<Job>,
}

/// What the job that is out covers.
struct Job {
    unsynced: FixedBitSet,
    unsynced_len: u64,
    unsynced_since: Time,
    lost: BTreeSet<PieceIndex>,
    dirty: BTreeSet<usize>,
}

impl Ledger {
    /// Reads the journal, holds it against the files, and begins a new session in it.
    pub(crate) fn open(
        files: &Files,
        layout: &Layout,
        info_hash: InfoHash,
        boot: BootId,
    ) -> Result<(Self, Start), Disk> {
        let Place::Store(dir) = &**files.place() else {
            unreachable!("external files have no ledger");
        };
        let pieces = layout.piece_count();
        let loaded = Journal::load(std::os::fd::AsFd::as_fd(dir), info_hash, pieces)?;
        let known = loaded.is_some();
        let mut claims = loaded.unwrap_or_else(|| Claims {
            damaged: true,
            ..Claims::none(pieces)
        });
        let sample = weigh(&mut claims, files, layout, boot)?;
        claims.boot = boot;
        let journal = Journal::create(std::os::fd::AsFd::as_fd(dir), info_hash, &claims, known)?;
        let mut have = claims.synced.clone();
        have.union_with(&claims.unsynced);
        let mut ledger = Self {
            journal,
            info_hash,
            boot,
            marks: claims.files,
            stirred: BTreeSet::new(),
            dirty: BTreeSet::new(),
            made_files: false,
            unsynced: FixedBitSet::with_capacity(pieces as usize),
            unsynced_len: 0,
            unsynced_since: Time::NEVER,
            lost: BTreeSet::new(),
            backlog: Vec::new(),
            epoch: claims.epoch,
            job: None,
        };
        for piece in claims.unsynced.ones() {
            ledger.note_unsynced(Time::ZERO, piece_index(piece), layout);
        }
        let suspect = claims.suspect;
        let start = Start {
            have,
            suspect,
            sample,
        };
        Ok((ledger, start))
    }

    /// To be called before a file is changed.
    pub(crate) fn stir(&mut self, index: usize, files: &Files) -> Result<(), Disk> {
        if self.stirred.contains(&index) {
            return Ok(());
        }
        let file = files.writable(index)?;
        let len = files.len(index);
        if crate::store::files::size(&file)? < len {
            file.set_len(len)?;
        }
        let number = u32::try_from(index).expect("R31 bounds files");
        let mark = FileMark::of(&file, false)?;
        self.made_files |= self.marks.insert(number, mark).is_none();
        self.stirred.insert(index);
        self.record(Record::File {
            index: number,
            mark,
        });
        Ok(())
    }

    /// Before a piece's first byte is overwritten.
    pub(crate) fn begin(&mut self, piece: PieceIndex) -> Result<(), Disk> {
        let in_job = self
            .job
            .as_ref()
            .is_some_and(|job| job.lost.contains(&piece));
        if in_job || self.lost.contains(&piece) {
            // Else a power cut could bring the claim back over other bytes.
            self.flush()?;
            self.journal.sync()?;
            self.lost.clear();
            if let Some(job) = &mut self.job {
                job.lost.clear();
            }
        }
        Ok(())
    }

    pub(crate) fn have(&mut self, now: Time, piece: PieceIndex, layout: &Layout) {
        self.record(Record::Have {
            first: piece,
            count: 1,
        });
        self.note_unsynced(now, piece, layout);
    }

    pub(crate) fn lose(&mut self, piece: PieceIndex) {
        self.record(Record::Lost {
            first: piece,
            count: 1,
        });
        self.unsynced.remove(piece.at());
        self.lost.insert(piece);
    }

    /// Still claimed, but not proven.
    pub(crate) fn doubt(&mut self, piece: PieceIndex) {
        self.lose(piece);
        self.record(Record::Claim {
            first: piece,
            count: 1,
        });
    }

    /// Whether no power cut can bring the claim on this piece back.
    pub(crate) fn is_lost_for_good(&self, piece: PieceIndex) -> bool {
        let in_job = self
            .job
            .as_ref()
            .is_some_and(|job| job.lost.contains(&piece));
        !in_job && !self.lost.contains(&piece)
    }

    pub(crate) fn sync_due(&self, now: Time) -> bool {
        let old = now.since(self.unsynced_since) >= SYNC_EVERY;
        self.job.is_none() && (old || self.unsynced_len >= SYNC_LEN || !self.lost.is_empty())
    }

    /// `None` if nothing is to be synced, a job is out already, or the journal has no room.
    pub(crate) fn job(
        &mut self,
        files: &Files,
        suspect: &FixedBitSet,
        have: &FixedBitSet,
    ) -> Option<SyncJob> {
        if self.job.is_some() || (self.dirty.is_empty() && self.lost.is_empty()) {
            return None;
        }
        self.flush().ok()?;
        if self.journal.wants_rewrite() {
            self.rewrite(files, suspect, have).ok()?;
        }
        let open: Result<Vec<_>, _> = self.dirty.iter().map(|&index| files.file(index)).collect();
        let open = open.ok()?;
        let slot = self.journal.append_slot(self.epoch + 1).ok()?;
        self.epoch += 1;
        let dir = std::mem::take(&mut self.made_files).then(|| Arc::clone(files.place()));
        let none = FixedBitSet::with_capacity(self.unsynced.len());
        self.job = Some(Job {
            unsynced: std::mem::replace(&mut self.unsynced, none),
            unsynced_len: std::mem::take(&mut self.unsynced_len),
            unsynced_since: std::mem::replace(&mut self.unsynced_since, Time::NEVER),
            lost: std::mem::take(&mut self.lost),
            dirty: std::mem::take(&mut self.dirty),
        });
        Some(SyncJob {
            files: open,
            journal: self.journal.file(),
            dir,
            slot,
            epoch: self.epoch,
        })
    }

    /// The job that is out was never run: what it covers is for the next.
    pub(crate) fn handle_unrun(&mut self) {
        if let Some(job) = self.job.take() {
            self.unsynced.union_with(&job.unsynced);
            self.unsynced_len += job.unsynced_len;
            self.unsynced_since = self.unsynced_since.min(job.unsynced_since);
            self.lost.extend(job.lost);
            self.dirty.extend(job.dirty);
            self.made_files = true;
        }
    }

    /// The pieces that the failed job was to make safe; none if it did.
    pub(crate) fn handle_synced(&mut self, synced: &io::Result<()>) -> Vec<PieceIndex> {
        let Some(job) = self.job.take() else {
            return Vec::new();
        };
        if synced.is_ok() {
            return Vec::new();
        }
        self.lost.extend(job.lost);
        self.dirty.extend(job.dirty);
        self.made_files = true;
        job.unsynced.ones().map(piece_index).collect()
    }

    /// The torrent is closed cleanly: everything is synced, and files have times again. Not while
    /// a job is out: should its sync fail, the kernel tells it alone, and ours would prove nothing.
    pub(crate) fn close(mut self, files: &Files) -> Result<(), Disk> {
        if self.job.is_some() {
            return Err(Disk::Io(io::ErrorKind::ResourceBusy.into()));
        }
        self.flush()?;
        for &index in &self.dirty {
            files.file(index)?.sync_data()?;
        }
        self.record(Record::Synced {
            epoch: self.epoch + 1,
        });
        for &index in &self.stirred {
            let mark = FileMark::of(files.whole(index)?, true)?;
            let index = u32::try_from(index).expect("R31 bounds files");
            self.journal.append(Record::File { index, mark })?;
        }
        self.record(Record::Closed);
        self.flush()?;
        self.journal.sync()?;
        files.place().sync()?;
        Ok(())
    }

    fn note_unsynced(&mut self, now: Time, piece: PieceIndex, layout: &Layout) {
        self.unsynced.insert(piece.at());
        let range = layout.piece_range(piece);
        self.unsynced_len += range.len();
        self.unsynced_since = self.unsynced_since.min(now);
        for segment in layout.segments(range).filter(|segment| !segment.pad) {
            self.dirty.insert(segment.file);
        }
    }

    /// A record that finds no room waits for the next; until then it is only not remembered.
    fn record(&mut self, record: Record) {
        if self.flush().is_err() || self.journal.append(record).is_err() {
            self.backlog.push(record);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(&record) = self.backlog.first() {
            self.journal.append(record)?;
            self.backlog.remove(0);
        }
        Ok(())
    }

    fn rewrite(
        &mut self,
        files: &Files,
        suspect: &FixedBitSet,
        have: &FixedBitSet,
    ) -> Result<(), Disk> {
        let Place::Store(dir) = &**files.place() else {
            unreachable!("external files have no ledger");
        };
        let mut synced = have.clone();
        synced.difference_with(&self.unsynced);
        let claims = Claims {
            synced,
            unsynced: self.unsynced.clone(),
            suspect: suspect.clone(),
            files: self.marks.clone(),
            boot: self.boot,
            epoch: self.epoch,
            clean: false,
            damaged: false,
        };
        let dir = std::os::fd::AsFd::as_fd(dir);
        self.journal = Journal::create(dir, self.info_hash, &claims, true)?;
        self.lost.clear();
        Ok(())
    }
}

/// Holds claims against the files as they are now: what is not beyond doubt becomes suspect. Marks
/// become those of the present. Returns the sample that stands for the rest after a power cut.
fn weigh(
    claims: &mut Claims,
    files: &Files,
    layout: &Layout,
    boot: BootId,
) -> Result<FixedBitSet, Disk> {
    let same_boot = claims.boot == boot && boot != [0; 16];
    let mut sample = FixedBitSet::with_capacity(claims.synced.len());
    let before = std::mem::take(&mut claims.files);
    let mut sound = BTreeSet::new();
    for (index, extent) in layout.files().iter().enumerate() {
        if extent.pad || extent.range.is_empty() {
            continue;
        }
        let number = u32::try_from(index).expect("R31 bounds files");
        let Some((mut mark, size)) = files.mark(index) else {
            continue;
        };
        let len = extent.range.len();
        let known = before
            .get(&number)
            .is_some_and(|was| was.is(&mark, same_boot));
        if known && size == len {
            sound.insert(index);
        }
        if size > len {
            let file = files.writable(index)?;
            file.set_len(len)?;
            mark = FileMark::of(&file, true)?;
        }
        claims.files.insert(number, mark);
    }
    if claims.damaged {
        claims.synced.clear();
        claims.unsynced.clear();
        claims.suspect.clear();
        for &index in claims.files.keys() {
            for data in files.data(index as usize)? {
                let pieces = layout.pieces_of(data);
                claims
                    .suspect
                    .insert_range(pieces.start as usize..pieces.end as usize);
            }
        }
        return Ok(sample);
    }
    if !claims.clean && !same_boot {
        claims.suspect.union_with(&claims.unsynced);
        claims.unsynced.clear();
        sample.extend(claims.synced.ones().step_by(SAMPLE_EVERY));
    }
    let mut doubtful = sample.clone();
    for piece in claims.synced.union(&claims.unsynced) {
        let range = layout.piece_range(piece_index(piece));
        let mut segments = layout.segments(range).filter(|segment| !segment.pad);
        if !segments.all(|segment| sound.contains(&segment.file)) {
            doubtful.insert(piece);
        }
    }
    claims.synced.difference_with(&doubtful);
    claims.unsynced.difference_with(&doubtful);
    claims.suspect.union_with(&doubtful);
    Ok(sample)
}

pub(crate) fn piece_index(at: usize) -> PieceIndex {
    PieceIndex(u32::try_from(at).expect("R31 bounds pieces"))
}
