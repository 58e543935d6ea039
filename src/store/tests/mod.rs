//! The store against real files.

mod faults;
mod kill;
mod later;
mod mounts;
mod room;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rand::prelude::*;
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

use super::*;
use crate::store::resume::Record;
use crate::torrent::hasher::Hasher;
use crate::torrent::metainfo::{self, Builder, FileEntry};
use crate::units::{BLOCK_LEN, ByteRange, PieceIndex, Time};

const PIECE: u32 = 64 * 1024;
const BOOT: BootId = [1; 16];
const OTHER_BOOT: BootId = [2; 16];

const ROOMY: Limits = Limits {
    limit: None,
    reserve: 0,
    reserve_percent: 0,
};

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

fn single(data: &[u8]) -> Metainfo {
    Metainfo::parse(&metainfo::make("film.mkv", PIECE, data)).unwrap()
}

/// Files of 100,000, 0 and 50,000 bytes, padding to the next piece, and 70,000 bytes.
fn several(seed: u64) -> (Metainfo, Vec<u8>) {
    let mut data = bytes(5 * 65_536, seed);
    data.truncate(196_608 + 70_000);
    data[150_000..196_608].fill(0);
    let file = |name: &str, length, pad| FileEntry {
        path: vec![name.to_owned()],
        length,
        pad,
    };
    let files = [
        file("a", 100_000, false),
        file("empty", 0, false),
        file("b", 50_000, false),
        file("pad", 46_608, true),
        file("c", 70_000, false),
    ];
    let torrent = Builder {
        name: "films".to_owned(),
        piece_len: PIECE,
        length: 0,
        hashes: data
            .chunks(PIECE as usize)
            .map(|piece| Sha1::digest(piece).into())
            .collect(),
        ..Builder::default()
    };
    let meta = Metainfo::parse(&torrent.build_files(&files)).unwrap();
    (meta, data)
}

struct Bed {
    dir: TempDir,
    meta: Metainfo,
    data: Vec<u8>,
}

impl Bed {
    fn new(pieces: usize) -> Self {
        let data = bytes(pieces * PIECE as usize - 1000, 7);
        Self {
            dir: tempfile::tempdir().unwrap(),
            meta: single(&data),
            data,
        }
    }

    fn store(&self, boot: BootId) -> Arc<Store> {
        Store::open_at_boot(self.dir.path(), ROOMY, boot).unwrap()
    }

    fn open(&self, boot: BootId) -> Torrent {
        self.store(boot).open_torrent(&self.meta).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        let hash = self.meta.info_hash.to_string();
        self.dir.path().join(hash).join(name)
    }
}

fn range_of(torrent: &Metainfo, piece: u32) -> ByteRange {
    torrent.layout.piece_range(PieceIndex(piece))
}

fn part(data: &[u8], range: ByteRange) -> &[u8] {
    &data[range.start as usize..range.end as usize]
}

fn fill(torrent: &mut Torrent, meta: &Metainfo, data: &[u8], piece: u32) -> Result<Progress, Disk> {
    let range = range_of(meta, piece);
    torrent.write(Time::from_secs(u64::from(piece)), range, part(data, range))
}

/// Whether the disk holds what the piece's hash says.
fn is_right(torrent: &Torrent, meta: &Metainfo, piece: PieceIndex) -> bool {
    let bytes = read(torrent, meta.layout.piece_range(piece));
    Hasher::digest(&bytes) == meta.hashes[piece.at()]
}

fn recall(store: &Store, url: &str) -> Option<(Metainfo, String)> {
    let (info_hash, validator) = store.recall_url(url)?;
    let meta = store.recall_hash(info_hash)?;
    assert_eq!(
        store.kept_len(info_hash),
        Some(meta.to_torrent().len() as u64)
    );
    Some((meta, validator))
}

fn ones(pieces: &fixedbitset::FixedBitSet) -> Vec<usize> {
    pieces.ones().collect()
}

fn read(torrent: &Torrent, range: ByteRange) -> Vec<u8> {
    let mut out = vec![0; range.len() as usize];
    torrent.read(range, &mut out).unwrap();
    out
}

fn sync(torrent: &mut Torrent) {
    let synced = torrent.sync_job().expect("something to sync").run();
    assert_eq!(torrent.handle_synced(synced), Settled::default());
}

fn rehash(torrent: &mut Torrent) -> Settled {
    let mut all = Settled::default();
    while let Some(job) = torrent.rehash_job() {
        let settled = torrent.handle_rehashed(job.run());
        all.good.extend(settled.good);
        all.lost.extend(settled.lost);
    }
    all
}

