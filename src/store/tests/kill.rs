//! A process that is killed while it stores pieces loses none that it reported.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

const CHILD_DIR: &str = "BITTUBE_TEST_STORE";
const CHILD_SEED: &str = "BITTUBE_TEST_SEED";
const NAME: &str = "store::tests::kill::nothing_reported_good_is_lost";
const ROUNDS: u64 = 5;

fn film() -> Vec<u8> {
    bytes(40 * PIECE as usize - 777, 99)
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Stores, evicts, syncs and spoils pieces until it is killed.
fn child(dir: &Path, seed: u64) {
    let data = film();
    let meta = single(&data);
    let mut rng = StdRng::seed_from_u64(seed);
    let store = Store::open(dir, ROOMY).unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    loop {
        let piece = rng.random_range(0..meta.layout.piece_count());
        match rng.random_range(0..12) {
            0 if torrent.have().count_ones(..) > 10 => {
                let doom = |piece: PieceIndex| {
                    say(&format!("doomed {}", piece.0));
                    true
                };
                torrent.evict(u64::from(PIECE) * 2, doom);
            }
            1 => {
                if let Some(job) = torrent.sync_job() {
                    torrent.handle_synced(job.run());
                }
            }
            2 => {
                let range = range_of(&meta, piece);
                let wrong = vec![1; range.len() as usize];
                let progress = torrent.write(Time::ZERO, range, &wrong).unwrap();
                assert_ne!(progress, Progress::Good);
            }
            _ if torrent.have().contains(piece as usize) => {}
            _ => {
                let range = range_of(&meta, piece);
                let blocks: Vec<u64> = (range.start..range.end).step_by(16_384).collect();
                for &at in blocks.iter().rev() {
                    let block = ByteRange::new(at, range.end.min(at + 16_384));
                    let progress = torrent.write(Time::ZERO, block, part(&data, block));
                    if progress.unwrap() == Progress::Good {
                        say(&format!("good {piece}"));
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_reported_good_is_lost() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let seed = std::env::var(CHILD_SEED).unwrap().parse().unwrap();
        return child(Path::new(&dir), seed);
    }
    let dir = tempfile::tempdir().unwrap();
    let data = film();
    let meta = single(&data);
    let mut reported = BTreeSet::new();
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .env(CHILD_SEED, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let last = rng.random_range(1..60);
        let mut seen = 0;
        // What it said before it died counts, also what is read later.
        for line in lines.map(Result::unwrap) {
            let mut words = line.split(' ').rev();
            let Some(piece) = words.next().and_then(|word| word.parse::<u32>().ok()) else {
                continue;
            };
            match words.next() {
                Some("good") => reported.insert(piece),
                Some("doomed") => reported.remove(&piece),
                _ => continue,
            };
            seen += 1;
            if seen == last {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= last, "the child ended by itself");
        let store = Store::open(dir.path(), ROOMY).unwrap();
        let torrent = store.open_torrent(&meta).unwrap();
        assert!(torrent.suspect().is_clear());
        for piece in &reported {
            assert!(
                torrent.have().contains(*piece as usize),
                "round {round}: {piece} lost"
            );
        }
        for piece in ones(torrent.have()) {
            let piece = PieceIndex(piece as u32);
            assert!(
                is_right(&torrent, &meta, piece),
                "round {round}: {piece:?} wrong"
            );
        }
        // A claim that was doomed but not yet lost is fetched by nobody.
        reported = ones(torrent.have())
            .into_iter()
            .map(|piece| piece as u32)
            .collect();
    }
}
