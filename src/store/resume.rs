//! The resume journal: which pieces a torrent's files hold, as a claim that survives a crash.
//!
//! Records are 32 bytes, so that none crosses a page (a kill cannot tear one) or a sector (nor can
//! a power cut), each with its own checksum. A verified piece is appended at once by `pwrite`: the
//! page cache outlives the process. A *slot* is appended before data is synced and turned into
//! *synced* after it: what stands before such a mark also outlives the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};

use crate::store::Disk;
use crate::store::files::open_beneath;
use crate::units::{InfoHash, PieceIndex};

/// The kernel's name for this boot (`/proc/sys/kernel/random/boot_id`); zero if it has none.
pub(crate) type BootId = [u8; 16];

const RECORD_LEN: usize = 32;
const VERSION: u8 = 1;
pub(crate) const NAME: &str = "journal";
const NAME_NEW: &str = "journal.new";
/// A journal is rewritten once it is longer than this and than four records a piece.
const COMPACT_LEN_MIN: u64 = 1 << 18;
/// Of a journal's bytes that are read at all; more is no journal of ours.
const JOURNAL_LEN_MAX: u64 = 1 << 30;

/// One line of the journal. Unknown kinds and bad checksums decode to `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Head {
        info_hash: InfoHash,
        pieces: u32,
    },
    /// A session begins.
    Open(BootId),
    File {
        index: u32,
        mark: FileMark,
    },
    /// Verified.
    Have {
        first: PieceIndex,
        count: u32,
    },
    /// Once verified, to be hashed again before it counts.
    Claim {
        first: PieceIndex,
        count: u32,
    },
    Lost {
        first: PieceIndex,
        count: u32,
    },
    /// Room for a mark whose data is not synced yet.
    Slot {
        epoch: u32,
    },
    /// The data of all `Have` before this is on the medium.
    Synced {
        epoch: u32,
    },
    /// Nothing was written after this; files have the times that are recorded.
    Closed,
}

/// By which a piece file is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMark {
    pub(crate) inode: u64,
    /// Folded: it only has to differ.
    pub(crate) device: u32,
    /// Nanoseconds; zero while the file may be written.
    pub(crate) modified: u64,
}

/// What a journal says, before any file was looked at.
#[derive(Debug)]
pub(crate) struct Claims {
    /// Verified and on the medium.
    pub(crate) synced: FixedBitSet,
    /// Verified, perhaps only in the page cache.
    pub(crate) unsynced: FixedBitSet,
    pub(crate) suspect: FixedBitSet,
    pub(crate) files: BTreeMap<u32, FileMark>,
    pub(crate) boot: BootId,
    pub(crate) clean: bool,
    /// Something inside it is wrong, so that a `Lost` may be missing: nothing in it is proof.
    pub(crate) damaged: bool,
    pub(crate) epoch: u32,
}

/// An open journal, appended to by the torrent's shard alone; a sync job overwrites its slot.
pub(crate) struct Journal {
    file: Arc<File>,
    len: u64,
    pieces: u32,
}

