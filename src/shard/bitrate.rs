//! How fast a film plays, read from its container as soon as its first bytes are here.

use std::cell::RefCell;
use std::time;

use fixedbitset::FixedBitSet;

use crate::ring::runtime;
use crate::shard::host::Host;
use crate::stub::media;
use crate::stub::media::Duration;
use crate::torrent::layout::Layout;
use crate::units::ByteRange;
use crate::units::PieceIndex;

/// Of the files of one torrent.
#[derive(Default)]
pub struct Bitrates {
    /// Files that need no further look.
    settled: RefCell<FixedBitSet>,
}

impl Bitrates {
    /// A piece was verified: with it a file's head may be complete enough.
    pub fn look(&self, host: &Host, piece: PieceIndex) {
        let Some(metainfo) = host.metainfo.borrow().clone() else {
            return;
        };
        let layout = &metainfo.layout;
        let verified = layout.piece_range(piece);
        for segment in layout.segments(verified) {
            let head_holds = segment.range.start < media::DURATION_HEAD_MAX as u64;
            if !segment.pad && head_holds && !self.settled.borrow().contains(segment.file) {
                self.look_at(host, layout, segment.file);
            }
        }
    }

    fn look_at(&self, host: &Host, layout: &Layout, file: usize) {
        let whole = layout.file_range(file);
        let end = whole.end.min(whole.start + media::DURATION_HEAD_MAX as u64);
        let head = ByteRange::new(whole.start, end);
        let ready = verified_from(host, layout, head);
        let Some(bytes) = (!ready.is_empty())
            .then(|| host.shelf.read(ready))
            .flatten()
        else {
            return;
        };
        match media::duration(&bytes) {
            Duration::Known(plays) => tell(host, whole, plays),
            Duration::NeedMore(_) if ready != head => return,
            _ => {}
        }
        self.settled.borrow_mut().grow_and_insert(file);
    }
}

/// That `file`, bytes of the torrent, plays so long.
pub fn tell(host: &Host, file: ByteRange, plays: time::Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = file.len() as f64 / plays.as_secs_f64();
    tracing::debug!(rate, "bytes a second, from the container");
    let mut swarm = host.swarm.borrow_mut();
    swarm.set_bitrate(runtime::now(), file, rate);
}

/// The verified run at the start of `range`.
fn verified_from(host: &Host, layout: &Layout, range: ByteRange) -> ByteRange {
    let swarm = host.swarm.borrow();
    let mut pieces = layout.pieces_of(range).map(PieceIndex);
    let missing = pieces.find(|piece| !swarm.have().contains(piece.at()));
    let end = missing.map_or(range.end, |piece| layout.piece_range(piece).start);
    ByteRange::new(range.start, end.clamp(range.start, range.end))
}
