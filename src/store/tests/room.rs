//! Quota, eviction, and what is remembered.

use super::*;

const ALL: fn(PieceIndex) -> bool = |_| true;

fn disk_len(path: impl AsRef<Path>) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn the_limit_holds_and_the_least_watched_go_first() {
    let bed = Bed::new(8);
    let piece = u64::from(PIECE);
    let limits = Limits {
        limit: Some(4 * piece),
        ..ROOMY
    };
    let store = Store::open(bed.dir.path(), limits).unwrap();
    let mut torrent = store.open_torrent(&bed.meta).unwrap();
    for index in 0..4 {
        torrent.room_for(piece).unwrap();
        fill(&mut torrent, &bed.meta, &bed.data, index).unwrap();
    }
    assert_eq!(store.used(), 4 * piece);
    assert!(matches!(torrent.room_for(piece), Err(Disk::Full)));
    assert_eq!(store.shortage(piece).unwrap(), piece);
    torrent.touch(Time::from_secs(100), PieceIndex(0));
    let keep = |piece: PieceIndex| piece.0 != 1;
    assert_eq!(torrent.evict(piece + 1, keep), [2, 3].map(PieceIndex));
    assert_eq!(ones(torrent.have()), [0, 1]);
    torrent.room_for(2 * piece).unwrap();
    assert_eq!(store.used(), 2 * piece);

    // The disk gets its blocks back once the journal is safe, not before.
    let before = disk_len(bed.file("0"));
    assert!(torrent.sync_due(Time::ZERO));
    sync(&mut torrent);
    assert_eq!(disk_len(bed.file("0")), before - 2 * piece);
    assert_eq!(
        read(&torrent, range_of(&bed.meta, 2)),
        vec![0; PIECE as usize]
    );
    drop(torrent);
    assert_eq!(ones(store.open_torrent(&bed.meta).unwrap().have()), [0, 1]);
}

#[test]
fn a_piece_that_comes_back_before_its_hole_is_kept() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    assert_eq!(torrent.evict(1, ALL), [PieceIndex(0)]);
    let job = torrent.sync_job().unwrap();
    let begun = ByteRange::new(0, 100);
    torrent
        .write(Time::ZERO, begun, part(&bed.data, begun))
        .unwrap();
    assert_eq!(torrent.handle_synced(job.run()), Settled::default());
    assert_eq!(
        fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap(),
        Progress::Good
    );
    assert!(is_right(&torrent, &bed.meta, PieceIndex(0)));
}

#[test]
fn holes_stay_off_the_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, data) = several(8);
    let store = Store::open(dir.path(), ROOMY).unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    for piece in 0..meta.layout.piece_count() {
        fill(&mut torrent, &meta, &data, piece).unwrap();
    }
    assert_eq!(torrent.evict(1, |piece| piece.0 == 1), [PieceIndex(1)]);
    sync(&mut torrent);
    assert!(!is_right(&torrent, &meta, PieceIndex(1)));
    for piece in [0, 2, 3, 4] {
        assert!(is_right(&torrent, &meta, PieceIndex(piece)), "{piece}");
    }
    assert_eq!(fill(&mut torrent, &meta, &data, 1).unwrap(), Progress::Good);
    assert_eq!(read(&torrent, ByteRange::new(0, data.len() as u64)), data);
}

#[test]
fn scraps_go_before_what_is_verified() {
    let bed = Bed::new(3);
    let store = bed.store(BOOT);
    let mut torrent = store.open_torrent(&bed.meta).unwrap();
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    let begun = ByteRange::new(2 * u64::from(PIECE), 2 * u64::from(PIECE) + 4096);
    torrent
        .write(Time::ZERO, begun, part(&bed.data, begun))
        .unwrap();
    torrent.forget(PieceIndex(2));
    assert!(torrent.evict(1, ALL).is_empty());
    assert_eq!(store.used(), u64::from(PIECE));
    assert_eq!(ones(torrent.have()), [0]);
}