impl Journal {
    /// What the journal in `dir` claims; `None` if there is none.
    pub(crate) fn load(
        dir: BorrowedFd<'_>,
        info_hash: InfoHash,
        pieces: u32,
    ) -> Result<Option<Claims>, Disk> {
        let file = match open_beneath(dir, NAME, OFlags::RDONLY, Mode::empty()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let len = file.metadata()?.len().min(JOURNAL_LEN_MAX);
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(len).expect("bounded above")];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(Claims::read(&bytes, info_hash, pieces)))
    }

    /// Replaces the journal in `dir` by one that says `claims`; `durable` if there was one before.
    /// On a full disk the old one makes room: should the new one fail, all data is hashed again.
    pub(crate) fn create(
        dir: BorrowedFd<'_>,
        info_hash: InfoHash,
        claims: &Claims,
        durable: bool,
    ) -> Result<Self, Disk> {
        match Self::write_new(dir, info_hash, claims, durable) {
            Err(Disk::Full) if durable => {
                for name in [NAME_NEW, NAME] {
                    let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
                }
                Self::write_new(dir, info_hash, claims, durable)
            }
            other => other,
        }
    }

    fn write_new(
        dir: BorrowedFd<'_>,
        info_hash: InfoHash,
        claims: &Claims,
        durable: bool,
    ) -> Result<Self, Disk> {
        let pieces = u32::try_from(claims.synced.len()).expect("R31 bounds pieces");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let file = open_beneath(dir, NAME_NEW, flags, Mode::RUSR | Mode::WUSR)?;
        let bytes = claims.write(info_hash);
        let len = bytes.len() as u64;
        // Two records a piece: on a full disk the journal is the last that may fail.
        let room = len + (u64::from(pieces) * 2 + 64) * RECORD_LEN as u64;
        match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, room) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        file.write_all_at(&bytes, 0)?;
        if durable {
            file.sync_data()?;
        }
        rustix::fs::renameat(dir, NAME_NEW, dir, NAME).map_err(io::Error::from)?;
        if durable {
            rustix::fs::fsync(dir).map_err(io::Error::from)?;
        }
        Ok(Self {
            file: Arc::new(file),
            len,
            pieces,
        })
    }

    /// Survives the process, not yet the machine. What failed half-way is overwritten by the next.
    pub(crate) fn append(&mut self, record: Record) -> io::Result<()> {
        self.file.write_all_at(&record.encode(), self.len)?;
        self.len += RECORD_LEN as u64;
        Ok(())
    }

    /// Appends the slot that [`mark_synced`] fills in later; returns where it is.
    pub(crate) fn append_slot(&mut self, epoch: u32) -> io::Result<u64> {
        let at = self.len;
        self.append(Record::Slot { epoch })?;
        Ok(at)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(crate) fn wants_rewrite(&self) -> bool {
        self.len > COMPACT_LEN_MIN.max(u64::from(self.pieces) * 4 * RECORD_LEN as u64)
    }
}

/// Turns the slot at `at` into the mark; the data it speaks of must be on the medium.
pub(crate) fn mark_synced(journal: &File, at: u64, epoch: u32) -> io::Result<()> {
    journal.write_all_at(&Record::Synced { epoch }.encode(), at)?;
    journal.sync_data()
}

pub(crate) fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16).unwrap_or(0).to_be_bytes()
}

impl FileMark {
    pub(crate) fn of(file: impl AsFd, closed: bool) -> io::Result<Self> {
        Ok(Self::read(&rustix::fs::fstat(file)?, closed))
    }

    /// With its time only if nothing writes to it.
    pub(crate) fn read(stat: &rustix::fs::Stat, closed: bool) -> Self {
        let device = stat.st_dev;
        let fold = (device ^ (device >> 32)) & u64::from(u32::MAX);
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let modified = seconds
            .wrapping_mul(1_000_000_000)
            .wrapping_add(stat.st_mtime_nsec);
        Self {
            inode: stat.st_ino,
            device: u32::try_from(fold).expect("masked"),
            modified: if closed { modified.max(1) } else { 0 },
        }
    }

    /// Whether `now` (taken with its time) is the file that this mark was made of, unchanged as
    /// far as the mark tells. Device numbers are given out anew at boot.
    pub(crate) fn is(&self, now: &Self, same_boot: bool) -> bool {
        self.inode == now.inode
            && (!same_boot || self.device == now.device)
            && (self.modified == 0 || self.modified == now.modified)
    }
}

impl Claims {
    pub(crate) fn none(pieces: u32) -> Self {
        let bits = || FixedBitSet::with_capacity(pieces as usize);
        Self {
            synced: bits(),
            unsynced: bits(),
            suspect: bits(),
            files: BTreeMap::new(),
            boot: [0; 16],
            clean: false,
            damaged: false,
            epoch: 0,
        }
    }

    fn read(bytes: &[u8], info_hash: InfoHash, pieces: u32) -> Self {
        let mut claims = Self::none(pieces);
        // Preallocated room, and the tail of a file whose size reached the disk before its data.
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        let end = used.next_multiple_of(RECORD_LEN).min(bytes.len());
        let (records, _torn) = bytes[..end].as_chunks::<RECORD_LEN>();
        for (at, bytes) in records.iter().enumerate() {
            let record = Record::decode(bytes);
            if at == 0 && record != Some(Record::Head { info_hash, pieces }) {
                claims.damaged = true;
            }
            match record {
                Some(record) => claims.apply(record),
                None => claims.damaged = true,
            }
        }
        claims.damaged |= records.is_empty();
        claims
    }

