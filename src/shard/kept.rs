//! What passed through before the torrent was known, kept so that the origin is not asked twice.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ring::buffers::Held;
use crate::ring::runtime;
use crate::shard::bitrate;
use crate::shard::host::Host;
use crate::shard::origin::OriginHost;
use crate::stub::media;
use crate::stub::media::Duration;
use crate::swarm::FetchKey;
use crate::units::ByteRange;

/// Bytes kept of one film.
const KEPT_MAX: usize = 1024 * 1024;
/// Slices in which they go to the swarm, so that the shard's other tasks get their turn.
const FEED_SLICE: usize = 128 * 1024;

/// Bytes of the origin's file, by offset; runs may touch but are not joined.
pub struct Kept {
    runs: RefCell<BTreeMap<u64, Vec<u8>>>,
    len: Held,
    /// How long the film plays, as its first bytes have told: what its swarm asks of the origin
    /// first depends on it, and a verified piece comes later. Stays when they go.
    plays: Cell<Duration>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            runs: RefCell::default(),
            len: Held::default(),
            plays: Cell::new(Duration::NeedMore(1)),
        }
    }
}

impl Kept {
    /// Beyond the room that there is, bytes are not kept: the swarm gets them again.
    pub fn keep(&self, at: u64, bytes: &[u8]) {
        let len = self.len.get() + bytes.len();
        if len <= KEPT_MAX && !self.runs.borrow().contains_key(&at) {
            self.len.set(len);
            self.runs.borrow_mut().insert(at, bytes.to_vec());
            self.hear();
        }
    }

    /// Whether the film's first bytes have told all that they tell.
    pub fn has_told(&self) -> bool {
        !matches!(self.plays.get(), Duration::NeedMore(_))
    }

    /// What the film begins with, not to be kept: perhaps it tells alone how long the film plays.
    pub fn hear_front(&self, front: &[u8]) {
        if let Duration::NeedMore(len) = self.plays.get()
            && len <= front.len()
        {
            self.plays.set(media::duration(front));
        }
    }

    fn hear(&self) {
        if self.has_told() {
            return;
        }
        let mut front = Vec::new();
        for (at, bytes) in self.runs.borrow().iter() {
            let known = usize::try_from(*at).map_or(None, |at| front.len().checked_sub(at));
            let Some(known) = known else { break };
            front.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
        self.hear_front(&front);
    }

    pub fn clear(&self) {
        self.runs.borrow_mut().clear();
        self.len.set(0);
    }

    /// Gives all of it to the swarm, as what this origin sent of file `file`. What is still `to
    /// come` is the swarm's too, as it arrives: the fetch to feed with it.
    pub async fn hand_over(
        &self,
        host: &Rc<Host>,
        origin: &Rc<OriginHost>,
        file: usize,
        to_come: Option<ByteRange>,
    ) -> Option<Adopted> {
        let runs = std::mem::take(&mut *self.runs.borrow_mut());
        self.len.set(0);
        let whole = host.metainfo.borrow().as_ref()?.layout.file_range(file);
        if let Duration::Known(plays) = self.plays.get() {
            bitrate::tell(host, whole, plays);
            host.drain(&[]);
        }
        let mut open = None;
        for (range, parts) in joined(runs, to_come) {
            let goes_on = to_come.is_some_and(|to_come| to_come.end == range.end);
            let range = range.up(whole.start).and(whole);
            let Some(fetch) = Adopted::new(host, origin, range) else {
                continue;
            };
            for slice in parts.iter().flat_map(|part| part.chunks(FEED_SLICE)) {
                fetch.feed(slice);
                runtime::breathe().await;
            }
            if goes_on {
                open = Some(fetch);
            }
        }
        open
    }
}

/// A range that passes through to a player and is the swarm's as well; what has not come is given
/// back when dropped.
pub struct Adopted {
    host: Rc<Host>,
    key: FetchKey,
}

impl Adopted {
    /// `range`: bytes of the torrent. `None` if the swarm does not know this origin.
    fn new(host: &Rc<Host>, origin: &Rc<OriginHost>, range: ByteRange) -> Option<Self> {
        let (first_byte, bytes_per_s) = origin.estimate();
        let origin = host.sources.key_of(origin)?;
        let mut swarm = host.swarm.borrow_mut();
        swarm.set_estimate(origin, first_byte, bytes_per_s);
        let key = swarm.adopt(runtime::now(), origin, range);
        drop(swarm);
        host.drain(&[]);
        Some(Self {
            host: host.clone(),
            key: key?,
        })
    }