#[test]
fn what_a_kill_left_in_flight_is_given_back() {
    let bed = Bed::new(3);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    let begun = ByteRange::new(u64::from(PIECE), u64::from(PIECE) + 20_000);
    torrent
        .write(Time::ZERO, begun, part(&bed.data, begun))
        .unwrap();
    drop(torrent);
    let store = bed.store(BOOT);
    let before = store.used();
    assert!(before > u64::from(PIECE));
    let mut torrent = store.open_torrent(&bed.meta).unwrap();
    assert_eq!(store.used(), u64::from(PIECE));
    torrent.room_for(1).unwrap();
    assert!(disk_len(bed.file("0")) < before);
    assert!(is_right(&torrent, &bed.meta, PieceIndex(0)));
}

#[test]
fn idle_torrents_go_whole_and_open_ones_never() {
    let dir = tempfile::tempdir().unwrap();
    let films: Vec<_> = (0..3).map(|seed| bytes(PIECE as usize * 2, seed)).collect();
    let metas: Vec<_> = films.iter().map(|film| single(film)).collect();
    let store = Store::open(dir.path(), ROOMY).unwrap();
    for (film, meta) in films.iter().zip(&metas) {
        store.remember(meta, None);
        let mut torrent = store.open_torrent(meta).unwrap();
        fill(&mut torrent, meta, film, 0).unwrap();
        torrent.close().unwrap();
    }
    assert_eq!(store.used(), 3 * u64::from(PIECE));
    // The first is the oldest, but open.
    let torrent = store.open_torrent(&metas[0]).unwrap();
    assert_eq!(store.evict_idle(1).unwrap(), u64::from(PIECE));
    assert_eq!(store.used(), 2 * u64::from(PIECE));
    assert!(store.recall_hash(metas[0].info_hash).is_some());
    assert!(store.recall_hash(metas[1].info_hash).is_none());
    assert!(store.recall_hash(metas[2].info_hash).is_some());
    assert_eq!(store.evict_idle(u64::MAX).unwrap(), u64::from(PIECE));
    assert_eq!(ones(torrent.have()), [0]);
    drop(torrent);
    drop(store);
    let store = Store::open(dir.path(), ROOMY).unwrap();
    assert_eq!(store.used(), u64::from(PIECE));
}

/// Films of two pieces of which one is stored, closed; the store has room for eight pieces.
fn full_of_idle(dir: &Path, films: u64) -> Arc<Store> {
    let limits = Limits {
        limit: Some(8 * u64::from(PIECE)),
        ..ROOMY
    };
    let store = Store::open(dir, limits).unwrap();
    for seed in 0..films {
        let film = bytes(PIECE as usize * 2, seed);
        let mut torrent = store.open_torrent(&single(&film)).unwrap();
        fill(&mut torrent, &single(&film), &film, 0).unwrap();
        torrent.close().unwrap();
    }
    store
}

#[test]
fn idle_torrents_make_room_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let now = Time::from_secs(100);
    let piece = u64::from(PIECE);
    let store = full_of_idle(dir.path(), 6);
    assert!(store.clear_job(now).is_none(), "a quarter is free yet");
    let film = bytes(PIECE as usize * 8, 99);
    let meta = single(&film);
    let mut torrent = store.open_torrent(&meta).unwrap();
    for index in 0..8 {
        torrent.room_for(piece).unwrap();
        fill(&mut torrent, &meta, &film, index).unwrap();
        assert!(store.used() <= 8 * piece);
        let job = store.clear_job(now);
        // Nothing idle is left after six, and that is not looked at for each piece.
        assert_eq!(job.is_some(), index <= 6, "{index}");
        let Some(job) = job else { continue };
        assert!(store.is_clearing() && store.clear_job(now).is_none());
        let freed = if index < 6 { piece } else { 0 };
        assert_eq!(job.run().unwrap(), freed, "{index}");
        assert!(!store.is_clearing());
    }
    let later = now + std::time::Duration::from_secs(11);
    assert!(store.clear_job(later).is_some());
    assert_eq!(torrent.have().count_ones(..), 8);
}

