//! Files that are changed behind our back, journals that are damaged.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

fn shm() -> TempDir {
    // Thousands of journals are synced here.
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[test]
fn a_file_over_the_size_limit_is_an_error() {
    const CHILD: &str = "BITTUBE_TEST_FILE_SIZE";
    const NAME: &str = "store::tests::faults::a_file_over_the_size_limit_is_an_error";
    if std::env::var_os(CHILD).is_some() {
        crate::ring::signals::ignore_file_size_signal().unwrap();
        let bed = Bed::new(10);
        let mut torrent = bed.open(BOOT);
        let error = fill(&mut torrent, &bed.meta, &bed.data, 9).unwrap_err();
        assert!(matches!(error, Disk::Full), "{error}");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 64 && exec \"$0\" \"$1\" --exact"])
        .arg(exe)
        .arg(NAME)
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_one_passed(&output);
}

#[test]
fn a_file_cut_short_is_noticed_before_it_is_served() {
    let bed = Bed::new(6);
    let mut torrent = bed.open(BOOT);
    for piece in 0..5 {
        fill(&mut torrent, &bed.meta, &bed.data, piece).unwrap();
    }
    let piece = u64::from(PIECE);
    let begun = ByteRange::new(5 * piece, 5 * piece + 10);
    torrent
        .write(Time::ZERO, begun, part(&bed.data, begun))
        .unwrap();
    let all = ByteRange::new(0, 5 * piece);
    assert_eq!(torrent.parts(all).unwrap().count(), 1);
    let file = File::options().write(true).open(bed.file("0")).unwrap();
    file.set_len(2 * piece + 1).unwrap();
    assert!(matches!(torrent.parts(all), Err(Disk::Truncated)));
    // A write further on would hide it.
    let error = fill(&mut torrent, &bed.meta, &bed.data, 5);
    assert!(matches!(error, Err(Disk::Truncated)));
    assert_eq!(torrent.lose_truncated(), [2, 3, 4, 5].map(PieceIndex));
    assert_eq!(ones(torrent.have()), [0, 1]);
    assert!(torrent.parts(ByteRange::new(0, 2 * piece)).is_ok());
    for piece in 2..6 {
        fill(&mut torrent, &bed.meta, &bed.data, piece).unwrap();
    }
    assert_eq!(
        read(&torrent, ByteRange::new(0, bed.data.len() as u64)),
        bed.data
    );
    assert_eq!(torrent.have().count_ones(..), 6);

    file.set_len(0).unwrap();
    drop(torrent);
    let mut torrent = bed.open(BOOT);
    assert!(torrent.have().is_clear());
    assert_eq!(rehash(&mut torrent), Settled::default());
    assert_eq!(
        fill(&mut torrent, &bed.meta, &bed.data, 3).unwrap(),
        Progress::Good
    );
}