    /// The next bytes.
    pub fn feed(&self, bytes: &[u8]) {
        self.host.handle_fetch_bytes(self.key, bytes);
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        self.host.handle_fetch_end(self.key, None);
    }
}

/// Runs that follow each other without a hole, as one range; what overlaps is left out. What is
/// `to_come` belongs to the run that it follows.
fn joined(
    runs: BTreeMap<u64, Vec<u8>>,
    to_come: Option<ByteRange>,
) -> Vec<(ByteRange, Vec<Vec<u8>>)> {
    let mut out: Vec<(ByteRange, Vec<Vec<u8>>)> = Vec::new();
    for (at, bytes) in runs {
        let end = at + bytes.len() as u64;
        match out.last_mut() {
            Some((range, parts)) if range.end == at => {
                range.end = end;
                parts.push(bytes);
            }
            Some((range, _)) if at < range.end => {}
            _ => out.push((ByteRange::new(at, end), vec![bytes])),
        }
    }
    if let Some(to_come) = to_come {
        match out.iter_mut().find(|(range, _)| range.end == to_come.start) {
            Some((range, _)) => range.end = to_come.end,
            None => out.push((to_come, Vec::new())),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_runs_become_one() {
        let kept = Kept::default();
        for (at, len) in [(10, 5), (0, 10), (20, 5), (12, 2)] {
            kept.keep(at, &vec![1; len]);
        }
        let runs = std::mem::take(&mut *kept.runs.borrow_mut());
        let ranges: Vec<_> = joined(runs, None)
            .into_iter()
            .map(|(range, _)| range)
            .collect();
        assert_eq!(ranges, [ByteRange::new(0, 15), ByteRange::new(20, 25)]);
    }

    #[test]
    fn what_is_to_come_goes_with_the_run_before_it() {
        let ranges = |kept: &[(u64, usize)], to_come| -> Vec<ByteRange> {
            let runs = kept.iter().map(|(at, len)| (*at, vec![1; *len])).collect();
            let joined = joined(runs, Some(to_come));
            joined.into_iter().map(|(range, _)| range).collect()
        };
        let to_come = ByteRange::new(15, 40);
        assert_eq!(ranges(&[(0, 15)], to_come), [ByteRange::new(0, 40)]);
        assert_eq!(ranges(&[], to_come), [to_come]);
        // Nothing was kept of what was sent last, and another player was ahead of this one.
        let apart = [ByteRange::new(0, 10), ByteRange::new(20, 25), to_come];
        assert_eq!(ranges(&[(0, 10), (20, 5)], to_come), apart);
    }

    #[test]
    fn the_first_bytes_tell_how_long_the_film_plays() {
        let film: &[u8] = include_bytes!("../cli/demo/clip.mp4");
        let plays = media::duration(film);
        assert!(matches!(plays, Duration::Known(_)));
        let kept = Kept::default();
        // With a hole they tell nothing, nor do those of another place alone.
        for (at, end) in [(100, 4000), (0, 20), (10, 20)] {
            kept.keep(at as u64, &film[at..end]);
            assert!(!kept.has_told());
        }
        kept.keep(20, &film[20..110]);
        assert_eq!(kept.plays.get(), plays);
        kept.clear();
        assert_eq!(kept.plays.get(), plays);
        // Not kept, the first run alone may tell it.
        let kept = Kept::default();
        kept.hear_front(&film[..20]);
        assert!(!kept.has_told());
        kept.hear_front(&film[..4000]);
        assert_eq!((kept.plays.get(), kept.len.get()), (plays, 0));
        // What is no container tells that at once.
        let kept = Kept::default();
        kept.keep(0, &[b' '; 100]);
        assert_eq!(kept.plays.get(), Duration::Unknown);
    }

    #[test]
    fn room_is_bounded() {
        let kept = Kept::default();
        kept.keep(0, &vec![0; KEPT_MAX]);
        kept.keep(KEPT_MAX as u64, &[1]);
        assert_eq!(kept.runs.borrow().len(), 1);
        kept.clear();
        kept.keep(0, &[1]);
        assert_eq!(kept.len.get(), 1);
    }
}
