//! Pieces that are hashed later than they are written.

use std::collections::BTreeMap;

use super::*;

fn write(bed: &Bed, torrent: &mut Torrent, range: ByteRange, hash: Hash) -> Progress {
    let data = part(&bed.data, range);
    let (left, right) = data.split_at(data.len() / 2);
    let parts = [left, right];
    torrent.write_run(Time::ZERO, range, &parts, hash).unwrap()
}

fn halves(whole: ByteRange) -> [ByteRange; 2] {
    let middle = whole.start + whole.len() / 2;
    [(whole.start, middle), (middle, whole.end)].map(|(start, end)| ByteRange::new(start, end))
}

#[test]
fn what_is_hashed_later_gets_its_verdict_then() {
    let bed = Bed::new(3);
    let mut torrent = bed.open(BOOT);
    let mut verdicts = BTreeMap::new();
    for piece in 0..3 {
        for half in halves(range_of(&bed.meta, piece)) {
            let progress = write(&bed, &mut torrent, half, Hash::Later);
            assert_eq!(progress, Progress::Partial);
        }
    }
    assert!(torrent.have().is_clear());
    while let Some((piece, progress)) = torrent.hash_some(Time::ZERO) {
        if progress.as_ref().unwrap() != &Progress::Partial {
            verdicts.insert(piece.0, progress.unwrap());
        }
    }
    assert_eq!(
        verdicts.into_values().collect::<Vec<_>>(),
        [Progress::Good; 3]
    );
    assert_eq!(ones(torrent.have()), [0, 1, 2]);
}

#[test]
fn a_write_that_hashes_takes_up_what_was_left() {
    let bed = Bed::new(1);
    let mut torrent = bed.open(BOOT);
    let [first, second] = halves(range_of(&bed.meta, 0));
    write(&bed, &mut torrent, first, Hash::Later);
    let progress = write(&bed, &mut torrent, second, Hash::Now);
    assert_eq!(progress, Progress::Good);
    assert!(torrent.hash_some(Time::ZERO).is_none(), "a second verdict");
}

#[test]
fn a_lie_is_found_later_as_well() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    let [first, second] = halves(range_of(&bed.meta, 1));
    write(&bed, &mut torrent, second, Hash::Later);
    let wrong = vec![7; first.len() as usize];
    let parts = [&wrong[..]];
    let progress = torrent.write_run(Time::ZERO, first, &parts, Hash::Later);
    assert_eq!(progress.unwrap(), Progress::Partial);
    let verdict = std::iter::from_fn(|| torrent.hash_some(Time::ZERO)).last();
    let (piece, progress) = verdict.unwrap();
    assert_eq!((piece.0, progress.unwrap()), (1, Progress::Bad));
    assert!(torrent.have().is_clear());
}

#[test]
fn a_piece_given_up_meanwhile_has_no_verdict() {
    let bed = Bed::new(2);
    let mut torrent = bed.open(BOOT);
    write(&bed, &mut torrent, range_of(&bed.meta, 0), Hash::Later);
    torrent.forget(PieceIndex(0));
    assert!(torrent.hash_some(Time::ZERO).is_none());
}
