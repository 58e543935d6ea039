//! What passed through before the torrent was known, kept so that the origin is not asked twice.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ring::buffers::Held;
use crate::ring::runtime;
use crate::shard::host::Host;
use crate::shard::origin::OriginHost;
use crate::units::ByteRange;

/// Bytes kept of one film.
const KEPT_MAX: usize = 1024 * 1024;
/// Slices in which they go to the swarm, so that the shard's other tasks get their turn.
const FEED_SLICE: usize = 128 * 1024;

/// Bytes of the origin's file, by offset; runs may touch but are not joined.
#[derive(Default)]
pub struct Kept {
    runs: RefCell<BTreeMap<u64, Vec<u8>>>,
    len: Held,
}

impl Kept {
    /// Beyond the room that there is, bytes are not kept: the swarm gets them again.
    pub fn keep(&self, at: u64, bytes: &[u8]) {
        let len = self.len.get() + bytes.len();
        if len <= KEPT_MAX && !self.runs.borrow().contains_key(&at) {
            self.len.set(len);
            self.runs.borrow_mut().insert(at, bytes.to_vec());
        }
    }

    pub fn clear(&self) {
        self.runs.borrow_mut().clear();
        self.len.set(0);
    }

    /// Gives all of it to the swarm, as what this origin sent of file `file`.
    pub async fn hand_over(&self, host: &Rc<Host>, origin: &Rc<OriginHost>, file: usize) {
        let runs = std::mem::take(&mut *self.runs.borrow_mut());
        self.len.set(0);
        let Some(metainfo) = host.metainfo.borrow().clone() else {
            return;
        };
        let whole = metainfo.layout.file_range(file);
        for (range, parts) in joined(runs) {
            let Some(key) = host.sources.key_of(origin) else {
                return;
            };
            let range = range.up(whole.start).and(whole);
            let fetch = host.swarm.borrow_mut().adopt(runtime::now(), key, range);
            host.drain(&[]);
            let Some(fetch) = fetch else { continue };
            for slice in parts.iter().flat_map(|part| part.chunks(FEED_SLICE)) {
                host.handle_fetch_bytes(fetch, slice);
                runtime::breathe().await;
            }
            host.handle_fetch_end(fetch, None);
        }
    }
}

/// Runs that follow each other without a hole, as one range; what overlaps is left out.
fn joined(runs: BTreeMap<u64, Vec<u8>>) -> Vec<(ByteRange, Vec<Vec<u8>>)> {
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
        let ranges: Vec<_> = joined(runs).into_iter().map(|(range, _)| range).collect();
        assert_eq!(ranges, [ByteRange::new(0, 15), ByteRange::new(20, 25)]);
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