/// Of a test that ran in a process of its own: a name that none has passes as well.
#[track_caller]
fn assert_one_passed(output: &std::process::Output) {
    let told = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let passed = output.status.success() && told[0].contains("1 passed");
    assert!(passed, "{}\n{}", told[0], told[1]);
}

#[test]
fn blocks_in_any_order_make_a_good_piece() {
    let bed = Bed::new(3);
    let mut torrent = bed.open(BOOT);
    let mut rng = StdRng::seed_from_u64(3);
    for piece in 0..3 {
        let range = range_of(&bed.meta, piece);
        let mut cuts: Vec<u64> = (range.start..range.end).step_by(5_000).collect();
        cuts.shuffle(&mut rng);
        let (last, first) = cuts.split_last().unwrap();
        let cut = |start: u64| ByteRange::new(start, range.end.min(start + 5_000));
        for &start in first {
            let data = part(&bed.data, cut(start));
            let progress = torrent.write(Time::ZERO, cut(start), data).unwrap();
            assert_eq!(progress, Progress::Partial);
            assert!(!torrent.have().contains(piece as usize));
        }
        let data = part(&bed.data, cut(*last));
        let progress = torrent.write(Time::ZERO, cut(*last), data).unwrap();
        assert_eq!(progress, Progress::Good);
        assert!(torrent.have().contains(piece as usize));
    }
    let all = ByteRange::new(0, bed.data.len() as u64);
    assert_eq!(read(&torrent, all), bed.data);
    assert_eq!(torrent.refused_len(), 0);
    let mode = fs::metadata(bed.file("0")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn bytes_that_came_already_are_refused() {
    let bed = Bed::new(1);
    let mut torrent = bed.open(BOOT);
    let half = ByteRange::new(0, 30_000);
    let data = part(&bed.data, half);
    torrent.write(Time::ZERO, half, data).unwrap();
    // A second sender cannot overwrite what the first wrote.
    torrent.write(Time::ZERO, half, &[0; 30_000]).unwrap();
    assert_eq!(torrent.refused_len(), 30_000);
    let progress = fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    assert_eq!(progress, Progress::Good);
    assert_eq!(torrent.refused_len(), 60_000);
    assert_eq!(
        torrent.write(Time::ZERO, half, data).unwrap(),
        Progress::Partial
    );
    assert_eq!(torrent.refused_len(), 90_000);
    assert_eq!(read(&torrent, half), data);
}

#[test]
fn a_bad_piece_is_told_by_its_blocks_and_can_come_again() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    let mut wrong = bed.data.clone();
    wrong[BLOCK_LEN as usize * 2 + 5] ^= 1;
    let piece = PieceIndex(0);
    assert_eq!(
        fill(&mut torrent, &bed.meta, &wrong, 0).unwrap(),
        Progress::Bad
    );
    let digests = torrent.block_digests(piece).unwrap();
    let expect: Vec<[u8; 20]> = bed.data[..PIECE as usize]
        .chunks(BLOCK_LEN as usize)
        .map(|block| Sha1::digest(block).into())
        .collect();
    let differ: Vec<_> = (0..4).filter(|&at| digests[at] != expect[at]).collect();
    assert_eq!(differ, [2]);
    torrent.forget(piece);
    assert!(torrent.have().is_clear());
    assert_eq!(
        fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap(),
        Progress::Good
    );
    assert_eq!(torrent.block_digests(piece).unwrap(), expect);
    assert!(is_right(&torrent, &bed.meta, piece));
}

#[test]
fn files_padding_and_emptiness() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, data) = several(5);
    let store = Store::open(dir.path(), ROOMY).unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    for piece in (0..meta.layout.piece_count()).rev() {
        let progress = if piece == 2 {
            // The padding's bytes need not come.
            let range = ByteRange::new(131_072, 150_000);
            torrent.write(Time::ZERO, range, part(&data, range))
        } else {
            fill(&mut torrent, &meta, &data, piece)
        };
        assert_eq!(progress.unwrap(), Progress::Good, "{piece}");
    }
    let all = ByteRange::new(0, data.len() as u64);
    assert_eq!(read(&torrent, all), data);
    let lens: Vec<_> = torrent
        .parts(ByteRange::new(99_000, 200_000))
        .unwrap()
        .map(|part| match part {
            Part::Mapped { map, range } => (map.len(), range),
            Part::Zeros(len) => (0, 0..len),
        })
        .collect();
    assert_eq!(
        lens,
        [
            (100_000, 99_000..100_000),
            (50_000, 0..50_000),
            (0, 0..46_608),
            (70_000, 0..3_392)
        ]
    );
    let mut names: Vec<_> = fs::read_dir(dir.path().join(meta.info_hash.to_string()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["0", "2", "4", "journal"]);
}