    fn apply(&mut self, record: Record) {
        self.clean = record == Record::Closed;
        let len = self.synced.len();
        let span = |first: PieceIndex, count: u32| {
            let end = first.at().saturating_add(count as usize).min(len);
            first.at().min(end)..end
        };
        match record {
            Record::Open(boot) => self.boot = boot,
            Record::File { index, mark } => {
                self.files.insert(index, mark);
            }
            Record::Have { first, count } => {
                self.suspect.remove_range(span(first, count));
                self.unsynced.insert_range(span(first, count));
            }
            Record::Claim { first, count } => self.suspect.insert_range(span(first, count)),
            Record::Lost { first, count } => {
                for pieces in [&mut self.synced, &mut self.unsynced, &mut self.suspect] {
                    pieces.remove_range(span(first, count));
                }
            }
            Record::Synced { epoch } => {
                self.epoch = self.epoch.max(epoch);
                self.synced.union_with(&self.unsynced);
                self.unsynced.clear();
            }
            Record::Slot { epoch } => self.epoch = self.epoch.max(epoch),
            Record::Head { .. } | Record::Closed => {}
        }
    }

    fn write(&self, info_hash: InfoHash) -> Vec<u8> {
        let pieces = u32::try_from(self.synced.len()).expect("R31 bounds pieces");
        let mut records = vec![Record::Head { info_hash, pieces }];
        records.extend(
            self.files
                .iter()
                .map(|(&index, &mark)| Record::File { index, mark }),
        );
        let have = |(first, count)| Record::Have { first, count };
        records.extend(runs(&self.synced).map(have));
        records.push(Record::Synced { epoch: self.epoch });
        records.extend(runs(&self.unsynced).map(have));
        let claim = |(first, count)| Record::Claim { first, count };
        records.extend(runs(&self.suspect).map(claim));
        records.push(Record::Open(self.boot));
        records.iter().flat_map(|record| record.encode()).collect()
    }
}

fn runs(pieces: &FixedBitSet) -> impl Iterator<Item = (PieceIndex, u32)> + '_ {
    let mut ones = pieces.ones().peekable();
    std::iter::from_fn(move || {
        let first = ones.next()?;
        let mut end = first + 1;
        while ones.next_if_eq(&end).is_some() {
            end += 1;
        }
        let number = |at: usize| u32::try_from(at).expect("R31 bounds pieces");
        Some((PieceIndex(number(first)), number(end - first)))
    })
}