#[test]
fn files_changed_while_we_were_away_are_hashed_again() {
    let bed = Bed::new(4);
    let start = || {
        let _ = fs::remove_dir_all(bed.file(""));
        let mut torrent = bed.open(BOOT);
        for piece in 0..4 {
            fill(&mut torrent, &bed.meta, &bed.data, piece).unwrap();
        }
        torrent.close().unwrap();
    };
    let expect = |good: &[usize]| {
        let mut torrent = bed.open(BOOT);
        assert!(torrent.have().is_clear());
        rehash(&mut torrent);
        assert_eq!(ones(torrent.have()), good);
        drop(torrent);
        // And what was found out is kept.
        assert_eq!(ones(bed.open(BOOT).have()), good);
    };
    // One byte, and with it the time.
    start();
    let file = File::options().write(true).open(bed.file("0")).unwrap();
    file.write_all_at(&[!bed.data[70_000]], 70_000).unwrap();
    expect(&[0, 2, 3]);
    // The time alone.
    start();
    let file = File::options().write(true).open(bed.file("0")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    expect(&[0, 1, 2, 3]);
    // Another file in its place.
    start();
    fs::copy(bed.file("0"), bed.file("copy")).unwrap();
    fs::rename(bed.file("copy"), bed.file("0")).unwrap();
    expect(&[0, 1, 2, 3]);
    // None in its place.
    start();
    fs::remove_file(bed.file("0")).unwrap();
    expect(&[]);
    // Longer.
    start();
    let file = File::options().append(true).open(bed.file("0")).unwrap();
    io::Write::write_all(&mut &file, b"more").unwrap();
    expect(&[0, 1, 2, 3]);
    // The journal gone, the data there.
    start();
    fs::remove_file(bed.file("journal")).unwrap();
    expect(&[0, 1, 2, 3]);
}

#[test]
fn an_open_file_may_be_unlinked() {
    let bed = Bed::new(3);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    fs::remove_file(bed.file("0")).unwrap();
    assert_eq!(
        fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap(),
        Progress::Good
    );
    let both = ByteRange::new(0, 2 * u64::from(PIECE));
    assert_eq!(read(&torrent, both), part(&bed.data, both));
    drop(torrent);
    let mut torrent = bed.open(BOOT);
    rehash(&mut torrent);
    assert!(torrent.have().is_clear());
}

#[test]
fn planted_links_are_not_followed() {
    let bed = Bed::new(1);
    let victim = bed.dir.path().join("victim");
    let plant = [
        |victim: &PathBuf, at: &PathBuf| symlink(victim, at).unwrap(),
        |victim: &PathBuf, at: &PathBuf| fs::hard_link(victim, at).unwrap(),
    ];
    for plant in plant {
        fs::write(&victim, b"precious").unwrap();
        fs::create_dir_all(bed.file("")).unwrap();
        plant(&victim, &bed.file("0"));
        let mut torrent = bed.open(BOOT);
        let error = fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap_err();
        assert!(matches!(error, Disk::Io(_)), "{error}");
        drop(torrent);
        fs::remove_dir_all(bed.file("")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }
    fs::create_dir(bed.dir.path().join("elsewhere")).unwrap();
    let hash = bed.meta.info_hash.to_string();
    symlink("elsewhere", bed.dir.path().join(hash)).unwrap();
    assert!(bed.store(BOOT).open_torrent(&bed.meta).is_err());
    assert_eq!(
        fs::read_dir(bed.dir.path().join("elsewhere"))
            .unwrap()
            .count(),
        0
    );
}

/// A torrent with history: pieces 0, 1, 2 good, 3 lost and overwritten, 4 begun.
fn veteran() -> Bed {
    let data = bytes(6 * PIECE as usize, 11);
    let bed = Bed {
        dir: shm(),
        meta: single(&data),
        data,
    };
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    fill(&mut torrent, &bed.meta, &bed.data, 3).unwrap();
    sync(&mut torrent);
    fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap();
    torrent.lose(PieceIndex(3));
    let begin = |torrent: &mut Torrent, piece: u64| {
        let at = piece * u64::from(PIECE);
        let range = ByteRange::new(at, at + 4096);
        torrent.write(Time::ZERO, range, &[3; 4096]).unwrap();
    };
    begin(&mut torrent, 3);
    begin(&mut torrent, 4);
    sync(&mut torrent);
    fill(&mut torrent, &bed.meta, &bed.data, 2).unwrap();
    bed
}

#[test]
fn a_journal_torn_anywhere_claims_no_more_than_it_says() {
    let bed = veteran();
    let journal = fs::read(bed.file("journal")).unwrap();
    assert!(journal.len() > 10 * 32);
    let mut counts = std::collections::BTreeSet::new();
    for len in 0..=journal.len() {
        fs::write(bed.file("journal"), &journal[..len]).unwrap();
        let torrent = bed.open(BOOT);
        let whole = len / 32 * 32;
        let lost = Record::Lost {
            first: PieceIndex(3),
            count: 1,
        };
        // Before it was overwritten, the loss of 3 was on the medium.
        let knows_loss = journal[..whole].as_chunks().0.contains(&lost.encode());
        let claimed = ones(torrent.have());
        counts.insert(claimed.len());
        for piece in claimed {
            let good = is_right(&torrent, &bed.meta, PieceIndex(piece as u32));
            assert!(good || (piece == 3 && !knows_loss), "cut at {len}: {piece}");
        }
    }
    assert_eq!(counts, [0, 1, 2, 3].into());
}

#[test]
fn a_journal_with_a_bit_changed_proves_nothing() {
    let bed = veteran();
    let journal = fs::read(bed.file("journal")).unwrap();
    for at in (0..journal.len()).step_by(3) {
        let mut damaged = journal.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(bed.file("journal"), damaged).unwrap();
        let mut torrent = bed.open(BOOT);
        assert!(torrent.have().is_clear(), "byte {at}");
        rehash(&mut torrent);
        assert_eq!(ones(torrent.have()), [0, 1, 2], "byte {at}");
    }
}

#[test]
fn a_disk_that_does_not_sync_is_not_believed() {
    let bed = Bed::new(4);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    sync(&mut torrent);
    fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap();
    let fail = || Synced(Err(io::Error::from_raw_os_error(5)));
    drop(torrent.sync_job().unwrap());
    let settled = torrent.handle_synced(fail());
    assert_eq!(settled.lost, [PieceIndex(1)]);
    assert_eq!(ones(torrent.have()), [0]);
    assert_eq!(rehash(&mut torrent).good, [PieceIndex(1)]);
    drop(torrent.sync_job().unwrap());
    torrent.handle_synced(fail());
    let error = fill(&mut torrent, &bed.meta, &bed.data, 2);
    assert!(matches!(error, Err(Disk::Io(_))));
    assert!(torrent.sync_job().is_none());
    assert_eq!(read(&torrent, ByteRange::new(0, 10)), bed.data[..10]);
}

#[test]
fn a_disk_that_failed_twice_has_no_clean_end() {
    for (failures, have, suspect) in [(1, vec![0, 1], vec![]), (2, vec![], vec![0, 1])] {
        let bed = Bed::new(2);
        let mut torrent = bed.open(BOOT);
        fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
        sync(&mut torrent);
        fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap();
        for _ in 0..failures {
            drop(torrent.sync_job().unwrap());
            torrent.handle_synced(Synced(Err(io::Error::from_raw_os_error(5))));
            assert_eq!(rehash(&mut torrent).good, [PieceIndex(1)]);
        }
        // This sync would work: the kernel tells of a failed one once.
        let closed = torrent.close();
        assert_eq!(closed.is_ok(), failures < 2, "{closed:?}");
        let torrent = bed.open(OTHER_BOOT);
        assert_eq!(ones(torrent.have()), have, "{failures}");
        assert_eq!(ones(torrent.suspect()), suspect, "{failures}");
    }
}

#[test]
fn a_job_that_is_out_stands_in_the_way_of_a_clean_end_and_loses_nothing() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    let job = torrent.sync_job().unwrap();
    fill(&mut torrent, &bed.meta, &bed.data, 1).unwrap();
    // Its sync may fail yet, and the kernel tells that once.
    assert!(matches!(torrent.close(), Err(Disk::Io(_))));
    let journal = fs::read(bed.file("journal")).unwrap();
    // What comes of it after the next session has begun is nobody's.
    let place = bed.dir.path().join("elsewhere");
    fs::rename(bed.file("journal"), &place).unwrap();
    fs::write(bed.file("journal"), &journal).unwrap();
    assert!(job.run().0.is_ok());
    assert_eq!(fs::read(bed.file("journal")).unwrap(), journal);
    let torrent = bed.open(BOOT);
    assert_eq!(ones(torrent.have()), [0, 1]);
    drop(torrent);
    let torrent = bed.open(OTHER_BOOT);
    assert_eq!(ones(torrent.suspect()), [0, 1]);
}

#[test]
fn a_job_that_never_ran_is_due_again() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    for piece in 0..2 {
        fill(&mut torrent, &bed.meta, &bed.data, piece).unwrap();
        drop(torrent.sync_job().expect("both times"));
        torrent.handle_unsynced();
    }
    assert!(torrent.sync_due(Time::from_secs(60)));
    sync(&mut torrent);
    drop(torrent);
    // The first is the sample that is hashed after a power cut.
    let torrent = bed.open(OTHER_BOOT);
    assert_eq!(
        (ones(torrent.have()), ones(torrent.suspect())),
        (vec![1], vec![0])
    );
}

#[test]
fn a_piece_found_bad_is_fetched_again() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    let file = File::options().write(true).open(bed.file("0")).unwrap();
    file.write_all_at(&[!bed.data[5]], 5).unwrap();
    assert!(!is_right(&torrent, &bed.meta, PieceIndex(0)));
    torrent.lose(PieceIndex(0));
    assert_eq!(
        fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap(),
        Progress::Good
    );
    assert!(is_right(&torrent, &bed.meta, PieceIndex(0)));
    torrent.lose(PieceIndex(0));
    drop(torrent);
    assert!(bed.open(BOOT).have().is_clear());
}

#[test]
fn a_long_journal_is_rewritten() {
    let data = bytes(500, 1);
    let bed = Bed {
        dir: shm(),
        meta: single(&data),
        data,
    };
    let mut torrent = bed.open(BOOT);
    for _ in 0..4_100 {
        fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
        torrent.lose(PieceIndex(0));
    }
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    assert!(fs::metadata(bed.file("journal")).unwrap().len() > 1 << 18);
    sync(&mut torrent);
    assert!(fs::metadata(bed.file("journal")).unwrap().len() < 1 << 10);
    drop(torrent);
    assert_eq!(ones(bed.open(BOOT).have()), [0]);
}