#[test]
fn padding_that_a_peer_fills_is_zeros_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, mut data) = several(6);
    let store = Store::open(dir.path(), ROOMY).unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    data[160_000] = 9;
    assert_eq!(fill(&mut torrent, &meta, &data, 2).unwrap(), Progress::Good);
    assert_eq!(read(&torrent, ByteRange::new(160_000, 160_001)), [0]);
}

#[test]
fn a_second_stub_is_told_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), ROOMY).unwrap();
    store.note("127.0.0.1:8081, process 17");
    match Store::open(dir.path(), ROOMY).map(|_| ()) {
        Err(StoreError::Busy { by }) => assert_eq!(by.unwrap(), "127.0.0.1:8081, process 17"),
        other => panic!("{other:?}"),
    }
    drop(store);
    Store::open(dir.path(), ROOMY).unwrap();
}

#[test]
fn a_torrent_is_open_once() {
    let bed = Bed::new(1);
    let store = bed.store(BOOT);
    let torrent = store.open_torrent(&bed.meta).unwrap();
    assert!(store.open_torrent(&bed.meta).is_err());
    drop(torrent);
    store.open_torrent(&bed.meta).unwrap();
}

#[test]
fn a_clean_end_is_trusted_at_any_boot() {
    let bed = Bed::new(4);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap();
    fill(&mut torrent, &bed.meta, &bed.data, 3).unwrap();
    torrent.close().unwrap();
    let torrent = bed.open(OTHER_BOOT);
    assert_eq!(ones(torrent.have()), [1, 3]);
    assert!(torrent.suspect().is_clear());
    torrent.close().unwrap();
    // A session that wrote nothing is as clean.
    assert_eq!(ones(bed.open(BOOT).have()), [1, 3]);
}

#[test]
fn a_kill_loses_nothing_and_a_power_cut_what_was_not_synced() {
    let bed = Bed::new(6);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap();
    sync(&mut torrent);
    fill(&mut torrent, &bed.meta, &bed.data, 2).unwrap();
    let begun = ByteRange::new(3 * u64::from(PIECE), 3 * u64::from(PIECE) + 100);
    let data = part(&bed.data, begun);
    torrent.write(Time::ZERO, begun, data).unwrap();
    drop(torrent);

    let torrent = bed.open(BOOT);
    assert_eq!(ones(torrent.have()), [0, 1, 2]);
    assert!(torrent.suspect().is_clear());
    drop(torrent);

    // What was only in the page cache stays so over a restart.
    let mut torrent = bed.open(OTHER_BOOT);
    // One in fifty is a sample.
    assert_eq!(ones(torrent.have()), [1]);
    assert_eq!(ones(torrent.suspect()), [0, 2]);
    let settled = rehash(&mut torrent);
    assert_eq!(settled.good, [PieceIndex(0), PieceIndex(2)]);
    assert_eq!(ones(torrent.have()), [0, 1, 2]);
    drop(torrent);
    assert_eq!(ones(bed.open(OTHER_BOOT).have()), [0, 1, 2]);
}

#[test]
fn a_bad_sample_puts_all_in_doubt() {
    let bed = Bed::new(4);
    let mut torrent = bed.open(BOOT);
    for piece in 0..4 {
        fill(&mut torrent, &bed.meta, &bed.data, piece).unwrap();
    }
    sync(&mut torrent);
    drop(torrent);
    let file = File::options().write(true).open(bed.file("0")).unwrap();
    for piece in [0, 2] {
        file.write_all_at(
            &[bed.data[piece * PIECE as usize] ^ 1],
            (piece * PIECE as usize) as u64,
        )
        .unwrap();
    }
    let mut torrent = bed.open(OTHER_BOOT);
    assert_eq!(ones(torrent.have()), [1, 2, 3]);
    let settled = rehash(&mut torrent);
    assert_eq!(ones(torrent.have()), [1, 3]);
    assert_eq!(settled.lost, [1, 2, 3].map(PieceIndex));
    assert_eq!(settled.good, [1, 3].map(PieceIndex));
}
