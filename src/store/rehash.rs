//! Hashing again what is claimed to be on disk, away from the shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Disk;
use crate::store::files::Files;
use crate::torrent::hasher::Hasher;
use crate::torrent::layout::Layout;
use crate::units::{ByteRange, PieceIndex};

/// Read at once.
pub(crate) const BOUNCE_LEN: usize = 128 * 1024;

/// Some suspect pieces to hash: by [`RehashJob::run`] on a blocking thread, or by steps.
pub struct RehashJob {
    pub(crate) files: Files,
    pub(crate) layout: Arc<Layout>,
    pub(crate) hashes: Arc<[[u8; 20]]>,
    pub(crate) pieces: std::vec::IntoIter<PieceIndex>,
    pub(crate) hashed: Arc<AtomicU64>,
    pub(crate) result: Rehashed,
}

/// What a [`RehashJob`] found; for [`crate::store::Torrent::handle_rehashed`].
#[derive(Debug, Default)]
pub struct Rehashed {
    pub(crate) good: Vec<PieceIndex>,
    pub(crate) bad: Vec<PieceIndex>,
}

impl RehashJob {
    /// Bytes hashed by all jobs of this torrent so far, as they go on.
    pub fn hashed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.hashed)
    }

    /// Hashes one piece; false when there is none left.
    pub fn step(&mut self) -> bool {
        let Some(piece) = self.pieces.next() else {
            return false;
        };
        let range = self.layout.piece_range(piece);
        let good = digest(&self.files, range, &mut Vec::new())
            .is_ok_and(|digest| digest == self.hashes[piece.at()]);
        let found = if good {
            &mut self.result.good
        } else {
            &mut self.result.bad
        };
        found.push(piece);
        self.hashed.fetch_add(range.len(), Ordering::Relaxed);
        true
    }

    pub fn run(mut self) -> Rehashed {
        while self.step() {}
        self.result
    }

    /// What the steps found so far.
    pub fn finish(self) -> Rehashed {
        self.result
    }
}

/// SHA-1 of what the files hold under `range`. `bounce` is room that is used again.
pub(crate) fn digest(
    files: &Files,
    range: ByteRange,
    bounce: &mut Vec<u8>,
) -> Result<[u8; 20], Disk> {
    bounce.resize(BOUNCE_LEN, 0);
    let mut hasher = Hasher::new();
    let mut at = range.start;
    while at < range.end {
        let part = ByteRange::new(at, range.end.min(at + BOUNCE_LEN as u64));
        let bytes = &mut bounce[..usize::try_from(part.len()).expect("at most a bounce")];
        files.read(part, bytes)?;
        hasher.update(bytes);
        at = part.end;
    }
    Ok(hasher.finish())
}
