//! SHA-1 of pieces: block by block as they come, and whole.

mod measure;

use std::hint::black_box;

use bittube::torrent::hasher::Hasher;
use bittube::units::BLOCK_LEN;

const PIECE_LEN: usize = 1 << 20;
/// More than the processor caches.
const FILM_LEN: usize = 64 << 20;

fn main() {
    let film: Vec<u8> = (0..FILM_LEN).map(|at| at.to_le_bytes()[0]).collect();
    let mut whole = || {
        measure::rate(FILM_LEN, || {
            for piece in film.chunks(PIECE_LEN) {
                black_box(Hasher::digest(piece));
            }
        })
    };
    let mut blocks = || {
        measure::rate(FILM_LEN, || {
            for piece in film.chunks(PIECE_LEN) {
                let mut hasher = Hasher::new();
                for block in piece.chunks(BLOCK_LEN as usize) {
                    hasher.update(block);
                }
                black_box(hasher.finish());
            }
        })
    };
    // As `block_digests`, to find a liar.
    let mut each = || {
        measure::rate(FILM_LEN, || {
            for block in film.chunks(BLOCK_LEN as usize) {
                black_box(Hasher::digest(block));
            }
        })
    };
    measure::compare(
        "MB/s",
        1e6,
        &mut [
            ("piece, whole", &mut whole),
            ("piece, by blocks", &mut blocks),
            ("each block by itself", &mut each),
        ],
    );
}
