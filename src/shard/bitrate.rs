//! How fast a film plays, read from its container as soon as its first bytes are here.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
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

/// A film's first bytes on their way to a player, until they tell how long it plays: what is asked
/// of the origin first depends on it, and a verified piece comes later.
#[derive(Default)]
pub struct Head {
    bytes: RefCell<Vec<u8>>,
    plays: Cell<Option<time::Duration>>,
    /// It told what it tells.
    over: Cell<bool>,
}

impl Head {
    /// `at`: where in the file. True if now it is known how long the film plays.
    pub fn hear(&self, at: u64, bytes: &[u8]) -> bool {
        let mut head = self.bytes.borrow_mut();
        let known = usize::try_from(at)
            .ok()
            .map(|at| head.len().checked_sub(at));
        let Some(news) = known.flatten().and_then(|known| bytes.get(known..)) else {
            return false;
        };
        if self.over.get() || news.is_empty() {
            return false;
        }
        let room = media::DURATION_HEAD_MAX - head.len();
        head.extend_from_slice(&news[..news.len().min(room)]);
        match media::duration(&head) {
            Duration::Known(plays) => self.plays.set(Some(plays)),
            Duration::NeedMore(_) if head.len() < media::DURATION_HEAD_MAX => return false,
            _ => {}
        }
        self.over.set(true);
        *head = Vec::new();
        self.plays.get().is_some()
    }

    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// What was heard, to the swarm that has the film as its file `file`.
    pub fn tell(&self, host: &Rc<Host>, file: usize) {
        let metainfo = host.metainfo.borrow().clone();
        if let (Some(plays), Some(metainfo)) = (self.plays.get(), metainfo) {
            tell(host, metainfo.layout.file_range(file), plays);
            host.drain(&[]);
        }
    }
}

fn tell(host: &Host, file: ByteRange, plays: time::Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_heard_in_order_until_it_tells() {
        let film: &[u8] = include_bytes!("../cli/demo/clip.mp4");
        let Duration::Known(plays) = media::duration(film) else {
            panic!("the clip does not tell how long it plays");
        };
        let head = Head::default();
        // With a hole it tells nothing, and what is heard again changes nothing.
        assert!(!head.hear(100, &film[100..4000]));
        assert!(!head.hear(0, &film[..20]));
        assert!(!head.hear(10, &film[10..20]));
        assert!(!head.is_over());
        assert!(head.hear(10, &film[10..4000]));
        assert_eq!(head.plays.get(), Some(plays));
        assert!(head.is_over() && !head.hear(4000, &film[4000..8000]));
        // What never tells is heard no longer than it may.
        let head = Head::default();
        let words = [b' '; 4096];
        let at = |nth: u64| nth * 4096;
        let most = (media::DURATION_HEAD_MAX / 4096) as u64 + 1;
        assert!((0..most).all(|nth| !head.hear(at(nth), &words)));
        assert!(head.is_over() && head.plays.get().is_none());
    }
}