impl Record {
    /// `kind, version, 0, 0, a u32, x u64, y u64, z u32, CRC32C of these`, little endian.
    pub(crate) fn encode(self) -> [u8; RECORD_LEN] {
        let (kind, a, x, y, z) = match self {
            Self::Head { info_hash, pieces } => {
                let (x, rest) = info_hash.0.split_at(8);
                let (y, z) = rest.split_at(8);
                let (x, y) = (word(x), word(y));
                (1, pieces, x, y, half(z))
            }
            Self::Open(boot) => (2, 0, word(&boot[..8]), word(&boot[8..]), 0),
            Self::File { index, mark } => (3, index, mark.inode, mark.modified, mark.device),
            Self::Have { first, count } => (4, first.0, 0, 0, count),
            Self::Claim { first, count } => (5, first.0, 0, 0, count),
            Self::Lost { first, count } => (6, first.0, 0, 0, count),
            Self::Slot { epoch } => (7, epoch, 0, 0, 0),
            Self::Synced { epoch } => (8, epoch, 0, 0, 0),
            Self::Closed => (9, 0, 0, 0, 0),
        };
        let mut out = [0; RECORD_LEN];
        out[0] = kind;
        out[1] = VERSION;
        out[4..8].copy_from_slice(&u32::to_le_bytes(a));
        out[8..16].copy_from_slice(&x.to_le_bytes());
        out[16..24].copy_from_slice(&y.to_le_bytes());
        out[24..28].copy_from_slice(&u32::to_le_bytes(z));
        let sum = crc32c(&out[..28]);
        out[28..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        if bytes[1] != VERSION || crc32c(&bytes[..28]) != half(&bytes[28..]) {
            return None;
        }
        let (a, z) = (half(&bytes[4..8]), half(&bytes[24..28]));
        let (x, y) = (word(&bytes[8..16]), word(&bytes[16..24]));
        let (first, count) = (PieceIndex(a), z);
        Some(match bytes[0] {
            1 => {
                let mut hash = [0; 20];
                hash.copy_from_slice(&bytes[8..28]);
                Self::Head {
                    info_hash: InfoHash(hash),
                    pieces: a,
                }
            }
            2 => {
                let mut boot = [0; 16];
                boot.copy_from_slice(&bytes[8..24]);
                Self::Open(boot)
            }
            3 => Self::File {
                index: a,
                mark: FileMark {
                    inode: x,
                    device: z,
                    modified: y,
                },
            },
            4 => Self::Have { first, count },
            5 => Self::Claim { first, count },
            6 => Self::Lost { first, count },
            7 => Self::Slot { epoch: a },
            8 => Self::Synced { epoch: a },
            9 => Self::Closed,
            _ => return None,
        })
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn half(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

/// Castagnoli's polynomial, reflected (RFC 3720 appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        let at = (sum ^ u32::from(*byte)) & 0xff;
        (sum >> 8) ^ CRC_TABLE[at as usize]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut sum = at;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
            bit += 1;
        }
        table[at as usize] = sum;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([7; 20]);

    fn journal(records: &[Record]) -> Vec<u8> {
        let head = Record::Head {
            info_hash: HASH,
            pieces: 100,
        };
        let all = [head].into_iter().chain(records.iter().copied());
        all.flat_map(Record::encode).collect()
    }

    fn have(first: u32, count: u32) -> Record {
        Record::Have {
            first: PieceIndex(first),
            count,
        }
    }

    fn lost(first: u32) -> Record {
        Record::Lost {
            first: PieceIndex(first),
            count: 1,
        }
    }

    #[test]
    fn crc32c_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_record_reads_back() {
        let mark = FileMark {
            inode: u64::MAX - 3,
            device: 77,
            modified: 1 << 60,
        };
        let first = PieceIndex(9);
        let records = [
            Record::Head {
                info_hash: InfoHash(*b"abcdefghijklmnopqrst"),
                pieces: 12,
            },
            Record::Open(*b"0123456789abcdef"),
            Record::File { index: 4, mark },
            have(9, 2),
            Record::Claim { first, count: 2 },
            lost(9),
            Record::Slot { epoch: 5 },
            Record::Synced { epoch: 5 },
            Record::Closed,
        ];
        for record in records {
            assert_eq!(Record::decode(&record.encode()), Some(record));
            for bit in 0..256 {
                let mut bytes = record.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                // Two spare bytes are covered by the checksum too.
                assert_eq!(Record::decode(&bytes), None, "{record:?} bit {bit}");
            }
        }
    }

    #[test]
    fn marks_sync_what_stands_before_them() {
        let bytes = journal(&[
            have(1, 3),
            Record::Synced { epoch: 1 },
            have(10, 2),
            lost(2),
            Record::Slot { epoch: 2 },
            have(2, 1),
        ]);
        let claims = Claims::read(&bytes, HASH, 100);
        assert!(!claims.damaged && !claims.clean);
        assert_eq!(claims.synced.ones().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(claims.unsynced.ones().collect::<Vec<_>>(), [2, 10, 11]);
        assert_eq!(claims.epoch, 2);
        let again = Claims::read(&claims.write(HASH), HASH, 100);
        assert_eq!(again.synced, claims.synced);
        assert_eq!(again.unsynced, claims.unsynced);
    }

    #[test]
    fn a_torn_tail_is_ignored_and_damage_inside_is_told() {
        let bytes = journal(&[have(1, 1), have(2, 1), lost(1)]);
        for len in RECORD_LEN..bytes.len() {
            let claims = Claims::read(&bytes[..len], HASH, 100);
            assert!(!claims.damaged, "{len}");
            assert_eq!(claims.unsynced.count_ones(..), len / RECORD_LEN - 1);
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Claims::read(&bytes, HASH, 100).damaged, "bit {bit}");
        }
        let mut zeros = bytes.clone();
        zeros.extend([0; 100]);
        assert!(!Claims::read(&zeros, HASH, 100).damaged);
        assert!(Claims::read(&bytes, InfoHash([8; 20]), 100).damaged);
        assert!(Claims::read(&bytes, HASH, 99).damaged);
        assert!(Claims::read(&[0; 64], HASH, 100).damaged);
    }
}