#[test]
fn what_is_planted_in_a_torrent_is_left_and_the_rest_counts_as_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = full_of_idle(dir.path(), 1);
    let hash = single(&bytes(PIECE as usize * 2, 0)).info_hash.to_string();
    // A directory where a file of ours is expected cannot be unlinked; what is in it is not ours.
    fs::create_dir(dir.path().join(&hash).join("planted")).unwrap();
    assert!(store.evict_idle(1).is_err());
    assert_eq!(store.used(), 0, "its file is gone all the same");
}

#[test]
fn removals_that_were_cut_off_are_ended() {
    let bed = Bed::new(1);
    let mut torrent = bed.open(BOOT);
    fill(&mut torrent, &bed.meta, &bed.data, 0).unwrap();
    drop(torrent);
    let hash = bed.meta.info_hash.to_string();
    let gone = bed.dir.path().join(format!("gone-{hash}"));
    fs::rename(bed.dir.path().join(hash), &gone).unwrap();
    assert_eq!(bed.store(BOOT).used(), 0);
    assert!(!gone.exists());
}

#[test]
fn urls_are_recalled_after_a_restart() {
    let bed = Bed::new(1);
    let store = bed.store(BOOT);
    let url = "https://example.org/film.mp4?a=1\u{2028}\n";
    assert!(recall(&store, url).is_none());
    store.remember(&bed.meta, Some((url, "\"v1\"")));
    drop(store);
    let store = bed.store(BOOT);
    assert_eq!(
        recall(&store, url).unwrap(),
        (bed.meta.clone(), "\"v1\"".to_owned())
    );
    store.remember(&bed.meta, Some((url, "\"v2\"")));
    assert_eq!(recall(&store, url).unwrap().1, "\"v2\"");
    assert!(recall(&store, "https://example.org/other").is_none());
    assert_eq!(
        store.recall_hash(bed.meta.info_hash),
        Some(bed.meta.clone())
    );
    let torrent = bed.file("torrent");
    fs::write(torrent, b"d4:infodee").unwrap();
    assert!(recall(&store, url).is_none());
}

#[test]
fn somebodys_files_are_seeded_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, mut data) = several(9);
    let root = dir.path().join("films");
    fs::create_dir(&root).unwrap();
    data[120_000] ^= 1;
    for (index, file) in meta.files.iter().enumerate().filter(|(_, file)| !file.pad) {
        let bytes = part(&data, meta.layout.file_range(index));
        fs::write(root.join(&file.path[0]), bytes).unwrap();
    }
    for at in [dir.path(), root.as_path()] {
        let mut torrent = open_external(&meta, at).unwrap();
        assert!(torrent.have().is_clear());
        let job = torrent.rehash_job().unwrap();
        let hashed = job.hashed();
        torrent.handle_rehashed(job.run());
        assert_eq!(hashed.load(Ordering::Relaxed), data.len() as u64);
        assert_eq!(ones(torrent.have()), [0, 2, 3, 4]);
        assert_eq!(torrent.parts(range_of(&meta, 0)).unwrap().count(), 1);
        let error = fill(&mut torrent, &meta, &data, 1);
        assert!(matches!(error, Err(Disk::Io(_))), "{error:?}");
    }
    fs::remove_file(root.join("c")).unwrap();
    let mut torrent = open_external(&meta, &root).unwrap();
    rehash(&mut torrent);
    assert_eq!(ones(torrent.have()), [0, 2]);

    let film = bytes(100_000, 1);
    let path = dir.path().join("renamed.mkv");
    fs::write(&path, &film).unwrap();
    let mut torrent = open_external(&single(&film), &path).unwrap();
    rehash(&mut torrent);
    assert_eq!(ones(torrent.have()), [0, 1]);
    assert_eq!(read(&torrent, ByteRange::new(5, 99_999)), film[5..99_999]);
    assert!(open_external(&meta, &path).is_err());
    assert!(open_external(&meta, &dir.path().join("none")).is_err());
}
